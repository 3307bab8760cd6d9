"""What the processes that work together owe each other: one of them speaks, and none outlives the others."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

GRACE = 3.0
"""Seconds within which the first process tells of an error that all have."""

NUMBERS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
"""What torchrun, Lightning and SLURM tell a process of its place; 0 in the first one."""

STARTED_BY = "CAPBENCH_STARTED_BY"


def is_first() -> bool:
    """Whether this is the first of all processes, or the only one; known before they have joined."""
    return not any(os.environ.get(name, "0") not in ("", "0") for name in NUMBERS)


@cache
def tells() -> bool:
    """Whether it is for this process to tell of the error that ends it, as one of them does.

    It is for the first process, or for another whose error the first has not told within `GRACE` seconds. Who has
    told is written down in the first process, or by torchrun: where neither is there any more, it has been told.
    """
    if not is_first():
        time.sleep(GRACE)
    dist = sys.modules.get("torch.distributed")
    if dist is None or not dist.is_initialized():
        return True
    try:
        return bool(dist.distributed_c10d._get_default_store().add("capbench/told", 1) == 1)
    except RuntimeError:
        return False


@contextmanager
def one_voice() -> Iterator[None]:
    """Let an error pass in the process that tells of it.

    Raises:
        SystemExit: another process tells.
    """
    try:
        yield
    except Exception:
        if tells():
            raise
        raise SystemExit(1) from None


def end_together() -> None:
    """In a process that another capbench started for one more device: end when that one is gone, however it ended."""
    parent = os.getppid()
    if os.environ.get(STARTED_BY) == str(parent):
        threading.Thread(target=_end_after, args=(parent,), daemon=True, name="end-together").start()
    os.environ[STARTED_BY] = str(os.getpid())


def stop_together(trainer: Any) -> None:
    """Have SIGTERM stop the first of several processes when its batch is done, and the others with it.

    Lightning's own way talks to the other processes from within the signal's handler, whatever they are about to say.
    """
    connector = trainer._signal_connector

    def note(number: int, frame: Any) -> None:
        connector.received_sigterm = trainer.is_global_zero

    if trainer.world_size > 1:
        connector._sigterm_notifier_fn = note


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
