import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from capbench.data.features import FEATURES, UNFINISHED
from tests.support import ROOT, TINY, run


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The keys of three stores under .features."""
    monkeypatch.chdir(tmp_path)
    assert run("features", "build", *TINY) == 0
    keys = [line.split()[1].rpartition("/")[2] for line in capsys.readouterr().out.splitlines()]
    assert sorted(keys) == sorted(path.name for path in Path(".features").iterdir())
    assert len(keys) == 3
    return keys


def test_fit_reads_what_was_built(built: list[str]) -> None:
    stores = {path: path.stat().st_mtime_ns for path in Path(".features").glob(f"*/{FEATURES}")}
    assert [path.name for path in Path().iterdir()] == [".features"]
    assert run("fit", *TINY) == 0
    assert {path: path.stat().st_mtime_ns for path in Path(".features").glob(f"*/{FEATURES}")} == stores


def test_two_processes_build_what_one_builds(built: list[str]) -> None:
    before = {key: (Path(".features") / key / FEATURES).read_bytes() for key in built}
    shutil.rmtree(".features")
    two = [sys.executable, "-m", "capbench", "features", "build", *TINY, "--trainer.devices=2"]
    subprocess.run(two, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, check=True)
    assert {path.name for path in Path(".features").iterdir()} == set(built)
    assert {key: (Path(".features") / key / FEATURES).read_bytes() for key in built} == before


def test_list_says_what_each_store_holds(built: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (Path(".features") / f"{UNFINISHED}x").mkdir()
    assert run("features", "list") == 0
    told = capsys.readouterr().out
    for key, images in zip(built, (8, 4, 3), strict=True):
        assert f"{key}  test_resnet pooled, {images} images x 1 x 96 float16, " in told
        assert str(Path(".features") / key) in told
    assert "3 stores" in told
    assert f"{UNFINISHED}x  left by a build that was killed" in told


def test_clear_removes_what_is_named_or_all(built: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (Path(".features") / f"{UNFINISHED}x").mkdir()
    assert run("features", "clear", built[1]) == 0
    assert "1 stores removed, " in capsys.readouterr().out
    assert {path.name for path in Path(".features").iterdir()} == {built[0], built[2]}
    assert run("features", "clear", "--all") == 0
    assert "2 stores removed, " in capsys.readouterr().out
    assert not list(Path(".features").iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["clear", "nonsense"], "There is no store nonsense under .features"),
        (["clear"], "or --all"),
        (["clear", "--all", "x"], "There is no store x"),
        (["list", "--feature_store", "elsewhere"], "There is no folder elsewhere"),
        (["build", *TINY, "--data.feature_store=null"], "no features are stored"),
        (["build", *TINY, "--model.encoder.frozen=false"], "no features are stored"),
        (["build", *TINY, "--model.encoder.frozzen=false"], "did you mean"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(
    built: list[str], arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("features", *arguments) == 2
    assert sentence in capsys.readouterr().err
    assert len(list(Path(".features").iterdir())) == 3
