"""Karpathy's splits."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from capbench.data import Images
from capbench.errors import UserError
from tests.data.layouts import write_pictures

COCO = [
    ("train2014", "COCO_train2014_000000000009.jpg", "train", ["A dog.", "a dog\n"]),
    ("val2014", "COCO_val2014_000000000042.jpg", "restval", ["A cat, asleep"] * 7),
    ("val2014", "COCO_val2014_000000000073.jpg", "val", ['The "dog"']),
    ("val2014", "COCO_val2014_000000000074.jpg", "test", ["A dog", "Ein Käfer"]),
    ("train2014", "same.jpg", "train", ["one of them"]),
    ("val2014", "same.jpg", "test", ["another one"]),
]


def entry(folder: str | None, name: str, split: str, captions: list[str]) -> dict[str, Any]:
    sentences = [{"tokens": caption.split(), "raw": caption, "sentid": 0} for caption in captions]
    image = {"filename": name, "split": split, "sentences": sentences, "cocoid": 9}
    return image if folder is None else {"filepath": folder, **image}


def write(root: Path, content: Any, name: str = "dataset_coco.json") -> Path:
    (root / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return root


def test_coco_has_its_images_in_two_folders_and_four_splits(tmp_path: Path) -> None:
    write_pictures(tmp_path, [f"{folder}/{name}" for folder, name, _, _ in COCO])
    captions = Images(write(tmp_path, {"images": [entry(*image) for image in COCO]})).read()
    found = [(image.id, image.split, image.references) for image in captions]
    assert found == [
        (f"{folder}/{name}", {"restval": "train"}.get(split, split), tuple(text.strip() for text in texts))
        for folder, name, split, texts in COCO
    ]
    assert len({image.open().getpixel((0, 0)) for image in captions}) == len(COCO)


def test_coco_in_one_folder(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", [name for _, name, _, _ in COCO[:4]])
    captions = Images(write(tmp_path, {"images": [entry(*image) for image in COCO[:4]]})).read()
    assert [len(image.references) for image in captions] == [2, 7, 1, 2]


@pytest.mark.parametrize("stem", ["dataset_flickr8k", "dataset_flickr30k", "dataset_coco", "dataset"])
def test_it_goes_by_several_names(stem: str, tmp_path: Path) -> None:
    name = f"{stem}.json"
    write_pictures(tmp_path, ["a.png"])
    write(tmp_path, {"images": [entry(None, "a.png", "train", ["a dog"])]}, name)
    assert Images(tmp_path).read().source == f"Karpathy's splits ({tmp_path / name})"


def test_of_several_one_must_be_named(tmp_path: Path) -> None:
    """All three come in one archive."""
    write_pictures(tmp_path, ["a.png"])
    for name in ("dataset_coco.json", "dataset_flickr8k.json"):
        write(tmp_path, {"images": [entry(None, "a.png", "train", [f"a dog in {name}"])]}, name)
    with pytest.raises(UserError, match=r"holds .*coco\.json, .*flickr8k\.json: name one with --data\.captions"):
        Images(tmp_path).read()
    captions = Images(tmp_path, captions=tmp_path / "dataset_flickr8k.json").read()
    assert captions.images[0].references == ("a dog in dataset_flickr8k.json",)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "damaged or no JSON"),
        ("{", "damaged or no JSON"),
        ("[" * 100_000, "damaged or no JSON"),
        ('{"images": [{"filename": "a.p', "damaged or no JSON"),
        ([], "no list of `images`"),
        ({"annotations": []}, "no list of `images`"),
        ({"images": None}, "no list of `images`"),
        ({"images": {"a.png": 1}}, "no list of `images`"),
        ({"images": []}, "holds no captions"),
        ({"images": [entry(None, "a.png", "train", [])]}, "none of them can be used (a.png: no caption)"),
        ({"images": [entry(None, "a.png", "training", ["a dog"])]}, "image 0: there is no split 'training'"),
        (
            {"images": [entry(None, "a.png", "train", ["a dog"]), entry(None, "a.png", "test", ["a cat"])]},
            "image 1: a.png is in the split test, and in train before",
        ),
    ],
)
def test_a_file_that_is_none_of_his(content: Any, complaint: str, tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a.png"])
    with pytest.raises(UserError, match=rf"dataset_coco\.json.*{re.escape(complaint)}"):
        Images(write(tmp_path, content)).read()


@pytest.mark.parametrize(
    "wrong",
    [
        {"filename": None},
        {"filename": 5},
        {"split": None},
        {"split": 1},
        {"sentences": None},
        {"sentences": "a dog"},
        {"sentences": ["a dog"]},
        {"sentences": [{"tokens": ["a", "dog"]}]},
        {"sentences": [{"raw": 7}]},
        {"sentences": [{"raw": None}]},
        "a.png",
        None,
    ],
)
def test_an_image_that_lacks_something_is_named(wrong: Any, tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a.png", "b.png"])
    second = entry(None, "b.png", "train", ["a cat"]) | wrong if isinstance(wrong, dict) else wrong
    write(tmp_path, {"images": [entry(None, "a.png", "train", ["a dog"]), second]})
    with pytest.raises(UserError, match=r"dataset_coco\.json, image 1: expected filename, split and sentences"):
        Images(tmp_path).read()


def test_another_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    text = json.dumps({"images": [entry(None, "a.png", "train", ["Käfer"])]}, ensure_ascii=False, indent=1)
    (tmp_path / "dataset_coco.json").write_bytes(text.encode("latin-1"))
    line = text[: text.index("ä")].count("\n") + 1
    with pytest.raises(UserError, match=rf"dataset_coco\.json, line {line}: this is not UTF-8"):
        Images(tmp_path).read()
