"""Captions and references in files, in the formats that people hand them on in."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capbench.errors import UserError

IDS = ("image_id", "image", "file_name", "filename", "id")
SHOWN = 3


@dataclass
class CaptionFile:
    """What a file says of images.

    Attributes:
        captions: image id and caption, in the file's order.
        references: image id -> its references, where the file has them.
        other_names: other names of an image -> its id.
    """

    captions: list[tuple[str, str]] = field(default_factory=list)
    references: dict[str, list[str]] = field(default_factory=dict)
    other_names: dict[str, str] = field(default_factory=dict)


class _Object(list[tuple[str, Any]]):
    """A JSON object as its pairs, so that a key that comes twice is seen."""


def read_captions(path: Path) -> CaptionFile:
    """Captions in our `captions.jsonl`, COCO's result format, `{id: caption}`, or `{"captions": {id: caption}}`.

    Raises:
        UserError: there is no such file, or it is in none of these formats.
    """
    content = _parse(path)
    if isinstance(content, _Object):
        content = dict(content).get("captions", content)
    found = CaptionFile()
    if isinstance(content, _Object):
        found.captions = [(image, _caption(caption, f"{path}, image {image}")) for image, caption in content]
        return found
    for where, row in _rows(content, path):
        image = _id(row, where)
        found.captions.append((image, _caption(row.get("caption"), where)))
        if "references" in row:
            found.references[image] = _texts(row["references"], where)
    return found


def read_references(path: Path) -> CaptionFile:
    """References in `{id: [caption]}`, our `captions.jsonl`, COCO's annotations, or rows of image and caption.

    Raises:
        UserError: there is no such file, or it is in none of these formats.
    """
    content = _parse(path)
    found = CaptionFile()
    if isinstance(content, _Object):
        entries = dict(content)
        if "annotations" not in entries:
            content = entries.get("references", content)
            if not isinstance(content, _Object):
                raise UserError(f"{path}: expected {{image id: [reference, ...]}}.")
            found.references = {image: _texts(texts, f"{path}, image {image}") for image, texts in content}
            return found
        content = entries["annotations"]
        for where, row in _rows(entries.get("images", []), path):
            found.other_names[str(row.get("file_name"))] = str(row.get("id"))
            _id(row, where)
    for where, row in _rows(content, path):
        texts = _texts(row["references"], where) if "references" in row else [_caption(row.get("caption"), where)]
        found.references.setdefault(_id(row, where), []).extend(texts)
    return found


def pair(
    captions: CaptionFile, references: Mapping[str, Sequence[str]], other_names: Mapping[str, str], go_on: bool
) -> tuple[dict[str, str], dict[str, Sequence[str]]]:
    """Captions and references of the same images.

    A caption's image may be called by another name that the references know, or without its file's ending.

    Args:
        captions: one caption an image.
        references: image id -> references.
        other_names: other names of an image -> its id.
        go_on: leave out images that lack one or the other, and later captions of an image that has several.

    Raises:
        UserError: images without caption, captions without image or several for one, unless it is to go on; or none
            is left.
    """
    names = (
        {Path(image).stem: image for image in references} | dict(other_names) | {image: image for image in references}
    )
    pairs = [(names.get(image, image), caption) for image, caption in captions.captions]
    counts = Counter(image for image, _ in pairs)
    faults = {
        "have references but no caption": [image for image in references if image not in counts],
        "have a caption but no references": [image for image in counts if image not in references],
        "have more than one caption": [image for image, count in counts.items() if count > 1],
    }
    if any(faults.values()) and not go_on:
        told = [f"{len(images)} images {fault} ({_some(images)})" for fault, images in faults.items() if images]
        raise UserError(f"{'; '.join(told)}: mend the files, or score the rest with --allow-missing.")
    kept = {image: caption for image, caption in reversed(pairs) if image in references}
    if not kept:
        raise UserError(
            f"The captions are of other images ({_some(list(counts))}) than the references ({_some(list(references))})."
        )
    return kept, {image: references[image] for image in kept}


def _parse(path: Path) -> Any:
    """The content of a JSON file, or the rows of one with an object in each line."""
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if path.suffix == ".jsonl":
            return _lines(text, path)
        try:
            return json.loads(text, object_pairs_hook=_Object)
        except ValueError:
            if "}\n" in text.replace("\r", ""):
                return _lines(text, path)
            raise
    except ValueError as error:
        raise UserError(f"{path} is neither JSON nor JSON lines in UTF-8 ({error}).") from error


def _lines(text: str, path: Path) -> list[_Object]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line, object_pairs_hook=_Object))
            except ValueError as error:
                raise UserError(f"{path}, line {number}: this is no JSON ({error}).") from error
    return rows


def _rows(content: Any, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(content, list) or isinstance(content, _Object):
        raise UserError(f"{path}: expected rows with image_id and caption, or an object of captions by image id.")
    for number, row in enumerate(content, start=1):
        where = f"{path}, row {number}"
        if not isinstance(row, _Object):
            raise UserError(f"{where}: expected an object with image_id and caption, found {str(row)[:60]!r}.")
        yield where, dict(row)


def _id(row: Mapping[str, Any], where: str) -> str:
    image = next((row[key] for key in IDS if key in row), None)
    if not isinstance(image, str | int):
        raise UserError(f"{where}: there is no image_id.")
    return str(image)


def _caption(value: Any, where: str) -> str:
    """A caption, alone or in a list of one, as text or as coco-caption's `{"caption": text}`."""
    if isinstance(value, list) and not isinstance(value, _Object) and len(value) == 1:
        value = value[0]
    if isinstance(value, _Object):
        value = dict(value).get("caption")
    if not isinstance(value, str):
        raise UserError(f"{where}: expected one caption, found {str(value)[:60]!r}.")
    return value


def _texts(value: Any, where: str) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or isinstance(value, _Object):
        raise UserError(f"{where}: expected a list of references, found {str(value)[:60]!r}.")
    return [_caption(text, where) for text in value]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
