"""YAML whose keys know their lines, so that what is wrong in a file is told with its place."""

import difflib
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

import yaml

from capbench.errors import UserError


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


KINDS: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str) and bool(value.strip()),
    "a number": _is_number,
    "a whole number": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "true or false": lambda value: isinstance(value, bool),
    "a list": lambda value: isinstance(value, list) and bool(value),
    "a list of numbers": lambda value: isinstance(value, list) and bool(value) and all(map(_is_number, value)),
    "anything": lambda value: True,
}
"""What a value can be asked to be."""


class Section:
    """A mapping of a file.

    Args:
        path: the file.
        loader: makes values of YAML's nodes.
        node: the mapping.
        what: it is, at the beginning of a sentence.
        line: of the key that it belongs to.

    Raises:
        UserError: it is no mapping, or has a key twice.
    """

    def __init__(self, path: Path, loader: yaml.SafeLoader, node: yaml.Node, what: str, line: int = 1) -> None:
        self.path, self.loader, self.what, self.line = path, loader, what, line
        if not isinstance(node, yaml.MappingNode):
            raise self.error(f"{what} must be keys with values (`key: value`).")
        self.lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if str(key.value) in self.lines:
                raise error_at(path, line, f"{what} has {key.value} twice: leave one of them.")
            self.lines[str(key.value)] = line
        loader.flatten_mapping(node)  # `<<: *anchor`
        self.nodes = {str(key.value): value for key, value in node.value}

    @classmethod
    def read(cls, path: Path, what: str) -> Self:
        """The whole of a file.

        Raises:
            UserError: it cannot be read, or is no YAML, empty or no mapping.
        """
        try:
            loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
            node = loader.get_single_node()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise error_at(path, mark.line + 1 if mark else 1, f"this is not YAML ({error.problem}).") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not YAML ({str(error).splitlines()[0]}).") from error
        if node is None:
            raise UserError(f"{path} is empty.")
        return cls(path, loader, node, what)

    def error(self, message: str, key: str = "") -> UserError:
        """A complaint about a key, or about the whole."""
        return error_at(self.path, self.lines.get(key, self.line) if key else self.line, message)

    def allow(self, keys: Iterable[str]) -> None:
        """Refuse all other keys."""
        for key in self.nodes:
            if key not in keys:
                raise self.error(f"{self.what} has no key {key!r}{instead_of(key, keys)}", key)

    def get(self, key: str, kind: str, default: Any = None) -> Any:
        """A key's value, which must be one of KINDS."""
        if key not in self.nodes:
            return default
        value = self._value(key)
        if not KINDS[kind](value):
            shown = "empty" if value in (None, "", []) else repr(value)
            if isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+[eE][-+]?\d+", value):
                shown += "; to YAML a number with an exponent has a point and a sign, like 1.0e-4"
            raise self.error(f"{key} must be {kind}, and is {shown}.", key)
        return value

    def choice(self, key: str, words: Iterable[str], default: Any = None) -> Any:
        """A key's value, which must be one of these words."""
        value = self.get(key, "text", default)
        if value is not None and value not in words:
            raise self.error(f"there is no {key} {value!r}{instead_of(value, words)}", key)
        return value

    def section(self, key: str, what: str) -> "Section | None":
        """A key's value, which must be a mapping itself."""
        if key not in self.nodes:
            return None
        return Section(self.path, self.loader, self.nodes[key], what, self.lines.get(key, self.line))

    def values(self) -> dict[str, Any]:
        """All keys with their values."""
        return {key: self._value(key) for key in self.nodes}

    def _value(self, key: str) -> Any:
        try:
            return self.loader.construct_object(self.nodes[key], deep=True)
        except (yaml.YAMLError, ValueError) as error:
            raise self.error(f"the value of {key} cannot be read ({str(error).splitlines()[0]}).", key) from error


def error_at(path: Path, line: int, message: str) -> UserError:
    """A complaint about a line."""
    return UserError(f"{path}, line {line}: {message}")


def instead_of(word: object, words: Iterable[str]) -> str:
    """What comes behind `there is no WORD`."""
    near = difflib.get_close_matches(str(word), list(words), n=1, cutoff=0.6)
    return f": did you mean {near[0]}?" if near else f"; there are {', '.join(words)}."
