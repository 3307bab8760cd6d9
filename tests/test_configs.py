"""Every file of `configs/`, shrunk to seconds and run as a user runs it."""

import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from capbench.scores import score_captions
from tests.support import CONFIGS, QUICK, QUIET, TINY_ENCODER, make_flickr8k, result, rows, run

SMALL = ("--model.decoder.hidden=12", "--model.decoder.embedding=8", "--model.search.max_words=7")
NAMES = [config.stem for config in CONFIGS]
SCORES = {"bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider_d"}
JAVA = shutil.which("java") is not None


@pytest.fixture(scope="session")
def flickr8k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_flickr8k(tmp_path_factory.mktemp("flickr8k"))


def write_glove(path: Path, size: int) -> Path:
    words = ("a", "box", "the", "red", "n't", "unheard")
    path.write_text("".join(f"{word} {' '.join(['0.25'] * size)}\n" for word in words))
    return path


def shrunk(config: Path, flickr8k: Path) -> list[str]:
    small = [*SMALL, *QUICK, "--data.min_count=1", "--data.num_workers=0"]
    if "glove:" in config.read_text():
        small.append(f"--model.glove={write_glove(flickr8k / 'glove.txt', size=8)}")
    if "class_path: Images" in config.read_text():
        return ["--config", str(config), f"--data.root={flickr8k}", "--data.shares=null", *small]
    return ["--config", str(config), "--data.train=6", "--data.val=3", "--data.test=3", *small]


def test_there_are_configs() -> None:
    assert {"demo", "vgg16_attention", "resnet50_attention", "xception_attention"} <= set(NAMES)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_every_key_says_what_it_means(config: Path) -> None:
    """A key with a value has a comment, or a section around it has one; `class_path` and `init_args` need none."""
    lines = config.read_text().splitlines()
    assert lines[0].startswith("# ")
    told: list[tuple[int, bool]] = []  # indentation of the sections around a line, and whether they are explained
    bare = []
    for line in lines[1:]:
        match = re.fullmatch(r"( *)(\w+): *([^ #][^#]*)?(#.*)?", line)
        assert match, f"not a key: {line!r}"
        told = [section for section in told if section[0] < len(match[1])]
        explained = match[4] is not None or any(explained for _, explained in told)
        if match[3] is None:
            told.append((len(match[1]), explained))
        elif not explained and match[2] != "class_path":
            bare.append(line)
    assert not bare


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_every_config_runs_through_every_command(
    config: Path, flickr8k: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [*shrunk(config, flickr8k), *TINY_ENCODER, "--data.batch_size=4"]
    folder = tmp_path / "runs" / config.stem

    assert run("fit", *options) == 0
    assert f"--ckpt_path {folder.relative_to(tmp_path)}/checkpoints/best.ckpt" in capsys.readouterr().out
    check_fit(folder)
    for command in ("validate", "test", "predict"):
        assert run(command, *options, "--ckpt_path", "best") == 0
    assert "BLEU-4" in capsys.readouterr().out
    check_captions(folder)

    # The resolved configuration is one to start from; so is a run's checkpoint alone.
    assert run("fit", "--config", folder / "config.yaml") == 0
    again = folder.with_name(f"{config.stem}-2")
    assert losses(again) == losses(folder)
    assert settings(again) == settings(folder)
    kept = (folder / "captions.jsonl").read_bytes()
    assert run("test", "--ckpt_path", folder / "checkpoints" / "best.ckpt") == 0
    assert (folder / "captions.jsonl").read_bytes() == kept
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", ".features"}


def losses(folder: Path) -> list[float]:
    return [row["val/loss"] for row in rows(folder / "metrics.jsonl")]


def settings(folder: Path) -> dict[str, Any]:
    settings: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
    settings["checkpoint"].pop("dirpath")
    return settings


def check_fit(folder: Path) -> None:
    files = {"config.yaml", "checkpoints", "metrics.jsonl", "captions.val.jsonl", "result.json"}
    assert {path.name for path in folder.iterdir()} == files
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["capbench"]["vocabulary"]

    (metrics,) = rows(folder / "metrics.jsonl")
    assert (metrics["epoch"], metrics["step"]) == (0, 2)
    assert metrics["val/loss"] > 0
    assert metrics["train/loss"] > 0
    assert {f"val/{score}" for score in SCORES} <= set(metrics)
    assert metrics["train/captions_per_second"] > 0

    facts = result(folder)
    assert facts["status"] == "finished"
    assert facts["seed"] == 0
    assert {"python", "torch", "lightning", "timm", "pycocoevalcap"} == set(facts["versions"])
    assert re.fullmatch("[0-9a-f]{16}", facts["data"]["fingerprint"])
    assert re.fullmatch("[0-9a-f]{16}", facts["encoder"]["weights_hash"])
    assert facts["data"]["images"] == {"train": 6, "val": 3, "test": 3}
    assert facts["encoder"]["shape"][-1] == 96
    assert facts["encoder"]["gmacs"] > 0
    assert facts["encoder"]["parameters"] > 0
    assert facts["decoder"]["parameters"] > 0
    trained = facts["decoder"]["parameters"]
    if facts["glove_coverage"] is not None:
        assert 0.1 < facts["glove_coverage"] < 0.3
        trained -= facts["vocabulary"] * 8
    trained += 0 if facts["encoder"]["init_args"]["frozen"] else facts["encoder"]["parameters"]
    assert facts["trained_parameters"] == trained
    assert (facts["epochs"], facts["steps"]) == (1, 2)
    assert facts["wall_seconds"] > 0
    assert facts["train_captions_per_second"] > 0
    assert facts["peak_memory_mb"] > 0
    assert "git_commit" in facts
    assert facts["scores"]["val"]["images"] == 3
    assert math.isclose(facts["scores"]["val"]["bleu4"], metrics["val/bleu4"], rel_tol=1e-6)


def check_captions(folder: Path) -> None:
    facts = result(folder)
    assert facts["status"] == "finished"
    for split, name in (("test", "captions.jsonl"), ("val", "captions.val.jsonl")):
        lines = rows(folder / name)
        assert len(lines) == 3
        assert all(len(line["references"]) == 5 for line in lines)
        assert all(set(line["scores"]) == (SCORES | {"meteor"} if JAVA else SCORES) for line in lines)
        assert set(facts["scores"][split]["missing"]) == (set() if JAVA else {"meteor"})
        captions = {line["image_id"]: line["caption"] for line in lines}
        rescored = score_captions(captions, {line["image_id"]: line["references"] for line in lines}, JAVA)
        for score, value in rescored.corpus.items():
            assert math.isclose(facts["scores"][split][score], value, abs_tol=1e-12), score
        assert rescored.per_image == {line["image_id"]: line["scores"] for line in lines}
        assert facts["scores"][split]["search"] == settings(folder)["model"]["search"]
    tested = {line["image_id"]: line["caption"] for line in rows(folder / "captions.jsonl")}
    assert {line["image_id"]: line["caption"] for line in rows(folder / "predictions.jsonl")} == tested


def test_without_validation_every_epoch_is_trained_and_the_last_one_counts(
    flickr8k: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `vgg16_fc2_merge_add` has it: 90/10, and nothing to choose by."""
    monkeypatch.chdir(tmp_path)
    config = CONFIGS[NAMES.index("vgg16_fc2_merge_add")]
    options = [*shrunk(config, flickr8k), "--data.shares=[0.9, 0.1]", *TINY_ENCODER, "--trainer.max_epochs=2"]
    assert run("fit", *options) == 0
    told = capsys.readouterr()
    assert "no validation images" in told.out
    assert "--ckpt_path runs/vgg16_fc2_merge_add/checkpoints/last.ckpt" in told.out
    assert "val/bleu4" not in told.err
    folder = tmp_path / "runs" / config.stem
    assert result(folder)["data"]["images"] == {"train": 11, "val": 0, "test": 1}
    assert (result(folder)["status"], result(folder)["epochs"]) == ("finished", 2)
    assert [row["epoch"] for row in rows(folder / "metrics.jsonl")] == [0, 1]
    assert all(row["train/loss"] > 0 for row in rows(folder / "metrics.jsonl"))
    assert [file.name for file in (folder / "checkpoints").iterdir()] == ["last.ckpt"]
    assert run("test", *options, "--ckpt_path=best") == 2
    assert "--ckpt_path last is there" in capsys.readouterr().err
    assert run("test", *options, "--ckpt_path=last") == 0
    assert len(rows(folder / "captions.jsonl")) == 1


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("vgg16_attention", [7, 7, 512]),
        ("vgg16_fc2_merge_add", [1, 1, 4096]),
        ("resnet50_attention", [7, 7, 2048]),
        ("resnet50_glove_attention", [7, 7, 2048]),
        ("xception_inject", [1, 1, 2048]),
        ("xception_merge", [1, 1, 2048]),
        ("xception_attention", [10, 10, 2048]),
    ],
)
def test_the_literatures_encoders_run_whole(
    name: str, shape: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real architecture on random weights; only the number of images and the decoder are small."""
    monkeypatch.chdir(tmp_path)
    root = make_flickr8k(tmp_path / "data", train=2, val=1, test=1)
    options = [*shrunk(CONFIGS[NAMES.index(name)], root), "--model.encoder.pretrained=false", "--data.batch_size=2"]
    assert run("fit", *options) == 0
    folder = tmp_path / "runs" / name
    assert result(folder)["encoder"]["shape"] == shape
    assert result(folder)["steps"] == 1
    assert run("test", *QUIET, "--ckpt_path", folder / "checkpoints" / "best.ckpt") == 0
    assert len(rows(folder / "captions.jsonl")) == 1
    shutil.rmtree(folder / "checkpoints")  # up to half a gigabyte
