"""What every data source becomes: images with references, in splits."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePath

from PIL import Image

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """One image and what people said of it.

    Attributes:
        id: the image's name in its data set, unique over all splits.
        references: captions as people wrote them, in the source's order.
        split: one of `SPLITS`.
        open: gives the RGB picture; picklable, so that worker processes can call it.
        stamp: changes when the picture does (a file's size and time, a drawing's seed).
    """

    id: str
    references: tuple[str, ...]
    split: str
    open: Callable[[], Image.Image]
    stamp: str


@dataclass
class CaptionSet:
    """All images of one source, in the source's order.

    Attributes:
        images: those that can be used.
        source: what they were read from, in words.
        missing: names of images of the splits that have no file or no caption, and why.
        left_out: where captions without a word stand.
    """

    images: list[CaptionedImage]
    source: str = ""
    missing: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[CaptionedImage]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def split(self, name: str) -> list[CaptionedImage]:
        """The images of one split."""
        return [image for image in self.images if image.split == name]

    def fingerprint(self) -> str:
        """Sixteen hex digits of names, splits and references: equal on every machine that holds the same data.

        Folders in a name do not count, since sources differ in them.
        """
        digest = hashlib.sha256()
        rows = ((PurePath(image.id).name, image.split, image.references) for image in self.images)
        for row in sorted(rows):
            digest.update(repr(row).encode())
        return digest.hexdigest()[:16]
