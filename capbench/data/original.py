"""Flickr8k's original text files.

Hodosh, Young and Hockenmaier (2013), "Framing image description as a ranking task".
"""

from collections.abc import Iterator
from pathlib import Path

from capbench.data.folder import Folder, read_text
from capbench.data.rows import Row, Source
from capbench.errors import UserError

TOKENS = "Flickr8k.token.txt"
SPLIT_FILES = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}


def find(folder: Folder) -> Path | None:
    """The file of captions."""
    return next(iter(folder.named(TOKENS)), None)


def read(folder: Folder, captions: Path) -> Source:
    """Lines `name.jpg#number<TAB>caption`, and a file of names for each split.

    Raises:
        UserError: a line that cannot be read.
    """
    files = {split: next(iter(folder.named(name)), None) for split, name in SPLIT_FILES.items()}
    lacks = ", ".join(SPLIT_FILES[split] for split, path in files.items() if path is None)
    paths = {split: path for split, path in files.items() if path}
    return Source(f"Flickr8k's original text ({captions})", _rows(captions, paths), folder.pictures, lacks)


def _rows(captions: Path, splits: dict[str, Path]) -> Iterator[Row]:
    split_of: dict[str, str] = {}
    for split, path in splits.items():
        for number, line in _lines(path):
            name = line.strip()
            split_of[name] = split
            yield Row(name, (), split, f"{path}, line {number}")
    for number, line in _lines(captions):
        key, tab, caption = line.partition("\t")
        name = key.rpartition("#")[0].strip()
        where = f"{captions}, line {number}"
        if not (tab and name):
            raise UserError(f"{where}: expected 'name.jpg#number<TAB>caption', found {line[:60]!r}.")
        yield Row(name, (caption,), split_of.get(name), where)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, line
