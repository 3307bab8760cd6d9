"""The same captioned photos in every layout that `Images` reads."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

SPLIT_FILES = {"train": "trainImages", "val": "devImages", "test": "testImages"}
HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}


class Photo(NamedTuple):
    name: str
    split: str
    captions: tuple[str, ...]


def told(number: int) -> tuple[str, ...]:
    animal = ("dog", "cat", "gnu", "emu")[number % 4]
    return (
        f"A {animal} , number {number} , is running .",
        f'The sign says " {animal} " , in red',
        f"The {animal} isn't {number} years old ; is it ?",
        f"Ein Käfer & {number} {animal}s | somewhere",
        f"a {animal}",
    )


PHOTOS = [
    Photo(
        f"{number:02d}_{number * 7919:x}.jpg",
        "test" if number % 10 == 3 else "val" if number % 10 == 7 else "train",
        told(number),
    )
    for number in range(20)
]


def picture(number: int) -> Image.Image:
    """Of a colour of its own."""
    return Image.new("RGB", (24, 16), (number * 12, 255 - number * 12, 128))


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG")
    return file.getvalue()


def write_pictures(folder: Path, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / name)


def write_csv(file: Path, rows: Sequence[Sequence[str]], **dialect: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, **dialect).writerows(rows)


def write_original(root: Path) -> None:
    write_pictures(root / "Flicker8k_Dataset", [photo.name for photo in PHOTOS])
    texts = root / "Flickr8k_text"
    texts.mkdir()
    lines = [f"{photo.name}#{place}\t{text}\n" for photo in PHOTOS for place, text in enumerate(photo.captions)]
    (texts / "Flickr8k.token.txt").write_text("".join(lines), encoding="utf-8")
    for split, name in SPLIT_FILES.items():
        names = [f"{photo.name}\n" for photo in PHOTOS if photo.split == split]
        (texts / f"Flickr_8k.{name}.txt").write_text("".join(names))


def write_karpathy(root: Path) -> None:
    write_pictures(root / "Flicker8k_Dataset", [photo.name for photo in PHOTOS])
    images = [
        {
            "sentids": [5 * number + place for place in range(5)],
            "imgid": number,
            "sentences": [
                {"tokens": text.lower().split(), "raw": text, "imgid": number, "sentid": 5 * number + place}
                for place, text in enumerate(photo.captions)
            ],
            "split": "restval" if number == 0 else photo.split,
            "filename": photo.name,
        }
        for number, photo in enumerate(PHOTOS)
    ]
    (root / "dataset_flickr8k.json").write_text(json.dumps({"images": images, "dataset": "flickr8k"}))


def write_kaggle(root: Path) -> None:
    write_pictures(root / "Images", [photo.name for photo in PHOTOS])
    rows = [(photo.name, text) for photo in PHOTOS for text in photo.captions]
    write_csv(root / "captions.txt", [("image", "caption"), *rows], lineterminator="\n")


def write_long_table(root: Path) -> None:
    write_pictures(root / "photos", [photo.name for photo in PHOTOS])
    rows = [(photo.split, text, photo.name) for photo in PHOTOS for text in photo.captions]
    write_csv(root / "mine.csv", [("split", "caption", "file_name"), *rows])


def write_wide_table(root: Path) -> None:
    write_pictures(root, [photo.name for photo in PHOTOS])
    header = ("image", *(f"caption_{place}" for place in range(5)), "split")
    write_csv(
        root / "mine.tsv", [header, *((photo.name, *photo.captions, photo.split) for photo in PHOTOS)], delimiter="\t"
    )


def write_jsonl(root: Path) -> None:
    write_pictures(root / "a" / "b", [photo.name for photo in PHOTOS])
    lines = [{"image": photo.name, "captions": photo.captions, "split": photo.split} for photo in PHOTOS]
    (root / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def hub_parts() -> dict[str, Any]:
    """The schema of `jxie/flickr8k`: `image` and `caption_0` to `caption_4`; train, validation and test."""
    import datasets

    parts = {}
    for split, theirs in HUB_SPLITS.items():
        numbers = [number for number, photo in enumerate(PHOTOS) if photo.split == split]
        columns: dict[str, Any] = {
            "image": [{"bytes": jpeg(picture(number)), "path": PHOTOS[number].name} for number in numbers]
        }
        columns |= {f"caption_{place}": [PHOTOS[number].captions[place] for number in numbers] for place in range(5)}
        features = {name: datasets.Value("string") for name in columns} | {"image": datasets.Image()}
        parts[theirs] = datasets.Dataset.from_dict(columns, datasets.Features(features), split=theirs)
    return parts


def flickr30k_part() -> Any:
    """The schema of `nlphuji/flickr30k`: one part, `test`, and a column that says the split."""
    import datasets

    string, numbers = datasets.Value("string"), range(len(PHOTOS))
    columns = {
        "image": [{"bytes": jpeg(picture(number)), "path": PHOTOS[number].name} for number in numbers],
        "caption": [list(photo.captions) for photo in PHOTOS],
        "sentids": [[str(5 * number + place) for place in range(5)] for number in numbers],
        "split": [photo.split for photo in PHOTOS],
        "img_id": [str(number) for number in numbers],
        "filename": [photo.name for photo in PHOTOS],
    }
    features = dict.fromkeys(columns, string) | {"image": datasets.Image()}
    features |= {"caption": datasets.List(string), "sentids": datasets.List(string)}
    return datasets.Dataset.from_dict(columns, datasets.Features(features), split="test")


def write_parquet(root: Path) -> None:
    (root / "data").mkdir()
    for split, part in hub_parts().items():
        part.to_parquet(root / "data" / f"{split}-00000-of-00001.parquet")


def write_flickr30k_parquet(root: Path) -> None:
    (root / "TEST").mkdir()
    flickr30k_part().to_parquet(root / "TEST" / "test-00000-of-00001.parquet")


def write_saved(root: Path) -> None:
    import datasets

    datasets.DatasetDict(hub_parts()).save_to_disk(root / "flickr8k")


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "original": write_original,
    "karpathy": write_karpathy,
    "kaggle": write_kaggle,
    "long table": write_long_table,
    "wide table": write_wide_table,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
    "flickr30k parquet": write_flickr30k_parquet,
    "saved": write_saved,
}
SOURCE = {
    "original": "original",
    "karpathy": "karpathy",
    "kaggle": "kaggle",
    "long table": "table",
    "wide table": "table",
    "jsonl": "table",
    "parquet": "hub",
    "flickr30k parquet": "hub",
    "saved": "hub",
}
WITH_SPLITS = tuple(name for name in LAYOUTS if name != "kaggle")
