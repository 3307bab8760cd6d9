"""Captions in a table: Kaggle's `captions.txt`, or one's own `.csv`, `.tsv` or `.jsonl`."""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capbench.data.folder import Folder
from capbench.data.rows import Row, Source
from capbench.errors import UserError

KAGGLE = "captions.txt"
IMAGE_NAMES = ("image", "image_name", "file_name", "filename", "image_path", "path", "file", "image_id", "id", "name")
CAPTION_NAMES = ("caption", "captions", "comment", "text", "sentence", "sentences", "description", "references")
SPLIT_NAMES = ("split", "fold", "subset")


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
        image = self.image or _usual(names, IMAGE_NAMES)
        one = _usual(names, CAPTION_NAMES)
        numbered = [name for name in names if name.lower().rstrip("0123456789").rstrip("_") in CAPTION_NAMES]
        captions = self.captions or ([one] if one else numbered)
        if image is None or not captions:
            lacking = ["the image"] * (image is None) + ["captions"] * (not captions)
            raise UserError(
                f"{where} has no column that is known to hold {' or '.join(lacking)}; it has {', '.join(names)}: name "
                "them with --data.columns.image and --data.columns.captions='[NAME]'."
            )
        return Columns(image, captions, self.split or _usual(names, SPLIT_NAMES))

    def row(self, values: dict[str, Any], where: str) -> Row:
        """A row of the table.

        Raises:
            UserError: no image or captions of another type.
        """
        assert self.captions
        image, split = values.get(self.image or ""), values.get(self.split or "")
        captions = []
        for name in self.captions:
            value = values.get(name)
            captions += value if isinstance(value, list) else [] if value is None else [value]
        if not isinstance(image, str | int) or not str(image).strip():
            raise UserError(f"{where}: there is no image name in the column {self.image}.")
        if wrong := [caption for caption in captions if not isinstance(caption, str)]:
            raise UserError(f"{where}: a caption must be text, not {wrong[0]!r}.")
        return Row(str(image).strip(), captions, str(split).strip() if split else None, where)


def _usual(names: Sequence[str], usual: Sequence[str]) -> str | None:
    """The first of the usual names that is there, whatever its case."""
    there = {name.lower(): name for name in names}
    return next((there[name] for name in usual if name in there), None)


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
    has_splits = _settled(captions, columns).split is not None
    label = "Kaggle's layout" if captions.name == KAGGLE else "table"
    return Source(f"{label} ({captions})", _rows(captions, columns), has_splits, folder.pictures)


def _fits(path: Path) -> bool:
    try:
        _settled(path, Columns())
    except UserError:
        return False
    return True


def _settled(path: Path, columns: Columns) -> Columns:
    """The columns, from the first line."""
    for _, values in _records(path):
        return columns.among(list(values), str(path))
    raise UserError(f"{path} holds no captions.")


def _rows(path: Path, columns: Columns) -> Iterator[Row]:
    settled = _settled(path, columns)
    for number, values in _records(path):
        yield settled.row(values, f"{path}, line {number}")


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Lines that are not blank, by column, with their numbers."""
    try:
        yield from _json_lines(path) if path.suffix == ".jsonl" else _csv_lines(path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not in UTF-8 ({error}): save it as UTF-8.") from error


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    values = json.loads(line)
                except ValueError as error:
                    raise UserError(f"{path}, line {number}: this is no JSON ({error}).") from error
                if not isinstance(values, dict):
                    raise UserError(f"{path}, line {number}: expected an object in braces, found {line[:60]!r}.")
                yield number, values


def _csv_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        reader = csv.reader(file, delimiter=max(",\t|;", key=first.count), strict=True)
        names: list[str] = []
        try:
            for fields in reader:
                if not any(field.strip() for field in fields):
                    continue
                if not names:
                    names = [field.strip() for field in fields]
                elif len(fields) != len(names):
                    raise UserError(
                        f"{path}, line {reader.line_num}: {len(fields)} fields where the first line names "
                        f"{len(names)} ({', '.join(names)}): quote a caption that has a {reader.dialect.delimiter!r}."
                    )
                else:
                    yield reader.line_num, dict(zip(names, fields, strict=True))
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: this is no well-formed CSV ({error}).") from error
