"""Flickr8k from its original folders.

Hodosh, Young and Hockenmaier (2013), "Framing image description as a ranking task".
"""

import os
import warnings
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

from capbench.data.captions import CaptionedImage, CaptionSet, open_image
from capbench.data.module import CaptionData
from capbench.errors import UserError

TOKENS = "Flickr8k.token.txt"
SPLIT_FILES = {
    "train": "Flickr_8k.trainImages.txt",
    "val": "Flickr_8k.devImages.txt",
    "test": "Flickr_8k.testImages.txt",
}
DEPTH = 3


class Flickr8k(CaptionData):
    """Flickr8k's images, captions and official splits (6,000 / 1,000 / 1,000).

    Args:
        root: the folder that holds, nested or flat, the images and the text files `Flickr8k.token.txt` and
            `Flickr_8k.{train,dev,test}Images.txt`.
        max_missing: share of the splits' images that may have no file or no captions; more is an error.
        options: see `CaptionData`.
    """

    def __init__(self, root: Path, max_missing: float = 0.01, **options: Any) -> None:
        super().__init__(**options)
        self.root, self.max_missing = Path(root), max_missing

    def read(self) -> CaptionSet:
        """Find the files and read them.

        Raises:
            UserError: files not found, a line that cannot be read, or too many images missing.
        """
        found = _look_for(self.root)
        references = _read_tokens(found[TOKENS])
        split_of = {name: split for split, file in SPLIT_FILES.items() for name in found[file].read_text().split()}
        folder = _image_folder(self.root, set(split_of))
        present = {entry.name: entry.stat() for entry in os.scandir(folder) if entry.is_file()}
        missing = [name for name in split_of if name not in present or name not in references]
        self._report(missing, len(split_of), folder)
        images = []
        for name, split in split_of.items():
            if name in present and name in references:
                stat = present[name]
                stamp = f"{stat.st_size}-{stat.st_mtime_ns}"
                opener = partial(open_image, folder / name)
                images.append(CaptionedImage(name, tuple(references[name]), split, opener, stamp))
        return CaptionSet(images)

    def _report(self, missing: list[str], total: int, folder: Path) -> None:
        if not missing:
            return
        names = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        message = f"{len(missing)} of {total} images of the splits have no file in {folder} or no captions ({names})"
        if len(missing) > self.max_missing * total:
            raise UserError(
                f"{message}: complete the data, or allow a larger share than {self.max_missing:g} with "
                "--data.max_missing."
            )
        warnings.warn(f"{message}; they are left out.", stacklevel=2)


def _folders(root: Path) -> list[Path]:
    """The folder and those below it, hidden ones left out, to a depth of `DEPTH`."""
    folders = []
    for path, below, _ in os.walk(root, followlinks=True):
        depth = len(Path(path).relative_to(root).parts)
        below[:] = sorted(name for name in below if not name.startswith(".")) if depth < DEPTH else []
        folders.append(Path(path))
    return folders


def _look_for(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        raise UserError(f"--data.root {root} is no folder: name the one that holds Flickr8k's images and text files.")
    folders = _folders(root)
    found = {
        name: folder / name
        for name in (TOKENS, *SPLIT_FILES.values())
        for folder in reversed(folders)
        if (folder / name).is_file()
    }
    absent = [name for name in (TOKENS, *SPLIT_FILES.values()) if name not in found]
    if absent:
        there = ", ".join(sorted(entry.name for entry in root.iterdir())[:8]) or "nothing"
        raise UserError(
            f"Looked under {root} for Flickr8k's text files and did not find {', '.join(absent)}; "
            f"found there: {there}. "
            "Set --data.root to the folder that holds both the images and Flickr8k_text."
        )
    return found


def _image_folder(root: Path, names: set[str]) -> Path:
    """The folder with most of the images."""
    counts = {folder: len(names & set(os.listdir(folder))) for folder in _folders(root)}
    best = max(counts, key=lambda folder: counts[folder])
    if not counts[best]:
        raise UserError(
            f"Found Flickr8k's text files under {root}, but no folder with its images (such as {min(names)}): put "
            "the image folder beside them."
        )
    return best


def _read_tokens(path: Path) -> dict[str, list[str]]:
    """Captions by image name, from lines `name.jpg#number<TAB>caption`."""
    references = defaultdict(list)
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        key, tab, caption = line.partition("\t")
        name, hash_sign, _ = key.rpartition("#")
        if not (tab and hash_sign):
            raise UserError(f"{path}, line {number}: expected 'name.jpg#number<TAB>caption', found {line[:60]!r}.")
        references[name].append(caption.strip())
    return references
