"""The study of a sweep: what has been tried and what is being tried, which any number of workers share.

An attempt at a point is begun and ended by one worker. What is to be done next follows from what the database holds,
and is decided by one worker at a time: wherever one dies, nothing is lost but the attempts that it was in.
"""

import json
import random
import socket
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from capbench.errors import UserError
from capbench.runs import RunFolder
from capbench.sweeps.database import Database, patient
from capbench.sweeps.file import Point, SweepFile
from capbench.sweeps.trial import Lock, end_orphan, is_held

IDENTITY = ("program", "command", "method", "metric", "parameters", "early_terminate")
"""The keys of a sweep file that say what its trials are; the others may change while it runs."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        status: as in the run's result.json.
        value: the best that it reached of the metric.
        seconds: that it took.
        error: the last lines of one that failed.
    """

    status: Literal["finished", "pruned", "failed"]
    value: float | None
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class Attempt:
    """One attempt at a point.

    Attributes:
        id: in the database.
        index: which point of the sweep.
        name: of the run's folder.
        point: the parameters.
        running: whether a worker has it.
        outcome: null while it runs, and where it was stopped or its worker died.
        history: the metric's values.
    """

    id: int
    index: int
    name: str
    point: Point
    running: bool
    outcome: Outcome | None
    history: list[float]


class Study:
    """A sweep's study.

    Args:
        sweep: the file.
        root: the folder of all its runs on this machine.
        storage: the database's URL; null for a file in `root`.
        seed: of random and bayes.

    Raises:
        UserError: no such database, or the study there is of another sweep.
    """

    def __init__(self, sweep: SweepFile, root: Path, storage: str | None, seed: int) -> None:
        self.sweep, self.root, self.seed = sweep, root, seed
        self.points = sweep.grid() if sweep.method == "grid" else None
        self.place = root / ".sweep"
        self.place.mkdir(parents=True, exist_ok=True)
        self.database = Database(storage or f"sqlite:///{root / 'study.db'}")
        self.storage = self.database.storage
        self.study = optuna.create_study(
            storage=self.storage,
            study_name=sweep.name,
            direction=sweep.metric.goal if sweep.metric else "minimize",
            load_if_exists=True,
        )
        self.id = self.storage.get_study_id_from_name(sweep.name)
        self._identify()
        self.worker = Lock(self.place, "worker")

    @property
    def total(self) -> int | None:
        """How many points there are to try; null where only the user ends it."""
        limits = [len(self.points)] if self.points is not None else []
        return min([*limits, self.sweep.run_cap] if self.sweep.run_cap else limits, default=None)

    @patient
    def attempts(self) -> list[Attempt]:
        """The latest attempt at each point, by the points' order."""
        return list(_latest(self.storage.get_all_trials(self.id, deepcopy=False)).values())

    def merit(self, value: float | None) -> float | None:
        """A value of the metric, turned so that more is better."""
        return -value if value is not None and self.study.direction.name == "MINIMIZE" else value

    def reached(self, target: float) -> bool:
        """Whether some trial is as good as this."""
        merits = (self.merit(attempt.outcome.value) for attempt in self.attempts() if attempt.outcome)
        aim = self.merit(target)
        return any(merit is not None and aim is not None and merit >= aim for merit in merits)

    @patient
    def claim(self, lock: Lock, but: Collection[int] = (), again: Collection[str] = ()) -> Attempt | None:
        """Begin an attempt at the next point that nobody has tried or tries; null where there is none.

        Args:
            lock: that the attempt's processes will hold.
            but: points that are left to others.
            again: what is tried again although it has ended: `failed`.
        """
        with self.database.alone(self.id):
            self._bury()
            trials = self.storage.get_all_trials(self.id, deepcopy=False)
            latest = _latest(trials)
            for index, earlier in latest.items():
                ended = earlier.outcome is not None and earlier.outcome.status not in again
                if not earlier.running and not ended and index not in but:
                    self._clear_away(earlier)
                    known = next(trial for trial in trials if trial._trial_id == earlier.id)
                    return self._begin(index, earlier.point, lock, known)
            index = max(latest, default=-1) + 1
            if self.total is not None and index >= self.total:
                return None
            if self.points is not None:
                return self._begin(index, self.points[index], lock)
            generator = random.Random(f"{self.seed}-{index}")
            if self.sweep.method == "random":
                point = {name: kind.sample(generator) for name, kind in self.sweep.parameters.items()}
                return self._begin(index, point, lock)
            return self._suggest(index, generator.getrandbits(32), lock)

    @patient
    def lives(self, attempt: Attempt) -> bool:
        """Give a sign of life; whether the attempt is still ours, and not taken for dead by another machine."""
        self.storage.record_heartbeat(attempt.id)
        return not self.storage.get_trial(attempt.id).state.is_finished()

    @patient
    def report(self, attempt: Attempt, step: int, value: float) -> None:
        """Keep a value of the metric."""
        if not self.storage.get_trial(attempt.id).state.is_finished():
            self.storage.set_trial_intermediate_value(attempt.id, step, value)

    @patient
    def end(self, attempt: Attempt, outcome: Outcome | None) -> None:
        """Keep how an attempt ended; without an outcome it will be made again."""
        try:
            if outcome is not None:
                self.storage.set_trial_user_attr(attempt.id, "outcome", asdict(outcome))
            self._close(attempt.id, outcome)
        except optuna.exceptions.UpdateFinishedTrialError:  # another machine took it for dead
            return

    def _identify(self) -> None:
        """Refuse a file that is not the one that the study was begun with."""
        ours = {key: self.sweep.content.get(key) for key in IDENTITY}
        if "sweep" not in self.storage.get_study_user_attrs(self.id):
            self.storage.set_study_user_attr(self.id, "sweep", json.dumps(ours))
        theirs = json.loads(self.storage.get_study_user_attrs(self.id)["sweep"])
        changed = [key for key in IDENTITY if json.dumps(theirs[key]) != json.dumps(ours[key])]
        if changed:
            raise UserError(
                f"{self.sweep.path} has another {' and '.join(changed)} than the sweep {self.sweep.name!r} was begun "
                f"with in {self.database.name}: give it a `name:` of its own, or put the file back as it was to go on."
            )

    def _bury(self) -> None:
        """Close the attempts of workers that are dead, and remove their locks."""
        for trial in self.storage.get_all_trials(self.id, deepcopy=False, states=(TrialState.RUNNING,)):
            worker = trial.user_attrs.get("worker")
            if worker is None:  # its worker died before it was whole
                self._close(trial._trial_id, None)
            elif worker["host"] == socket.gethostname() and not is_held(Path(worker["lock"])):
                end_orphan(Path(worker["trial"]))
                self._close(trial._trial_id, _outcome(trial))
        for lock in self.place.glob("*.lock"):
            if not is_held(lock):
                lock.unlink()
        optuna.storages.fail_stale_trials(self.study)

    def _begin(self, index: int, point: Point, lock: Lock, earlier: FrozenTrial | None = None) -> Attempt:
        """Add a running trial; with what Optuna knew of the earlier one."""
        params, distributions = (earlier.params, earlier.distributions) if earlier else ({}, {})
        template = optuna.create_trial(state=TrialState.RUNNING, params=params, distributions=distributions)
        return self._take(self.storage.create_new_trial(self.id, template), index, point, lock)

    def _suggest(self, index: int, seed: int, lock: Lock) -> Attempt:
        """Add a running trial of a point that Optuna's search proposes."""
        self.study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)  # knows of trials in flight
        trial = self.study.ask()
        point = {name: kind.suggest(trial, name) for name, kind in self.sweep.parameters.items()}
        return self._take(trial._trial_id, index, point, lock)

    def _take(self, number: int, index: int, point: Point, lock: Lock) -> Attempt:
        """Make a trial an attempt of ours; it is whole when the last attribute is there."""
        width = len(str((self.total or 1000) - 1))
        locks = {"lock": str(self.worker.path.resolve()), "trial": str(lock.path.resolve())}
        attributes = {
            "index": index,
            "name": RunFolder.new(self.root, f"trial-{index:0{width}}").path.name,
            "point": point,
            "worker": {"host": socket.gethostname(), **locks},
        }
        self.storage.record_heartbeat(number)
        for key, value in attributes.items():
            self.storage.set_trial_user_attr(number, key, value)
        return _attempt(self.storage.get_trial(number))

    def _clear_away(self, earlier: Attempt) -> None:
        """Put what an earlier attempt left out of the new one's way."""
        left = self.root / earlier.name
        if left.exists():
            (self.place / "earlier").mkdir(exist_ok=True)
            left.rename(self.place / "earlier" / f"{earlier.name}-{earlier.id}")

    def _close(self, number: int, outcome: Outcome | None) -> None:
        state, values = TrialState.FAIL, None
        if outcome and outcome.status == "pruned":
            state = TrialState.PRUNED
        elif outcome and outcome.status == "finished" and not (self.sweep.metric and outcome.value is None):
            state, values = TrialState.COMPLETE, [outcome.value or 0.0]
        self.storage.set_trial_state_values(number, state, values)


def _latest(trials: list[FrozenTrial]) -> dict[int, Attempt]:
    attempts = [_attempt(trial) for trial in trials if "worker" in trial.user_attrs]
    return dict(sorted({attempt.index: attempt for attempt in attempts}.items()))


def _attempt(trial: FrozenTrial) -> Attempt:
    return Attempt(
        id=trial._trial_id,
        index=trial.user_attrs["index"],
        name=trial.user_attrs["name"],
        point=trial.user_attrs["point"],
        running=not trial.state.is_finished(),
        outcome=_outcome(trial),
        history=[value for _, value in sorted(trial.intermediate_values.items())],
    )


def _outcome(trial: FrozenTrial) -> Outcome | None:
    kept = trial.user_attrs.get("outcome")
    return Outcome(**kept) if kept else None
