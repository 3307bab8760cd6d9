"""Processes joined by gloo: what they gather, and which of them speaks."""

import json
import os
import socket
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from capbench import processes
from capbench.scores.generated import GeneratedCaptions


def gather(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=3)
    captions = GeneratedCaptions()
    if rank == 0:
        captions.update(["a", "b"], ["a dog \u2028 <unk>", ""])
        captions.update(["c"], ["two\ndogs"])
    if rank == 2:
        captions.update(["b", "é"], ["", "ein Hund 🐕"])
    (folder / f"{rank}.json").write_text(json.dumps(captions.compute()))
    captions.reset()
    captions.update([f"again {rank}"], ["a dog"])
    (folder / f"{rank} again.json").write_text(json.dumps(captions.compute()))
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*compute.*method of metric GeneratedCaptions:UserWarning")
def test_captions_of_all_processes_are_gathered_whatever_they_are(tmp_path: Path) -> None:
    """One process has no image, two have the same."""
    mp.spawn(gather, (tmp_path,), nprocs=3)  # type: ignore[no-untyped-call]
    expected = {"a": "a dog \u2028 <unk>", "b": "", "c": "two\ndogs", "é": "ein Hund 🐕"}
    for rank in range(3):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == expected
        again = json.loads((tmp_path / f"{rank} again.json").read_text())
        assert again == {f"again {other}": "a dog" for other in range(3)}


CASES: list[tuple[tuple[int, ...], str]] = [((0, 1, 2), "0"), ((1, 2), "12"), ((2,), "2"), ((1, 2), "")]
"""Which of three processes fail, and who may tell: the first if it fails, or any other; none where it is gone."""


def in_group(rank: int, folder: Path) -> None:
    """One of three processes, case after case."""
    os.environ["LOCAL_RANK"], processes.GRACE = str(rank), 1
    for case, (failing, tellers) in enumerate(CASES):
        port = (folder / "ports").read_text().split()[case]
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=3)
        dist.barrier()
        if rank == 0 and not tellers:
            os._exit(0)
        processes.tells.cache_clear()
        try:
            with processes.one_voice():
                if rank in failing:
                    raise KeyError(rank)
        except KeyError:
            (folder / f"{case}-told-{rank}").touch()
        except SystemExit as end:
            (folder / f"{case}-silent-{rank}-{end.code}").touch()
        if tellers:
            dist.barrier()
            dist.destroy_process_group()


def test_one_process_tells(tmp_path: Path) -> None:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in CASES]
    (tmp_path / "ports").write_text(" ".join(str(each.getsockname()[1]) for each in sockets))
    for each in sockets:
        each.close()
    mp.spawn(in_group, (tmp_path,), nprocs=3)  # type: ignore[no-untyped-call]
    for case, (failing, tellers) in enumerate(CASES):
        told = [path.name[-1] for path in tmp_path.glob(f"{case}-told-*")]
        assert len(told) == bool(tellers)
        assert set(told) <= set(tellers)
        assert len(list(tmp_path.glob(f"{case}-silent-*-1"))) == len(failing) - len(told)
