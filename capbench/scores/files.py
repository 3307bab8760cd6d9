"""Captions and references in files, in the formats that people hand them on in."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capbench.errors import UserError
from capbench.text import tokenise

IDS = ("image_id", "image", "file_name", "filename", "id")
TEXTS = ("caption", "references")
SHOWN = 3


@dataclass
class CaptionFile:
    """What a file says of images.

    Attributes:
        name: what a mistake in it is told of: its path.
        captions: image id and caption, in the file's order.
        references: image id -> its references, where the file has them.
        other_names: other names of an image -> its id.
    """

    name: str
    captions: list[tuple[str, str]] = field(default_factory=list)
    references: Mapping[str, Sequence[str]] = field(default_factory=dict)
    other_names: dict[str, str] = field(default_factory=dict)


class _Object(list[tuple[str, Any]]):
    """A JSON object as its pairs, so that a key that comes twice is seen."""


def read_captions(path: Path) -> CaptionFile:
    """Captions in our `captions.jsonl`, COCO's result format, `{id: caption}`, or `{"captions": {id: caption}}`.

    Raises:
        UserError: there is no such file, it is in none of these formats, or empty.
    """
    content = _parse(path)
    if isinstance(content, _Object):
        content = dict(content).get("captions", content)
    captions: list[tuple[str, str]] = []
    references: dict[str, list[str]] = {}
    if isinstance(content, _Object):
        captions = [(image, _caption(caption, f"{path}, image {image}")) for image, caption in content]
    else:
        for where, row in _rows(content, f"{path}, row"):
            image = _id(row, where)
            captions.append((image, _caption(row.get("caption"), where)))
            if "references" in row:
                references.setdefault(image, _texts(row["references"], where))
    if not captions:
        raise UserError(f"{path} holds no captions.")
    return CaptionFile(str(path), captions, references)


def read_references(path: Path) -> CaptionFile:
    """References in `{id: [caption]}`, our `captions.jsonl`, COCO's annotations, or rows of image and caption.

    Raises:
        UserError: there is no such file, it is in none of these formats, or empty, or lists an image's references
            twice.
    """
    content = _parse(path)
    lists: list[tuple[str, list[str]]] = []
    references: dict[str, list[str]] = {}
    other_names: dict[str, str] = {}
    what = "row"
    if isinstance(content, _Object):
        entries = dict(content)
        if "annotations" in entries:
            content, what = entries["annotations"], "annotation"
            for where, row in _rows(entries.get("images", []), f"{path}, image"):
                image = _id(row, where, ["id"])
                if "file_name" in row:
                    other_names[_id(row, where, ["file_name"])] = image
        else:
            content = entries.get("references", content)
            if not isinstance(content, _Object):
                raise UserError(f"{path}: expected {{image id: [reference, ...]}}, found {_shown(content)}.")
    if isinstance(content, _Object):
        lists = [(image, _texts(texts, f"{path}, image {image}")) for image, texts in content]
    else:
        for where, row in _rows(content, f"{path}, {what}"):
            image = _id(row, where)
            if "references" in row:
                lists.append((image, _texts(row["references"], where)))
            else:
                references.setdefault(image, []).append(_caption(row.get("caption"), where))
    if twice := _twice(image for image, _ in lists):
        raise UserError(
            f"{path}: {len(twice)} images come with a list of references more than once ({_some(twice)}): put all "
            "references of an image into one list."
        )
    for image, texts in lists:
        references.setdefault(image, []).extend(texts)
    if not references:
        raise UserError(f"{path} holds no references.")
    return CaptionFile(str(path), [], references, other_names)


def pair(
    systems: Mapping[str, CaptionFile], references: CaptionFile, least: int, go_on: bool
) -> tuple[dict[str, dict[str, str]], dict[str, Sequence[str]]]:
    """Each system's caption, and the references, of the same images.

    A caption's image may be called by another name that the references know, or without its file's ending.

    Args:
        systems: one caption an image.
        references: of the images.
        least: how many references with a word in them an image needs.
        go_on: leave out images that lack references or a system's caption, and later captions of an image that has
            several.

    Raises:
        UserError: images that lack something, or with several captions, unless it is to go on; or none is left.
    """
    known = references.references
    wordless = [image for image, texts in known.items() if sum(bool(tokenise(text)) for text in texts) < least]
    if wordless and not (go_on and len(wordless) < len(known)):
        needed = "no reference with a word in it" if least == 1 else f"fewer than {least} references with words"
        rest = ", or score the rest with --allow-missing" if len(wordless) < len(known) else ""
        raise UserError(
            f"{len(wordless)} images of {references.name} have {needed} ({_some(wordless)}): add references{rest}."
        )
    captions = {name: _captions(file, references, go_on) for name, file in systems.items()}
    left = set(known).difference(wordless).intersection(*captions.values())
    if not left:
        files = (f"{file.name} ({_some([image for image, _ in file.captions])})" for file in systems.values())
        raise UserError(
            f"No image of {references.name} ({_some(list(known))}) has references and a caption in "
            f"{' and in '.join(files)}."
        )
    return (
        {name: {image: caption for image, caption in each.items() if image in left} for name, each in captions.items()},
        {image: texts for image, texts in known.items() if image in left},
    )


def _captions(file: CaptionFile, references: CaptionFile, go_on: bool) -> dict[str, str]:
    """The captions of a file for the images of the references, by the references' names of them."""
    known = references.references
    names = {Path(image).stem: image for image in known} | references.other_names | {image: image for image in known}
    pairs = [(names.get(image, image), caption) for image, caption in file.captions]
    captioned = {image for image, _ in pairs}
    faults = {
        f"of {references.name} have no caption in {file.name}": [image for image in known if image not in captioned],
        f"of {file.name} have no references in {references.name}": [
            image for image in dict.fromkeys(image for image, _ in pairs) if image not in known
        ],
        f"of {file.name} have more than one caption": _twice(image for image, _ in pairs),
    }
    if any(faults.values()) and not go_on:
        told = [f"{len(images)} images {fault} ({_some(images)})" for fault, images in faults.items() if images]
        raise UserError(f"{'; '.join(told)}: mend the files, or score the rest with --allow-missing.")
    return {image: caption for image, caption in reversed(pairs) if image in known}


def require_file(path: Path) -> None:
    """Raises a UserError unless it is a file."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file in it.")
    if not path.is_file():
        raise UserError(f"There is no file {path}.")


def _parse(path: Path) -> Any:
    """The content of a JSON file, or the rows of one with an object in each line; a lone row as a list of one."""
    require_file(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if path.suffix == ".jsonl" or not text.strip():
            return _lines(text, path)
        try:
            content = json.loads(text, object_pairs_hook=_Object)
        except ValueError:
            if "}\n" in text.replace("\r", ""):
                return _lines(text, path)
            raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is neither JSON nor JSON lines in UTF-8 ({error}).") from error
    keys = {key for key, _ in content} if isinstance(content, _Object) else set[str]()
    return [content] if not keys.isdisjoint(IDS) and not keys.isdisjoint(TEXTS) else content


def _lines(text: str, path: Path) -> list[_Object]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line, object_pairs_hook=_Object))
            except ValueError as error:
                raise UserError(f"{path}, line {number}: this is no JSON ({error}).") from error
    return rows


def _rows(content: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row and where it stands, counted from 1."""
    if not isinstance(content, list) or isinstance(content, _Object):
        raise UserError(
            f"{where}s: expected a list of objects with image_id and caption, or an object of captions by image id, "
            f"found {_shown(content)}."
        )
    for number, row in enumerate(content, start=1):
        if not isinstance(row, _Object):
            raise UserError(f"{where} {number}: expected an object with image_id and caption, found {_shown(row)}.")
        yield f"{where} {number}", dict(row)


def _id(row: Mapping[str, Any], where: str, keys: Sequence[str] = IDS) -> str:
    key = next((key for key in keys if key in row), None)
    if key is None:
        raise UserError(f"{where}: there is no {keys[0]}.")
    if not isinstance(row[key], str | int) or isinstance(row[key], bool):
        raise UserError(f"{where}: expected a text or a whole number as {key}, found {_shown(row[key])}.")
    return str(row[key])


def _caption(value: Any, where: str) -> str:
    """A caption, alone or in a list of one, as text or as coco-caption's `{"caption": text}`."""
    if isinstance(value, list) and not isinstance(value, _Object) and len(value) == 1:
        value = value[0]
    if isinstance(value, _Object):
        value = dict(value).get("caption", value)
    if not isinstance(value, str):
        raise UserError(f"{where}: expected one caption, found {_shown(value)}.")
    return value


def _texts(value: Any, where: str) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or isinstance(value, _Object):
        raise UserError(f"{where}: expected a list of references, found {_shown(value)}.")
    return [_caption(text, where) for text in value]


def _shown(value: Any) -> str:
    if isinstance(value, _Object):
        return "an object"
    return f"a list of {len(value)}" if isinstance(value, list) else json.dumps(value, ensure_ascii=False)[:60]


def _twice(images: Iterable[str]) -> list[str]:
    return [image for image, count in Counter(images).items() if count > 1]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
