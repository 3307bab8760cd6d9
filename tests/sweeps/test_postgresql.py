"""One sweep on several machines: a real PostgreSQL server, where its programs are installed."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sweeps.engine import noted, process_of, sweeping, wait_until, write_sweep

pytest.importorskip("psycopg")
PLACES = [*sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin"))), os.environ.get("PATH", "")]
PROGRAMS = {name: shutil.which(name, path=os.pathsep.join(PLACES)) for name in ("initdb", "postgres", "pg_isready")}
pytestmark = pytest.mark.skipif(not all(PROGRAMS.values()), reason="there is no PostgreSQL (apt install postgresql)")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a server of our own, on 127.0.0.1."""
    folder = Path(tempfile.mkdtemp(prefix="capbench-postgresql-"))
    other: dict[str, Any] = {}
    if os.getuid() == 0:  # as which PostgreSQL does not run
        other = {"user": "nobody", "cwd": folder}
        shutil.chown(folder, "nobody")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    data = str(folder / "data")
    words = [PROGRAMS["initdb"], "-D", data, "-U", "capbench", "-A", "trust", "--no-sync"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, **other)
    words = [PROGRAMS["postgres"], "-D", data, "-p", port, "-h", "127.0.0.1", "-k", str(folder), "-F"]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, **other)
    ready = [PROGRAMS["pg_isready"], "-q", "-h", "127.0.0.1", "-p", port]
    try:
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0)
        yield f"postgresql://capbench@127.0.0.1:{port}/postgres"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


def test_machines_share_a_sweep_and_a_dead_ones_trial_is_run_again(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commands with folders of their own, both begun before there are any tables; one is killed."""
    monkeypatch.chdir(tmp_path)
    write_sweep(tmp_path, list(range(4)))
    (tmp_path / "hold").touch()
    share = ("--storage", server, "--runs")
    with sweeping(tmp_path, *share, "one") as one, sweeping(tmp_path, *share, "other") as other:
        wait_until(lambda: len(noted(tmp_path, "sweep")) == 2)
        assert sorted(noted(tmp_path, "began")) == ["0", "1"]
        lost = next(x for x in "01" if process_of(tmp_path, "sweep", x) == one.pid)
        one.kill()
        one.wait()
        (tmp_path / "hold").unlink()
        assert other.wait(timeout=120) == 0
    with sweeping(tmp_path, *share, "one") as again:
        assert again.wait(timeout=120) == 0
    assert sorted(map(int, noted(tmp_path, "ended"))) == list(range(4))
    assert Counter(noted(tmp_path, "began")) == Counter([*map(str, range(4)), lost])


def test_machines_share_the_work(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_sweep(tmp_path, list(range(11)), name="shared")
    (tmp_path / "hold").touch()
    options = ("--storage", server, "--workers", 2, "--runs")
    with sweeping(tmp_path, *options, "one") as one, sweeping(tmp_path, *options, "other") as other:
        wait_until(lambda: len(noted(tmp_path, "sweep")) == 4)
        (tmp_path / "hold").unlink()
        assert one.wait(timeout=120) == other.wait(timeout=120) == 0
    assert sorted(map(int, noted(tmp_path, "began"))) == list(range(11)) == sorted(map(int, noted(tmp_path, "ended")))
    for name, process in (("one", one), ("other", other)):
        mine = {f"trial-{x:02}" for x in range(11) if process_of(tmp_path, "sweep", str(x)) == process.pid}
        folders = (tmp_path / name / "shared").glob("trial-*")
        assert mine == {folder.name for folder in folders if (folder / "result.json").exists()}
        assert mine
