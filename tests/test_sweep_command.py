"""`python -m capbench sweep`: its options, and a sweep of real captioners."""

import shlex
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from capbench.sweeps.file import read_sweep
from tests.support import TINY, result, rows, run

FIT = ["${env}", "${interpreter}", "-m", "capbench", "fit"]


def write(folder: Path, **sweep: Any) -> Path:
    file = folder / "colours of words.yaml"
    file.write_text(yaml.safe_dump(sweep, sort_keys=False))
    return file


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_sweep_of_captioners_finishes_stops_early_and_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configs = {
        "good": {"model": {"lr": 0.05}, "trainer": {"max_epochs": 2}},
        "endless": {
            "model": {"lr": 1e-9},
            "trainer": {"max_epochs": 100_000},
            "early_stopping": {"patience": 100_000},
        },
        "broken": {"model": {"glove": "no-vectors.txt"}},
    }
    for name, config in configs.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    file = write(
        folder,
        command=[*FIT, *TINY, "${args}"],
        name="tiny",
        method="grid",
        metric={"name": "train/loss", "goal": "minimize"},
        parameters={"config": {"values": [f"{name}.yaml" for name in configs]}},
        early_terminate={"type": "hyperband", "min_iter": 1},
    )
    assert run("sweep", file, "--local") == 1
    printed = capsys.readouterr().out
    good, endless, broken = (folder / "runs" / "tiny" / f"trial-{number}" for number in range(3))
    assert [result(trial)["status"] for trial in (good, endless, broken)] == ["finished", "pruned", "failed"]
    assert result(good)["sweep"] == {"name": "tiny", "trial": 0, "point": {"config": "good.yaml"}}
    assert (good / "checkpoints" / "best.ckpt").is_file()
    losses = [row["train/loss"] for row in rows(good / "metrics.jsonl")]
    assert len(losses) == 2
    study = optuna.load_study(study_name="tiny", storage="sqlite:///runs/tiny/study.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED", "FAIL"]
    assert study.best_value == min(losses)
    assert f"train/loss {min(losses):.4g}, " in printed
    assert "no-vectors.txt" in printed
    assert "no-vectors.txt" in (broken / "output.log").read_text()
    assert "1 finished, 1 pruned, 1 failed: runs/tiny" in printed


def test_a_dry_run_prints_every_command_and_starts_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parameters = {"seed_everything": {"values": [0, 1, 2]}, "model.decoder": {"values": ["Merge", "InitInject"]}}
    file = write(folder, command=[*FIT, "--data=Shapes", "--name=a b", "${args}"], method="grid", parameters=parameters)
    assert run("sweep", file, "--dry-run") == 0
    *lines, last = capsys.readouterr().out.splitlines()
    sweep = read_sweep(file)
    assert [shlex.split(line) for line in lines] == [sweep.words(point) for point in sweep.grid()]
    first = f"/usr/bin/env {shlex.quote(sys.executable)} -m capbench fit --data=Shapes '--name=a b' "
    assert lines[0] == f"{first}--model.decoder=Merge --seed_everything=0"
    assert last == "6 runs, each with a folder of its own in runs/colours of words"
    assert not (folder / "runs").exists()


def test_a_dry_run_of_drawn_points_prints_what_they_are_drawn_from(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lr = {"distribution": "log_uniform_values", "min": 0.0001, "max": 0.01}
    parameters = {"model": {"parameters": {"lr": lr}}, "data.batch_size": {"values": [4, 8]}}
    file = write(
        folder,
        command=[*FIT, "--data=Shapes", "${args}"],
        method="bayes",
        metric={"name": "val/bleu4", "goal": "maximize"},
        parameters=parameters,
        run_cap=20,
    )
    assert run("sweep", file, "--dry-run", "--runs", "elsewhere") == 0
    assert capsys.readouterr().out.splitlines() == [
        "model.lr         {distribution: log_uniform_values, min: 0.0001, max: 0.01}",
        "data.batch_size  {values: [4, 8]}",
        "'${env}' '${interpreter}' -m capbench fit --data=Shapes '${args}'",
        "20 runs, drawn by the method bayes, each with a folder of its own in elsewhere/colours of words",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["no.yaml"], "There is no sweep file no.yaml"),
        (["no.yaml", "--workers", "0"], "--workers 0: it must be at least 1."),
        (["no.yaml", "--count", "-1"], "--count -1: it must be at least 1."),
        (["--sweep-id", "abc", "--local"], "leave out one of them"),
        (["--sweep-id", "abc"], "--sweep-id abc is a sweep at W&B, which needs a key: `wandb login` first."),
    ],
)
def test_mistakes_are_sentences(
    folder: Path,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("capbench.sweeps.hosted.has_key", lambda: False)
    assert run("sweep", *options) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "key", "mode", "called"),
    [
        ([], True, None, ["create", ("team/project/id", None, 1)]),
        (["--workers", "2", "--count", "7"], True, "online", ["create", ("team/project/id", 7, 2)]),
        (["--sweep-id", "team/other/one"], True, None, [("team/other/one", None, 1)]),
        (["--local"], True, None, ["local"]),
        (["--storage", "sqlite:///x.db"], True, None, ["local"]),
        ([], True, "offline", ["local"]),
        ([], False, None, ["local"]),
    ],
)
def test_a_key_takes_a_sweep_to_wandb(
    folder: Path,
    options: list[str],
    key: bool,
    mode: str | None,
    called: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Any] = []

    def create(sweep: Any) -> str:
        calls.append("create")
        return "team/project/id"

    def agent(sweep_id: str, count: int | None, workers: int = 1) -> int:
        calls.append((sweep_id, count, workers))
        return 3

    def here(sweep: Any) -> int:
        calls.append("local")
        return 3

    monkeypatch.delenv("WANDB_MODE", raising=False)
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setattr("capbench.sweeps.hosted.has_key", lambda: key)
    monkeypatch.setattr("capbench.sweeps.hosted.create", create)
    monkeypatch.setattr("capbench.sweeps.hosted.agent", agent)
    monkeypatch.setattr("capbench.sweeps.local.Sweep.run", here)
    file = write(folder, program="train.py", method="grid", parameters={"x": {"values": [1]}})
    assert run("sweep", *([] if "--sweep-id" in options else [file]), *options) == 3
    assert calls == called
