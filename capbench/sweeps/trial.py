"""One trial of a sweep: a process with all its children, what it prints, and what it logs.

A trial never outlives the sweep that started it, even at `kill -9`: a shell waits beside it, in the same process group,
for the end of a pipe that only the sweep holds, and then ends the group. Whether a trial or a sweep still lives is told
by a lock that the system takes from the dead, so that no process id is ever mistaken for another's.
"""

import fcntl
import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from capbench.runs import RunFolder
from capbench.sweeps.words import own_arguments

WATCH = "read line; kill -KILL 0"
LAST_LINES = 15
NOT_A_TRIALS = ("WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_RUN_ID", "WANDB_NAME", "CAPBENCH_RUN_FOLDER")
"""Not handed on: with a sweep's id, wandb would take this for a trial of that sweep."""


def with_folder(words: list[str], folder: RunFolder) -> list[str]:
    """The command line with the run's folder, where the command is one of capbench's that has one."""
    if own_arguments(words) is None:
        return words
    return [*words, "--runs", str(folder.path.parent), "--name", folder.path.name]


def environment(sweep: str, folder: RunFolder, words: Sequence[str], slot: int, workers: int) -> dict[str, str]:
    """The variables of a trial that runs as one of several on this machine.

    Args:
        sweep: its name, which groups the runs at W&B.
        folder: of the run; commands that are not capbench's are told of it in `CAPBENCH_TRIAL`.
        words: of the command.
        slot: which of the trials at a time.
        workers: how many there are at a time.
    """
    variables = {name: value for name, value in os.environ.items() if name not in NOT_A_TRIALS}
    variables |= {"WANDB_RUN_GROUP": sweep, "WANDB_JOB_TYPE": "sweep", "CAPBENCH_TRIAL": str(folder.path)}
    tags = [*filter(None, variables.get("WANDB_TAGS", "").split(",")), "sweep", sweep]
    variables["WANDB_TAGS"] = ",".join(tags)
    return variables | share_of_machine(variables, words, slot, workers)


def share_of_machine(variables: Mapping[str, str], words: Sequence[str], slot: int, workers: int) -> dict[str, str]:
    """The variables by which one of several processes takes its share of the cores, and a GPU of its own."""
    share: dict[str, str] = {}
    if workers > 1:
        share["OMP_NUM_THREADS"] = variables.get("OMP_NUM_THREADS", str(max(1, len(_cores()) // workers)))
        if not _wants_several_devices(words) and (devices := _gpus()):
            share["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    return share


def _cores() -> Sequence[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [device for device in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if device.strip()]
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(number) for number in range(sum(line.startswith("GPU ") for line in listing.splitlines()))]


def _wants_several_devices(words: Sequence[str]) -> bool:
    asked = "1"
    for word, following in zip(words, [*words[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        if option == "--trainer.devices":
            asked = value if equals else following
    return asked.strip("[]") not in ("1", "auto", "0")


class Lock:
    """A new file that is locked while this process lives, or one that was started with `descriptor`.

    Args:
        folder: of such files.
        kind: what its name begins with.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.path = folder / f"{kind}-{uuid.uuid4().hex}.lock"
        unlocked = self.path.with_suffix(".new")
        self.file = unlocked.open("w", encoding="utf-8")
        self.descriptor = self.file.fileno()
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)
        unlocked.rename(self.path)

    def close(self) -> None:
        """Remove it."""
        self.path.unlink(missing_ok=True)
        self.file.close()


def is_held(path: Path) -> bool:
    """Whether anybody lives who holds the lock; also where that cannot be known, because the file is not here."""
    try:
        with path.open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # BlockingIOError: somebody has it
        return True
    return False


def end_orphan(lock: Path) -> None:
    """End what is left of a trial whose sweep is gone."""
    for _ in range(100):
        if not lock.exists() or not is_held(lock):
            break
        if group := lock.read_text(encoding="utf-8"):
            _end_group(int(group))
        time.sleep(0.05)
    lock.unlink(missing_ok=True)


def _end_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS says the second of a group of which nobody lives
        return


class Trial:
    """A trial that runs.

    Args:
        words: of its command.
        folder: of its run.
        output: the file for what it prints; it moves into the folder at the end.
        lock: held while any of its processes live.
        environment: its variables.
    """

    def __init__(
        self, words: list[str], folder: RunFolder, output: Path, lock: Lock, environment: dict[str, str]
    ) -> None:
        self.folder, self.output, self.lock = folder, output, lock
        self.began = time.monotonic()
        self.history: list[float] = []
        self.read = 0
        self.asked_to_stop: float | None = None
        waits, self.lives = os.pipe()
        kept: dict[str, Any] = {"pass_fds": (lock.descriptor,), "stderr": subprocess.STDOUT}
        with output.open("wb") as file:
            self.watch = subprocess.Popen(["/bin/sh", "-c", WATCH], stdin=waits, stdout=file, process_group=0, **kept)
            os.close(waits)
            lock.file.write(str(self.watch.pid))
            lock.file.flush()
            try:
                self.process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    env=environment,
                    process_group=self.watch.pid,
                    **kept,
                )
            except OSError as error:
                self.end()
                raise error

    def status(self) -> int | None:
        """Its exit status, negative where a signal ended it; null while it runs."""
        return self.process.poll()

    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    def ask_to_stop(self) -> None:
        """Ask the process, which tells its own children."""
        self.asked_to_stop = time.monotonic()
        self.process.terminate()

    def kill(self) -> None:
        """End all its processes at once."""
        _end_group(self.watch.pid)

    def end(self) -> None:
        """End what is left of it, and wait for that."""
        self.kill()
        self.watch.wait()
        if hasattr(self, "process"):
            self.process.wait()
        os.close(self.lives)
        self.lock.close()

    def new_values(self, metric: str) -> list[float]:
        """The metric's finite values that were logged since the last call."""
        found: list[float] = []
        if self.folder.metrics.is_file():
            with self.folder.metrics.open("rb") as file:
                file.seek(self.read)
                found = [value for row in self._rows(file) if (value := finite(row.get(metric))) is not None]
        self.history += found
        return found

    def _rows(self, file: BinaryIO) -> list[dict[str, Any]]:
        lines = [line for line in file if line.endswith(b"\n")]  # the last one may be half written
        self.read += sum(map(len, lines))
        return [json.loads(line) for line in lines]

    def score(self, metric: str) -> float | None:
        """What the run's result says of a metric like `test/bleu4`, which is not logged row by row."""
        split, _, name = metric.partition("/")
        return finite(self.folder.result().get("scores", {}).get(split, {}).get(name))

    def last_lines(self) -> str:
        """The end of what it has printed."""
        lines = self.output.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
        return "\n".join([line.rstrip() for line in lines if line.strip()][-LAST_LINES:])


def finite(value: Any) -> float | None:
    """A number as a float, all else null."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
    return float(value) if number else None
