"""Two processes, started by Lightning itself and joined by gloo, against one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from capbench.scores.generated import GeneratedCaptions
from tests.support import QUIET, TINY, result

TWO = ("--trainer.devices=2", "--trainer.strategy=ddp")


def capbench(folder: Path, *arguments: str) -> str:
    """What a command prints, run as a user runs it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "capbench", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_one_and_two_processes_give_the_same_captions_and_scores(tmp_path: Path) -> None:
    """Five test images: the second process gets one of them twice, to fill its last batch."""
    options = [*TINY, "--data.test=5", "--data.eval_batch_size=2", "--name=tiny", "--trainer.max_epochs=2"]
    told = capbench(tmp_path, "fit", *options, *TWO, "--model.finetune_from=1")
    assert told.count("Run runs/tiny") == 1
    folder = tmp_path / "runs" / "tiny"
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    facts = result(folder)
    assert facts["devices"] == "2 x cpu"
    assert (facts["status"], facts["steps"]) == ("finished", 2)  # eight images in batches of four: one for each process
    assert facts["scores"]["val"]["images"] == 4

    left = {}
    for devices in ((), TWO):
        checkpoint = "--ckpt_path=runs/tiny/checkpoints/last.ckpt"
        capbench(tmp_path, "test", *QUIET, *devices, checkpoint, "--likelihood.images=5")
        captions = (folder / "captions.jsonl").read_bytes()
        assert len(captions.splitlines()) == 5
        left[devices] = (captions, json.dumps(result(folder)["scores"]["test"]))
    assert left[()] == left[TWO]
    assert 1 <= result(folder)["scores"]["test"]["figures"]["median_rank"] <= 5


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
