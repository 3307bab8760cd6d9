"""`python -m capbench data`: what lies under a folder, and whether it can be used."""

import csv
import json
import re
from pathlib import Path
from statistics import median

import pytest
from PIL import Image, ImageChops

from capbench.commands.data import PICTURE, SHOWN, TILE
from capbench.data import Images
from tests.support import make_flickr8k, make_picture, run

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small Flickr8k in the current folder: 6, 3 and 3 images, 5 captions each."""
    monkeypatch.chdir(tmp_path)
    return make_flickr8k(Path("flickr8k"))


def own(*captions: tuple[str, str], split: str = "train") -> Path:
    """A table of captions and its drawn images in the current folder's `mine`."""
    folder = Path("mine")
    folder.mkdir()
    for number, name in enumerate(dict.fromkeys(name for name, _ in captions)):
        make_picture(number, (60, 40))[0].save(folder / name)
    with (folder / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption", "split"), *((*row, split) for row in captions)])
    return folder


def damage(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:400])


def test_what_was_found_is_printed(root: Path, capsys: Capture) -> None:
    assert run("data", "--root", root, "--min_count=6") == 0
    told = capsys.readouterr().out
    fingerprint = Images(root).read().fingerprint()
    source = f"Flickr8k's original text ({root / 'Flickr8k_text' / 'Flickr8k.token.txt'})"
    lines = told.splitlines()
    assert lines[0] == f"Source: {source}, fingerprint {fingerprint}"
    assert [line.split() for line in lines[3:7]] == [
        ["train", "6", "30", "5", "(x", "6)"],
        ["val", "3", "15", "5", "(x", "3)"],
        ["test", "3", "15", "5", "(x", "3)"],
        ["all", "12", "60", "5", "(x", "12)"],
    ]
    # tests.support's five sentences: `a` 24 times in six images, `box` 24, `the` 12, `is` 18, six colours 5 times each,
    # and 10 words 6 times: lies, on, floor, there, it, n't, put, somebody, here, square
    assert "Vocabulary: 20 different words in the training captions, 14 of them at least 6 times (--min_count)." in told
    lengths = [7, 5, 7, 6, 3]
    told_lengths = f"3 to 7 words, mean {sum(lengths) / 5:.1f}, median {median(lengths)}, 95 % up to 7;"
    for split in ("train", "val", "test"):
        assert f"  {split:6} captions of {told_lengths}" in told


def test_lengths_and_known_words_are_counted_by_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    lengths = range(1, 21)
    folder = own(*(("a.png", " ".join(["dog"] * length)) for length in lengths))
    make_picture(3, (60, 40))[0].save(folder / "b.png")
    with (folder / "mine.csv").open("a", newline="") as file:
        csv.writer(file).writerows([("b.png", "Dog, dog: cat!", "test"), ("b.png", "a DOG", "test")])
    assert run("data", f"--root={folder}", "--min_count=200") == 0
    told = capsys.readouterr().out
    assert "Vocabulary: 1 different words in the training captions, 1 of them at least 200 times (--min_count)." in told
    assert "  train  captions of 1 to 20 words, mean 10.5, median 10, 95 % up to 19; 100.00% of the words" in told
    assert "  test   captions of 2 to 3 words, mean 2.5, median 2, 95 % up to 3; 60.00% of the words" in told
    assert "  val " not in told
    assert run("data", f"--root={folder}", "--min_count=211") == 0
    assert "1 different words in the training captions, 0 of them at least 211 times" in capsys.readouterr().out


def test_other_counts_of_captions_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    seven = [("b.png", f"a cat {number}") for number in range(7)]
    folder = own(("a.png", "a dog"), *seven, ("c.png", "a gnu"), ("c.png", "a gnu"), ("c.png", "."), split="test")
    assert run("data", "--root", folder) == 0
    told = capsys.readouterr().out
    assert re.search(r"^test +3 +10   1 \(x 1\), 2 \(x 1\), 7 \(x 1\)$", told, re.M)
    assert re.search(r"^train +0 +0   none$", told, re.M)
    assert "No training captions, so no vocabulary." in told
    assert f"1 captions without a word are left out:\n  {folder / 'mine.csv'}, line 12\n" in told


def test_captions_that_come_twice_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    folder = own(("a.png", "a dog"), ("a.png", "a dog"), ("b.png", "a dog"), ("b.png", "a cat"), ("a.png", "a dog"))
    assert run("data", "--root", folder) == 0
    assert "  2 captions come more than once for their image, and are kept so" in capsys.readouterr().out


def test_missing_files_are_listed_however_many(root: Path, capsys: Capture) -> None:
    """`fit` would refuse; looking at the data is what this command is for."""
    images = sorted(root.rglob("*.jpg"))
    for image in images[:7]:
        image.unlink()
    assert run("data", "--root", root) == 0
    told = capsys.readouterr().out
    listed = "".join(f"  {image.name}: no file\n" for image in images[:7])
    assert f"7 images of the splits cannot be used:\n{listed}" in told


def test_a_long_list_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    folder = own(*((f"{number}.png", "a dog") for number in range(SHOWN + 4)))
    for number in range(SHOWN + 3):
        (folder / f"{number}.png").unlink()
    assert run("data", "--root", folder) == 0
    told = capsys.readouterr().out
    assert told.count(": no file") == SHOWN
    assert f"{SHOWN + 3} images of the splits cannot be used:" in told
    assert "  and 3 more\n" in told


def test_every_unreadable_file_is_named_and_the_status_is_1(root: Path, capsys: Capture) -> None:
    images = sorted(root.rglob("*.jpg"))
    damage(images[2])
    images[5].write_bytes(b"")
    images[8].write_text("<html>404</html>")
    assert run("data", "--root", root) == 1
    output = capsys.readouterr()
    assert "3 images cannot be read:\n" in output.out
    for place in (2, 5, 8):
        assert f"  {images[place]} cannot be read as an image (" in output.out
    assert "Traceback" not in output.out + output.err
    assert Image.open("contact_sheet.png").size == (4 * TILE[0], 3 * TILE[1])  # of the other nine


# The contact sheet


def tiles(sheet: Image.Image) -> list[Image.Image]:
    return [
        sheet.crop((left, top, left + TILE[0], top + TILE[1]))
        for top in range(0, sheet.height, TILE[1])
        for left in range(0, sheet.width, TILE[0])
    ]


def picture_of(tile: Image.Image) -> Image.Image:
    return tile.crop((0, 0, TILE[0], PICTURE[1] + 8))


def text_of(tile: Image.Image) -> Image.Image:
    return tile.crop((0, PICTURE[1] + 8, *TILE))


def is_white(image: Image.Image) -> bool:
    return ImageChops.difference(image, Image.new("RGB", image.size, "white")).getbbox() is None


def test_the_contact_sheet_shows_twelve_images_with_their_captions(root: Path, capsys: Capture) -> None:
    assert run("data", "--root", root, "--sheet=looks/of it.png") == 0
    assert "Some of them, drawn by seed: looks/of it.png\n" in capsys.readouterr().out
    sheet = Image.open("looks/of it.png")
    assert sheet.size == (4 * TILE[0], 3 * TILE[1])
    assert sheet.mode == "RGB"
    originals = [Image.open(file).convert("RGB") for file in sorted(root.rglob("*.jpg"))]
    shown = []
    for tile in tiles(sheet):
        text = text_of(tile).convert("L")
        black = sum(value < 64 for value in text.tobytes())
        assert 0.01 < black / (text.width * text.height) < 0.2
        found = picture_of(tile)
        middle = found.getpixel((TILE[0] // 2, 8 + PICTURE[1] // 2))
        near = [
            number
            for number, original in enumerate(originals)
            if _distance(middle, original.getpixel((original.width // 2, original.height // 2))) < 60
            and abs(_ratio(found) - original.width / original.height) < 0.05
        ]
        assert near
        shown.append(near)
    assert {number for near in shown for number in near} == set(range(12))


def _distance(one: object, other: object) -> int:
    assert isinstance(one, tuple)
    assert isinstance(other, tuple)
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _ratio(tile: Image.Image) -> float:
    """Width by height of what is not white."""
    box = ImageChops.difference(tile, Image.new("RGB", tile.size, "white")).getbbox()
    assert box
    return (box[2] - box[0]) / (box[3] - box[1])


def test_few_images_make_a_small_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = own(*((f"{number}.png", "a dog") for number in range(5)))
    assert run("data", "--root", folder) == 0
    sheet = Image.open("contact_sheet.png")
    assert sheet.size == (4 * TILE[0], 2 * TILE[1])
    assert [is_white(tile) for tile in tiles(sheet)] == [False] * 5 + [True] * 3


def test_the_same_images_are_drawn_each_time(root: Path) -> None:
    make_flickr8k(Path("more"), train=14)
    sheets = []
    for name in ("one.png", "two.png"):
        assert run("data", "--root=more", f"--sheet={name}") == 0
        sheets.append(Path(name).read_bytes())
    assert sheets[0] == sheets[1]
    assert Image.open("one.png").size == (4 * TILE[0], 3 * TILE[1])


def test_any_picture_and_caption_can_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    captions = ["a dog", "word " * 400, "x" * 3000, "two\nlines\tand a tab", "犬が走る Käfer 👍", "%s {} <b>"]
    folder = own(*((name, caption) for name in ("a.png", "b.png", "c.png", "d.png") for caption in captions))
    for name, size in (("a.png", (3000, 1)), ("b.png", (1, 3000)), ("c.png", (1, 1))):
        Image.new("RGB", size, "red").save(folder / name)
    Image.new("RGBA", (90, 80), (0, 0, 0, 0)).save(folder / "d.png")
    assert run("data", "--root", folder) == 0
    drawn = tiles(Image.open("contact_sheet.png"))
    assert not any(is_white(text_of(tile)) for tile in drawn)
    assert (255, 0, 0) in [picture_of(tile).getpixel((TILE[0] // 2, 8)) for tile in drawn]  # the smallest is enlarged


def test_nothing_that_can_be_drawn_makes_a_blank_sheet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = own(("a.png", "a dog"))
    (folder / "a.png").write_bytes(b"no image")
    assert run("data", "--root", folder) == 1
    assert "1 images cannot be read:" in capsys.readouterr().out
    assert is_white(Image.open("contact_sheet.png"))


# Mistakes


def assert_one_sentence(capsys: Capture, *words: str) -> None:
    output = capsys.readouterr()
    error = output.err.rpartition("image/s]\n")[2]
    assert error.startswith("capbench: ")
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    assert "--data." not in error
    for word in words:
        assert word in error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--root=gone"], ["--root gone is no folder"]),
        (["--root=empty"], ["Looked under empty", "found there: nothing", "Set --root"]),
        (["--root=flickr8k", "--source=kaggle"], ["Kaggle's captions.txt", "found none", "Flickr8k_text"]),
        (["--root=flickr8k", "--source=kagle"], ["source", "kaggle", "original"]),
        (["--root=flickr8k", "--captions=gone.csv"], ["no file gone.csv (--captions)"]),
        (["--captions=mine.csv"], ["--captions mine.csv needs", "add --root"]),
        (["--root=flickr8k", "--shares=[0.9,0.2]"], ["--shares takes", "[0.9, 0.2]"]),
        (["--root=flickr8k", "--shares=most"], ["shares", "list"]),
        (["--root=flickr8k", "--share=[0.9,0.1]"], ["--share", "did you mean shares?"]),
        (["--root=flickr8k", "--min_count=few"], ["min_count", "few"]),
        (["--root=flickr8k", "--sheet=sheet.xyz"], ["sheet.xyz", "--sheet"]),
        (["--root=flickr8k", "--sheet=flickr8k"], ["flickr8k", "--sheet"]),
        (["--root=flickr8k", "--sheet=file/sheet.png"], ["file/sheet.png", "--sheet"]),
        (["flickr8k"], ["flickr8k"]),
    ],
)
def test_a_mistake_is_one_sentence(options: list[str], words: list[str], root: Path, capsys: Capture) -> None:
    Path("empty").mkdir()
    Path("file").touch()
    assert run("data", *options) == 2
    assert_one_sentence(capsys, *words)


def test_a_bad_line_is_one_sentence(root: Path, capsys: Capture) -> None:
    (root / "mine.jsonl").write_text(json.dumps({"image": "a.png", "caption": "a dog"}) + "\n{\n")
    assert run("data", "--root", root, "--source=table") == 2
    assert_one_sentence(capsys, f"{root / 'mine.jsonl'}, line 2: this is no JSON")


def test_the_help_explains_every_option(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as end:
        run("data", "--help")
    assert end.value.code == 0
    told = capsys.readouterr().out
    options = ("--root", "--source", "--captions", "--dataset", "--columns", "--shares", "--split_seed", "--sheet")
    assert all(option in told for option in options)


def test_it_is_among_the_commands(capsys: Capture) -> None:
    assert run("--help") == 0
    assert "\n  data      look at" in capsys.readouterr().out
