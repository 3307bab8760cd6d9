"""Sweeps that run here, by real processes that are really killed."""

import os
import random
import signal
from collections import Counter
from pathlib import Path

import optuna
import pytest
import yaml

from capbench.errors import UserError
from capbench.sweeps.file import read_sweep
from capbench.sweeps.local import Sweep
from tests.sweeps.engine import (
    lives,
    noted,
    process_of,
    result,
    sweep_to_the_end,
    sweeping,
    wait_until,
    write_sweep,
)

needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks up processes in /proc")


def sweep_here(file: Path, **options: object) -> Sweep:
    """A sweep in this process, run to its end."""
    sweep = Sweep(read_sweep(file), **options)  # type: ignore[arg-type]
    sweep.status = sweep.run()  # type: ignore[attr-defined]
    return sweep


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("capbench.sweeps.local.POLL", 0.01)
    return tmp_path


def test_a_grid_runs_each_point_once_and_the_best_comes_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "fail-2").touch()
    file = write_sweep(folder, [3, 1, 2, 4])
    assert sweep_to_the_end(folder, "--workers", 2) == 1
    assert sorted(noted(folder, "began")) == ["1", "2", "3", "4"]
    printed = (folder / "sweep.out").read_text()
    lines = printed[printed.index("\ntrial ") :].splitlines()
    assert [line.split() for line in lines[1:6]] == [
        ["trial", "loss", "status", "parameters"],
        ["trial-1", "1.3333", "finished", "x=1"],
        ["trial-0", "3.3333", "finished", "x=3"],
        ["trial-3", "4.3333", "finished", "x=4"],
        ["trial-2", "2.3333", "failed", "x=2"],
    ]
    assert all(f"({number}/4)" in printed for number in range(1, 5))
    assert result(folder, "trial-1") == {
        "status": "finished",
        "sweep": {"name": "sweep", "trial": 1, "point": {"x": 1}},
    }
    assert result(folder, "trial-2")["status"] == "failed"
    assert (folder / "runs" / "sweep" / "trial-2" / "output.log").read_text() == "this is 2\n2 is broken\n"
    assert "    2 is broken\n" in printed

    # what failed by itself is not run again unless asked; nothing else is
    (folder / "fail-2").unlink()
    assert sweep_here(file).status == 0
    assert len(noted(folder, "began")) == 4
    assert sweep_here(file, retry_failed=True).status == 0
    assert Counter(noted(folder, "began")) == {"1": 1, "3": 1, "4": 1, "2": 2}
    assert result(folder, "trial-2")["status"] == "finished"
    assert "4 finished: runs/sweep" in capsys.readouterr().out
    study = optuna.load_study(study_name="sweep", storage="sqlite:///runs/sweep/study.db")
    assert study.best_trial.user_attrs["point"] == {"x": 1}
    assert study.best_value == 1 + 1 / 3
    states = Counter(trial.state.name for trial in study.trials)
    assert states == {"COMPLETE": 4, "FAIL": 1}


@needs_proc
def test_a_killed_trial_costs_itself_alone_and_the_same_command_runs_it_again(folder: Path) -> None:
    write_sweep(folder, [1, 2, 3])
    (folder / "hold-2").touch()
    with sweeping(folder) as sweep:
        wait_until(lambda: "2" in noted(folder, "sweep"))
        os.kill(process_of(folder, "began", "2"), signal.SIGKILL)
        assert sweep.wait(timeout=60) == 0
    assert noted(folder, "began") == ["1", "2", "3"]
    assert noted(folder, "ended") == ["1", "3"]
    wait_until(lambda: not lives(process_of(folder, "child", "2")))
    assert result(folder, "trial-1")["status"] == "stopped"
    (folder / "hold-2").unlink()
    assert sweep_to_the_end(folder) == 0
    assert noted(folder, "ended") == ["1", "3", "2"]
    assert noted(folder, "began") == ["1", "2", "3", "2"]
    assert result(folder, "trial-1")["status"] == "finished"
    assert [path.name[:7] for path in (folder / "runs" / "sweep" / ".sweep" / "earlier").iterdir()] == ["trial-1"]


@needs_proc
@pytest.mark.parametrize("what", ["the sweep", "everything", "all but a trial"])
def test_a_killed_sweep_leaves_nothing_and_goes_on_at_once(folder: Path, what: str) -> None:
    write_sweep(folder, [1, 2, 3, 4])
    for x in (2, 3):
        (folder / f"hold-{x}").touch()
    with sweeping(folder, "--workers", 2) as sweep:
        wait_until(lambda: {"2", "3"} <= set(noted(folder, "sweep")) and noted(folder, "ended") == ["1"])
        trials = [process_of(folder, "began", x) for x in "23"]
        children = [process_of(folder, "child", x) for x in "23"]
        if what == "all but a trial":
            os.kill(os.getpgid(trials[0]), signal.SIGKILL)  # the shell that waits for the sweep's end leads the group
        sweep.kill()
        if what == "everything":
            for trial in trials:
                os.killpg(os.getpgid(trial), signal.SIGKILL)
    left = [trials[0], children[0]] if what == "all but a trial" else []
    wait_until(lambda: not any(lives(process) for process in {*trials, *children} - {*left}))
    assert all(lives(process) for process in left)
    for x in (2, 3):
        (folder / f"hold-{x}").rename(folder / f"held-{x}")
        (folder / f"hold-{x}").touch() if left and x == 2 else None
    with sweeping(folder, "--workers", 2) as sweep:
        wait_until(lambda: noted(folder, "began").count("2") == 2)
        assert not any(lives(process) for process in left)
        (folder / "hold-2").unlink(missing_ok=True)
        assert sweep.wait(timeout=60) == 0
    assert sorted(noted(folder, "ended")) == ["1", "2", "3", "4"]
    assert Counter(noted(folder, "began")) == {"1": 1, "2": 2, "3": 2, "4": 1}
    assert not list((folder / "runs" / "sweep" / ".sweep").glob("*.lock"))


@needs_proc
def test_several_sweeps_share_a_study_and_no_point_is_run_twice(folder: Path) -> None:
    write_sweep(folder, list(range(8)))
    (folder / "hold").touch()
    with sweeping(folder, "--workers", 2) as one, sweeping(folder, "--workers", 2) as other:
        wait_until(lambda: len(noted(folder, "sweep")) == 4)
        (folder / "hold").unlink()
        assert one.wait(timeout=120) == other.wait(timeout=120) == 0
    assert sorted(map(int, noted(folder, "began"))) == list(range(8))
    assert sorted(map(int, noted(folder, "ended"))) == list(range(8))
    assert {process_of(folder, "sweep", str(x)) for x in range(8)} == {one.pid, other.pid}


@needs_proc
@pytest.mark.parametrize("stubborn", [False, True], ids=["once", "twice"])
def test_ctrl_c_stops_cleanly_and_twice_at_once(folder: Path, stubborn: bool) -> None:
    write_sweep(folder, [1, 2, 3])
    (folder / "hold-2").touch()
    if stubborn:
        (folder / "stubborn").touch()
    with sweeping(folder) as sweep:
        wait_until(lambda: "2" in noted(folder, "sweep"))
        sweep.send_signal(signal.SIGINT)
        wait_until(lambda: "Stopping: " in (folder / "sweep.out").read_text())
        if stubborn:
            assert lives(process_of(folder, "began", "2"))
            sweep.send_signal(signal.SIGINT)
        assert sweep.wait(timeout=30) == 130
    assert not lives(process_of(folder, "began", "2"))
    assert noted(folder, "began") == ["1", "2"]
    assert result(folder, "trial-1")["status"] == "stopped"
    printed = (folder / "sweep.out").read_text()
    assert "Traceback" not in printed
    assert printed.endswith("1 finished, 1 stopped: runs/sweep\nNo more trials were begun: it was interrupted.\n"
                            "The same command goes on.\n")  # fmt: skip
    (folder / "hold-2").unlink()
    assert sweep_to_the_end(folder) == 0
    assert noted(folder, "ended") == ["1", "2", "3"]


def test_a_bad_trial_is_stopped_early(folder: Path) -> None:
    rule = {"type": "hyperband", "min_iter": 3, "eta": 2}
    write_sweep(folder, [1, 0, 7, 2], early_terminate=rule)
    for x in (0, 7):
        (folder / f"hold-{x}").touch()
    with sweeping(folder, "--workers", 2) as sweep:
        wait_until(lambda: "2" in noted(folder, "ended"))  # 0 still holds, so 7 made room for 2
        (folder / "hold-0").unlink()
        assert sweep.wait(timeout=60) == 0
    assert noted(folder, "began").count("7") == 1
    assert "7" not in noted(folder, "ended")
    assert [result(folder, f"trial-{n}")["status"] for n in range(4)] == ["finished", "finished", "pruned", "finished"]
    study = optuna.load_study(study_name="sweep", storage="sqlite:///runs/sweep/study.db")
    pruned = next(trial for trial in study.trials if trial.state.name == "PRUNED")
    assert pruned.intermediate_values == {0: 8.0, 1: 7.5, 2: 7 + 1 / 3}
    assert len(sweep_here(folder / "sweep.yaml").begun) == 0


@pytest.mark.parametrize(
    ("options", "more", "begun", "why"),
    [
        ({"count": 2}, {}, ["5", "4"], "--count 2 is reached"),
        ({}, {"run_cap": 3}, ["5", "4", "3"], ""),
        ({}, {"metric": {"name": "loss", "goal": "minimize", "target": 3.4}}, ["5", "4", "3"], "target 3.4"),
        ({}, {"metric": {"name": "loss", "goal": "maximize", "target": 4.4}}, ["5"], "target 4.4"),
        ({"max_failures": 1}, {}, ["5", "4"], "2 trials failed, more than --max-failures 1"),
    ],
    ids=["count", "run_cap", "target", "target upwards", "max_failures"],
)
def test_what_ends_a_sweep(
    folder: Path,
    options: dict[str, int],
    more: dict[str, object],
    begun: list[str],
    why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for x in (4, 5) if "max_failures" in options else ():
        (folder / f"fail-{x}").touch()
    sweep_here(write_sweep(folder, [5, 4, 3, 2], **more), **options)
    assert noted(folder, "began") == begun
    assert why in capsys.readouterr().out


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_points_are_drawn_by_seed_in_one_go_or_in_pieces(folder: Path, method: str) -> None:
    parameters = {"x": {"min": 0.0, "max": 1.0}}
    loss = '{"loss": %s}'
    program = f"mkdir $CAPBENCH_TRIAL && printf '{loss}\n' ${{1#--x=}} > $CAPBENCH_TRIAL/metrics.jsonl"
    (folder / "program.sh").write_text(program)

    def points(name: str, *counts: int, **options: int) -> list[float]:
        command = ["sh", "program.sh", "${args}"]
        file = write_sweep(folder, [], method=method, parameters=parameters, name=name, command=command)
        for count in counts:
            sweep = sweep_here(file, count=count, **options)
        return [attempt.point["x"] for attempt in sweep.study.attempts()]

    few, many = (2, 4) if method == "random" else (5, 9)  # Optuna's first ten are drawn without looking
    whole = points("whole", few + many)
    assert len(set(whole)) == few + many
    assert points("other", 2, seed=1) != whole[:2]
    assert points("pieces", few, many) == whole
    if method == "random":
        assert sorted(points("parallel", few + many, workers=3)) == sorted(whole)
    else:  # the search that Optuna makes of the same results
        study = optuna.create_study()
        for index in range(few + many):
            seed = random.Random(f"0-{index}").getrandbits(32)
            study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            trial = study.ask()
            x = trial.suggest_float("x", 0.0, 1.0)
            assert x == whole[index]
            study.tell(trial, x)


def test_a_point_that_bayes_lost_is_run_again_as_it_was(folder: Path) -> None:
    write_sweep(folder, [], method="bayes", parameters={"x": {"min": 0.0, "max": 1.0}}, run_cap=3)
    with sweeping(folder) as sweep:
        (folder / "hold").touch()
        wait_until(lambda: len(noted(folder, "sweep")) == len(noted(folder, "began")) > 0)
        sweep.kill()
    (folder / "hold").unlink()
    lost = noted(folder, "began")[-1]
    assert sweep_to_the_end(folder) == 0
    assert Counter(noted(folder, "began"))[lost] == 2
    assert len(noted(folder, "ended")) == len(set(noted(folder, "ended"))) == 3


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"parameters": {"x": {"values": [1, 3]}}}, "parameters"),
        ({"metric": {"name": "loss", "goal": "maximize"}}, "metric"),
        ({"run_cap": 1, "description": "two of them"}, None),
    ],
    ids=["parameters", "metric", "what may change"],
)
def test_a_file_that_changed_is_refused(folder: Path, change: dict[str, object], key: str | None) -> None:
    file = write_sweep(folder, [1, 2], run_cap=2)
    sweep_here(file, count=1)
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | change, sort_keys=False))
    if key is None:
        assert sweep_here(file).study.total == 1
        return
    with pytest.raises(UserError, match=f"sweep.yaml has another {key} than the sweep 'sweep' was begun with"):
        Sweep(read_sweep(file))


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("studies", "studies is no database's URL: write sqlite:///FILE"),
        ("mysql+nosuchdriver://localhost/x", "mysql"),
        ("postgresql://me:secret@127.0.0.1:1/x", r"me:\*\*\*@127.0.0.1:1/x cannot be used as the sweep's database"),
    ],
)
def test_a_database_that_is_none_is_a_sentence(folder: Path, storage: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Sweep(read_sweep(write_sweep(folder, [1])), storage=storage)
    assert "secret" not in str(error.value)


def test_a_command_that_cannot_be_started_is_a_failed_trial(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_sweep(folder, [1], command=["no-such-program", "${args}"])
    assert sweep_here(file).status == 1
    assert "no-such-program cannot be started: No such file or directory" in capsys.readouterr().out
    assert result(folder, "trial-0")["status"] == "failed"
