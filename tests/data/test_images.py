"""The sources: each is found by itself, and all give the same of the same photos."""

import re
import warnings
from collections import Counter
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image

from capbench.data import Images
from capbench.data.captions import SPLITS, CaptionSet
from capbench.errors import UserError
from capbench.text import Vocabulary
from tests.data.layouts import LAYOUTS, PHOTOS, SOURCE, WITH_SPLITS, picture, write_csv, write_pictures
from tests.support import REAL_DATA

pytestmark = pytest.mark.usefixtures("hub_cache")

FLICKR8K = REAL_DATA / "flickr8k"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, hub_cache: Path) -> dict[str, Path]:
    """A folder for each layout."""
    roots = {layout: tmp_path_factory.mktemp(f"{layout} test") for layout in LAYOUTS}
    for layout, write in LAYOUTS.items():
        write(roots[layout])
    return roots


@pytest.fixture(scope="module")
def own(folders: dict[str, Path]) -> dict[str, CaptionSet]:
    """Each with its own splits."""
    return {layout: Images(root).read() for layout, root in folders.items()}


@pytest.fixture(scope="module")
def drawn(folders: dict[str, Path]) -> dict[str, CaptionSet]:
    """Each with splits drawn by shares."""
    return {layout: Images(root, shares=[0.6, 0.2, 0.2], split_seed=3).read() for layout, root in folders.items()}


def references(captions: CaptionSet) -> dict[str, tuple[str, ...]]:
    return {image.id: image.references for image in captions}


def splits(captions: CaptionSet) -> dict[str, str]:
    return {image.id: image.split for image in captions}


def vocabulary(captions: Iterable[tuple[str, ...]]) -> list[str]:
    return Vocabulary.from_captions([caption for references in captions for caption in references], 1).words


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_found_and_read_as_it_was_written(layout: str, own: dict[str, CaptionSet]) -> None:
    assert references(own[layout]) == {photo.name: photo.captions for photo in PHOTOS}
    for image in own[layout]:
        (number,) = (number for number, photo in enumerate(PHOTOS) if photo.name == image.id)
        colour, expected = (photo.getpixel((5, 5)) for photo in (image.open(), picture(number)))
        assert max(abs(a - b) for a, b in zip(colour, expected, strict=True)) <= 3  # JPEG
        assert image.open().size == (24, 16)
    assert not own[layout].missing
    assert not own[layout].left_out


@pytest.mark.parametrize("layout", WITH_SPLITS)
def test_its_own_splits_are_kept(layout: str, own: dict[str, CaptionSet]) -> None:
    assert splits(own[layout]) == {photo.name: photo.split for photo in PHOTOS}
    assert {split: len(own[layout].split(split)) for split in SPLITS} == {"train": 16, "val": 2, "test": 2}


def test_kaggles_has_no_splits_and_they_are_drawn(own: dict[str, CaptionSet]) -> None:
    assert Counter(splits(own["kaggle"]).values()) == {"train": 16, "val": 2, "test": 2}
    assert splits(own["kaggle"]) != {photo.name: photo.split for photo in PHOTOS}


@pytest.mark.parametrize(("one", "other"), list(combinations(LAYOUTS, 2)))
def test_the_same_photos_are_the_same_through_two_sources(
    one: str, other: str, own: dict[str, CaptionSet], drawn: dict[str, CaptionSet]
) -> None:
    assert references(own[one]) == references(own[other])
    assert vocabulary(references(own[one]).values()) == vocabulary(references(own[other]).values())
    assert splits(drawn[one]) == splits(drawn[other])
    training = [
        vocabulary(image.references for image in captions[name].split("train"))
        for captions, name in ((drawn, one), (drawn, other))
    ]
    assert training[0] == training[1]
    if "kaggle" not in (one, other):
        assert own[one].fingerprint() == own[other].fingerprint()


def test_the_data_modules_vocabulary_is_the_training_photos(folders: dict[str, Path]) -> None:
    for layout in WITH_SPLITS:
        data = Images(folders[layout], min_count=1)
        data.setup("fit")
        assert data.vocabulary().words == vocabulary(photo.captions for photo in PHOTOS if photo.split == "train")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_source_can_be_named(layout: str, folders: dict[str, Path], own: dict[str, CaptionSet]) -> None:
    named = Images(folders[layout], source=SOURCE[layout]).read()  # type: ignore[arg-type]
    assert named.fingerprint() == own[layout].fingerprint()
    assert named.source == own[layout].source
    others = set(SOURCE.values()) - {SOURCE[layout], "original" if layout == "karpathy" else ""}
    for other in others:
        with pytest.raises(UserError, match=rf"Looked under {re.escape(str(folders[layout]))} for .* and found none"):
            Images(folders[layout], source=other).read()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("layout", "label"),
    [
        ("original", "Flickr8k's original text ({}/Flickr8k_text/Flickr8k.token.txt)"),
        ("karpathy", "Karpathy's splits ({}/dataset_flickr8k.json)"),
        ("kaggle", "Kaggle's layout ({}/captions.txt)"),
        ("wide table", "table ({}/mine.tsv)"),
        ("parquet", "data set {}"),
        ("saved", "data set {}/flickr8k"),
    ],
)
def test_the_source_is_said(layout: str, label: str, folders: dict[str, Path], own: dict[str, CaptionSet]) -> None:
    assert own[layout].source == label.format(folders[layout])


def test_of_several_sources_the_named_one_is_taken(tmp_path: Path) -> None:
    """All lie in one folder; the first in the order of the documentation is taken where none is named."""
    for layout in ("original", "karpathy", "kaggle", "jsonl"):
        LAYOUTS[layout](tmp_path)
    names = [photo.name for photo in PHOTOS]
    assert Images(tmp_path).read().source.startswith("Flickr8k's original text")
    for source, start in (("karpathy", "Karpathy"), ("kaggle", "Kaggle"), ("table", "table")):
        captions = Images(tmp_path, source=source).read()  # type: ignore[arg-type]
        assert captions.source.startswith(start)
        assert sorted(image.id for image in captions) == names


@pytest.mark.parametrize(
    ("layout", "file", "other_name"),
    [
        ("original", "Flickr8k_text/Flickr8k.token.txt", None),
        ("karpathy", "dataset_flickr8k.json", "splits.json"),
        ("kaggle", "captions.txt", "told.txt"),
        ("long table", "mine.csv", "told.dat"),
        ("jsonl", "mine.jsonl", None),
    ],
)
def test_a_file_of_captions_can_be_named_and_lie_elsewhere(
    layout: str, file: str, other_name: str | None, tmp_path: Path, own: dict[str, CaptionSet]
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    LAYOUTS[layout](root)
    elsewhere = tmp_path / (other_name or Path(file).name)
    (root / file).rename(elsewhere)
    assert Images(root, captions=elsewhere).read().fingerprint() == own[layout].fingerprint()


def test_a_home_is_where_the_tilde_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: dict[str, CaptionSet]
) -> None:
    """No shell expands it in `--data.root=~/photos`, nor in a config."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photos").mkdir()
    LAYOUTS["jsonl"](tmp_path / "photos")
    assert Images(Path("~/photos")).read().fingerprint() == own["jsonl"].fingerprint()
    named = Images(Path("~/photos"), captions=Path("~/photos/mine.jsonl"))
    assert named.read().fingerprint() == own["jsonl"].fingerprint()


# Where the images are


def one_a_row(root: Path, *names: str) -> Images:
    write_csv(root / "mine.csv", [("image", "caption"), *((name, f"a dog in {name}") for name in names)])
    return Images(root, shares=[1, 0], max_missing=0)


def colours(data: Images) -> dict[str, int]:
    """Which of the written pictures each image shows."""
    shown = {picture(number).getpixel((0, 0)): number for number in range(20)}
    return {image.id: shown[image.open().getpixel((0, 0))] for image in data.read()}  # type: ignore[index]


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.png", "b.png"], ["a.png", "b.png"]),
        (["one/a.png", "two/a.png"], ["one/a.png", "two/a.png"]),
        (["one/a.png", "two/a.png"], ["one\\a.png", "two\\a.png"]),
        (["one/a.png", "two/a.png"], ["./one/a.png", "root/two/a.png"]),
        (["one/a.png", "two/a.png"], ["elsewhere/one/a.png", "/mnt/data/two/a.png"]),
        (["one/a.png", "two/a.png"], ["C:\\My photos\\one\\a.png", "../two/a.png"]),
        (["a.png", "deep/down/a.png"], ["root/a.png", "down/a.png"]),
        (["x/y/z/a b,ü'#.png"], ["a b,ü'#.png"]),
    ],
)
def test_an_image_is_found_by_the_end_of_its_path(
    files: list[str], names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    write_pictures(root, files)
    assert colours(one_a_row(root, *names)) == {name: place for place, name in enumerate(names)}
    monkeypatch.chdir(root)
    if not any(name.startswith("root") for name in names):
        assert colours(one_a_row(Path("."), *names)) == {name: place for place, name in enumerate(names)}


def test_an_absolute_name_is_that_very_file(tmp_path: Path) -> None:
    files = ["one/a.png", "two/a.png", "two/b.png"]
    write_pictures(tmp_path, files)
    names = [str(tmp_path / file) for file in files]
    assert colours(one_a_row(tmp_path, *names)) == {name: place for place, name in enumerate(names)}


def test_of_two_files_of_one_name_that_in_the_images_folder_is_taken(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["0 small/a.png", "0 small/b.png", "images/a.png", "images/b.png", "images/c.png"])
    assert colours(one_a_row(tmp_path, "a.png", "b.png", "c.png")) == {"a.png": 2, "b.png": 3, "c.png": 4}


@pytest.mark.parametrize("names", [("one/a.png", "two/a.png"), ("a.png", "./a.png"), ("one/a.png", "one\\a.png")])
def test_two_names_of_one_file_are_refused(names: tuple[str, str], tmp_path: Path) -> None:
    """Whichever of them the picture is not of would be learnt with another's captions, or be in two splits."""
    write_pictures(tmp_path, ["a.png"])
    with pytest.raises(
        UserError, match=rf"{re.escape(names[0])} and {re.escape(names[1])} have the same file, .*a\.png"
    ):
        one_a_row(tmp_path, *names).read()


@pytest.mark.parametrize("name", ["A.png", "a.jpg", "a", "a.png/", "/", ".", "..", "none/", "%61.png"])
def test_another_name_is_no_file(name: str, tmp_path: Path) -> None:
    write_pictures(tmp_path, ["b.png", "a.png.bak/c.png"])
    data = one_a_row(tmp_path, "b.png", name)
    data.max_missing = 1
    with pytest.warns(UserWarning, match="1 of 2 images"):
        captions = data.read()
    assert captions.missing == {name: "no file"}


# Mistakes


def test_a_wrong_root_says_what_was_looked_for_and_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        Images(tmp_path).read()
    for looked_for in (
        "Flickr8k.token.txt",
        "dataset_flickr8k.json",
        "captions.txt",
        ".csv",
        ".jsonl",
        ".parquet",
        "--data.root",
    ):
        assert looked_for in str(error.value)
    assert "found there: nothing" in str(error.value)
    (tmp_path / "holiday.png").touch()
    with pytest.raises(UserError, match=r"found there: holiday\.png"):
        Images(tmp_path).read()
    for no_folder in (tmp_path / "gone", tmp_path / "holiday.png"):
        with pytest.raises(UserError, match=rf"{no_folder.name} is no folder"):
            Images(no_folder).read()


def test_a_named_source_is_the_only_one_looked_for(tmp_path: Path) -> None:
    write_csv(tmp_path / "mine.csv", [("image", "caption"), ("a.png", "a dog")])
    with pytest.raises(UserError, match=r"for Kaggle's captions\.txt and found none; found there: mine\.csv"):
        Images(tmp_path, source="kaggle").read()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"source": "kaggle"}, r"--data\.source kaggle"),
        ({"captions": Path("x.csv")}, r"--data\.captions x\.csv"),
        ({"captions": Path("x.csv"), "source": "hub"}, r"--data\.captions x\.csv"),
    ],
)
def test_what_needs_a_folder_says_so(options: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=rf"{named} needs the folder that holds the images: add --data\.root"):
        Images(**options).read()  # type: ignore[arg-type]


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no file .*gone\.csv \(--data\.captions\)"):
        Images(tmp_path, captions=tmp_path / "gone.csv").read()


@pytest.mark.parametrize("names", [("one.csv", "two.csv"), ("one.csv", "down/two.jsonl"), ("a.tsv", "b.CSV")])
def test_of_several_tables_one_must_be_named(names: tuple[str, str], tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a.png"])
    for name in names:
        write_csv(tmp_path / name, [("image", "caption"), ("a.png", f"a dog in {name}")])
        if name.endswith(".jsonl"):
            (tmp_path / name).write_text('{"image": "a.png", "caption": "a dog"}')
    with pytest.raises(UserError) as error:
        Images(tmp_path).read()
    assert all(str(tmp_path / name) in str(error.value) for name in names)
    assert str(error.value).endswith("name one with --data.captions.")
    captions = Images(tmp_path, captions=tmp_path / names[0], shares=[1, 0]).read()
    assert references(captions) == {"a.png": (f"a dog in {names[0]}",)}


def test_of_several_tables_the_one_with_captions_is_taken(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a.png"])
    write_csv(tmp_path / "captions.csv", [("image", "caption"), ("a.png", "a dog")])
    write_csv(tmp_path / "sizes.csv", [("image", "width"), ("a.png", "24")])
    (tmp_path / "empty.csv").touch()
    (tmp_path / "._captions.csv").write_bytes(b"\x00\x05\x16\x07")
    assert references(Images(tmp_path, shares=[1, 0]).read()) == {"a.png": ("a dog",)}


def test_captions_whose_images_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mine\.csv\) names 2 images, and none .* \(a\.png: no file\).*--data\.root"):
        one_a_row(tmp_path, "a.png", "b.png").read()


@pytest.mark.parametrize("shares", [[0.9, 0.1], [0.8, 0.1, 0.1], [0.5, 0.5]])
def test_no_caption_of_a_test_image_is_learnt(shares: list[float], folders: dict[str, Path]) -> None:
    """Kaggle's file has a line a caption; they are drawn by image all the same."""
    captions = Images(folders["kaggle"], shares=shares).read()
    told = {split: {text for image in captions.split(split) for text in image.references} for split in SPLITS}
    unique = {text for photo in PHOTOS for text in photo.captions[:1]}
    assert {split: len(texts & unique) for split, texts in told.items()} == {
        "train": round(20 * shares[0]),
        "val": round(20 * shares[1]) if len(shares) == 3 else 0,
        "test": round(20 * shares[-1]),
    }
    assert not told["train"] & told["test"] & unique
    assert {image.id for image in captions.split("train")}.isdisjoint(image.id for image in captions.split("test"))


def test_a_second_reading_finds_the_same_stamps(folders: dict[str, Path], own: dict[str, CaptionSet]) -> None:
    for layout, root in folders.items():
        assert [image.stamp for image in Images(root).read()] == [image.stamp for image in own[layout]]
        assert len({(image.id, image.stamp) for image in own[layout]}) == len(PHOTOS)


# The real one


@pytest.mark.skipif(not FLICKR8K.is_dir(), reason="REAL DATA NOT TESTED: ../shared/data/flickr8k is absent")
def test_the_real_flickr8k(tmp_path: Path) -> None:
    data = Images(FLICKR8K)
    with pytest.warns(UserWarning, match="4 of 8000 images") as caught:
        data.setup("fit")
    assert len(caught) == 1
    gone = ("3050606344_af711c726c", "3523972229_d44e9ff6d7", "3524436870_7670df68e8", "3526897578_3cf77da99b")
    assert all(f"{name}.jpg" in str(caught[0].message) for name in gone)
    assert Counter(image.split for image in data.captions) == {"train": 5996, "val": 1000, "test": 1000}
    assert {len(image.references) for image in data.captions} == {5}
    assert len({image.id for image in data.captions}) == len(data.captions)
    assert data.captions.images[-1].open().size == (224, 224)
    assert {"a", "dog", "running"} < set(data.vocabulary().words)

    (tmp_path / "Images").symlink_to(FLICKR8K / "Images")
    rows = [(image.id, caption) for image in data.captions for caption in image.references]
    write_csv(tmp_path / "captions.txt", [("image", "caption"), *rows])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kaggle = Images(tmp_path, shares=[0.9, 0.1]).read()
    assert references(kaggle) == references(data.captions)
    assert Counter(splits(kaggle).values()) == {"train": 7996 - 800, "test": 800}


def test_a_name_of_two_different_files(tmp_path: Path) -> None:
    for folder, size in (("a", 32), ("b", 48)):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (size, size), "red").save(tmp_path / folder / "x.png")
    (tmp_path / "mine.csv").write_text("image,caption\nx.png,a red square\n")
    with pytest.raises(UserError, match=r"x\.png may be .*a/x\.png or .*b/x\.png: say which"):
        Images(tmp_path, shares=[1, 0]).read()
    (tmp_path / "mine.csv").write_text("image,caption\nb/x.png,a red square\n")
    (image,) = Images(tmp_path, shares=[1, 0]).read()
    assert image.open().size == (48, 48)
