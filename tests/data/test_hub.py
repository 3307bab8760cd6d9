"""Data sets of the Hub: by name, as its Parquet files, or as `save_to_disk` writes them."""

import copy
import pickle
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from capbench.data import Images
from capbench.data.table import Columns
from capbench.errors import UserError
from tests.data.layouts import (
    LAYOUTS,
    PHOTOS,
    flickr30k_part,
    hub_parts,
    jpeg,
    picture,
    write_flickr30k_parquet,
    write_parquet,
    write_pictures,
)
from tests.support import QUICK, TINY_ENCODER, TINY_MERGE, result, run

pytestmark = pytest.mark.usefixtures("hub_cache", "empty_folder")

Load = Callable[[Any], list[str]]


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Makes the Hub hold one thing, or raise it, and keeps the names that are asked for."""

    def hold(held: Any) -> list[str]:
        asked: list[str] = []

        def load_dataset(name: str) -> Any:
            asked.append(name)
            if isinstance(held, Exception):
                raise held
            return held

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return hold


def part(images: list[Any], split: str = "train", **columns: Any) -> datasets.Dataset:
    """Some images, or their bytes, with string columns."""
    values = [{"bytes": jpeg(image), "path": None} if isinstance(image, Image.Image) else image for image in images]
    names: dict[str, Any] = {name: datasets.Value("string") for name in columns}
    return datasets.Dataset.from_dict(
        {"image": values, **columns}, datasets.Features(names | {"image": datasets.Image()}), split=split
    )


def named(number: int, name: str | None) -> dict[str, Any]:
    return {"bytes": jpeg(picture(number)), "path": name}


def found(data: Images) -> dict[str, tuple[str, tuple[str, ...]]]:
    return {image.id: (image.split, image.references) for image in data.read()}


# By name


def test_the_hubs_flickr8k_is_the_default(load: Load) -> None:
    asked = load(datasets.DatasetDict(hub_parts()))
    assert found(Images()) == {photo.name: (photo.split, photo.captions) for photo in PHOTOS}
    assert asked == ["jxie/flickr8k"]
    assert Images().read().source == "data set jxie/flickr8k"


def test_another_can_be_named(load: Load) -> None:
    asked = load(datasets.DatasetDict({"test": flickr30k_part()}))
    data = Images(source="hub", dataset="nlphuji/flickr30k")
    assert found(data) == {photo.name: (photo.split, photo.captions) for photo in PHOTOS}
    assert asked == ["nlphuji/flickr30k"]


def test_a_model_is_trained_on_it(load: Load, tmp_path: Path) -> None:
    load(datasets.DatasetDict(hub_parts()))
    data = ("--data=Images", "--data.min_count=1", "--data.num_workers=1")
    assert run("fit", *data, *TINY_ENCODER, *TINY_MERGE, *QUICK, "--name=hub") == 0
    facts = result(tmp_path / "runs" / "hub")
    assert facts["status"] == "finished"
    assert facts["data"]["images"] == {"train": 16, "val": 2, "test": 2}


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("Couldn't reach 'jxie/flickr8k' on the Hub (LocalEntryNotFoundError)"),
        datasets.exceptions.DatasetNotFoundError("Dataset 'jxie/flickr8k' doesn't exist on the Hub.\nMore lines"),
        OSError(),
    ],
)
def test_without_a_network_one_sentence_says_what_to_do(
    error: Exception, load: Load, capsys: pytest.CaptureFixture[str]
) -> None:
    load(error)
    reason = (str(error).splitlines() or ["OSError"])[0].rstrip(".")
    assert run("data") == 2
    assert capsys.readouterr().err == (
        f"capbench: The data set 'jxie/flickr8k' could not be had ({reason}): connect to the internet once, name "
        "another with --dataset, or a folder of images and captions with --root.\n"
    )


# On disk


@pytest.mark.parametrize("folder", ["data", "deeper/data", "."])
def test_parquet_files_of_the_hub_are_found(folder: str, tmp_path: Path) -> None:
    write_parquet(tmp_path)
    (tmp_path / "README.md").write_text("# Flickr8k")
    for file in (tmp_path / "data").iterdir():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        file.rename(tmp_path / folder / file.name)
    assert found(Images(tmp_path)) == {photo.name: (photo.split, photo.captions) for photo in PHOTOS}


def test_files_that_change_have_other_stamps(tmp_path: Path) -> None:
    write_parquet(tmp_path)
    first, again = (Images(tmp_path).read().images for _ in range(2))
    assert [image.stamp for image in first] == [image.stamp for image in again]
    assert len({image.stamp for image in first}) == len(PHOTOS)
    file = tmp_path / "data" / "train-00000-of-00001.parquet"
    part([picture(0), picture(1)], caption=["one", "two"]).to_parquet(file)
    (tmp_path / "data" / "test-00000-of-00001.parquet").unlink()
    (tmp_path / "data" / "validation-00000-of-00001.parquet").unlink()
    changed = Images(tmp_path).read().images
    assert not {image.stamp for image in changed} & {image.stamp for image in first}


def test_images_travel_to_workers(tmp_path: Path) -> None:
    for layout in ("parquet", "saved"):
        (tmp_path / layout).mkdir()
        LAYOUTS[layout](tmp_path / layout)
        image = Images(tmp_path / layout).read().images[3]
        assert pickle.loads(pickle.dumps(image)).open().tobytes() == image.open().tobytes()


@pytest.mark.parametrize("damage", ["parquet", "arrow", "json"])
def test_a_damaged_copy_is_one_sentence(damage: str, tmp_path: Path) -> None:
    LAYOUTS["parquet" if damage == "parquet" else "saved"](tmp_path)
    file = next(file for file in sorted(tmp_path.rglob(f"*.{damage}")) if "train" in str(file) or damage == "json")
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(
        UserError, match=rf"^The data set '{re.escape(str(tmp_path))}.* \(.+\): copy it again\.$"
    ) as error:
        Images(tmp_path, source="hub").read()
    assert "\n" not in str(error.value)


def test_images_can_lie_beside_the_data_set(load: Load, tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a.png", "b.png"])
    load(part([str(tmp_path / "a.png"), str(tmp_path / "b.png")], caption=["one", "two"]))
    captions = Images(shares=[1, 0]).read()
    assert [(image.id, image.references) for image in captions] == [("a.png", ("one",)), ("b.png", ("two",))]
    assert [image.open().getpixel((0, 0)) for image in captions] == [picture(n).getpixel((0, 0)) for n in (0, 1)]
    (tmp_path / "b.png").unlink()
    with pytest.raises(UserError, match=r"flickr8k, train, row 1: this cannot be read as an image .*b\.png"):
        captions.images[1].open()


# Columns and splits


def test_columns_are_mapped(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    odd = part([picture(0), picture(1)], "test", said=["one", "two"], seen=["three", "four"], part=["train", "dev"])
    odd = odd.rename_column("image", "photo")
    load(datasets.DatasetDict({"test": odd}))
    columns = Columns(captions=["seen", "said"], split="part")
    expected = {"test-000000": ("train", ("three", "one")), "test-000001": ("val", ("four", "two"))}
    assert found(Images(columns=columns)) == expected
    assert found(Images(columns=Columns("photo", ["seen", "said"], "part"))) == expected
    options = ("--columns.captions=[seen,said]", "--columns.split=part", "--min_count=1")
    assert run("data", "--dataset=some/photos", *options) == 0
    told = capsys.readouterr().out
    assert "Source: data set some/photos, " in told
    assert "all              2         4   2 (x 2)" in told


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        (Columns(), "has no column that is known to hold captions; it has image, said:"),
        (Columns(captions=["told"]), "has no column told; it has image, said."),
        (Columns("photo", ["said"]), "has no column photo; it has image, said."),
        (Columns("said", ["said"]), ": the column said holds no images; image does."),
    ],
)
def test_columns_that_are_not_there(columns: Columns, complaint: str, load: Load) -> None:
    load(part([picture(0)], said=["one"]))
    with pytest.raises(UserError) as error:
        Images(columns=columns).read()
    assert str(error.value).startswith(f"data set jxie/flickr8k{' ' * complaint.startswith('has')}{complaint}")


def test_a_data_set_without_images(load: Load) -> None:
    load(datasets.Dataset.from_dict({"url": ["https://"], "caption": ["a dog"]}))
    with pytest.raises(UserError, match="data set jxie/flickr8k has no column image; it has url, caption"):
        Images().read()


def test_one_part_is_drawn_from(load: Load) -> None:
    load(datasets.DatasetDict({"train": part([picture(number) for number in range(20)], caption=["a dog"] * 20)}))
    splits = [split for split, _ in found(Images()).values()]
    assert [splits.count(split) for split in ("train", "val", "test")] == [16, 2, 2]


def test_parts_of_other_names(load: Load) -> None:
    load(datasets.DatasetDict({name: part([picture(0)], name, caption=["a dog"]) for name in ("train", "val2017")}))
    with pytest.raises(UserError, match="data set jxie/flickr8k, val2017, row 0: there is no split 'val2017';"):
        Images().read()
    assert len(Images(shares=[0.5, 0.5]).read()) == 2


def test_captions_in_lists_and_empty_ones(load: Load) -> None:
    lists = flickr30k_part().select(range(3)).to_dict()
    lists["caption"][1] = ["one", "", None, "seven"]
    load(datasets.Dataset.from_dict(lists, flickr30k_part().features))
    with pytest.warns(
        UserWarning, match=r"^2 captions without a word .*\(data set jxie/flickr8k, train, row 1, data set"
    ):
        captions = Images().read()
    assert captions.images[1].references == ("one", "seven")


def test_a_caption_that_is_no_text(load: Load) -> None:
    load(part([picture(0), picture(1)], caption=["1", "2"]).cast_column("caption", datasets.Value("int64")))
    with pytest.raises(UserError, match="data set jxie/flickr8k, train, row 0: a caption must be text, not 1"):
        Images().read()


# Which rows are one image


@pytest.mark.parametrize("name", [None, "a.jpg"])
def test_an_image_with_a_row_for_each_caption_is_one(name: str | None, load: Load) -> None:
    """Otherwise a test image would be learnt with its other captions."""
    rows = [named(row // 5, name and f"{row // 5}{name}") for row in range(20)]
    load(part(rows, caption=[f"a dog {row}" for row in range(20)]))
    images = found(Images(shares=[0.5, 0.5]))
    assert {references for _, references in images.values()} == {
        tuple(f"a dog {row}" for row in range(first, first + 5)) for first in range(0, 20, 5)
    }
    assert sorted(images) == ["train-000000", "train-000005", "train-000010", "train-000015"]


def test_one_name_in_two_splits_is_two_images(load: Load) -> None:
    """Folders number their images from 0 in each split."""
    parts = {
        split: part([named(number, "0.jpg")], split, caption=[split]) for number, split in enumerate(("train", "test"))
    }
    load(datasets.DatasetDict(parts))
    captions = Images().read()
    assert [(image.id, image.references) for image in captions] == [
        ("train-000000", ("train",)),
        ("test-000000", ("test",)),
    ]
    assert captions.images[0].open().getpixel((0, 0)) != captions.images[1].open().getpixel((0, 0))


def test_one_name_of_two_pictures_is_two_images(load: Load) -> None:
    load(part([named(0, "0.jpg"), named(1, "0.jpg"), named(0, "0.jpg")], caption=["one", "two", "three"]))
    images = found(Images(shares=[1, 0]))
    assert [references for _, references in images.values()] == [("one", "three"), ("two",)]


def test_spaces_around_a_name_do_not_matter(load: Load) -> None:
    load(part([named(0, "a.jpg "), named(1, " b c.jpg")], caption=["one", "two"]))
    captions = Images(shares=[1, 0]).read()
    assert [(image.id, image.references) for image in captions] == [("a.jpg", ("one",)), ("b c.jpg", ("two",))]
    assert all(image.open().size == (24, 16) for image in captions)


def test_shuffled_and_chosen_rows_keep_their_pictures(load: Load) -> None:
    numbers = [7, 2, 11, 0]
    whole = part([named(number, f"{number}.jpg") for number in range(12)], caption=[f"number {n}" for n in range(12)])
    load(whole.select(numbers))
    captions = Images(shares=[1, 0]).read()
    assert [(image.id, image.references) for image in captions] == [(f"{n}.jpg", (f"number {n}",)) for n in numbers]
    for image, number in zip(captions, numbers, strict=True):
        assert image.open().getpixel((3, 3)) == Image.open(BytesIO(named(number, None)["bytes"])).getpixel((3, 3))


# Pictures


def test_pictures_become_upright_rgb(load: Load, tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("L", (4, 4), 128).save(tmp_path / "grey.jpg")
    files = [
        {"bytes": (tmp_path / name).read_bytes(), "path": name} for name in ("clear.png", "turned.jpg", "grey.jpg")
    ]
    load(part(files, caption=["one", "two", "three"]))
    clear, turned, grey = (image.open() for image in Images(shares=[1, 0]).read())
    assert {image.mode for image in (clear, turned, grey)} == {"RGB"}
    assert clear.getpixel((0, 0)) == (255, 255, 255)
    assert turned.size == (4, 8)
    assert grey.getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize(
    "wrong", [{"bytes": b"no image", "path": "b.jpg"}, {"bytes": jpeg(picture(0))[:80], "path": "b.jpg"}, None]
)
def test_a_row_without_a_readable_image_is_named(wrong: Any, load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    load(part([named(0, "a.jpg"), copy.copy(wrong)], caption=["one", "two"]))
    image = Images(shares=[1, 0]).read().images[1]
    with pytest.raises(
        UserError, match=r"^data set jxie/flickr8k, train, row 1: (this cannot be read as an|there is no) image"
    ):
        image.open()
    assert run("data", "--shares=[1,0]", "--min_count=1") == 1
    assert "1 images cannot be read:\n  data set jxie/flickr8k, train, row 1: " in capsys.readouterr().out


def test_flickr30ks_own_files_are_one_part_whatever_its_name(tmp_path: Path) -> None:
    write_flickr30k_parquet(tmp_path)
    splits = [split for split, _ in found(Images(tmp_path)).values()]
    assert [splits.count(split) for split in ("train", "val", "test")] == [16, 2, 2]
