"""Two processes on CPUs, joined by gloo, against one: started by Lightning, by torchrun and as by SLURM."""

import csv
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
import yaml

from capbench.errors import UserError
from capbench.processes import is_first, one_voice, tells
from capbench.runs import RunFolder
from capbench.scaling import one_device_speed
from tests.support import ROOT, TINY_ENCODER, result, rows, run

TWO = ("--trainer.devices=2", "--trainer.strategy=ddp")
STEPS = 20
OPTIONS = (
    *("--data=Shapes", "--data.train=13", "--data.val=1", "--data.test=5", "--data.size=32", "--data.batch_size=4"),
    *("--data.min_count=1", "--data.num_workers=0", "--data.eval_batch_size=2"),
    *(*TINY_ENCODER, "--model.finetune_from=4", "--model.encoder_lr=0.0001"),
    *("--model.decoder=Attention", "--model.decoder.hidden=16", "--model.decoder.embedding=8"),
    *("--model.decoder.attention=8", "--model.decoder.dropout=0", "--model.decoder.doubly_stochastic=1"),
    *("--model.search.max_words=6", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"),
    *("--trainer.max_epochs=5", "--trainer.gradient_clip_val=1", "--trainer.log_every_n_steps=1"),
)
"""Four batches an epoch, the last of one image; one validation image; the encoder learns in the last epoch."""

FAILING = """
import torch.distributed as dist
from capbench.decoders import Merge
from capbench.errors import UserError

class Failing(Merge):
    seen = 0

    def hidden(self, context, tokens, lengths):
        self.seen += self.training
        if self.seen == 3 and dist.get_rank() == 1:
            raise UserError("The second process alone dislikes its third batch.")
        return super().hidden(context, tokens, lengths)
"""


def start(folder: Path, *command: object, **variables: object) -> subprocess.Popen[str]:
    """A command, run as a user runs it, in an environment that tells of no other run."""
    ours = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | ours | {"PATH": path} | {name: str(value) for name, value in variables.items()}
    environment.pop("WANDB_SERVICE", None)
    words = [str(word) for word in command]
    return subprocess.Popen(
        words, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def ended(process: subprocess.Popen[str]) -> SimpleNamespace:
    """Its exit status and what it printed; it is killed when it hangs."""
    try:
        out, err = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    return SimpleNamespace(pid=process.pid, status=process.returncode, out=out, err=err)


def loggers(name: str) -> str:
    """W&B, and a table of losses."""
    table = {"save_dir": "losses", "name": name, "version": ""}
    return "--trainer.logger=" + json.dumps(
        [
            {"class_path": "WandbLogger", "init_args": {"project": "capbench"}},
            {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": table},
        ]
    )


def logged(folder: Path, name: str, value: str) -> list[float]:
    with (folder / "losses" / name / "metrics.csv").open() as file:
        return [float(row[value]) for row in csv.DictReader(file) if row.get(value)]


def block(title: str) -> str:
    """A script of the documentation."""
    text = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    [script] = [code for code in re.findall(r"```bash\n(.*?)```", text, re.S) if f"\n# {title}" in code]
    return str(script)


def free_port(first: int) -> int:
    for port in range(first, 65536):
        with socket.socket() as attempt:
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("processes")
    (folder / "failing.py").write_text(FAILING)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        wandb.teardown()  # what it knows of this process' environment before
        patch.setenv("WANDB_MODE", "offline")
        assert run("fit", *OPTIONS, loggers("one"), "--name=one") == 0
        yield folder


@pytest.fixture(scope="module")
def trials(place: Path) -> tuple[SimpleNamespace, SimpleNamespace]:
    """A run and one that fails, at the same time, started by a process that has run others, as a sweep's."""
    fit = (sys.executable, "-m", "capbench", "fit", *OPTIONS, *TWO)
    fails = ("--model.decoder=failing.Failing", "--model.decoder.hidden=8", "--model.decoder.embedding=8")
    without = [option for option in fit if not option.startswith("--model.decoder")]
    left = {"CAPBENCH_STARTED_BY": 1, "CAPBENCH_RUN_FOLDER": "runs/one"}
    pair = start(place, *fit, loggers("two"), "--name=two", **left)
    failing = start(place, *without, *fails, "--trainer.logger=false", "--name=failing", **left)
    return ended(pair), ended(failing)


def test_two_processes_leave_one_run(place: Path, trials: tuple[SimpleNamespace, SimpleNamespace]) -> None:
    told, folder = trials[0], place / "runs" / "two"
    assert told.status == 0, told.err[-3000:]
    assert told.out.count("Run runs/two") == 1
    assert told.out.count("Run finished: runs/two") == 1
    assert sorted(path.name for path in folder.parent.iterdir()) == ["failing", "one", "two"]
    [offline] = (folder / "wandb").glob("offline-run-*")
    assert len(list(offline.glob("*.wandb"))) == 1
    assert not (place / "wandb").exists()
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert len(rows(folder / "metrics.jsonl")) == 5
    facts = result(folder)
    assert (facts["status"], facts["devices"], facts["steps"], facts["batch_size"]) == ("finished", "2 x cpu", STEPS, 4)
    assert facts["scores"]["val"]["images"] == 1


def test_two_processes_train_as_one(place: Path, trials: tuple[SimpleNamespace, SimpleNamespace]) -> None:
    """Captions of many lengths, batches of odd sizes, a penalty of captions, clipped gradients, and Adam."""
    one, two = (logged(place, name, "train/loss") for name in ("one", "two"))
    assert len(one) == STEPS
    assert two == pytest.approx(one, abs=1e-5)
    assert max(one) - min(one) > 0.1
    assert logged(place, "two", "val/loss") == pytest.approx(logged(place, "one", "val/loss"), abs=1e-5)


def test_the_speed_is_set_beside_that_of_one_device(
    place: Path, trials: tuple[SimpleNamespace, SimpleNamespace]
) -> None:
    one, two = (result(place / "runs" / name) for name in ("one", "two"))
    each, efficiency = two["train_captions_per_second_per_device"], two["train_scaling_efficiency"]
    assert each == pytest.approx(two["train_captions_per_second"] / 2, abs=1e-3)
    assert efficiency == pytest.approx(each / one["train_captions_per_second"], abs=1e-3)
    assert "train_scaling_efficiency" not in one
    [*_, last] = rows(place / "runs" / "two" / "metrics.jsonl")
    assert last["train/scaling_efficiency"] == efficiency
    assert logged(place, "two", "train/scaling_efficiency")[-1] == pytest.approx(efficiency, abs=1e-3)


def test_an_error_in_one_process_ends_all(place: Path, trials: tuple[SimpleNamespace, SimpleNamespace]) -> None:
    told = trials[1]
    assert told.status not in (0, None)
    lines = [line for line in told.err.splitlines() if line.strip() and "encoding" not in line]
    assert lines == ["capbench: The second process alone dislikes its third batch."]
    facts = result(place / "runs" / "failing")
    assert facts["status"] == "failed"
    assert "dislikes its third batch" in facts["error"]
    assert not alive("--name=failing")


def alive(word: str) -> list[Path]:
    """The processes that have a word in their command line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word.encode() in file.read_bytes().split(b"\0"):
                found.append(file.parent)
        except OSError:  # it ended meanwhile
            continue
    return found


def test_runs_go_on_with_another_number_of_processes(
    place: Path, trials: tuple[SimpleNamespace, SimpleNamespace]
) -> None:
    """From one process to two of torchrun's on two machines, so to say; and from two to one."""
    shutil.copytree(place / "runs" / "one", place / "runs" / "nodes")
    (place / "torchrun.sh").write_text(block("torchrun.sh"))
    resumed = (*OPTIONS, "--trainer.max_epochs=6", "--trainer.logger", "lightning.pytorch.loggers.CSVLogger")
    table = ("--trainer.logger.save_dir=losses", "--trainer.logger.version=more")
    nodes = [
        start(
            place,
            *("bash", "torchrun.sh", "fit", *resumed, *table, "--trainer.logger.name=nodes"),
            "--ckpt_path=runs/nodes/checkpoints/last.ckpt",
            **{"NODES": 2, "NODE": node, "DEVICES": 1, "PORT": port},
        )
        for port in [free_port(29500)]
        for node in range(2)
    ]
    one = ("--trainer.devices=1", "--trainer.strategy=auto", "--ckpt_path=runs/two/checkpoints/last.ckpt")
    assert run("fit", *resumed, *table, "--trainer.logger.name=one", *one) == 0
    first, second = map(ended, nodes)
    assert (first.status, second.status) == (0, 0), first.err[-2000:] + second.err[-2000:]
    assert (first.out + second.out).count("Run finished: runs/nodes, 6 epochs") == 1
    assert result(place / "runs" / "nodes")["steps"] == STEPS + 4
    assert not (place / "runs" / "two-2").exists()
    losses = [logged(place, f"{name}/more", "train/loss") for name in ("one", "nodes")]
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


SRUN = """#!/bin/bash
# What SLURM's srun does for one machine of two tasks.
while [[ $1 == --* ]]; do echo "$1" >> srun.log; shift; done
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NODEID=0 "$@" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit "${status:-0}"
"""


def test_a_job_of_slurm_scores_as_one_process_does(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five images: three for one process, two for the other. METEOR's Java is left out, for its time."""
    bash, path = shutil.which("bash"), f"{place / 'bin'}{os.pathsep}{Path(sys.executable).parent}"
    monkeypatch.setenv("PATH", path)
    options = ("test", "--trainer.logger=false", "--ckpt_path=runs/one/checkpoints/best.ckpt", "--likelihood.images=5")
    folder = place / "runs" / "one"

    def left() -> tuple[bytes, Any]:
        scores = result(folder)["scores"]["test"]
        return (folder / "captions.jsonl").read_bytes(), {
            name: scores[name] for name in scores if "latency" not in name
        }

    assert run(*options) == 0
    alone = left()
    assert len(alone[0].splitlines()) == 5
    (folder / "captions.jsonl").unlink()
    (place / "bin").mkdir()
    (place / "bin" / "srun").write_text(SRUN)
    (place / "bin" / "srun").chmod(0o755)
    (place / "capbench.sbatch").write_text(block("capbench.sbatch"))
    job = {"SLURM_JOB_ID": free_port(15000) - 15000, "SLURM_JOB_NAME": "capbench", "SLURM_NODELIST": "127.0.0.1"}
    tasks = {"SLURM_NNODES": 1, "SLURM_NTASKS": 2, "SLURM_NTASKS_PER_NODE": 2, "SLURM_CPUS_PER_TASK": 1}
    told = ended(start(place, bash, "capbench.sbatch", *options, **job, **tasks, PATH=path))
    assert told.status == 0, told.err[-3000:]
    assert told.out.count("All captions and scores") == 1
    assert "--kill-on-bad-exit=1" in (place / "srun.log").read_text().split()
    assert left() == alone
    assert "median_rank" in alone[1]["figures"]


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0"}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"RANK": "4", "LOCAL_RANK": "0", "GROUP_RANK": "1"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, True),
        ({"SLURM_PROCID": "3", "SLURM_LOCALID": "0"}, False),
    ],
)
def test_the_first_process_is_known_before_they_meet(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], first: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_first() is first


def test_alone_one_tells_at_once() -> None:
    tells.cache_clear()
    with pytest.raises(UserError, match="a mistake"), one_voice():
        raise UserError("a mistake")


FAMILY = """
import subprocess, sys, time
from capbench.processes import end_together

end_together()
if sys.argv[1] == "first":
    subprocess.Popen([sys.executable, __file__, "second"])
print(sys.argv[1], flush=True)
time.sleep(1000)
"""


def test_a_killed_process_takes_those_that_it_started_along(tmp_path: Path) -> None:
    """But it outlives whatever else started it."""
    (tmp_path / "family.py").write_text(FAMILY)
    family = start(tmp_path, sys.executable, "family.py", "first", CAPBENCH_STARTED_BY=os.getppid())
    assert family.stdout is not None
    assert {family.stdout.readline(), family.stdout.readline()} == {"first\n", "second\n"}
    with pytest.raises(subprocess.TimeoutExpired):
        family.wait(1)
    family.kill()
    assert family.stdout.read() == ""  # both have let go of it


@pytest.fixture
def neighbours(tmp_path: Path) -> Path:
    """Finished runs on one device, all but the first two of which differ in something."""
    config: dict[str, Any] = {"model": {"lr": 1}, "data": {"batch_size": 4}, "trainer": {"devices": 1}, "name": "x"}
    facts = {"status": "finished", "devices": "1 x cuda", "device": "H", "precision": "32-true"}
    runs: list[tuple[float, dict[str, Any], dict[str, Any]]] = [
        (100, {}, {"name": "y", "seed_everything": 2}),
        (300, {}, {}),
        (1, {"status": "failed"}, {}),
        (2, {"devices": "2 x cuda"}, {}),
        (3, {"device": "A"}, {}),
        (4, {"precision": "bf16-mixed"}, {}),
        (5, {}, {"data": {"batch_size": 8}}),
        (6, {}, {"model": {"lr": 2}}),
        (7, {}, {"trainer": {"accumulate_grad_batches": 2}}),
    ]
    for number, (speed, differently, otherwise) in enumerate(runs):
        folder = RunFolder(tmp_path / str(number))
        folder.update_result(**facts | differently, train_captions_per_second=speed)
        folder.config.write_text(yaml.safe_dump(config | otherwise))
    ours = RunFolder(tmp_path / "ours")
    ours.path.mkdir()
    ours.config.write_text(yaml.safe_dump(config | {"trainer": {"devices": 4, "strategy": "ddp", "num_nodes": 2}}))
    return tmp_path


def test_efficiency_is_against_the_same_training_on_one_such_device(neighbours: Path) -> None:
    ours = RunFolder(neighbours / "ours")
    assert one_device_speed(ours, {"device": "H", "precision": "32-true"}) == 200
    assert one_device_speed(ours, {"device": "H", "precision": "16-mixed"}) is None
