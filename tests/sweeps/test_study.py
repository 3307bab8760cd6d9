"""The study: attempts of workers that died on other machines, and databases that do not answer."""

from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy

from capbench.errors import UserError
from capbench.sweeps import database
from capbench.sweeps.file import read_sweep
from capbench.sweeps.study import Attempt, Outcome, Study
from capbench.sweeps.trial import Lock
from tests.sweeps.engine import write_sweep


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(read_sweep(write_sweep(tmp_path, [1, 2])), tmp_path / "runs", None, 0)


def claim(study: Study) -> Attempt:
    attempt = study.claim(Lock(study.place, "trial"))
    assert attempt is not None
    return attempt


def change_heartbeat(study: Study, attempt: Attempt, seconds: float) -> None:
    with study.storage.engine.begin() as connection:
        text = "update trial_heartbeats set heartbeat = datetime('now', :ago) where trial_id = :id"
        changed = connection.execute(sqlalchemy.text(text), {"ago": f"-{seconds} seconds", "id": attempt.id})
        assert changed.rowcount == 1


@pytest.mark.parametrize(("silent", "dead"), [(60, False), (database.GRACE + 10, True)])
def test_an_attempt_of_another_machine_is_dead_when_it_is_silent(study: Study, silent: float, dead: bool) -> None:
    theirs = claim(study)
    worker = study.storage.get_trial(theirs.id).user_attrs["worker"]
    study.storage.set_trial_user_attr(theirs.id, "worker", worker | {"host": "another", "lock": "/not/here"})
    change_heartbeat(study, theirs, silent)
    ours = claim(study)
    assert ours.index == (theirs.index if dead else 1)
    assert study.lives(ours)
    assert study.lives(theirs) != dead
    study.report(theirs, 0, 5.0)  # neither may disturb what is now somebody else's
    study.end(theirs, Outcome("finished", 5.0, 1.0))
    assert {attempt.index: attempt.outcome is not None for attempt in study.attempts()} == (
        {0: False} if dead else {0: True, 1: False}
    )


def test_an_attempt_that_was_never_whole_is_no_attempt(study: Study) -> None:
    template = optuna.create_trial(state=optuna.trial.TrialState.RUNNING, user_attrs={"index": 0})
    half = study.storage.create_new_trial(study.id, template)
    assert claim(study).index == 0
    assert study.storage.get_trial(half).state.name == "FAIL"


def test_a_trial_that_had_ended_when_its_worker_died_is_not_run_again(study: Study) -> None:
    ended = claim(study)
    outcome = {"status": "finished", "value": 0.5, "seconds": 2.0, "error": None}
    study.storage.set_trial_user_attr(ended.id, "outcome", outcome)
    study.worker.file.close()  # as it does when the process dies
    heir = Study(study.sweep, study.root, None, 0)
    assert claim(heir).index == 1
    assert heir.storage.get_trial(ended.id).state.name == "COMPLETE"
    assert heir.storage.get_trial(ended.id).value == 0.5


def test_a_database_that_does_not_answer_is_asked_again(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = claim(study)
    answers: list[Any] = []
    really = study.storage.get_all_trials

    def silent_at_first(*args: Any, **options: Any) -> Any:
        answers.append(len(answers) > 2)
        if not answers[-1]:
            raise sqlalchemy.exc.OperationalError("select", {}, Exception("the server closed the connection"))
        return really(*args, **options)

    monkeypatch.setattr(database, "WAIT", 0.0)
    monkeypatch.setattr(study.storage, "get_all_trials", silent_at_first)
    assert study.attempts() == [attempt]
    assert answers == [False, False, False, True]
    answers.clear()
    monkeypatch.setattr(database, "PATIENCE", 0.0)
    with pytest.raises(UserError, match=r"study.db does not answer \(the server closed the connection\): once it does"):
        study.attempts()
