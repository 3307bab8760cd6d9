"""`python -m capbench serve`: a page that captions pictures, and the same for programs."""

import argparse
import errno
import signal
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from capbench.errors import UserError


def arguments_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m capbench serve",
        description="Serve a page that captions pictures, and the same over HTTP for programs, until Ctrl-C.",
    )
    add = parser.add_argument
    add(
        "--checkpoint",
        action="append",
        required=True,
        metavar="CKPT",
        help="a run's checkpoints/best.ckpt, hf://user/name, or a W&B artifact; several, each after its own "
        "--checkpoint, are shown side by side",
    )
    add("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine alone)")
    add("--port", type=int, default=7860, help="port to listen at; 0 takes a free one (default: 7860)")
    return parser


def main(arguments: list[str]) -> int:
    """Serve until Ctrl-C.

    Raises:
        UserError: no such checkpoint, an address that cannot be had, or the extra is not installed.
    """
    options = arguments_parser().parse_args(arguments)
    try:
        import uvicorn

        from capbench.serve.http import make_app
        from capbench.serve.page import mount_page
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("capbench"):
            raise
        raise UserError(f"serve needs {error.name}: pip install 'capbench[serve]'.") from error
    from capbench.model import load
    from capbench.serve.service import Service

    paths = [Path(each).resolve() if Path(each).exists() else Path(each) for each in options.checkpoint]
    with listen(options.host, options.port) as listening, tempfile.TemporaryDirectory(prefix="capbench-") as folder:
        signal.signal(signal.SIGTERM, _stop)
        service = Service({name: load(each) for name, each in zip(names(paths), options.checkpoint, strict=True)})
        app = mount_page(make_app(service), service, Path(folder).resolve())
        host, port = listening.getsockname()[:2]
        print(
            f"{', '.join(service.models)}: http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C ends it)",
            flush=True,
        )
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def names(paths: Sequence[Path]) -> list[str]:
    """What checkpoints are called: their run, their file where that is no run's, their path where two share a name."""
    short = [path.parts[-3] if path.parent.name == "checkpoints" else path.stem for path in paths]
    if len(set(short)) == len(short):
        return short
    if len(set(paths)) < len(paths):
        raise UserError("The same checkpoint is named twice: name each once.")
    return [str(path) for path in paths]


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        UserError: the address cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=256)
        # asyncio does so itself only where the socket names its protocol; without it an answer may take 40 ms more
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except (OSError, OverflowError) as error:
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        reason = "something else listens there" if taken else getattr(error, "strerror", None) or str(error)
        raise UserError(f"{host}:{port} cannot be listened at ({reason}): name another --port or --host.") from error


def _stop(*_: Any) -> NoReturn:
    """Clean up after uvicorn, which hands the signal on that ended it."""
    raise SystemExit(128 + signal.SIGTERM)
