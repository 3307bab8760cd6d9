"""Karpathy's splits: `dataset_flickr8k.json`, `dataset_flickr30k.json`, `dataset_coco.json`.

Karpathy and Fei-Fei (2015), "Deep visual-semantic alignments for generating image descriptions".
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from capbench.data.folder import Folder
from capbench.data.rows import Row, Source
from capbench.errors import UserError


def find(folder: Folder) -> Path | None:
    """The file of captions.

    Raises:
        UserError: there are several.
    """
    files = folder.named("dataset_*.json", "dataset.json")
    if len(files) > 1:
        raise UserError(f"{folder.root} holds {', '.join(map(str, files))}: name one with --data.captions.")
    return files[0] if files else None


def read(folder: Folder, captions: Path) -> Source:
    """Images with `filename`, `filepath` (COCO), `split` and raw `sentences`; `restval` is for training.

    Raises:
        UserError: the file is none of Karpathy's.
    """
    try:
        images = json.loads(captions.read_text(encoding="utf-8-sig"))["images"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{captions} is no file of Karpathy's splits: {error!r}.") from error
    return Source(f"Karpathy's splits ({captions})", _rows(captions, images), True, folder.pictures)


def _rows(path: Path, images: list[dict[str, Any]]) -> Iterator[Row]:
    for number, image in enumerate(images):
        where = f"{path}, image {number}"
        try:
            name = "/".join(filter(None, (image.get("filepath"), image["filename"])))
            yield Row(name, [sentence["raw"] for sentence in image["sentences"]], image["split"], where)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{where}: expected filename, split and sentences with raw text: {error!r}.") from error
