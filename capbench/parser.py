"""The command line's parser: a mistake is answered with one sentence that names the nearest right word."""

import difflib
import inspect
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from capbench.data import CaptionData
from capbench.decoders import Decoder
from capbench.encoder import Encoder
from capbench.errors import UserError

HELP = " (--help lists all options)"
NOISE = ("Does not validate", "Subtypes:", "Errors:", "Given value", "Expected a <class 'NoneType'>")


class Parser(LightningArgumentParser):
    """Answers a mistake with one sentence; takes no abbreviated options.

    Attributes:
        commands: the parsers of the commands, in the parser above them.
    """

    commands: Mapping[str, "LightningArgumentParser"] = MappingProxyType({})

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **(options | {"allow_abbrev": False}))

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Add the nearest name that exists to a complaint about one that does not.

        Raises:
            UserError: always.
        """
        lines = [line.strip().removeprefix("- ") for line in message.replace(HELP, "").splitlines()]
        lines = [line for line in lines if line and not line.startswith(NOISE)]
        if unknown := [line for line in lines if "is not accepted" in line]:
            lines = [line for line in lines if line.endswith(":") or line in unknown]
        sentence = "; ".join(lines).replace(":; ", ": ")
        match = re.search(r"arguments: --([\w.]+)|option '([\w.]+)'|import path string: (\w+)", sentence, re.I)
        if match and "did you mean" not in sentence:
            names = _part_names() if match[3] else self.option_names()
            near = difflib.get_close_matches(match[1] or match[2] or match[3], names, n=1, cutoff=0.5)
            sentence += f": did you mean {near[0]}?" if near else ""
        raise UserError(sentence + HELP) from ex

    def option_names(self) -> list[str]:
        """Every dotted option, those of the default classes too."""
        parsers = [self, *self.commands.values()]
        names = [name for parser in parsers for name in parser.get_defaults(skip_validation=True).keys()]  # noqa: SIM118
        return sorted({name.replace(".init_args.", ".") for name in names})


def _part_names() -> set[str]:
    """The names of all encoders, decoders and data sources."""
    found: list[type] = [Encoder, Decoder, CaptionData]
    for cls in found:
        found += cls.__subclasses__()
    return {cls.__name__ for cls in found if not inspect.isabstract(cls)}
