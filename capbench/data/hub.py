"""Captioned images of the Hugging Face Hub, or a copy of them on disk, through `datasets`."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from capbench.data.captions import upright
from capbench.data.folder import Folder
from capbench.data.rows import Picture, Row, Source
from capbench.data.table import Columns
from capbench.errors import UserError


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
    columns = replace(columns, image=image).among(first.column_names, name)
    if image not in images:
        raise UserError(f"{name}: the column {image} holds no images; {', '.join(images) or 'none'} does.")
    names = {split: _names(split, part, image) for split, part in parts.items()}
    places = {name: (parts[split], place) for split in parts for place, name in enumerate(names[split])}

    def picture(name: str) -> Picture:
        part, place = places[name]
        return Picture(partial(_open, part, place, image), f"{part._fingerprint}-{place}")

    has_splits = columns.split is not None or len(parts) > 1
    return Source(f"data set {name}", _rows(parts, names, columns), has_splits, lambda _: picture)


def _load(name: str) -> dict[str, Any]:
    import datasets

    try:
        folder = Path(name)
        on_disk = any((folder / file).is_file() for file in ("dataset_dict.json", "dataset_info.json"))
        loaded = datasets.load_from_disk(name) if on_disk else datasets.load_dataset(name)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"The data set {name!r} could not be had ({reason}): connect to the internet once (it is cached from then "
            "on), name another with --data.dataset, or a folder of images and captions with --data.root."
        ) from error
    return {"train": loaded} if isinstance(loaded, datasets.Dataset) else dict(loaded)


def _names(split: str, part: Any, column: str) -> list[str]:
    """The images' file names, or split and number where they have none."""
    chunks = part.with_format("arrow")[:].column(column).chunks
    names = [Path(path or "").name for chunk in chunks for path in chunk.field("path").to_pylist()]
    if all(names) and len(set(names)) == len(names):
        return names
    return [f"{split}-{place:06d}" for place in range(len(part))]


def _rows(parts: dict[str, Any], names: dict[str, list[str]], columns: Columns) -> Iterator[Row]:
    one = len(parts) == 1
    for split, part in parts.items():
        kept = [column for column in (*(columns.captions or ()), columns.split) if column]
        for place, values in enumerate(part.select_columns(kept)):
            where = f"{split}, row {place}"
            row = columns.row({**values, str(columns.image): names[split][place]}, where)
            yield row if columns.split else row._replace(split=None if one else split)


def _open(part: Any, place: int, column: str) -> Image.Image:
    try:
        return upright(part[place][column])
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"Row {place} of {part.split} cannot be read as an image ({error}).") from error
