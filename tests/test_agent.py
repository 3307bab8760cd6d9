"""The real `wandb sweep` and `wandb agent` run capbench, against a stand-in for W&B's server."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.env import AGENT_DISABLE_FLAPPING

from capbench.sweeps import hosted
from tests.support import ROOT, TINY, result
from tests.wandb_server import Run, WandbServer

LOGGED = [
    *(option for option in TINY if option != "--trainer.logger=false"),
    *("--trainer.logger=WandbLogger", "--trainer.logger.project=elsewhere", "--trainer.log_every_n_steps=1"),
]
SWEEP = {
    "name": "decoders",
    "program": "capbench/__main__.py",
    "project": "captions",
    "command": ["${env}", "${interpreter}", "-m", "capbench", "fit", *LOGGED, "${args}"],
    "method": "grid",
    "metric": {"name": "val/bleu4", "goal": "maximize"},
    "parameters": {"model.decoder": {"values": ["Attention", "Merge"]}, "model.lr": {"values": [0.001, 0.002]}},
}
POINTS = [
    {"name": "fails", "model.finetune_from": 9},
    {"name": "attention", "model.decoder.attention": 8.0, "model.decoder": "Attention", "model.lr": 0.001},
    {"name": "merge", "model": {"lr": 0.002, "glove": None}, "model.encoder_lr": None, "trainer.devices": 2},
    {"name": "long", "trainer.max_epochs": 10000, "early_stopping.patience": 10000, "tracking.samples": 0},
]
"""As W&B's server may give them: whole numbers as 8.0, null, groups, and an option before its class."""


def variables(server: WandbServer, **more: str) -> dict[str, str]:
    """Of a machine with a key, on which another `python` comes first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    return kept | server.environment() | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more


@dataclass
class Swept:
    """What there is after a sweep."""

    folder: Path
    server: WandbServer
    told: str

    def run(self, name: str) -> Run:
        return self.server.run(name)

    def result(self, name: str) -> dict[str, Any]:
        return result(self.folder / "runs" / name)


@pytest.fixture(scope="module")
def server() -> Iterator[WandbServer]:
    server = WandbServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, server: WandbServer) -> Swept:
    """`wandb sweep` and two agents of `capbench sweep`; the run that is long is stopped by W&B once it has logged."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "bin").mkdir()
    (folder / "bin" / "python").write_text("#!/bin/sh\nexit 3\n")
    (folder / "bin" / "python").chmod(0o755)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(SWEEP))
    env = variables(server, HOME=str(folder), PATH=f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")

    def call(*words: str) -> str:
        told = folder / "told.txt"
        with told.open("w") as file:
            status = subprocess.run(
                [sys.executable, "-m", *words], cwd=folder, env=env, stdout=file, stderr=file, timeout=300, check=False
            ).returncode
        assert status == 0, told.read_text()
        return told.read_text()

    made = call("wandb", "sweep", "sweep.yaml")
    assert "wandb agent us/captions/sweep0" in made.replace("\x1b[33m", "").replace("\x1b[0m", "")
    server.points = [dict(point) for point in POINTS]
    server.stop_when_logged = "long"
    told = call("capbench", "sweep", "--sweep-id", "us/captions/sweep0", "--workers", "2")
    return Swept(folder, server, told)


def test_runs_are_trained_and_shown(swept: Swept) -> None:
    for name in ("attention", "merge"):
        assert swept.result(name)["status"] == "finished"
        run = swept.run(name)
        assert run.exit_code == 0
        assert run.values("val/bleu4") == pytest.approx([swept.result(name)["scores"]["val"]["bleu4"]])
        assert {"val/loss", "train/loss", "train/captions_per_second"} <= run.summary.keys()
        assert {"output.log", "config.yaml", "wandb-summary.json"} <= run.files.keys()
        assert all(artifact.committed for artifact in swept.server.artifacts)
        assert "best.ckpt" in swept.server.artifact("model", run.fields["name"]).files
        assert (run.fields["project"], run.fields["sweep"]) == ("captions", "sweep0")
    assert len(swept.server.runs) == len(POINTS)  # one each, also with two devices
    assert swept.result("merge")["devices"] == "2 x cpu"


def test_parameters_are_shown_as_the_sweep_named_them_and_resolved(swept: Swept) -> None:
    config = swept.run("attention").config
    assert {name: config[name] for name in POINTS[1]} == POINTS[1]
    assert config["model"]["lr"] == 0.001
    assert config["model"]["decoder"]["class_path"].endswith(".Attention")
    assert config["model"]["decoder"]["init_args"]["attention"] == 8
    assert config["dataset"]["fingerprint"] == swept.result("attention")["data"]["fingerprint"]


def test_a_group_of_parameters_keeps_what_stands_beside_it(swept: Swept) -> None:
    config = swept.run("merge").config
    assert config["model"] == POINTS[2]["model"]
    assert config["model.decoder"]["class_path"].endswith(".Merge")
    assert config["model.lr"] == 0.002
    assert config["model.encoder_lr"] is None
    assert "was locked by" not in swept.told


def test_a_run_that_fails_says_why_and_the_sweep_goes_on(swept: Swept) -> None:
    run = swept.run("fails")
    assert run.exit_code == 1
    assert "--model.finetune_from=9 never comes" in run.summary["error"]
    assert swept.result("fails")["status"] == "failed"


def test_a_run_that_wandb_stops_is_stopped(swept: Swept) -> None:
    """W&B shows the exit code 255 as `killed`; to the agent it is no failure, since a signal ended it."""
    assert swept.result("long")["status"] == "stopped"
    assert swept.run("long").exit_code == 255
    assert swept.run("long").values("val/bleu4")


def test_runs_of_a_sweep_are_one_group(swept: Swept) -> None:
    for name, decoder in (("attention", "Attention"), ("merge", "Merge")):
        fields = swept.run(name).fields
        assert (fields["groupName"], fields["jobType"]) == ("sweep0", "sweep")
        assert fields["tags"] == ["test_resnet", decoder, "seed 0"]


def test_the_way_for_more_agents_is_told(swept: Swept) -> None:
    assert "python -m capbench sweep --sweep-id us/captions/sweep0" in swept.told


def test_wandb_does_not_complain(swept: Swept) -> None:
    assert "Ignoring project" not in swept.told
    assert "WARNING" not in swept.told


def test_a_sweep_is_made_of_a_file(tmp_path: Path, server: WandbServer) -> None:
    """In a process of its own, since wandb keeps whom it has met."""
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(SWEEP))
    code = "import sys; from pathlib import Path; from capbench.sweeps import hosted, file;"
    code += "print('made', hosted.create(file.read_sweep(Path(sys.argv[1]))))"

    def make(**more: str) -> str:
        env = variables(server, HOME=str(tmp_path), **more)
        done = subprocess.run(
            [sys.executable, "-c", code, str(file)], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        return done.stdout.splitlines()[-1] if done.returncode == 0 else done.stderr.splitlines()[-1]

    before = set(server.sweeps)
    assert re.fullmatch(r"made us/captions/sweep\d+", make())
    (made,) = server.sweeps.keys() - before
    assert server.sweeps[made] == SWEEP
    assert make(WANDB_PROJECT="another").startswith("made us/another/")


def test_a_process_that_is_stopped_ends_by_the_signal(tmp_path: Path) -> None:
    """So that W&B's agent, which counts exit codes, does not take it for a failure."""
    options = [*TINY, "--trainer.max_epochs=100000", "--early_stopping.patience=100000", "--name=tiny"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "capbench", "fit", *options], cwd=tmp_path, env=env)
    try:
        while process.poll() is None and not (tmp_path / "runs" / "tiny" / "metrics.jsonl").exists():
            time.sleep(0.1)
        process.terminate()
        assert process.wait(timeout=120) == -signal.SIGTERM
    finally:
        process.kill()
    assert result(tmp_path / "runs" / "tiny")["status"] == "stopped"


def test_points_that_fail_at_once_do_not_end_an_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B's own agents give up after three failures in their first minute, unless this variable says otherwise."""
    command = hosted._command("us/captions/1", None)
    assert hosted._environment(command, 0, 1)[AGENT_DISABLE_FLAPPING] == "true"
    monkeypatch.setenv(AGENT_DISABLE_FLAPPING, "false")
    assert hosted._environment(command, 0, 1)[AGENT_DISABLE_FLAPPING] == "false"
