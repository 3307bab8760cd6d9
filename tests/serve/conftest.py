"""Two tiny checkpoints, one that attends and one that does not, and a server over both."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import QUICK, ROOT, TINY_ENCODER, TINY_SHAPES, run

DECODERS = {"looks": "Attention", "blind": "Merge"}


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("serve"))
        for name, decoder in DECODERS.items():
            options = [*TINY_SHAPES, *TINY_ENCODER, *QUICK, "--model.search.max_words=6", "--model.search.min_words=3"]
            assert run("fit", *options, f"--model.decoder={decoder}", "--model.decoder.hidden=8", f"--name={name}") == 0
        return [Path.cwd() / "runs" / name / "checkpoints" / "best.ckpt" for name in DECODERS]


@contextmanager
def serving(checkpoints: list[Path], temp: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The server's address and process; its temporary files lie in `temp`."""
    named = [word for checkpoint in checkpoints for word in ("--checkpoint", str(checkpoint))]
    process = subprocess.Popen(
        [sys.executable, "-m", "capbench", "serve", *named, "--port=0"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temp)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell may have it ignored
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://" in line, line + process.stdout.read()
        url = line.split()[-4]
        while True:
            assert process.poll() is None, process.stdout.read()
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=60) as answer:
                    assert answer.status == 200
                break
            except OSError:
                time.sleep(0.2)
        yield url, process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def temp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server puts temporary files."""
    return tmp_path_factory.mktemp("temp")


@pytest.fixture(scope="session")
def url(checkpoints: list[Path], temp: Path) -> Iterator[str]:
    pytest.importorskip("gradio", reason="the serve extra is not installed")
    with serving(checkpoints, temp) as (address, _):
        yield address
