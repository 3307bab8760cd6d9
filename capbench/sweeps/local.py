"""A sweep run here: trials as processes, several at a time, until nothing is left to try."""

import shlex
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from capbench.runs import RunFolder
from capbench.sweeps.database import HEARTBEAT
from capbench.sweeps.file import SweepFile
from capbench.sweeps.hyperband import to_stop
from capbench.sweeps.progress import Progress
from capbench.sweeps.study import Attempt, Outcome, Study
from capbench.sweeps.trial import Lock, Trial, environment, with_folder

POLL = 0.1
"""Seconds between two looks at the trials."""

PATIENCE = 30
"""Seconds that a trial has to end after it was asked to, as with W&B's agents."""

KILLED = {
    status
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM)
    for status in (-number, 128 + number)
}
"""Exit statuses of a trial that somebody ended: it did not fail by itself."""


@dataclass
class Running:
    """A trial, what the study knows of it, and its place among those at a time; `stopped` says why it was asked to."""

    attempt: Attempt
    trial: Trial
    place: int
    beat: float
    stopped: str | None = None


class Sweep:
    """Runs a sweep's trials on this machine.

    Args:
        sweep: the file.
        runs: the folder under which the sweep has its own.
        workers: trials at a time.
        count: at most so many trials are begun; null: no limit.
        storage: the URL of the study's database; null for a file in the sweep's folder.
        max_failures: when more trials have failed, no others are begun.
        retry_failed: whether trials that failed before are run again.
        seed: of random and bayes.

    Raises:
        UserError: the database cannot be used, or its study is of another sweep.
    """

    def __init__(
        self,
        sweep: SweepFile,
        *,
        runs: Path = Path("runs"),
        workers: int = 1,
        count: int | None = None,
        storage: str | None = None,
        max_failures: int = 10,
        retry_failed: bool = False,
        seed: int = 0,
    ) -> None:
        self.sweep, self.root, self.workers, self.count = sweep, runs / sweep.name, workers, count
        self.max_failures, self.again = max_failures, ("failed",) if retry_failed else ()
        self.study = Study(sweep, self.root, storage, seed)
        self.progress = Progress(sweep, self.root, self.study, workers, count)
        self.running: list[Running] = []
        self.begun: set[int] = set()
        self.failures = self.interrupts = self.obeyed = 0
        self.exhausted = False
        self.why_no_more = ""

    def run(self) -> int:
        """Run what is left; the exit status is 1 where a trial failed, and 130 where the user ended it."""

        def interrupt(*_: object) -> None:
            self.interrupts += 1

        usual = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.progress.introduce()
            while self._begin() or self.running:
                time.sleep(POLL)
                self._obey()
                self._watch()
        finally:
            for running in self.running:
                running.trial.end()
            for number, handler in usual.items():
                signal.signal(number, handler)
        self.study.worker.close()
        self.progress.conclude(self.why_no_more)
        return 130 if self.interrupts else 1 if self.failures else 0

    def _begin(self) -> bool:
        """Fill the free places; whether anything was begun."""
        before = len(self.begun)
        while len(self.running) < self.workers and not self.exhausted and not self._enough():
            lock = Lock(self.study.place, "trial")
            attempt = self.study.claim(lock, self.begun, self.again)
            if attempt is None:
                self.exhausted = True
                lock.close()
                break
            self.begun.add(attempt.index)
            self._start(attempt, lock)
        return len(self.begun) > before

    def _start(self, attempt: Attempt, lock: Lock) -> None:
        place = min(set(range(self.workers)) - {running.place for running in self.running})
        folder = RunFolder(self.root / attempt.name)
        words = with_folder(self.sweep.words(attempt.point), folder)
        variables = environment(self.sweep.name, folder, words, place, self.workers)
        self.progress.begins(attempt)
        try:
            trial = Trial(words, folder, self._output(attempt), lock, variables)
        except OSError as error:
            reason = f"{shlex.quote(words[0])} cannot be started: {error.strerror}"
            self._end(attempt, folder, Outcome("failed", None, 0.0, reason))
        else:
            self.running.append(Running(attempt, trial, place, beat=time.monotonic()))

    def _output(self, attempt: Attempt) -> Path:
        """Where a trial prints to while it runs; its folder is its own to make."""
        return self.study.place / f"{attempt.name}.log"

    def _enough(self) -> bool:
        """Whether no other trial is to be begun."""
        metric = self.sweep.metric
        if self.interrupts:
            self.why_no_more = "it was interrupted"
        elif self.failures > self.max_failures:
            self.why_no_more = f"{self.failures} trials failed, more than --max-failures {self.max_failures}"
        elif self.count is not None and len(self.begun) >= self.count:
            self.why_no_more = f"--count {self.count} is reached"
        elif metric and metric.target is not None and self.study.reached(metric.target):
            self.why_no_more = f"{metric.name} has reached its target {metric.target:g}"
        return bool(self.why_no_more)

    def _obey(self) -> None:
        """Do what the user's interrupts since the last look ask for."""
        if self.interrupts and not self.obeyed:
            self.progress.say("Stopping: no more trials; those that run are asked to end (once more: at once).")
        for running in self.running if self.interrupts > self.obeyed else []:
            if running.stopped is None:
                running.stopped = "interrupted"
                running.trial.ask_to_stop()
            if self.interrupts > 1:
                running.trial.kill()
        self.obeyed = self.interrupts

    def _watch(self) -> None:
        """See what the trials have logged, who has ended, and who is to be stopped."""
        logged = False
        for running in list(self.running):
            status = running.trial.status()
            logged |= self._note_values(running)
            if status is not None:
                self._judge(running, status)
            elif time.monotonic() - running.beat > HEARTBEAT:
                running.beat = time.monotonic()
                if not self.study.lives(running.attempt):
                    self._leave(running)
                    self.progress.say(f"{running.attempt.name} was taken over: another machine took this one for dead.")
            elif (asked := running.trial.asked_to_stop) and time.monotonic() - asked > PATIENCE:
                running.trial.kill()
        if logged and self.sweep.early_terminate and self.sweep.metric:
            histories = {attempt.id: attempt.history for attempt in self.study.attempts()}
            candidates = {running.attempt.id: running for running in self.running if running.stopped is None}
            for stopped in to_stop(self.sweep.early_terminate, self.sweep.metric.goal, histories, list(candidates)):
                candidates[stopped].stopped = "pruned"
                candidates[stopped].trial.ask_to_stop()

    def _note_values(self, running: Running) -> bool:
        """Keep what a trial has logged of the metric; whether there was anything new."""
        if self.sweep.metric is None:
            return False
        seen = len(running.trial.history)
        values = running.trial.new_values(self.sweep.metric.name)
        for step, value in enumerate(values, seen):
            self.study.report(running.attempt, step, value)
        return bool(values)

    def _judge(self, running: Running, status: int) -> None:
        """Keep how a trial ended."""
        trial, folder = running.trial, running.trial.folder
        said = folder.result().get("status")
        value, seconds = self._value(trial), trial.seconds()
        outcome: Outcome | None = None
        if status == 0 and (said == "finished" or (said is None and running.stopped is None)):
            outcome = Outcome("finished", value, seconds)
        elif running.stopped == "pruned":
            outcome = Outcome("pruned", value, seconds)
        elif running.stopped is None and status not in KILLED and said != "stopped":
            outcome = Outcome("failed", value, seconds, f"exit status {status}\n{trial.last_lines()}")
        self._leave(running)
        self._end(running.attempt, folder, outcome)

    def _value(self, trial: Trial) -> float | None:
        """The best that it has logged, which is what W&B's own search takes."""
        metric = self.sweep.metric
        if metric is None or not trial.history:
            return trial.score(metric.name) if metric else None
        return max(trial.history) if metric.goal == "maximize" else min(trial.history)

    def _leave(self, running: Running) -> None:
        running.trial.end()
        self.running.remove(running)
        self.exhausted = False

    def _end(self, attempt: Attempt, folder: RunFolder, outcome: Outcome | None) -> None:
        folder.path.mkdir(parents=True, exist_ok=True)
        self._output(attempt).replace(folder.output)
        self.study.end(attempt, outcome)
        sweep = {"name": self.sweep.name, "trial": attempt.index, "point": attempt.point}
        folder.update_result(status=outcome.status if outcome else "stopped", sweep=sweep)
        self.failures += outcome is not None and outcome.status == "failed"
        self.progress.ended(attempt, outcome, folder.output, len(self.running), len(self.begun))
