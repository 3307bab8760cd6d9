"""The command line's parser: a mistake is answered with one sentence that names the nearest right word."""

import ast
import difflib
import inspect
import json
import re
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from capbench.data import CaptionData
from capbench.decoders import Decoder
from capbench.encoder import Encoder
from capbench.errors import UserError

HELP = " (--help lists all options)"
PARTS = ("model.encoder", "model.decoder", "data")
NOISE = ("Does not validate", "Subtypes:", "Errors:", "Given value", "Expected a <class 'NoneType'>")


class Parser(LightningArgumentParser):
    """Answers a mistake with one sentence; takes no abbreviated options.

    Attributes:
        commands: the parsers of the commands, in the parser above them.
    """

    commands: Mapping[str, "LightningArgumentParser"] = MappingProxyType({})

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **(options | {"allow_abbrev": False}))

    def parse_args(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:  # type: ignore[override]
        """Parse arguments, also as a sweep's agent words them: `None`, 3.0 for 3, a part's options before its class.

        Raises:
            UserError: something in them is wrong.
        """
        arguments = _parts_first([_yaml(argument) for argument in (sys.argv[1:] if args is None else args)])
        while True:
            try:
                return super().parse_args(arguments, *more, **options)
            except UserError as error:
                keys = re.findall(r"\"(?:[\w.]+\.)?(\w+)\": [^\"]*Expected a <class 'int'>", str(error))
                before = arguments
                for key in keys:  # only there, since 1.0 is all batches where 1 is one
                    arguments = [re.sub(rf"^(--([\w.]+\.)?{key}=-?\d+)\.0+$", r"\1", word) for word in arguments]
                if arguments == before:
                    raise

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Add to a complaint about a name that does not exist whose it is, or else the nearest one that does.

        Raises:
            UserError: always.
        """
        lines = [line.strip().removeprefix("- ") for line in message.replace(HELP, "").splitlines()]
        lines = [line for line in lines if line and not line.startswith(NOISE)]
        if unknown := [line for line in lines if "is not accepted" in line]:
            lines = [line for line in lines if line.endswith(":") or line in unknown]
        sentence = "; ".join(lines).replace(":; ", ": ")
        match = re.search(r"arguments: --([\w.]+)|option '([\w.]+)'|import path string: (\w+)", sentence, re.I)
        owners = [cls.__name__ for cls in _parts() if match and match[2] in inspect.signature(cls).parameters]
        if owners and " is an option of " not in sentence:
            sentence += f": it is an option of {' and '.join(owners)}, so leave it out or choose that class"
        elif match and not re.search("did you mean| is an option of ", sentence):
            names = {cls.__name__ for cls in _parts()} if match[3] else self.option_names()
            near = difflib.get_close_matches(match[1] or match[2] or match[3], names, n=1, cutoff=0.5)
            sentence += f": did you mean {near[0]}?" if near else ""
        raise UserError(sentence + HELP) from ex

    def option_names(self) -> list[str]:
        """Every dotted option, those of the default classes too."""
        parsers = [self, *self.commands.values()]
        names = [name for parser in parsers for name in parser.get_defaults(skip_validation=True).keys()]  # noqa: SIM118
        return sorted({name.replace(".init_args.", ".") for name in names})


def _parts() -> list[type]:
    """All encoders, decoders and data sources."""
    found: list[type] = [Encoder, Decoder, CaptionData]
    for cls in found:
        found += cls.__subclasses__()
    return [cls for cls in found if not inspect.isabstract(cls)]


def _yaml(argument: str) -> str:
    """An argument whose value is written as Python writes it, in YAML."""
    name, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    if value == "None":
        return f"{name}{equals}null"
    try:
        return f"{name}{equals}{json.dumps(ast.literal_eval(value))}" if value[:1] in ("{", "[") else argument
    except (SyntaxError, ValueError, TypeError):
        return argument


def _parts_first(arguments: list[str]) -> list[str]:
    """Options of a part that stand before the last word of which class it is, behind that word."""
    for part in PARTS:
        chosen = [place for place, word in enumerate(arguments) if word.partition("=")[0] == f"--{part}"]
        if chosen:
            end = chosen[-1] + (1 if "=" in arguments[chosen[-1]] else 2)
            early = [word for word in arguments[: chosen[-1]] if word.startswith(f"--{part}.") and "=" in word]
            rest = [word for word in arguments[:end] if word not in early]
            arguments = rest + early + arguments[end:]
    return arguments
