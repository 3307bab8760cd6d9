"""Karpathy's splits: `dataset_flickr8k.json`, `dataset_flickr30k.json`, `dataset_coco.json`.

Karpathy and Fei-Fei (2015), "Deep visual-semantic alignments for generating image descriptions".
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from capbench.data.folder import Folder, read_text
from capbench.data.rows import Row, Source
from capbench.errors import UserError


def find(folder: Folder) -> Path | None:
    """The file of captions.

    Raises:
        UserError: there are several.
    """
    files = folder.named("dataset_flickr*.json", "dataset_coco*.json", "dataset.json")
    if len(files) > 1:
        raise UserError(f"{folder.root} holds {', '.join(map(str, files))}: name one with --data.captions.")
    return files[0] if files else None


def read(folder: Folder, captions: Path) -> Source:
    """Images with `filename`, `filepath` (COCO), `split` and raw `sentences`; `restval` is for training.

    Raises:
        UserError: the file is none of Karpathy's.
    """
    try:
        content = json.loads(read_text(captions))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{captions} is damaged or no JSON ({error}).") from error
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list):
        raise UserError(f"{captions} is no file of Karpathy's splits: it has no list of `images`.")
    return Source(f"Karpathy's splits ({captions})", _rows(captions, images), folder.pictures)


def _rows(path: Path, images: list[Any]) -> Iterator[Row]:
    for number, image in enumerate(images):
        where = f"{path}, image {number}"
        match image:
            case {"filename": str(file), "split": str(split), "sentences": list(sentences)} if all(
                isinstance(sentence, dict) and isinstance(sentence.get("raw"), str) for sentence in sentences
            ):
                name = "/".join(filter(None, (image.get("filepath"), file)))
                yield Row(name, [sentence["raw"] for sentence in sentences], split, where)
            case _:
                raise UserError(
                    f"{where}: expected filename, split and sentences with raw text, found {str(image)[:60]}."
                )
