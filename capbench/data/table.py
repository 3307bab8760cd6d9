"""Captions in a table: Kaggle's `captions.txt`, or one's own `.csv`, `.tsv` or `.jsonl`."""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from capbench.data.folder import Folder, read_text
from capbench.data.rows import Row, Source
from capbench.errors import UserError

KAGGLE = "captions.txt"
IMAGE_NAMES = ("image", "image_name", "file_name", "filename", "image_path", "path", "file", "image_id", "id", "name")
CAPTION_NAMES = ("caption", "captions", "comment", "text", "sentence", "sentences", "description", "references")
SPLIT_NAMES = ("split", "fold", "subset")
_NUMBERED = r"([ ._-]?\d+)?"
_LIST = re.compile(r"""\s*\[\s*(['"]).*\1\s*\]\s*""", re.DOTALL)


@dataclass
class Columns:
    """Which columns hold what; null finds them by the usual names.

    Args:
        image: the image, or its file's name.
        captions: one caption, or a list of them, in each.
        split: train, val (dev, valid, validation), test; restval is for training.
    """

    image: str | None = None
    captions: list[str] | None = None
    split: str | None = None

    def among(self, names: Sequence[str], where: str) -> "Columns":
        """All of them settled for a table with these columns.

        Raises:
            UserError: the table lacks one that was named, or has none for images or captions.
        """
        named = [name for name in (self.image, *(self.captions or ()), self.split) if name is not None]
        if lacking := [name for name in named if name not in names]:
            raise UserError(f"{where} has no column {', '.join(lacking)}; it has {', '.join(names)}.")
        image = self.image or next(iter(_usual(names, IMAGE_NAMES)), None)
        captions = self.captions or _usual(names, CAPTION_NAMES, _NUMBERED)
        if image is None or not captions:
            lacking = ["the image"] * (image is None) + ["captions"] * (not captions)
            raise UserError(
                f"{where} has no column that is known to hold {' or '.join(lacking)}; it has {', '.join(names)}: name "
                "them with --data.columns.image and --data.columns.captions='[NAME]'."
            )
        return Columns(image, captions, self.split or next(iter(_usual(names, SPLIT_NAMES)), None))

    def row(self, values: dict[str, Any], where: str) -> Row:
        """A row of the table; a caption of null is an empty one.

        Raises:
            UserError: no image, or captions of another type.
        """
        assert self.image
        assert self.captions
        image, split = values.get(self.image), values.get(self.split) if self.split else None
        captions: list[Any] = []
        for name in self.captions:
            value = values.get(name)
            captions += value if isinstance(value, list) else [value]
        captions = ["" if caption is None else caption for caption in captions]
        if not isinstance(image, str | int) or not str(image).strip():
            raise UserError(f"{where}: there is no image name in the column {self.image}.")
        if wrong := [caption for caption in captions if not isinstance(caption, str)]:
            raise UserError(f"{where}: a caption must be text, not {wrong[0]!r}.")
        if lists := [caption for caption in captions if _LIST.fullmatch(caption)]:
            raise UserError(f"{where}: {lists[0][:60]} is a list written as text: give lists in a .jsonl file.")
        return Row(str(image).strip(), captions, None if split is None else str(split).strip() or None, where)


def _usual(names: Sequence[str], usual: Sequence[str], ending: str = "") -> list[str]:
    """The columns with the first of the usual names that is there, whatever its case, and an ending (a regex)."""
    found = ([name for name in names if re.fullmatch(word + ending, name, re.IGNORECASE)] for word in usual)
    return next(filter(None, found), [])


def find_kaggle(folder: Folder) -> Path | None:
    """Kaggle's file of captions."""
    return next(iter(folder.named(KAGGLE)), None)


def find(folder: Folder) -> Path | None:
    """The one table there is, or the one with the usual columns.

    Raises:
        UserError: there are several.
    """
    files = folder.named("*.csv", "*.tsv", "*.jsonl")
    if len(files) < 2:
        return files[0] if files else None
    fit = [path for path in files if _fits(path)]
    if len(fit) > 1:
        raise UserError(f"{folder.root} holds {', '.join(map(str, fit))}: name one with --data.captions.")
    return fit[0] if fit else None


def read(folder: Folder, captions: Path, columns: Columns) -> Source:
    """A table's rows."""
    label = "Kaggle's layout" if captions.name == KAGGLE else "table"
    return Source(f"{label} ({captions})", _rows(captions, columns), folder.pictures)


def _fits(path: Path) -> bool:
    """Whether it has the usual columns."""
    try:
        next(_rows(path, Columns()))
    except UserError:
        return False
    return True


def _rows(path: Path, columns: Columns) -> Iterator[Row]:
    """The rows, each by its own columns, which may differ in a `.jsonl`."""
    settled: dict[tuple[str, ...], Columns] = {}
    for number, values in _json_lines(path) if path.suffix.lower() == ".jsonl" else _csv_lines(path):
        names, where = tuple(values), f"{path}, line {number}"
        if names not in settled:
            settled[names] = columns.among(names, where if settled else str(path))
        yield settled[names].row(values, where)
    if not settled:
        raise UserError(f"{path} holds no captions.")


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Objects with the numbers of their lines."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            try:
                values = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{path}, line {number}: this is no JSON ({error.msg} at character {error.colno})."
                ) from error
            except RecursionError as error:
                raise UserError(f"{path}, line {number}: this is nested too deeply to be captions.") from error
            if not isinstance(values, dict):
                raise UserError(
                    f"{path}, line {number}: expected an object in braces in each line, found {line[:60]!r}."
                )
            yield number, values


def _csv_lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Records that are not blank, by column, with the numbers of the lines that they begin in."""
    text = read_text(path)
    first = text.lstrip().partition("\n")[0]
    delimiter = max(",\t|;", key=first.count)
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    begins = 1
    try:
        for fields in reader:
            number, begins = begins, reader.line_num + 1
            if not any(field.strip() for field in fields):
                continue
            if not names:
                names = [field.strip() for field in fields]
                if twice := [name for name in names if name and names.count(name) > 1]:
                    raise UserError(f"{path}: the column {twice[0]} comes twice: give each a name of its own.")
            elif len(fields) != len(names):
                raise UserError(
                    f"{path}, line {number}: {len(fields)} fields where the first line names {len(names)} "
                    f"({', '.join(names)}): give each line all its fields, and quote those that have a {delimiter!r}."
                )
            else:
                yield number, dict(zip(names, fields, strict=True))
    except csv.Error as error:
        raise UserError(
            f"{path}, line {begins}: this is no well-formed CSV ({error}): close the quotes, and double those within."
        ) from error
