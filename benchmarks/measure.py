"""How the benchmarks measure: ratios of two ways to do the same, in turns, in one process."""

import ctypes
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from capbench.memory import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, keep_memory


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
        arithmetic: multiply-adds of ours in these seconds, where they are known, and in which precision.
    """

    name: str
    ours: float
    theirs: float
    ratio: float
    target: float | None
    at_most: bool
    work: tuple[float, str]
    note: str
    arithmetic: tuple[float, torch.dtype] | None = None


def faster(
    name: str,
    times: tuple[float, float],
    target: float | None,
    work: tuple[float, str],
    note: str,
    arithmetic: tuple[float, torch.dtype] | None = None,
) -> Row:
    """How many times faster ours is."""
    ours, theirs = times
    return Row(name, ours, theirs, theirs / ours, target, False, work, note, arithmetic)


def slower(name: str, times: tuple[float, float], target: float, work: tuple[float, str], note: str) -> Row:
    """How many times longer ours takes."""
    return replace(faster(name, times, target, work, note), ratio=times[0] / times[1], at_most=True)


def multiply_adds(run: Callable[[], object]) -> float:
    """Of all matrix products in one run; PyTorch counts no fused LSTM."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2


def most_multiply_adds(device: str, dtype: torch.dtype, size: int = 2048) -> float:
    """A second, in one large matrix product: the limit of arithmetic."""
    square = torch.randn(size, size, device=device, dtype=dtype)
    product = partial(torch.mm, square, square, out=torch.empty_like(square))
    return size**3 / side_by_side(product, lambda: None, 9)[0]


def side_by_side(ours: Callable[[], object], theirs: Callable[[], object], rounds: int = 5) -> tuple[float, float]:
    """Median seconds of both, run in turns after one round that does not count, so that both see the same machine.

    Ours runs as capbench's commands do, theirs with what becomes of glibc's settings by themselves.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for kept, run, memory in zip(times, (ours, theirs), (keep_memory, return_memory), strict=True):
            memory()
            _wait()
            began = time.perf_counter()
            run()
            _wait()
            if number:
                kept.append(time.perf_counter() - began)
    return median(times[0]), median(times[1])


def return_memory() -> None:
    """Where glibc's own thresholds end up once a tensor of 32 MB or more was freed."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)
        libc.mallopt(M_TRIM_THRESHOLD, 2**26)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


TITLES = "| what | baseline | ratio | target | ours | baseline's | of the limit |\n" + "| --- " * 7 + "|"


def line(row: Row, limits: dict[torch.dtype, float]) -> str:
    """A row of the Markdown table under `TITLES`; `limits` are multiply-adds a second."""
    amount, unit = row.work
    share = f"{row.arithmetic[0] / row.ours / limits[row.arithmetic[1]]:.0%}" if row.arithmetic else ""
    target = "" if row.target is None else f"{'at most' if row.at_most else 'at least'} {row.target}"
    cells = (
        row.name,
        row.note,
        f"**{row.ratio:.2f}**{'' if met(row) else ' (missed)'}",
        target,
        f"{amount / row.ours:,.1f} {unit}/s",
        f"{amount / row.theirs:,.1f}",
        share,
    )
    return f"| {' | '.join(cells)} |"


def met(row: Row) -> bool:
    """Whether the ratio is as good as its target."""
    return row.target is None or (row.ratio <= row.target if row.at_most else row.ratio >= row.target)


def print_rows(rows: list[Row], device: str) -> None:
    """The table."""
    dtypes = {row.arithmetic[1] for row in rows if row.arithmetic}
    limits = {dtype: most_multiply_adds(device, dtype) for dtype in dtypes}
    print(TITLES, *(line(row, limits) for row in rows), sep="\n")
