"""A sweep at Weights & Biases: made there, and run here by W&B's own agents."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from capbench.errors import UserError
from capbench.sweeps.file import SweepFile
from capbench.sweeps.trial import share_of_machine
from capbench.tracking import has_key

__all__ = ["agent", "create", "has_key"]

PROJECT = "capbench"


def create(sweep: SweepFile) -> str:
    """Make a sweep of a file; `entity/project/id`.

    Its project is `WANDB_PROJECT`, or the one that the file names.

    Raises:
        UserError: W&B does not answer, or refuses it.
    """
    import wandb

    named = {key: os.environ.get(f"WANDB_{key.upper()}") or sweep.content.get(key) for key in ("entity", "project")}
    try:
        name = wandb.sweep(sweep.content, entity=named["entity"], project=named["project"] or PROJECT)
    except (wandb.Error, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"W&B did not take {sweep.path} ({reason}): run it here with --local.") from error
    return "/".join([*(os.environ[f"WANDB_{part}"] for part in ("ENTITY", "PROJECT")), name])  # where it came to be


def agent(sweep_id: str, count: int | None, workers: int = 1) -> int:
    """Run a sweep's trials by `workers` of W&B's agents, `count` in all; the exit status, 130 if it was interrupted.

    Ctrl-C and SIGTERM are handed on: the runs end cleanly, and then the agents; a second one ends the runs at once.
    """
    print(f"More agents, here or on other machines: python -m capbench sweep --sweep-id {sweep_id}", flush=True)
    workers = min(workers, count or workers)
    counts = [count and count // workers + (slot < count % workers) for slot in range(workers)]
    commands = [_command(sweep_id, count) for count in counts]
    agents = [
        subprocess.Popen(command, env=_environment(command, slot, workers), stdin=subprocess.DEVNULL, process_group=0)
        for slot, command in enumerate(commands)
    ]
    interrupts: list[int] = []

    def hand_on(number: int, frame: Any) -> None:
        interrupts.append(number)
        for process in agents:
            process.send_signal(number)

    usual = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        statuses = [process.wait() for process in agents]
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
    return 130 if interrupts else int(any(statuses))


def _command(sweep_id: str, count: int | None) -> list[str]:
    limit = ["--count", str(count)] if count else []
    return [sys.executable, "-m", "wandb", "agent", "--forward-signals", *limit, sweep_id]


def _environment(command: list[str], slot: int, workers: int) -> dict[str, str]:
    """Of an agent: `python`, which it looks up, is this one; a few points that fail at once do not end it."""
    paths = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    variables = {"WANDB_AGENT_DISABLE_FLAPPING": "true"} | os.environ | {"PATH": os.pathsep.join(filter(None, paths))}
    return variables | share_of_machine(variables, command, slot, workers)
