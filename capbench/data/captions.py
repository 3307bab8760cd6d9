"""What every data source becomes: images with references, in splits."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np
from PIL import Image, ImageOps

from capbench.errors import UserError

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


def open_image(path: Path) -> Image.Image:
    """The RGB picture in a file, turned as its EXIF data says.

    Raises:
        UserError: the file is no readable image.
    """
    try:
        with Image.open(path) as image:
            return upright(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}).") from error


def upright(image: Image.Image) -> Image.Image:
    """The picture in RGB, on white where it is transparent, turned as its EXIF data says.

    Raises:
        ValueError: nothing says which of its values is white.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode.startswith("I"):  # more than 8 bits of grey, of which `convert` would make white
        grey = np.asarray(image)
        image = Image.fromarray((grey if grey.max() < 256 else grey >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
