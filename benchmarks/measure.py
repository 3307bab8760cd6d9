"""How the benchmarks measure: ratios of two ways to do the same, in turns, in one process."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what is measured.
        ours, theirs: medians of seconds for the same work.
        ratio: what the target is about.
        target: of the ratio; at least that, or at most if `at_most`. Null where there is none.
        work: how much is done in these seconds, and its unit: (1000, "images").
        note: what the two sides are.
    """

    name: str
    ours: float
    theirs: float
    ratio: float
    target: float | None
    at_most: bool
    work: tuple[float, str]
    note: str


def faster(name: str, times: tuple[float, float], target: float | None, work: tuple[float, str], note: str) -> Row:
    """How many times faster ours is."""
    ours, theirs = times
    return Row(name, ours, theirs, theirs / ours, target, False, work, note)


def slower(name: str, times: tuple[float, float], target: float | None, work: tuple[float, str], note: str) -> Row:
    """How many times longer ours takes."""
    ours, theirs = times
    return Row(name, ours, theirs, ours / theirs, target, True, work, note)


def side_by_side(ours: Callable[[], object], theirs: Callable[[], object], rounds: int = 5) -> tuple[float, float]:
    """Median seconds of both, run in turns after one round that does not count, so that both see the same machine."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for kept, run in zip(times, (ours, theirs), strict=True):
            _wait()
            began = time.perf_counter()
            run()
            _wait()
            if number:
                kept.append(time.perf_counter() - began)
    return median(times[0]), median(times[1])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def print_rows(rows: list[Row]) -> None:
    """The table, as Markdown."""
    print("| what | ours | baseline | ratio | target | |\n| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        amount, unit = row.work
        print(
            f"| {row.name} | {amount / row.ours:,.1f} {unit}/s | {amount / row.theirs:,.1f} | {row.ratio:.2f} | "
            f"{_target(row)} | {row.note} |",
            flush=True,
        )


def _target(row: Row) -> str:
    if row.target is None:
        return ""
    met = row.ratio <= row.target if row.at_most else row.ratio >= row.target
    return f"{'at most' if row.at_most else 'at least'} {row.target}{'' if met else ', missed'}"
