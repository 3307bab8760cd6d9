"""What the sources read, row by row, and how rows become a `CaptionSet`."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import isclose
from typing import NamedTuple

from PIL import Image

from capbench.data.captions import SPLITS, CaptionedImage, CaptionSet
from capbench.errors import UserError
from capbench.text import tokenise

SPLIT_OF = {split: split for split in SPLITS} | {"restval": "train", "dev": "val", "valid": "val", "validation": "val"}
DEFAULT_SHARES = (0.8, 0.1, 0.1)
NOTHING: tuple[list[str], ...] = ([], ["nan"], ["none"], ["null"])
"""The words of what is no caption; pandas, Python and SQL write them where there is none."""


class Row(NamedTuple):
    """Some captions of an image; an image may come in several rows.

    Attributes:
        image: its name in the source.
        captions: as they were written.
        split: as the source calls it; none where the source puts the image in no split.
        where: file and line, for messages.
    """

    image: str
    captions: Sequence[str]
    split: str | None
    where: str


class Picture(NamedTuple):
    """An image that is there: how it is opened, and a stamp that changes with it."""

    open: Callable[[], Image.Image]
    stamp: str


class Source(NamedTuple):
    """What a source gives.

    Attributes:
        label: what it is, in words.
        rows: its captions.
        lacks: what its own splits need and is not there; they cannot be taken then.
        picture: the image of a name, none where there is none; made once the names are known.
    """

    label: str
    rows: Iterable[Row]
    picture: Callable[[list[str]], Callable[[str], Picture | None]]
    lacks: str = ""


@dataclass
class _Entry:
    split: str | None
    captions: list[str] = field(default_factory=list)


def gather(source: Source, shares: Sequence[float] | None, seed: int) -> CaptionSet:
    """Put an image's captions together, images into splits, and leave out what cannot be used.

    Args:
        source: the rows.
        shares: of images in train and test, or train, val and test; none keeps the source's own splits, or is
            80/10/10 where it has none.
        seed: of the drawing by shares. All images with captions are drawn from, by name, so that the split does
            not depend on their order, nor on which files a machine has.

    Raises:
        UserError: an image in two splits, a split of unknown name, splits that cannot be taken, or no image that
            is there.
    """
    entries, left_out = _entries(source, shares)
    if not _has_splits(entries):
        _draw(entries, DEFAULT_SHARES if shares is None else shares, seed)
    names = [name for name, entry in entries.items() if entry.split]
    if not names:
        raise UserError(f"{source.label} holds no captions.")
    picture = source.picture(names)
    images, missing = [], {}
    for name in names:
        entry, found = entries[name], picture(name)
        if not entry.captions:
            missing[name] = "no caption"
        elif found is None:
            missing[name] = "no file"
        else:
            assert entry.split
            images.append(CaptionedImage(name, tuple(entry.captions), entry.split, found.open, found.stamp))
    if not images:
        raise UserError(
            f"{source.label} names {len(names)} images, and none of them can be used ({names[0]}: "
            f"{missing[names[0]]}): put the folder with the images under --data.root too."
        )
    return CaptionSet(images, source.label, missing, left_out)


def references(
    source: Source, shares: Sequence[float] | None, seed: int, draw: bool
) -> dict[str | None, dict[str, tuple[str, ...]]]:
    """By split, the captions of its images by their names, whether the images are there or not.

    Args:
        source: the rows.
        shares: see `gather`.
        seed: see `gather`.
        draw: whether splits are drawn, as `gather` does, where there are none; otherwise null is all images' split.

    Raises:
        UserError: an image in two splits, a split of unknown name, or splits that cannot be taken.
    """
    entries, _ = _entries(source, shares)
    if shares is not None or (draw and not _has_splits(entries)):
        _draw(entries, DEFAULT_SHARES if shares is None else shares, seed)
    known, found = _has_splits(entries), dict[str | None, dict[str, tuple[str, ...]]]()
    for name, entry in entries.items():
        if entry.captions and (entry.split or not known):
            found.setdefault(entry.split, {})[name] = tuple(entry.captions)
    return found


def _entries(source: Source, shares: Sequence[float] | None) -> tuple[dict[str, _Entry], list[str]]:
    """Entries by image name, in the source's own splits unless others will be drawn; and where captions lack words."""
    if source.lacks and shares is None:
        raise UserError(f"{source.label} lacks {source.lacks}: add it, or draw splits with --data.shares.")
    return _group(source.rows if shares is None else (row._replace(split=None) for row in source.rows))


def _has_splits(entries: dict[str, _Entry]) -> bool:
    return any(entry.split for entry in entries.values())


def _group(rows: Iterable[Row]) -> tuple[dict[str, _Entry], list[str]]:
    """Entries by image name, and where captions without a word stood."""
    entries: dict[str, _Entry] = {}
    left_out = []
    for row in rows:
        split = row.split and SPLIT_OF.get(row.split.lower())
        if row.split and not split:
            raise UserError(
                f"{row.where}: there is no split {row.split!r}; there are {', '.join(SPLIT_OF)}, or draw splits with "
                "--data.shares."
            )
        entry = entries.setdefault(row.image, _Entry(split))
        if entry.split != split:
            raise UserError(
                f"{row.where}: {row.image} is in the split {split or 'none'}, and in {entry.split or 'none'} before: "
                "an image belongs to one split."
            )
        for caption in row.captions:
            if tokenise(caption) in NOTHING:
                left_out.append(row.where)
            else:
                entry.captions.append(caption.strip())
    return entries, left_out


def _draw(entries: dict[str, _Entry], shares: Sequence[float], seed: int) -> None:
    """Give each image with captions a split."""
    if len(shares) not in (2, 3) or min(shares) < 0 or not shares[0] or not isclose(sum(shares), 1, rel_tol=1e-6):
        raise UserError(
            "--data.shares takes the shares of train and test, or of train, val and test, which make 1: [0.9, 0.1] or "
            f"[0.8, 0.1, 0.1], not {list(shares)}."
        )
    val, test = shares[1:] if len(shares) == 3 else (0, shares[1])
    names = sorted(name for name, entry in entries.items() if entry.captions)
    random.Random(seed).shuffle(names)
    count = len(names)
    first, second = round(test * count), round((test + val) * count)
    if count >= len(SPLITS):  # a share above 0 has an image, however small it is
        first = min(max(first, test > 0), count - 1 - (val > 0))
        second = min(max(second, first + (val > 0)), count - 1)
    for place, name in enumerate(names):
        entries[name].split = "test" if place < first else "val" if place < second else "train"
