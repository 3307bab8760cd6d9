"""Captioned images of the Hugging Face Hub, or a copy of them on disk, through `datasets`."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from capbench.data.folder import Folder
from capbench.data.rows import Picture, Row, Source
from capbench.data.table import Columns
from capbench.errors import UserError
from capbench.pictures import upright


def find(folder: Folder) -> Path | None:
    """A folder that `save_to_disk` wrote, or one with a copy of the Hub's Parquet files."""
    saved = folder.named("dataset_dict.json") or folder.named("dataset_info.json")
    return saved[0].parent if saved else folder.root if folder.named("*.parquet") else None


def read(name: str, columns: Columns) -> Source:
    """A data set by its name on the Hub, or in a folder.

    Raises:
        UserError: it cannot be had, or has no column of images or captions.
    """
    parts = _load(name)
    first = next(iter(parts.values()))
    images = [key for key, feature in first.features.items() if type(feature).__name__ == "Image"]
    image = columns.image or next(iter(images), "image")
    label = f"data set {name}"
    columns = replace(columns, image=image).among(first.column_names, label)
    if image not in images:
        raise UserError(f"{label}: the column {image} holds no images; {', '.join(images) or 'none'} does.")
    names = _names(parts, image)
    places = {name: (split, place) for split in parts for place, name in enumerate(names[split])}

    def picture(name: str) -> Picture:
        split, place = places[name]
        where = f"{label}, {split}, row {place}"
        return Picture(partial(_open, parts[split], place, image, where), f"{parts[split]._fingerprint}-{place}")

    return Source(label, _rows(label, parts, names, columns), lambda _: picture)


def _load(name: str) -> dict[str, Any]:
    import datasets

    folder = Path(name)
    try:
        on_disk = any((folder / file).is_file() for file in ("dataset_dict.json", "dataset_info.json"))
        loaded = datasets.load_from_disk(name) if on_disk else datasets.load_dataset(name)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        elsewhere = "name another with --data.dataset, or a folder of images and captions with --data.root"
        remedy = "copy it again" if folder.is_dir() else f"connect to the internet once, {elsewhere}"
        raise UserError(f"The data set {name!r} could not be had ({reason}): {remedy}.") from error
    return {"train": loaded} if isinstance(loaded, datasets.Dataset) else dict(loaded)


def _names(parts: dict[str, Any], column: str) -> dict[str, list[str]]:
    """The images' file names, by split.

    Where one has none, or two have the same: split and number of the first row with the same picture, so that an image
    with a row for each of its captions is one image.
    """
    chunks = {
        split: part.select_columns([column]).with_format("arrow")[:].column(column).chunks
        for split, part in parts.items()
    }
    names = {
        split: [Path(path or "").name.strip() for chunk in chunks[split] for path in chunk.field("path").to_pylist()]
        for split in parts
    }
    every = [name for split in parts for name in names[split]]
    if all(every) and len(set(every)) == len(every):
        return names
    for split in parts:
        first: dict[bytes, str] = {}
        digests = (_digest(image) for chunk in chunks[split] for image in chunk)
        names[split] = [first.setdefault(digest, f"{split}-{row:06d}") for row, digest in enumerate(digests)]
    return names


def _digest(image: Any) -> bytes:
    """Of the picture's bytes, or of its path where they are not in the data set."""
    if not image.is_valid:
        return b""
    stored = image["bytes"]
    return hashlib.sha256(stored.as_buffer() if stored.is_valid else str(image["path"]).encode()).digest()


def _rows(label: str, parts: dict[str, Any], names: dict[str, list[str]], columns: Columns) -> Iterator[Row]:
    kept = [column for column in (*(columns.captions or ()), columns.split) if column]
    for split, part in parts.items():
        for place, values in enumerate(part.select_columns(kept)):
            where = f"{label}, {split}, row {place}"
            row = columns.row({**values, str(columns.image): names[split][place]}, where)
            yield row if columns.split else row._replace(split=split if len(parts) > 1 else None)


def _open(part: Any, place: int, column: str, where: str) -> Image.Image:
    try:
        picture = part[place][column]
        if picture is None:
            raise UserError(f"{where}: there is no image.")
        return upright(picture)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{where}: this cannot be read as an image ({error}).") from error
