"""One trial: its command line, its variables, and what is read of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from capbench.runs import RunFolder
from capbench.sweeps import trial as module
from capbench.sweeps.trial import Lock, Trial, environment, is_held, with_folder
from tests.sweeps.engine import lives, wait_until

FIT = ["/usr/bin/env", sys.executable, "-m", "capbench", "fit"]


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ([*FIT, "--model.lr=1"], True),
        (["capbench", "test", "--ckpt_path", "x"], True),
        (["torchrun", "-m", "capbench", "fit"], True),
        (["python", "capbench/__main__.py", "validate"], True),
        (["python", "-m", "capbench", "score"], False),
        (["python", "train.py", "fit"], False),
    ],
)
def test_our_own_commands_are_told_their_folder(words: list[str], ours: bool, tmp_path: Path) -> None:
    more = with_folder(words, RunFolder(tmp_path / "trial-1"))[len(words) :]
    assert more == (["--runs", str(tmp_path), "--name", "trial-1"] if ours else [])


def test_a_trial_belongs_to_its_group_and_to_no_sweep_of_wandbs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    monkeypatch.setenv("WANDB_TAGS", "paper")
    variables = environment("colours", RunFolder(Path("runs/colours/trial-3")), FIT, 0, 1)
    assert not {"WANDB_SWEEP_ID", "WANDB_RUN_ID"} & set(variables)
    wandb = {name: value for name, value in variables.items() if name.startswith("WANDB_")}
    assert wandb | {"WANDB_RUN_GROUP": "colours", "WANDB_JOB_TYPE": "sweep"} == wandb
    assert wandb["WANDB_TAGS"] == "paper,sweep,colours"
    assert variables["CAPBENCH_TRIAL"] == "runs/colours/trial-3"
    assert variables["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize(
    ("words", "visible", "workers", "taken"),
    [
        ([], "0,1,2", 4, ["0", "1", "2", "0"]),
        ([], "GPU-aa,MIG-bb", 2, ["GPU-aa", "MIG-bb"]),
        (["--trainer.devices=1"], "4,7", 2, ["4", "7"]),
        (["--trainer.devices=2"], "4,7", 2, ["4,7", "4,7"]),
        (["--trainer.devices", "-1"], "4,7", 2, ["4,7", "4,7"]),
        (["--trainer.devices=[0, 1]"], "4,7", 2, ["4,7", "4,7"]),
        (["--trainer.devices=4", "--trainer.devices=1"], "4,7", 2, ["4", "7"]),
        ([], "0,1,2", 1, ["0,1,2"]),
        ([], "", 2, ["", ""]),
    ],
)
def test_each_place_has_its_own_gpu(
    words: list[str], visible: str, workers: int, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    folder = RunFolder(Path("runs/x"))
    found = [environment("x", folder, [*FIT, *words], place, workers) for place in range(workers)]
    assert [variables["CUDA_VISIBLE_DEVICES"] for variables in found] == taken


def test_gpus_are_counted_where_nobody_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'\necho '  MIG 1g: (UUID: MIG-1)'\necho 'GPU 1: A (UUID: 2)'\n"
    )
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert module._gpus() == []
    program.chmod(0o755)
    assert module._gpus() == ["0", "1"]


@pytest.mark.parametrize(
    ("workers", "given", "threads"), [(1, None, None), (3, None, "2"), (16, None, "1"), (3, "7", "7")]
)
def test_the_cores_are_shared_out(
    workers: int, given: str | None, threads: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_cores", lambda: range(8))
    monkeypatch.setattr(module, "_gpus", list)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert environment("x", RunFolder(Path("x")), FIT, 0, workers).get("OMP_NUM_THREADS") == threads


def test_a_lock_is_free_when_nobody_lives_who_holds_it(tmp_path: Path) -> None:
    assert is_held(tmp_path / "of another machine")
    lock = Lock(tmp_path, "trial")
    heir = subprocess.Popen(["sleep", "1000"], pass_fds=[lock.descriptor])
    assert is_held(lock.path)
    lock.file.close()
    assert is_held(lock.path)
    heir.kill()
    heir.wait()
    assert not is_held(lock.path)


@pytest.fixture
def waiting(tmp_path: Path) -> Trial:
    """A trial that waits for its end."""
    words = ["sh", "-c", "echo one; echo; printf 'half\\rtwo\\n'; sleep 1000 & echo $!; wait"]
    environ = dict(os.environ)
    return Trial(words, RunFolder(tmp_path / "trial-0"), tmp_path / "trial.log", Lock(tmp_path, "trial"), environ)


def test_what_a_trial_logs_is_read_row_by_row(waiting: Trial) -> None:
    folder = waiting.folder
    try:
        assert waiting.new_values("val/bleu4") == []
        folder.append_metrics({"val/bleu4": 0.25, "epoch": 0})
        folder.append_metrics({"train/loss": 3.0})
        folder.append_metrics({"val/bleu4": float("nan")})
        with folder.metrics.open("a") as file:
            file.write('{"val/bleu4": 0.')
            file.flush()
            assert waiting.new_values("val/bleu4") == [0.25]
            assert waiting.new_values("val/bleu4") == []
            file.write('5, "note": "half a line first"}\n')
        folder.append_metrics({"val/bleu4": float("inf")})
        folder.append_metrics({"val/bleu4": True})
        folder.append_metrics({"val/bleu4": 1})
        assert waiting.new_values("val/bleu4") == [0.5, 1.0]
        assert waiting.history == [0.25, 0.5, 1.0]
        assert waiting.score("test/bleu4") is None
        folder.update_result(scores={"test": {"bleu4": 0.75}})
        assert waiting.score("test/bleu4") == 0.75
    finally:
        waiting.end()


def test_a_trial_ends_with_all_its_children(waiting: Trial) -> None:
    wait_until(lambda: waiting.last_lines().count("\n") == 3)
    assert waiting.status() is None
    *lines, child = waiting.last_lines().splitlines()
    assert lines == ["one", "half", "two"]
    assert lives(int(child))
    assert int(waiting.lock.path.read_text()) == os.getpgid(waiting.process.pid) != os.getpgid(0)
    waiting.ask_to_stop()
    waiting.process.wait()
    assert waiting.status() == -signal.SIGTERM
    assert lives(int(child))  # which the signal did not reach
    waiting.end()
    wait_until(lambda: not lives(int(child)))
    assert not waiting.lock.path.exists()
