"""`python -m capbench caption`: image files to captions."""

import csv
import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support import QUICK, TINY, TINY_ENCODER, TINY_SHAPES, make_picture, run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("run"))
        assert run("fit", *TINY, "--name=tiny", "--trainer.max_epochs=2", "--model.lr=0.01") == 0
        return Path.cwd() / "runs" / "tiny" / "checkpoints" / "best.ckpt"


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Five pictures in the current folder's `photos`, of which one lies deeper; a file beside them is none."""
    monkeypatch.chdir(tmp_path)
    names = ["photos/a.jpg", "photos/b.png", "photos/c d.JPG", "photos/deep/e.webp", "photos/f.png"]
    for seed, name in enumerate(names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        picture, _ = make_picture(seed, (40 + 10 * seed, 50))
        if name.endswith("b.png"):
            picture = picture.convert("LA")
        picture.save(name)
    Path("photos/notes.txt").write_text("no picture")
    return names


def as_json(capsys: Capture) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_file_is_one_line(checkpoint: Path, pictures: list[str], capsys: Capture) -> None:
    assert run("caption", "--checkpoint", checkpoint, pictures[2]) == 0
    output = capsys.readouterr()
    name, _, caption = output.out.removesuffix("\n").partition(": ")
    assert name == "photos/c d.JPG"
    assert 1 <= len(caption.split()) <= 6
    assert output.err == ""


@pytest.mark.parametrize(
    ("patterns", "places"),
    [
        (["photos"], [0, 1, 2, 3, 4]),
        (["photos/*.png"], [1, 4]),
        (["photos/**/*.webp"], [3]),
        (["photos/[ab].*", "photos/a.jpg", "photos"], [0, 1, 2, 3, 4]),
        (["photos/f.png", "photos/deep"], [4, 3]),
    ],
)
def test_files_folders_and_globs_are_captioned_once_and_in_order(
    patterns: list[str], places: list[int], checkpoint: Path, pictures: list[str], capsys: Capture
) -> None:
    assert run("caption", "--checkpoint", checkpoint, "--batch-size=2", *patterns) == 0
    names = [line.partition(": ")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [pictures[place] for place in places]


def test_a_name_that_looks_like_a_glob_is_a_file(checkpoint: Path, pictures: list[str], capsys: Capture) -> None:
    shutil.move(pictures[0], "photos/a[1].jpg")
    assert run("caption", "--checkpoint", checkpoint, "photos/a[1].jpg") == 0
    assert capsys.readouterr().out.startswith("photos/a[1].jpg: ")


def test_json_is_one_object_a_line(checkpoint: Path, pictures: list[str], capsys: Capture) -> None:
    assert run("caption", "--checkpoint", checkpoint, "photos", "--json", "--num-captions=3") == 0
    found = as_json(capsys)
    assert [row["image"] for row in found] == pictures
    for row in found:
        captions = [caption["caption"] for caption in row["captions"]]
        log_probs = [caption["log_prob"] for caption in row["captions"]]
        assert len(set(captions)) == 3
        assert all(-math.inf < log_prob < 0 for log_prob in log_probs)
        assert log_probs == sorted(log_probs, reverse=True)


def test_csv_has_a_row_for_each_caption(checkpoint: Path, pictures: list[str], capsys: Capture) -> None:
    assert run("caption", "--checkpoint", checkpoint, "photos", "--json", "--num-captions=2") == 0
    expected = [
        [row["image"], str(rank), each["caption"], str(each["log_prob"])]
        for row in as_json(capsys)
        for rank, each in enumerate(row["captions"], start=1)
    ]
    assert run("caption", "--checkpoint", checkpoint, "photos", "--csv", "--num-captions=2") == 0
    head, *rows = csv.reader(capsys.readouterr().out.splitlines())
    assert head == ["image", "rank", "caption", "log_prob"]
    assert rows == expected


def test_names_are_read_from_stdin(
    checkpoint: Path, pictures: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{pictures[4]}\n\n{pictures[0]}\n"))
    assert run("caption", "--checkpoint", checkpoint, "-", pictures[1]) == 0
    names = [line.partition(": ")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == [pictures[4], pictures[0], pictures[1]]


def test_attention_is_drawn_for_each_image(
    pictures: list[str], capsys: Capture, checkpoint: Path, tmp_path: Path
) -> None:
    attention = [*TINY_SHAPES, *TINY_ENCODER, "--model.decoder=Attention", "--model.decoder.hidden=8", *QUICK]
    assert run("fit", *attention, "--name=attention") == 0
    capsys.readouterr()
    own = "--checkpoint=runs/attention/checkpoints/last.ckpt"
    assert run("caption", own, "photos", str(tmp_path / "photos" / "a.jpg"), "--attention=maps") == 0
    captions = [line.partition(": ")[2].split() for line in capsys.readouterr().out.splitlines()]
    drawn = [Path("maps", f"{name}.png") for name in pictures]
    for picture, words in zip(drawn, captions, strict=False):
        with Image.open(picture) as sheet:
            tiles = len(words) + 1
            assert sheet.width > sheet.height or tiles > 6
            assert sheet.getpixel((0, 0)) == (255, 255, 255)
    assert len(list(Path("maps").rglob("a.jpg.png"))) == 2
    assert run("caption", "--checkpoint", checkpoint, pictures[0], "--attention=maps") == 2
    assert "without attention" in capsys.readouterr().err


def test_several_captions_are_shown_best_first(checkpoint: Path, pictures: list[str], capsys: Capture) -> None:
    assert run("caption", "--checkpoint", checkpoint, pictures[0], "--json", "--num-captions=2") == 0
    (row,) = as_json(capsys)
    assert run("caption", "--checkpoint", checkpoint, pictures[0], "--num-captions=2") == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == pictures[0]
    assert lines == [f"  {found['caption']}  ({found['log_prob']:.2f})" for found in row["captions"]]


def test_a_wider_beam_finds_captions_at_least_as_likely(checkpoint: Path, pictures: list[str], capsys: Capture) -> None:
    likely = []
    for beam in ("--beam=1", "--beam=20"):
        assert run("caption", "--checkpoint", checkpoint, pictures[0], "--json", beam) == 0
        (row,) = as_json(capsys)
        assert len(row["captions"]) == 1
        likely.append(row["captions"][0]["log_prob"])
    assert likely[0] <= likely[1] + 1e-6


def test_the_batch_makes_no_difference(checkpoint: Path, pictures: list[str], capsys: Capture) -> None:
    told = []
    for size in (1, 3, 16):
        assert run("caption", "--checkpoint", checkpoint, "photos", f"--batch-size={size}") == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1] == told[2]


def test_what_cannot_be_read_is_reported_and_the_rest_captioned(
    checkpoint: Path, pictures: list[str], capsys: Capture
) -> None:
    whole = Path(pictures[0]).read_bytes()
    Path("photos/broken.jpg").write_bytes(whole[: len(whole) // 2])
    Path("photos/empty.png").touch()
    assert run("caption", "--checkpoint", checkpoint, "photos", "photos/notes.txt", "--json") == 1
    output = capsys.readouterr()
    assert [json.loads(line)["image"] for line in output.out.splitlines()] == pictures
    errors = output.err.splitlines()
    assert len(errors) == 3
    for name in ("broken.jpg", "empty.png", "notes.txt"):
        assert any(error.startswith("capbench: ") and name in error for error in errors)
    assert "Traceback" not in output.err


def test_a_lone_file_that_is_no_image(checkpoint: Path, pictures: list[str], capsys: Capture) -> None:
    assert run("caption", "--checkpoint", checkpoint, "photos/notes.txt") == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("capbench: photos/notes.txt cannot be read as an image")


@pytest.mark.parametrize("pattern", ["nowhere.jpg", "photos/*.gif", "emptiness"])
def test_a_pattern_without_a_match_is_refused(
    pattern: str, checkpoint: Path, pictures: list[str], capsys: Capture
) -> None:
    Path("emptiness").mkdir()
    assert run("caption", "--checkpoint", checkpoint, pictures[0], pattern) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"capbench: {pattern} names no image")
    assert output.err.count("\n") == 1


def test_a_checkpoint_must_be_there(pictures: list[str], capsys: Capture) -> None:
    assert run("caption", "--checkpoint=nowhere.ckpt", pictures[0]) == 2
    assert capsys.readouterr().err == "capbench: There is no checkpoint nowhere.ckpt.\n"


@pytest.mark.parametrize("wrong", [["--beam=0"], ["--num-captions=two"], ["--wide"], []])
def test_wrong_options_end_with_status_2(wrong: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as end:
        run("caption", *wrong)
    assert end.value.code == 2
    assert "usage: python -m capbench caption" in capsys.readouterr().err


def test_the_help_explains_every_option(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as end:
        run("caption", "--help")
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert all(
        option in told for option in ("--checkpoint", "--beam", "--num-captions", "--batch-size", "--json", "--csv")
    )
