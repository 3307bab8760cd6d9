"""`python -m capbench COMMAND`."""

import errno
import os
import signal
import sys
from importlib import import_module
from typing import NoReturn

from capbench.errors import UserError
from capbench.memory import keep_memory
from capbench.processes import one_voice
from capbench.quiet import be_quiet

COMMANDS = {
    "fit": ("capbench.cli", "train a captioner"),
    "validate": ("capbench.cli", "caption and score the validation split"),
    "test": ("capbench.cli", "caption and score the test split"),
    "predict": ("capbench.cli", "caption a split, without scores"),
    "data": ("capbench.commands.data", "look at the captioned images that a folder or the Hub holds"),
    "features": ("capbench.commands.features", "list, build or clear what frozen encoders gave"),
    "score": ("capbench.commands.score", "score anybody's captions"),
    "compare": ("capbench.commands.compare", "put runs beside one another"),
    "caption": ("capbench.commands.caption", "caption image files"),
    "serve": ("capbench.commands.serve", "caption pictures on a web page, and over HTTP"),
    "export": ("capbench.commands.export", "write a captioner as ONNX or torch.export programs"),
    "sweep": ("capbench.commands.sweep", "run a sweep file, by W&B's agents or here"),
}

OF_THE_MACHINE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
}
"""Errors of a file that lie in the machine, and not in the program: all others keep their traceback."""

USAGE = "usage: python -m capbench COMMAND [options]\n\n{}\n\nOptions of a command: python -m capbench COMMAND --help"


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status is 2 for a user's mistake."""
    arguments = sys.argv[1:] if arguments is None else arguments
    usage = USAGE.format("\n".join(f"  {name:10}{what}" for name, (_, what) in COMMANDS.items()))
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage)
        return 0 if arguments else 2
    command, *options = arguments
    try:
        if command == "--version":
            from capbench import __version__

            print(f"capbench {__version__}")
            return 0
        if command not in COMMANDS:
            raise UserError(f"there is no command {command!r}; there are {', '.join(COMMANDS)}.")
        module = import_module(COMMANDS[command][0])
        be_quiet()
        keep_memory()
        with one_voice():
            status = module.main(arguments if COMMANDS[command][0] == "capbench.cli" else options)
        return int(status or 0)
    except UserError as error:
        # torch puts the traceback of a process that reads images before the sentence
        sentence = str(error).rpartition(f"{UserError.__module__}.{UserError.__name__}: ")[2].strip()
        print(f"capbench: {sentence}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has read enough; what is left in the buffer goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.filename is None or error.errno not in OF_THE_MACHINE:
            raise
        reason = f"{error.filename} cannot be read or written ({error.strerror})"
        print(f"capbench: {reason}: name another file or folder, or mend this one.", file=sys.stderr)
        return 2


def end(status: int) -> NoReturn:
    """End this process; one that SIGTERM stopped by that signal, since W&B's agents count exit codes as failures."""
    if status == 128 + signal.SIGTERM:
        sys.stdout.flush()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    sys.exit(status)


if __name__ == "__main__":
    end(main())
