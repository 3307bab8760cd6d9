"""Weights & Biases: offline without a key, a prompt or a call; off when asked; and what is logged."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from capbench.overlay import GAP, IN_A_ROW, TILE
from capbench.runs import read_checkpoint
from tests.support import ROOT, TINY, result, rows
from tests.wandb_server import WandbServer

WANDB = (
    *(option for option in TINY if option != "--trainer.logger=false"),
    *("--trainer.logger=WandbLogger", "--trainer.logger.project=capbench", "--trainer.log_every_n_steps=1"),
    *("--model.decoder=Attention", "--model.decoder.attention=8", "--name=tiny"),
)
# Stands in for the sitecustomize of a fresh Python: what leaves this machine is noted and refused.
FENCE = """
import socket
connect = socket.socket.connect
def fenced(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        with open({log!r}, "a") as file:
            print("connect", address, file=file)
        raise OSError("no network in this test")
    return connect(self, address)
socket.socket.connect = fenced
"""


class Outside:
    """A machine without a W&B account, on which every way to the network ends in a note.

    W&B's own service is no Python: it is caught by a proxy on a free port, which answers nothing.
    """

    def __init__(self, home: Path) -> None:
        self.home, self.log = home, home / "network.log"
        home.mkdir()
        (home / "sitecustomize.py").write_text(FENCE.format(log=str(self.log)))
        self.proxy = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        while True:
            try:
                visitor, _ = self.proxy.accept()
            except OSError:  # closed
                return
            with visitor, self.log.open("a") as file:
                print("proxy", visitor.recv(200), file=file)

    def calls(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "NETRC"))}
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), f"http://{self.address()}")
        proxies |= {name.lower(): value for name, value in proxies.items()} | {"NO_PROXY": "", "no_proxy": ""}
        paths = os.pathsep.join([str(self.home), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return kept | proxies | {"HOME": str(self.home), "PYTHONPATH": paths} | more

    def address(self) -> str:
        host, port = self.proxy.getsockname()
        return f"{host}:{port}"

    def python(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run Python in `home`, with nobody to answer a question."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.home,
            env=self.environment(**more),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def capbench(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        finished = self.python("-m", "capbench", *arguments, **more)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    place = Outside(tmp_path / "home")
    yield place
    place.proxy.close()


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    """There was a fit, and a second one that went on in the same folder."""
    place = Outside(tmp_path_factory.mktemp("tracked") / "home")
    first = place.capbench("fit", *WANDB)
    assert "wandb login" not in first.stdout + first.stderr
    place.capbench("fit", *WANDB, "--trainer.max_epochs=2", "--ckpt_path=last")
    yield place
    place.proxy.close()


def offline_runs(home: Path) -> list[Path]:
    return sorted((home / "runs" / "tiny" / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_ctime)


def records(run: Path) -> list[Any]:
    """What W&B would send: the records of `run-ID.wandb`, a LevelDB log with a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = run.glob("*.wandb")
    content, place, whole, found = file.read_bytes(), 7, b"", []
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:  # padding at the end of a block
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last part
            record = Record()
            record.ParseFromString(whole)
            found.append(record)
            whole = b""
    return found


def history(run: Path) -> dict[str, list[Any]]:
    """All logged values by name."""
    values: dict[str, list[Any]] = {}
    for record in records(run):
        for item in record.history.item:
            name = item.key or "/".join(item.nested_key)
            values.setdefault(name, []).append(json.loads(item.value_json))
    return values


def test_without_a_key_nothing_is_asked_and_nobody_is_called(tracked: Outside) -> None:
    assert tracked.calls() == ""
    assert result(tracked.home / "runs" / "tiny")["status"] == "finished"


def test_a_second_run_in_the_folder_has_its_own_files(tracked: Outside) -> None:
    assert len(offline_runs(tracked.home)) == 2
    assert len(rows(tracked.home / "runs" / "tiny" / "metrics.jsonl")) == 2
    assert [path.name for path in (tracked.home / "runs").iterdir()] == ["tiny"]
    assert not (tracked.home / "wandb").exists()


def test_the_resolved_configuration_is_logged(tracked: Outside) -> None:
    config: dict[str, Any] = {}
    project, name = "", ""
    for record in records(offline_runs(tracked.home)[0]):
        for update in (*record.run.config.update, *record.config.update):
            config[update.key or "/".join(update.nested_key)] = json.loads(update.value_json)
        project, name = record.run.project or project, record.run.display_name or name
    assert (project, name) == ("capbench", "tiny")
    assert config["model"]["decoder"]["class_path"].endswith(".Attention")
    assert config["model"]["decoder"]["init_args"]["hidden"] == 8
    assert config["model"]["encoder"]["init_args"]["name"] == "test_resnet"
    assert config["data"]["init_args"]["train"] == 8
    assert config["trainer"]["max_epochs"] == 1
    assert config["seed_everything"] == 0


def test_scores_learning_rate_and_throughput_are_logged(tracked: Outside) -> None:
    values = history(offline_runs(tracked.home)[0])
    (metrics, _) = rows(tracked.home / "runs" / "tiny" / "metrics.jsonl")
    for name in ("val/loss", "val/bleu1", "val/bleu4", "val/rouge_l", "val/cider_d"):
        assert values[name] == pytest.approx([metrics[name]])
    assert len(values["train/loss"]) == 2
    assert values["lr-Adam/decoder"] == [0.001, 0.001]
    assert values["train/captions_per_second"][0] > 0


def test_a_table_of_samples_is_logged(tracked: Outside) -> None:
    run = offline_runs(tracked.home)[0]
    (file,) = (run / "files").glob("media/table/val/samples_*.table.json")
    table = json.loads(file.read_text())
    scores = ["bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider_d"]
    assert table["columns"] == ["id", "image", "attention", "caption", "references", *scores]
    assert len(table["data"]) == 4
    for image_id, _, _, caption, references, *values in table["data"]:
        assert image_id.startswith("scene-")
        assert caption
        assert len(references.splitlines()) == 5
        assert all(0 <= value <= 10 for value in values)
    logged = [entry.path for record in records(run) for entry in record.request.log_artifact.artifact.manifest.contents]
    logged += [entry.path for record in records(run) for entry in record.artifact.manifest.contents]
    assert sum(path.startswith("media/images/") for path in logged) == 8  # the pictures go with the table's artifact


def test_switched_off_wandb_is_not_needed(outside: Outside) -> None:
    """timm imports wandb where it can, so that it must be out of reach to see that nothing else does."""
    (outside.home / "wandb.py").write_text("raise ImportError('not here')")
    outside.capbench("fit", *TINY, "--name=tiny")
    assert result(outside.home / "runs" / "tiny")["status"] == "finished"
    assert not (outside.home / "runs" / "tiny" / "wandb").exists()
    assert outside.calls() == ""


def test_wandb_mode_is_respected(outside: Outside) -> None:
    outside.capbench("fit", *WANDB, WANDB_MODE="disabled")
    assert result(outside.home / "runs" / "tiny")["status"] == "finished"
    assert not offline_runs(outside.home)
    assert outside.calls() == ""


def test_what_waits_to_be_sent_lies_beside_the_run(tracked: Outside) -> None:
    assert not (tracked.home / ".local").exists()
    assert not [
        path for path in (tracked.home / ".cache" / "wandb").rglob("*") if path.is_file() and path.suffix != ".log"
    ]


def test_wandb_sync_takes_an_offline_run_whole(tracked: Outside, server: WandbServer) -> None:
    (offline, _) = offline_runs(tracked.home)
    finished = tracked.python("-m", "wandb", "sync", str(offline), **server.environment())
    assert finished.returncode == 0, finished.stderr
    (run,) = server.runs.values()
    assert run.exit_code == 0
    assert run.config["model"]["decoder"]["init_args"]["attention"] == 8
    assert run.fields["groupName"] == "tiny"
    assert run.fields["jobType"] == "fit"
    assert run.fields["tags"] == ["test_resnet", "Attention", "seed 0"]
    (metrics, _) = rows(tracked.home / "runs" / "tiny" / "metrics.jsonl")
    assert run.values("val/cider_d") == pytest.approx([metrics["val/cider_d"]])
    table, model = server.artifact("run_table"), server.artifact("model")
    assert table.committed
    assert len([name for name in table.files if name.startswith("media/images/")]) == 8
    for _, image, attention, caption, *_ in json.loads(table.files["val/samples.table.json"])["data"]:
        assert (image["width"], image["height"]) == (32, 32)
        assert attention["width"] == GAP + (TILE + GAP) * min(IN_A_ROW, 1 + len(caption.split()))
    assert model.committed
    assert {"best", "latest"} == set(model.aliases)
    checkpoint = read_checkpoint_of(model.files["best.ckpt"], tracked.home)
    assert model.files["vocabulary.txt"].decode().split() == checkpoint["capbench"]["vocabulary"]
    assert yaml.safe_load(model.files["config.yaml"])["name"] == "tiny"


def read_checkpoint_of(content: bytes, folder: Path) -> dict[str, Any]:
    (folder / "sent.ckpt").write_bytes(content)
    return read_checkpoint(folder / "sent.ckpt")


@pytest.fixture
def server() -> Iterator[WandbServer]:
    server = WandbServer()
    yield server
    server.close()


@pytest.mark.parametrize("way", ["gone", "asleep"])
def test_a_server_that_is_lost_stops_nothing_and_gets_all_later(
    way: str, outside: Outside, server: WandbServer
) -> None:
    """It is lost at the first thing that it hears of the run; a server that sleeps answers nothing any more."""
    lost = threading.Event()
    upsert = server.on_UpsertBucket

    def lose(asked: dict[str, Any]) -> dict[str, Any]:
        answer = upsert(asked)
        if not lost.is_set():
            lost.set()
            threading.Timer(0.5, server.close if way == "gone" else partial(setattr, server, "patience", 3600)).start()
        return answer

    server.on_UpsertBucket = lose  # type: ignore[method-assign]
    limits = {"WANDB_FINISH_TIMEOUT": "3", "WANDB_HTTP_TIMEOUT": "2", "WANDB__GRAPHQL_RETRY_MAX": "1"}
    finished = outside.capbench("fit", *WANDB, "--trainer.max_epochs=3", **server.environment(), **limits)
    assert lost.is_set()
    folder = outside.home / "runs" / "tiny"
    assert result(folder)["status"] == "finished"
    told = re.search(r"`(wandb sync --include-online (\S+))`", finished.stderr)
    assert told, finished.stderr
    assert (outside.home / told[2]).is_dir()

    later = WandbServer()
    synced = outside.python("-m", *told[1].split(), **later.environment())
    later.close()
    assert synced.returncode == 0, synced.stderr
    (run,) = later.runs.values()
    assert run.exit_code == 0
    scores = [row["val/cider_d"] for row in rows(folder / "metrics.jsonl")]
    assert len(scores) == 3
    assert run.values("val/cider_d") == pytest.approx(scores)
    assert run.summary["val/cider_d"] == pytest.approx({"max": max(scores), "last": scores[-1]})
    assert run.summary["val/loss"].keys() == {"min", "last"}
    assert len([artifact for artifact in later.artifacts if artifact.type == "run_table" and artifact.committed]) == 3
    assert later.artifact("model").files.keys() == {"best.ckpt", "config.yaml", "vocabulary.txt"}


def test_a_server_that_is_not_there_leaves_the_run_offline(outside: Outside, server: WandbServer) -> None:
    server.close()
    limits = {"WANDB_INIT_TIMEOUT": "2", "WANDB_HTTP_TIMEOUT": "2"}
    finished = outside.capbench("fit", *WANDB, **server.environment(), **limits)
    assert "W&B does not answer" in finished.stderr
    assert result(outside.home / "runs" / "tiny")["status"] == "finished"
    assert len(offline_runs(outside.home)) == 1


KEY = "0123456789" * 4
MODES: dict[str, tuple[dict[str, str], bool, str]] = {
    "no key": ({}, False, "offline"),
    "a key": ({"WANDB_API_KEY": KEY}, False, "online"),
    "a key, but the logger is offline": ({"WANDB_API_KEY": KEY}, True, "offline"),
    "a key, but the mode is disabled": ({"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}, False, "disabled"),
    "no key, but the mode is online": ({"WANDB_MODE": "online"}, False, "online"),
    "a key of wandb login": ({"NETRC": "netrc"}, False, "online"),
}
CONFIGURE = """
import json, os, sys
from pathlib import Path
from jsonargparse import Namespace
from capbench.runs import RunFolder
from capbench.tracking import configure_wandb

for name, (environment, offline, _) in json.loads(sys.argv[1]).items():
    if os.fork():  # each in a process of its own, since wandb asks once
        os.wait()
        continue
    os.environ.update(environment)
    options = Namespace(name=None, save_dir=".", offline=offline)
    configure_wandb(options, RunFolder(Path("runs/tiny")))
    import wandb
    print(json.dumps([name, options.name, options.save_dir, wandb.setup().settings.mode]), flush=True)
    os._exit(0)
"""


def test_a_key_decides_between_online_and_offline(outside: Outside) -> None:
    (outside.home / "netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {KEY}\n")
    (outside.home / "netrc").chmod(0o600)
    finished = outside.python("-c", CONFIGURE, json.dumps(MODES))
    assert finished.returncode == 0, finished.stderr
    folder = os.path.join("runs", "tiny")
    told = [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("[")]
    assert told == [[name, "tiny", folder, mode] for name, (_, _, mode) in MODES.items()]
    assert outside.calls() == ""
