"""What a sweep that runs here prints: a line for each trial, and a table at the end, the best first."""

import time
from pathlib import Path
from typing import Any

from capbench.sweeps.file import SweepFile
from capbench.sweeps.study import Attempt, Outcome, Study

LISTED = 20
"""Trials in the table at the end."""


class Progress:
    """Lines about a sweep.

    Args:
        sweep: the file.
        root: the folder of its runs.
        study: what has been tried.
        workers: trials at a time.
        count: at most so many are begun here.
    """

    def __init__(self, sweep: SweepFile, root: Path, study: Study, workers: int, count: int | None) -> None:
        self.sweep, self.root, self.study, self.workers, self.count = sweep, root, study, workers, count
        last = [name.rpartition(".")[2] for name in sweep.parameters]
        self.short = {
            name: part if last.count(part) == 1 else name for name, part in zip(sweep.parameters, last, strict=True)
        }

    def introduce(self) -> None:
        """Say what will run, and what has."""
        sweep, total = self.sweep, self.study.total
        points = f"{total or self.count} trials" if total or self.count else "until you stop it"
        goal = f", {sweep.metric.goal} {sweep.metric.name}" if sweep.metric else ""
        at_a_time = "one at a time" if self.workers == 1 else f"{self.workers} at a time"
        print(
            f"Sweep {sweep.name}: {sweep.method}, {points}, {at_a_time}{goal}; {self.root}, {self.study.database.name}"
        )
        if attempts := self.study.attempts():
            running = sum(attempt.running for attempt in attempts)
            others = [f"{running} that run elsewhere or died"] if running else []
            print("  so far " + ", ".join([*filter(None, [_tally(attempts)]), *others]))

    def say(self, message: str) -> None:
        """A line with the time."""
        print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)

    def begins(self, attempt: Attempt) -> None:
        """Say that a trial begins."""
        self.say(f"{attempt.name} begins: {self._point(attempt.point)}")

    def ended(self, attempt: Attempt, outcome: Outcome | None, output: Path, running: int, begun: int) -> None:
        """Say how a trial ended.

        Args:
            attempt: that ended.
            outcome: null where it was stopped.
            output: the file of what it printed.
            running: how many others run here now.
            begun: how many were begun here so far.
        """
        if outcome is None:
            self.say(f"{attempt.name} was stopped; the same command runs it again.")
            return
        attempts, total = self.study.attempts(), self.study.total
        ended = [attempt.outcome for attempt in attempts if attempt.outcome]
        number = f"{len(ended)}/{total}" if total else str(len(ended))
        limits = [total - len(ended)] if total else []
        limits += [self.count - begun + running] if self.count else []
        each = sum(outcome.seconds for outcome in ended) / len(ended)
        rest = f", about {_time(min(limits) * each / self.workers)} left" if limits and min(limits) > 0 else ""
        self.say(
            f"{attempt.name} {outcome.status} ({number}){self._metric(outcome)}, {_time(outcome.seconds)}{rest}: "
            f"{self._point(attempt.point)}"
        )
        if outcome.error:
            print("".join(f"    {line}\n" for line in outcome.error.splitlines()[-5:]) + f"    all of it: {output}")

    def conclude(self, why_no_more: str) -> None:
        """Print what there is, and how to go on."""
        attempts, metric = self.study.attempts(), self.sweep.metric
        rows = []
        for attempt in sorted(attempts, key=self._rank):
            outcome = attempt.outcome
            status = outcome.status if outcome else "running" if attempt.running else "stopped"
            value = "-" if outcome is None or outcome.value is None else f"{outcome.value:.4f}"
            rows.append([attempt.name, *([value] if metric else []), status, self._point(attempt.point)])
        titles = ["trial", *([metric.name] if metric else []), "status", "parameters"]
        print("\n" + "\n".join(_table(titles, rows[:LISTED])))
        if len(rows) > LISTED:
            print(f"and {len(rows) - LISTED} more")
        print(f"\n{_tally(attempts) or 'Nothing has ended'}: {self.root}")
        if why_no_more:
            print(f"No more trials were begun: {why_no_more}.")
        if any(attempt.outcome and attempt.outcome.status == "failed" for attempt in attempts):
            print("With --retry-failed the same command runs again those that failed.")
        if any(attempt.outcome is None for attempt in attempts) or (self.study.total or 0) > len(attempts):
            print("The same command goes on.")

    def _point(self, point: dict[str, Any]) -> str:
        return " ".join(f"{self.short[name]}={value}" for name, value in point.items())

    def _metric(self, outcome: Outcome) -> str:
        if self.sweep.metric is None or (outcome.value is None and outcome.status != "finished"):
            return ""
        value = "was not logged" if outcome.value is None else f"{outcome.value:.4g}"
        return f", {self.sweep.metric.name} {value}"

    def _rank(self, attempt: Attempt) -> tuple[bool, bool, float, int]:
        """The best first, then those without a value, then those that failed or have not ended."""
        outcome = attempt.outcome
        merit = self.study.merit(outcome.value) if outcome else None
        return outcome is None or outcome.status == "failed", merit is None, -(merit or 0.0), attempt.index


def _tally(attempts: list[Attempt]) -> str:
    statuses: list[str] = [attempt.outcome.status for attempt in attempts if attempt.outcome]
    statuses += ["stopped" for attempt in attempts if attempt.outcome is None and not attempt.running]
    kinds = ("finished", "pruned", "failed", "stopped")
    return ", ".join(f"{statuses.count(kind)} {kind}" for kind in kinds if kind in statuses)


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _table(titles: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    return [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (titles, *rows)
    ]
