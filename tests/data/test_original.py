"""Flickr8k's original text files."""

import os
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from capbench.data import Images
from capbench.data.original import SPLIT_FILES, TOKENS
from capbench.errors import UserError

SPLITS = {"train": ["1_a.jpg", "2_b.jpg", "3_c.jpg", "4_d.jpg"], "val": ["5_e.jpg"], "test": ["6_f.jpg", "7_g.jpg"]}
NAMES = [name for names in SPLITS.values() for name in names]
LOOSE = "8_in_no_split.jpg"

Write = Callable[..., Path]


def caption(name: str, number: int) -> str:
    return f"A dog # {number} of {name} , it's running ."


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a small Flickr8k."""

    def write_flickr8k(images: str = ".", text: str = ".", missing: tuple[str, ...] = (), end: str = "\n") -> Path:
        root = tmp_path / "flickr 8k"
        (root / images).mkdir(parents=True, exist_ok=True)
        (root / text).mkdir(parents=True, exist_ok=True)
        for number, name in enumerate([*NAMES, LOOSE]):
            if name not in missing:
                Image.new("RGB", (32, 32), (number * 30, 0, 255 - number * 30)).save(root / images / name)
        lines = [f"{name}#{number}\t{caption(name, number)}" for name in [*NAMES, LOOSE] for number in range(5)]
        lines.append("no_file_anywhere.jpg.1#0\tA broken name .")
        (root / text / TOKENS).write_bytes((end.join(lines) + end).encode())
        for split, names in SPLITS.items():
            (root / text / SPLIT_FILES[split]).write_bytes((end.join(names) + end).encode())
        return root

    return write_flickr8k


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
@pytest.mark.parametrize(
    ("images", "text"),
    [(".", "."), ("Flicker8k_Dataset", "Flickr8k_text"), ("Images", "."), ("a/b/Images", "a/Flickr8k_text")],
)
def test_images_captions_and_splits_are_found_nested_or_flat(write: Write, images: str, text: str, end: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        captions = Images(write(images, text, end=end)).read()
    assert {split: [image.id for image in captions.split(split)] for split in SPLITS} == SPLITS
    assert len(captions) == len(NAMES)
    for image in captions:
        assert image.references == tuple(caption(image.id, number) for number in range(5))
    colours = {image.open().resize((1, 1)).getpixel((0, 0)) for image in captions}
    assert len(colours) == len(NAMES)


def test_folders_linked_from_another_disk_are_found(write: Write, tmp_path: Path) -> None:
    root = write("Images", "Flickr8k_text")
    for folder in ("Images", "Flickr8k_text"):
        (root / folder).rename(tmp_path / folder)
        (root / folder).symlink_to(tmp_path / folder)
    (root / "Images" / "around").symlink_to(root)  # a circle of links ends somewhere
    assert len(Images(root).read()) == len(NAMES)


def test_the_files_around_images_and_text_do_not_matter(write: Write) -> None:
    root = write("Flicker8k_Dataset", "Flickr8k_text")
    (root / "Flicker8k_Dataset" / ".DS_Store").touch()
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "._1_a.jpg").touch()
    (root / "CrowdFlowerAnnotations.txt").touch()
    (root / "Flickr8k_text" / "Flickr8k.lemma.token.txt").write_text("1_a.jpg#0\ta dog run .")
    (root / ".trash").mkdir()
    (root / ".trash" / TOKENS).write_text("nothing")
    (root / "thumbnails").mkdir()
    Image.new("RGB", (2, 2)).save(root / "thumbnails" / "1_a.jpg")
    assert {image.open().size for image in Images(root).read()} == {(32, 32)}


def test_images_without_a_file_are_named_once_and_left_out(write: Write) -> None:
    data = Images(write("Images", missing=("2_b.jpg", "6_f.jpg")), max_missing=0.3)
    with pytest.warns(UserWarning, match="2 of 7 images") as caught:
        data.setup("fit")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.setup("test")
    assert "(2_b.jpg, 6_f.jpg)" in str(caught[0].message)
    assert [len(data.captions.split(split)) for split in SPLITS] == [3, 1, 1]


def test_a_link_to_nowhere_is_a_missing_image(write: Write) -> None:
    root = write("Images", missing=("2_b.jpg",))
    (root / "Images" / "2_b.jpg").symlink_to(root / "gone.jpg")
    with pytest.warns(UserWarning, match=r"1 of 7 images .*\(2_b\.jpg\)"):
        assert len(Images(root, max_missing=0.2).read()) == 6


def test_an_image_without_captions_counts_as_missing(write: Write) -> None:
    root = write()
    (root / TOKENS).write_text("".join(line for line in (root / TOKENS).open() if not line.startswith("5_e")))
    with pytest.raises(UserError, match=r"1 of 7 images .*5_e\.jpg"):
        Images(root).read()
    assert Images(root).find().missing == {"5_e.jpg": "no caption"}


@pytest.mark.parametrize(("share", "allowed"), [(2 / 7, True), (0.28, False), (0.0, False)])
def test_more_missing_than_allowed_is_an_error(write: Write, share: float, allowed: bool) -> None:
    data = Images(write(missing=("2_b.jpg", "6_f.jpg")), max_missing=share)
    if allowed:
        with pytest.warns(UserWarning, match="left out"):
            assert len(data.read()) == 5
    else:
        with pytest.raises(UserError, match=r"2 of 7 images.*\(2_b\.jpg, 6_f\.jpg\).*--data\.max_missing"):
            data.read()


def test_a_missing_file_nobody_asked_for_is_no_matter(write: Write) -> None:
    assert len(Images(write(missing=(LOOSE,)), max_missing=0).read()) == len(NAMES)


def test_text_without_images_and_images_without_text(write: Write) -> None:
    root = write("Images", "Flickr8k_text")
    with pytest.raises(UserError, match=r"Looked under .*Flickr8k\.token\.txt.*found there: 1_a\.jpg.*--data\.root"):
        Images(root / "Images").read()
    with pytest.raises(UserError, match=r"original text \(.* names 7 images, and none .*1_a\.jpg.*under --data\.root"):
        Images(root / "Flickr8k_text").read()
    (root / "Flickr8k_text" / SPLIT_FILES["val"]).unlink()
    with pytest.raises(UserError, match=r"lacks Flickr_8k\.devImages\.txt: .*--data\.shares"):
        Images(root).read()


def test_splits_can_be_drawn_where_there_are_none_and_of_all_images(write: Write) -> None:
    root = write()
    for file in SPLIT_FILES.values():
        (root / file).unlink()
    captions = Images(root, shares=[0.5, 0.5], max_missing=1 / 9).find()
    assert sorted(image.id for image in captions) == sorted([*NAMES, LOOSE])
    assert captions.missing == {"no_file_anywhere.jpg.1": "no file"}


def test_an_image_in_two_splits_is_named_with_file_and_line(write: Write) -> None:
    root = write()
    with (root / SPLIT_FILES["test"]).open("a") as file:
        file.write("\n2_b.jpg\n")
    with pytest.raises(UserError, match=r"testImages\.txt, line 4: 2_b\.jpg is in the split test, and in train before"):
        Images(root).read()
    assert len(Images(root, shares=[1, 0], max_missing=0.2).find()) == 8


@pytest.mark.parametrize("line", ["1_a.jpg#0 no tab", "1_a.jpg\tno number", "nothing", "#0\tno name", " \t x"])
def test_a_line_that_cannot_be_read_is_named(write: Write, line: str) -> None:
    root = write()
    lines = (root / TOKENS).read_text().split("\n")
    (root / TOKENS).write_text("\n".join([*lines[:6], line, *lines[6:]]))
    with pytest.raises(UserError, match=rf"{re.escape(TOKENS)}, line 7: .*found {re.escape(repr(line)[:6])}"):
        Images(root).read()


@pytest.mark.parametrize("file", [TOKENS, SPLIT_FILES["val"]])
def test_another_encoding_is_named_with_its_line(write: Write, file: str) -> None:
    root = write()
    text = (root / file).read_bytes()
    (root / file).write_bytes(text + "Käfer.jpg#0\tEin Käfer\n".encode("latin-1"))
    line = text.count(b"\n") + 1
    with pytest.raises(UserError, match=rf"{re.escape(file)}, line {line}: this is not UTF-8 .*: save the file"):
        Images(root).read()


def test_an_empty_caption_is_left_out_with_one_warning(write: Write) -> None:
    root = write()
    lines = (root / TOKENS).read_text().split("\n")
    lines[3], lines[8] = "1_a.jpg#3\t", "2_b.jpg#3\t . "
    (root / TOKENS).write_text("\n".join(lines))
    with pytest.warns(UserWarning, match=rf"2 captions without .*{re.escape(TOKENS)}, line 4, .*, line 9") as caught:
        captions = Images(root).read()
    assert len(caught) == 1
    assert [len(image.references) for image in captions] == [4, 4, 5, 5, 5, 5, 5]


def test_a_damaged_image_is_named(write: Write) -> None:
    root = write()
    (root / "5_e.jpg").write_bytes((root / "5_e.jpg").read_bytes()[:300])
    image = Images(root).read().split("val")[0]
    with pytest.raises(UserError, match=r"5_e\.jpg cannot be read as an image"):
        image.open()


def test_stamps_change_with_the_files_and_images_travel_to_workers(write: Write) -> None:
    root = write()
    before = {image.id: image.stamp for image in Images(root).read()}
    os.utime(root / "5_e.jpg", ns=(1, 1))
    captions = Images(root).read()
    assert {image.id for image in captions if image.stamp != before[image.id]} == {"5_e.jpg"}
    assert pickle.loads(pickle.dumps(captions.images[0])).open().size == (32, 32)
