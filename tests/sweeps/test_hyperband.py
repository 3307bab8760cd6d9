"""Early stopping, beside what W&B's own package (`sweeps` 0.3.0, `hyperband_stop_runs`) answered to the same trials."""

import json
from pathlib import Path
from typing import Any

import pytest

from capbench.sweeps.file import Hyperband
from capbench.sweeps.hyperband import brackets, to_stop

WANDB = json.loads(Path(__file__).with_name("hyperband.json").read_text())


def rule(given: dict[str, Any]) -> Hyperband:
    return Hyperband(**({"min_iter": None, "max_iter": None, "eta": 3, "s": None, "strict": True} | given))


@pytest.mark.parametrize("case", WANDB["brackets"], ids=lambda case: str(case["rule"]))
def test_the_brackets_are_wandbs(case: dict[str, Any]) -> None:
    assert brackets(rule(case["rule"]), 30) == case["brackets"]


@pytest.mark.parametrize("case", WANDB["stopped"], ids=range(len(WANDB["stopped"])))
def test_the_trials_that_are_stopped_are_wandbs(case: dict[str, Any]) -> None:
    histories = dict(enumerate(case["histories"]))
    assert to_stop(rule(case["rule"]), case["goal"], histories, case["running"]) == case["stopped"]


def test_enough_of_them_stop_something() -> None:
    stopped = [case for case in WANDB["stopped"] if case["stopped"]]
    assert len(stopped) > len(WANDB["stopped"]) / 3
    assert any(set(case["running"]) > set(case["stopped"]) for case in stopped)


def test_a_first_trial_and_one_without_values_go_on() -> None:
    assert to_stop(rule({"min_iter": 1}), "minimize", {}, ["a"]) == []
    assert to_stop(rule({"min_iter": 1}), "minimize", {"a": [5.0], "b": []}, ["a", "b"]) == []
