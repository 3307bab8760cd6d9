"""What the engine's tests share: a cheap program to sweep, and real `sweep` processes."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

PROGRAM = """
import json, os, subprocess, sys, time
from pathlib import Path

point = dict(word[2:].split("=") for word in sys.argv[1:])
name = point["x"]


def note(what, number=os.getpid()):
    with open("log", "a") as log:
        log.write(f"{what} {name} {number}\\n")


if Path("stubborn").exists():
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "1000"])
note("child", child.pid)
note("began")
print(f"this is {name}")
folder = Path(os.environ["CAPBENCH_TRIAL"])
folder.mkdir()
with (folder / "metrics.jsonl").open("a") as metrics:
    for step in range(3):
        metrics.write(json.dumps({"loss": float(name) + 1 / (step + 1)}) + "\\n")
note("sweep", os.getppid())
while Path(f"hold-{name}").exists() or Path("hold").exists():
    time.sleep(0.02)
if Path(f"fail-{name}").exists():
    sys.exit(f"{name} is broken")
note("ended")
"""


def write_sweep(folder: Path, values: list[Any], **more: Any) -> Path:
    """A sweep of PROGRAM over `x`."""
    (folder / "program.py").write_text(PROGRAM)
    sweep = {
        "program": "program.py",
        "method": "grid",
        "metric": {"name": "loss", "goal": "minimize"},
        "parameters": {"x": {"values": values}},
    }
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(sweep | more, sort_keys=False))
    return file


def noted(folder: Path, what: str) -> list[str]:
    """The values of x that trials have noted this of, in order."""
    log = folder / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.split()[1] for line in lines if line.split()[0] == what]


def process_of(folder: Path, what: str, x: str) -> int:
    """The number that the latest trial of x noted with this."""
    lines = [line.split() for line in (folder / "log").read_text().splitlines()]
    return int([number for noted, value, number in lines if (noted, value) == (what, x)][-1])


def lives(process: int) -> bool:
    """Whether there is such a process, and not only what a parent has not yet asked for."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what must come; fails where it does not."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "waited in vain"
        time.sleep(0.02)


@contextmanager
def sweeping(folder: Path, *options: object) -> Iterator[subprocess.Popen[str]]:
    """A real `sweep --local` of the folder's sweep.yaml, ended with the block."""
    words = [sys.executable, "-m", "capbench", "sweep", "sweep.yaml", "--local", *map(str, options)]
    with (folder / "sweep.out").open("a") as output:
        process = subprocess.Popen(words, cwd=folder, stdout=output, stderr=output, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def sweep_to_the_end(folder: Path, *options: object) -> int:
    """Its exit status."""
    with sweeping(folder, *options) as process:
        return process.wait(timeout=120)


def result(folder: Path, trial: str) -> dict[str, Any]:
    """What a trial's `result.json` says."""
    content: dict[str, Any] = json.loads((folder / "runs" / "sweep" / trial / "result.json").read_text())
    return content
