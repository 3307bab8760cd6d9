"""How rows become images in splits."""

import math
from collections.abc import Iterable
from fractions import Fraction
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from capbench.data.captions import SPLITS, CaptionSet
from capbench.data.rows import Picture, Row, Source, gather
from capbench.errors import UserError
from tests.support import run

blank = partial(Image.new, "RGB", (1, 1))


def source(rows: Iterable[Row], gone: Iterable[str] = ()) -> Source:
    """Rows whose images all are there, but for some."""
    missing = set(gone)
    return Source("rows", rows, lambda _: lambda name: None if name in missing else Picture(blank, name))


def rows(count: int, split: str | None = None) -> list[Row]:
    return [Row(f"{number}.jpg", (f"a dog {number}",), split, f"line {number}") for number in range(count)]


def splits(captions: CaptionSet) -> dict[str, str]:
    return {image.id: image.split for image in captions}


@given(
    st.integers(1, 60),
    st.integers(0, 99).flatmap(lambda test: st.tuples(st.just(test), st.integers(0, 99 - test))),
    st.integers(0, 10**9),
)
def test_shares_are_of_images(count: int, percent: tuple[int, int], seed: int) -> None:
    test, val = percent
    shares = [(100 - test - val) / 100, val / 100, test / 100]
    for given_shares in (shares, [shares[0], shares[2]]) if not val else (shares,):
        captions = gather(source(rows(count)), given_shares, seed)
        sizes = [len(captions.split(split)) for split in ("train", "val", "test")]
        assert sum(sizes) == count == len({image.id for image in captions})
        for size, share in zip(sizes, (100 - test - val, val, test), strict=True):
            assert (
                abs(size - Fraction(share * count, 100)) <= 2
            )  # one for rounding, one for a split of too small a share
            assert size or not share or count < 3
        if not val:
            assert sizes[1] == 0


@given(st.data())
def test_the_drawing_depends_on_names_and_seed_alone(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.text(min_size=1), min_size=2, max_size=30, unique=True))
    seed = data.draw(st.integers())
    told = [Row(name, ("a dog", "another dog"), None, "") for name in names]
    expected = splits(gather(source(told), [0.5, 0.2, 0.3], seed))
    shuffled = data.draw(st.permutations(told))
    assert splits(gather(source(shuffled), [0.5, 0.2, 0.3], seed)) == expected
    one_by_one = [row._replace(captions=row.captions[place : place + 1]) for place in (0, 1) for row in shuffled]
    assert splits(gather(source(one_by_one), [0.5, 0.2, 0.3], seed)) == expected
    gone = data.draw(st.sets(st.sampled_from(names), max_size=len(names) - 1))
    here = gather(source(told, gone), [0.5, 0.2, 0.3], seed)
    assert splits(here) == {name: split for name, split in expected.items() if name not in gone}
    assert set(here.missing) == gone
    silent = [Row(f"silent {name}", (), None, "") for name in names]
    assert splits(gather(source([*silent, *told]), [0.5, 0.2, 0.3], seed)) == expected


def test_another_seed_draws_others() -> None:
    drawn = [splits(gather(source(rows(40)), [0.5, 0.5], seed)) for seed in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len({tuple(each.items()) for each in drawn}) == 3


def test_its_own_splits_come_before_the_default_and_behind_shares() -> None:
    own = [*rows(10, "test"), Row("x.jpg", ("a cat",), "train", ""), Row("loose.jpg", ("a gnu",), None, "")]
    kept = splits(gather(source(own), None, 0))
    assert kept == {f"{number}.jpg": "test" for number in range(10)} | {"x.jpg": "train"}
    drawn = splits(gather(source(own), [0.5, 0.5], 0))
    assert set(drawn) == {*kept, "loose.jpg"}
    assert sorted(drawn.values()) == ["test"] * 6 + ["train"] * 6
    by_default = splits(gather(source(rows(20)), None, 0))
    assert sorted(by_default.values()) == ["test"] * 2 + ["train"] * 16 + ["val"] * 2
    assert by_default == splits(gather(source(rows(20)), [0.8, 0.1, 0.1], 0))


def test_with_shares_the_sources_own_splits_may_be_any() -> None:
    odd = [Row("a.jpg", ("a dog",), "part 7", ""), Row("a.jpg", ("a dog",), "test", ""), *rows(3, "train2017")]
    assert len(gather(source(odd), [0.5, 0.5], 0)) == 4


@pytest.mark.parametrize(
    "shares",
    [
        [],
        [1],
        [0.5, 0.4],
        [0.9, 0.2],
        [0, 1],
        [0, 0.5, 0.5],
        [-0.1, 1.1],
        [1.2, -0.2],
        [0.6, 0.6, -0.2],
        [0.4, 0.3, 0.2, 0.1],
        [90, 10],
        [math.nan, 0.5],
        [math.inf, 0],
    ],
)
def test_shares_that_are_none(shares: list[float]) -> None:
    with pytest.raises(UserError, match=r"--data\.shares takes .*\[0\.9, 0\.1\] or \[0\.8, 0\.1, 0\.1\], not \["):
        gather(source(rows(10)), shares, 0)


@pytest.mark.parametrize("shares", [[1, 0], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.7, 0.2, 0.1], (0.9, 0.1)])
def test_shares_that_are_some(shares: list[float]) -> None:
    assert len(gather(source(rows(30)), shares, 0)) == 30


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", "train"),
        ("TRAIN", "train"),
        ("restval", "train"),
        ("val", "val"),
        ("dev", "val"),
        ("Valid", "val"),
        ("validation", "val"),
        ("test", "test"),
        ("trian", None),
        ("0", None),
        ("train val", None),
    ],
)
def test_names_of_splits(split: str, expected: str | None) -> None:
    told = [Row("a.jpg", ("a dog",), split, "mine.csv, line 7")]
    if expected:
        assert splits(gather(source(told), None, 0)) == {"a.jpg": expected}
    else:
        complaint = rf"^mine\.csv, line 7: there is no split '{split}'; there are train, val, test, .*--data\.shares\.$"
        with pytest.raises(UserError, match=complaint):
            gather(source(told), None, 0)


@pytest.mark.parametrize(("first", "second"), [("train", "test"), ("val", "train"), ("train", None), (None, "test")])
def test_an_image_in_two_splits(first: str | None, second: str | None) -> None:
    told = [Row("a.jpg", ("a dog",), split, f"line {line}") for line, split in ((1, first), (2, second))]
    complaint = f"^line 2: a.jpg is in the split {second or 'none'}, and in {first or 'none'} before: "
    with pytest.raises(UserError, match=complaint):
        gather(source(told), None, 0)


def test_one_split_under_two_names_is_one() -> None:
    told = [Row("a.jpg", (f"a dog {split}",), split, "") for split in ("train", "restval", "Train")]
    assert len(gather(source(told), None, 0).images[0].references) == 3


@pytest.mark.parametrize(
    "nothing", ["", " ", "\u00a0\t\n", ".", '"..."', "¿?", "nan", "NaN", " None ", "null", "<unk>"]
)
def test_a_caption_that_says_nothing_is_left_out(nothing: str) -> None:
    told = [Row("a.jpg", ("a dog", nothing), "train", "line 1"), Row("a.jpg", (nothing, " a cat\r"), "train", "line 2")]
    captions = gather(source(told), None, 0)
    assert captions.images[0].references == ("a dog", "a cat")
    assert captions.left_out == ["line 1", "line 2"]


@pytest.mark.parametrize("caption", ["nan bread", "none of them", "not null", "a nan", "#", "犬", "👍 1"])
def test_a_caption_that_says_something_is_kept(caption: str) -> None:
    captions = gather(source([Row("a.jpg", (caption,), "train", "")]), None, 0)
    assert captions.images[0].references == (caption,)
    assert not captions.left_out


def test_captions_that_come_twice_are_kept_in_order() -> None:
    told = [Row(name, ("same", "other", "same"), "train", "") for name in ("b", "a", "b")]
    captions = gather(source(told), None, 0)
    assert [(image.id, image.references) for image in captions] == [
        ("b", ("same", "other", "same", "same", "other", "same")),
        ("a", ("same", "other", "same")),
    ]


@pytest.mark.parametrize(
    ("told", "gone", "complaint"),
    [
        ([], [], r"^rows holds no captions\.$"),
        ([Row("a", (), None, "")], [], r"^rows holds no captions\.$"),
        ([Row("a", ("a dog",), None, "")], ["a"], r"^rows names 1 images, and none of them can be used \(a: no file\)"),
        ([Row("a", (".",), "test", "")], [], r"^rows names 1 images, and none of them can be used \(a: no caption\)"),
    ],
)
def test_nothing_that_can_be_used(told: list[Row], gone: list[str], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        gather(source(told, gone), None, 0)


def test_a_lack_is_said_unless_splits_are_drawn() -> None:
    lacking = source(rows(4))._replace(lacks="devImages.txt")
    with pytest.raises(UserError, match=r"rows lacks devImages\.txt: add it, or draw splits with --data\.shares"):
        gather(lacking, None, 0)
    assert len(gather(lacking, [0.5, 0.5], 0)) == 4


def test_shares_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.csv").write_text("image,caption\n" + "".join(f"{name}.png,a dog\n" for name in range(10)))
    for name in range(10):
        blank().save(f"{name}.png")
    assert run("data", "--root=.", "--shares=[0.7,0.3]", "--split_seed=4") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    counts = [line[:2] for line in lines if line and line[0] in SPLITS][:3]
    assert counts == [["train", "7"], ["val", "0"], ["test", "3"]]


def test_a_share_above_nothing_is_at_least_one_image() -> None:
    captions = gather(source(rows(40)), [0.98, 0.01, 0.01], 0)
    assert [len(captions.split(split)) for split in ("train", "val", "test")] == [38, 1, 1]
