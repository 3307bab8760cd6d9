"""Every file of `sweeps/`: its command takes every value that a trial may get, and a trial logs the sweep's metric."""

from pathlib import Path
from typing import Any

import pytest

from capbench.sweeps.check import CommandLine, check_sweep, probes
from capbench.sweeps.file import SweepFile, read_sweep
from capbench.sweeps.words import own_arguments
from tests.support import QUICK, ROOT, TINY, TINY_ENCODER, TINY_SHAPES, make_flickr8k, result, rows, run

SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))
GRIDS = {"encoder_x_decoder": 3 * 5 * 3, "multi_gpu": 4 * 2, "beam": 5 * 3 * 2, "demo": 2 * 3}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a tiny run."""
    runs = tmp_path_factory.mktemp("runs")
    assert run("fit", *TINY, f"--runs={runs}", "--name=tiny") == 0
    return runs / "tiny" / "checkpoints" / "best.ckpt"


@pytest.fixture(params=SWEEPS, ids=[file.stem for file in SWEEPS])
def sweep(request: pytest.FixtureRequest, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> SweepFile:
    """A shipped sweep, read in the folder that it is run in."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("CHECKPOINT", str(checkpoint))
    return read_sweep(request.param.relative_to(ROOT))


def test_there_is_a_sweep_for_each_question() -> None:
    assert {file.stem for file in SWEEPS} >= {*GRIDS, "hyperparameters"}


def test_it_says_at_its_top_what_it_compares_and_how_it_is_run(sweep: SweepFile) -> None:
    text = sweep.path.read_text(encoding="utf-8")
    top = text[: text.index("program:")].splitlines()
    assert 2 <= len(top) <= 4
    assert all(line.startswith("# ") for line in top)
    assert f"python -m capbench sweep {sweep.path}" in "\n".join(top)
    assert Path(sweep.content["program"]).is_file()
    assert sweep.name == sweep.path.stem


def test_it_passes_its_check_and_has_its_points(sweep: SweepFile) -> None:
    check_sweep(sweep)
    if sweep.method == "grid":
        assert len(sweep.grid()) == GRIDS.get(sweep.name, len(sweep.grid()))
    else:
        assert sweep.run_cap is not None


def kept(settings: Any, name: str) -> Any:
    """What a dotted name comes to, within classes and outside of them."""
    for key in name.split("."):
        inside = settings.get("init_args")
        settings = (settings if inside is None else inside)[key]
    return settings.class_path.rpartition(".")[2] if hasattr(settings, "class_path") else settings


def test_every_value_arrives_where_it_belongs(sweep: SweepFile) -> None:
    parser = CommandLine().parser
    for point in probes(sweep):
        arguments = own_arguments(sweep.words(point))
        assert arguments is not None
        settings = parser.parse_args(arguments)[arguments[0]]
        assert {name: str(kept(settings, name)) for name in point} == {name: str(point[name]) for name in point}


def small(sweep: SweepFile, folder: Path) -> list[str]:
    """Options behind a trial's own, by which it takes seconds, on images that are there."""
    if sweep.name == "beam":
        return [*TINY_SHAPES, *QUICK[:-1]]  # validate has no epochs to bound
    if sweep.name == "demo":
        return [*TINY_SHAPES, *QUICK, "--model.encoder.image_size=32"]
    root = make_flickr8k(folder / "flickr8k", train=2, val=1, test=1)
    images = [f"--data.root={root}", "--data.num_workers=0", "--data.min_count=1", "--data.feature_store=null"]
    alone = ["--trainer.devices=1", "--trainer.strategy=auto", "--trainer.precision=32"]
    return [*images, *TINY_ENCODER, *QUICK, *alone, "--model.decoder.hidden=8"]


def test_a_trial_logs_the_metric(sweep: SweepFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without Java, which takes 10 seconds
    arguments = own_arguments(sweep.words(next(probes(sweep))))
    assert arguments is not None
    assert run(*arguments, *small(sweep, tmp_path), f"--runs={tmp_path}", "--name=trial") == 0
    assert sweep.metric is not None
    if arguments[0] == "fit":
        assert sweep.metric.name in rows(tmp_path / "trial" / "metrics.jsonl")[-1]
    else:
        split, _, name = sweep.metric.name.partition("/")
        assert name in result(tmp_path / "trial")["scores"][split]
