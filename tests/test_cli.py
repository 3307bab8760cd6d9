"""fit, validate, test and predict on the command line: what is taken, what is refused, what a run leaves."""

import errno
import inspect
import json
import math
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Optional, Union

import lightning.pytorch as L
import pytest
import timm
import torch

from capbench.captioner import Captioner
from capbench.scores import Scorer
from capbench.scores.diversity import NAMES as DIVERSITY
from capbench.search import Found
from capbench.text import Vocabulary
from tests.support import (
    QUICK,
    QUIET,
    ROOT,
    TINY,
    TINY_ENCODER,
    TINY_MERGE,
    TINY_SHAPES,
    make_flickr8k,
    make_picture,
    result,
    rows,
    run,
)

OF_THE_CLOCK = ("seconds", "train/captions_per_second")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run `tiny` was trained for an epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("trained"))
        assert run("fit", *TINY, "--model.decoder.join=add", "--name=tiny") == 0
        return Path.cwd()


@pytest.fixture
def run_folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run, in a copy of that folder, which is the current one."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / "tiny"


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def metrics(folder: Path) -> list[dict[str, Any]]:
    """What a run measured, but for what the clock says."""
    return [
        {name: value for name, value in row.items() if name not in OF_THE_CLOCK}
        for row in rows(folder / "metrics.jsonl")
    ]


def assert_one_sentence(capsys: pytest.CaptureFixture[str], *words: str) -> None:
    """On stderr there is one line, ours, with these words."""
    error = capsys.readouterr().err
    assert error.startswith("capbench: ")
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    for word in words:
        assert word in error


# Parts by name


def test_parts_are_named_by_class_name_alone(trained: Path) -> None:
    facts = result(trained / "runs" / "tiny")
    assert facts["status"] == "finished"
    assert facts["decoder"]["class_path"].endswith(".Merge")
    sizes = {"hidden": 8, "embedding": 8, "layers": 1, "dropout": 0.5}
    assert facts["decoder"]["init_args"] == {"join": "add", "deep": None, **sizes}
    assert facts["encoder"]["class_path"].endswith(".TimmEncoder")
    assert facts["data"]["source"] == "Shapes"


@pytest.mark.parametrize("decoder", ["InitInject", "PreInject", "ParInject", "Attention"])
def test_every_decoder_goes_with_every_source(decoder: str, empty_folder: Path) -> None:
    flickr8k = make_flickr8k(empty_folder / "data", train=2, val=1, test=1)
    for data in (TINY_SHAPES, ("--data=Images", f"--data.root={flickr8k}", "--data.min_count=1")):
        options = (*data, *TINY_ENCODER, *QUICK, f"--model.decoder={decoder}", "--model.decoder.hidden=8")
        assert run("fit", *options, "--data.num_workers=0") == 0
    names = [empty_folder / "runs" / name for name in (decoder.lower(), f"{decoder.lower()}-2")]
    assert [result(folder)["status"] for folder in names] == ["finished", "finished"]
    sources = [result(folder)["data"]["source"] for folder in names]
    assert sources == ["Shapes", f"Flickr8k's original text ({flickr8k / 'Flickr8k_text' / 'Flickr8k.token.txt'})"]


def test_mixed_precision_is_lightnings_flag(empty_folder: Path) -> None:
    assert run("fit", *TINY, "--trainer.precision=bf16-mixed", "--trainer.gradient_clip_val=1", "--name=half") == 0
    folder = empty_folder / "runs" / "half"
    assert result(folder)["precision"] == "bf16-mixed"
    checkpoint = f"--ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"
    assert run("test", *QUIET, checkpoint, "--trainer.precision=bf16-mixed", "--likelihood.images=3") == 0
    assert result(folder)["scores"]["test"]["figures"]["perplexity"] > 1


def test_what_likelihoods_are_about_is_said(run_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """And no bar is shown where none is asked for, nor old scores where nothing was captioned."""
    checkpoint = f"--ckpt_path={run_folder / 'checkpoints' / 'last.ckpt'}"
    assert run("test", *QUIET, checkpoint, "--likelihood.images=1000") == 0
    figures = result(run_folder)["scores"]["test"]["figures"]
    assert (figures["likelihood_references"], figures["retrieval_images"]) == (3, 3)
    told = capfd.readouterr()
    lines = told.out.splitlines()
    [place] = [place for place, line in enumerate(lines) if line.endswith("median rank  among images")]
    assert lines[place + 1].split()[-1] == "3"
    assert "likelihoods" not in told.err
    before = result(run_folder)
    assert run("test", *QUIET, checkpoint, "--trainer.limit_test_batches=0") == 0
    told = capfd.readouterr()
    assert "No image was captioned, by --trainer.limit_test_batches: " in told.out
    assert "BLEU" not in told.out
    assert result(run_folder) == before
    assert run("predict", *QUIET, checkpoint, "--trainer.limit_predict_batches=0") == 0
    assert "No image was captioned, by --trainer.limit_predict_batches: " in capfd.readouterr().out


@pytest.mark.parametrize("place", ["occupied", "occupied/below"])
def test_a_folder_that_cannot_be_made_is_named(
    place: str, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("occupied").touch()
    assert run("fit", *TINY, f"--runs={place}", "--name=x") == 2
    assert_one_sentence(capsys, f"{place}/x/result.json cannot be written (a file is where its folder would be)")


def test_an_error_that_is_no_fault_of_the_machine_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), OSError("a bug"), TypeError()):
        monkeypatch.setattr("capbench.commands.data.main", partial(throw, error))
        with pytest.raises(type(error)):
            run("data")


def test_the_hub_is_quiet_even_where_it_is_imported_later() -> None:
    code = "from capbench.quiet import be_quiet; be_quiet(); import huggingface_hub.utils as utils; "
    code += "assert utils.logging.get_verbosity() == utils.logging.ERROR"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def throw(error: Exception, _: list[str]) -> None:
    raise error


def test_a_test_says_how_varied_and_how_likely(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = run_folder / "checkpoints" / "last.ckpt"
    figures = {}
    for command, split in (("test", "test"), ("validate", "val")):
        assert run(command, *QUIET, f"--ckpt_path={checkpoint}", "--likelihood.references=null") == 0
        figures[split] = result(run_folder)["scores"][split]["figures"]
        measured = {"perplexity", "perplexity_geometric", "unknown_words", "likelihood_references"}
        assert set(figures[split]) == {*DIVERSITY, *measured}
        told = capsys.readouterr().out
        assert f"{figures[split]['perplexity']:.4f}" in told
        assert "R@1" not in told
    log_perplexity = metrics(run_folder)[-1]["val/loss"]
    assert figures["val"]["perplexity"] == pytest.approx(math.exp(log_perplexity), rel=1e-4)


# Mistakes


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("--model.optimiser=adam", ["--model.optimiser", "did you mean model.optimizer?"]),
        ("--model.decoder.hiden=9", ["'hiden'", "did you mean hidden?"]),
        ("--model.encoder.frozn=true", ["'frozn'", "did you mean frozen?"]),
        ("--data.trian=9", ["'trian'", "did you mean train?"]),
        ("--trainer.max_epoch=3", ["--trainer.max_epoch", "did you mean trainer.max_epochs?"]),
        ("--trainer.gradient_clip=3", ["--trainer.gradient_clip", "trainer.gradient_clip_val"]),
        ("--erly_stopping.patience=3", ["did you mean early_stopping.patience?"]),
        ("--model.decoder=Mrge", ["Mrge", "did you mean Merge?"]),
        ("--model.encoder=TimEncoder", ["TimEncoder", "did you mean TimmEncoder?"]),
        ("--data=Shape", ["Shape", "did you mean Shapes?"]),
        ("--data=Unheard", ["Unheard"]),
        ("--model.lr=fast", ["model.lr", "fast", "float"]),
        ("--model.fit_beam=1.5", ["model.fit_beam", "1.5", "int"]),
        ("--model.decoder.hidden=big", ["hidden", "big", "int"]),
        ("--model.schedule=cosin", ["model.schedule", "cosin", "cosine"]),
        ("--model.decoder.join=minus", ["join", "minus", "multiply"]),
        ("--trainer.precision=bf17", ["trainer.precision", "bf16"]),
        ("--seed_everything=abc", ["seed_everything", "int"]),
        ("--model.search.beam=0", ["beam", "at least 1"]),
        ("--config=nowhere.yaml", ["nowhere.yaml", "does not exist"]),
        ("astray", ["astray"]),
    ],
)
def test_a_wrong_option_is_one_sentence(
    wrong: str, words: list[str], empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", *TINY, wrong) == 2
    assert_one_sentence(capsys, *words)
    assert not list(empty_folder.iterdir())


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        ("  optimizer: adam", "  optimiser: adam", ["model.optimiser", "did you mean model.optimizer?"]),
        ("      hidden: 128", "      hiden: 128", ["'hiden'", "did you mean hidden?"]),
        ("    train: 3000", "    trian: 3000", ["'trian'", "did you mean train?"]),
        ("  max_epochs: 4", "  max_epoch: 4", ["trainer.max_epoch", "did you mean trainer.max_epochs?"]),
        ("class_path: Attention", "class_path: Atention", ["Atention", "did you mean Attention?"]),
        ("  lr: 0.002", "  lr: quick", ["lr", "quick", "float"]),
        ("data:\n", "data\n", ["config"]),
    ],
)
def test_a_wrong_key_in_a_config_is_one_sentence(
    right: str, wrong: str, words: list[str], empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "configs" / "demo.yaml").read_text()
    assert right in text
    config = empty_folder / "wrong.yaml"
    config.write_text(text.replace(right, wrong))
    assert run("fit", "--config", config, *QUICK) == 2
    assert_one_sentence(capsys, *words)
    assert list(empty_folder.iterdir()) == [config]


def test_an_encoder_that_timm_does_not_have(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", *TINY, "--model.encoder.name=resnet5O") == 2
    assert_one_sentence(capsys, "resnet5O", "nearest: resnet5")


def test_a_folder_without_flickr8k(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (empty_folder / "holiday.jpg").touch()
    assert run("fit", "--data=Images", f"--data.root={empty_folder}", *TINY_ENCODER, *QUICK) == 2
    assert_one_sentence(capsys, "Flickr8k.token.txt", "holiday.jpg", "--data.root")


def test_commands_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert "usage: python -m capbench COMMAND" in capsys.readouterr().out
    assert run("--help") == 0
    told = capsys.readouterr().out
    assert all(f"\n  {command} " in told for command in ("fit", "validate", "test", "predict", "caption"))
    assert run("--version") == 0
    assert re.fullmatch(r"capbench \d+\.\d+\.\d+\n", capsys.readouterr().out)
    assert run("tset") == 2
    assert_one_sentence(capsys, "'tset'", "test", "caption")


# Checkpoints


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_nothing_is_scored_with_random_weights(
    command: str, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run_folder.parent.rglob("*"))
    assert run(command, *TINY, "--name=tiny") == 2
    assert_one_sentence(capsys, f"{command} needs a trained model", "--ckpt_path best", "'tiny'")
    assert sorted(run_folder.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("best", ["no run 'other'", "--ckpt_path", "--name"]),
        ("last", ["no run 'other'"]),
        ("nowhere.ckpt", ["There is no checkpoint nowhere.ckpt"]),
        ("truncated.ckpt", ["truncated.ckpt", "damaged"]),
        ("text.ckpt", ["text.ckpt", "damaged or something else"]),
        ("foreign.ckpt", ["foreign.ckpt", "something else than capbench's"]),
    ],
)
def test_a_checkpoint_that_is_none(
    asked: str, words: list[str], run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = run_folder / "checkpoints" / "best.ckpt"
    Path("truncated.ckpt").write_bytes(best.read_bytes()[: best.stat().st_size // 2])
    Path("text.ckpt").write_text("not a checkpoint")
    torch.save({"state_dict": {"weight": torch.ones(2)}}, "foreign.ckpt")
    for command in ("fit", "test"):
        assert run(command, *TINY, "--name=other", "--ckpt_path", asked) == 2
        assert_one_sentence(capsys, *words)
    if asked.endswith(".ckpt"):
        assert run("caption", "--checkpoint", asked, best) == 2
        assert_one_sentence(capsys, *words)
    assert sorted(path.name for path in run_folder.parent.iterdir()) == ["tiny"]


def test_a_checkpoint_of_another_decoder(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("test", "fit"):
        assert run(command, *TINY, "--model.decoder=InitInject", "--name=tiny", "--ckpt_path=best") == 2
        assert_one_sentence(capsys, "holds the decoder Merge", "names InitInject")


def test_a_checkpoint_brings_its_own_decoder_options(run_folder: Path) -> None:
    other = ("--model.decoder.hidden=16", "--model.decoder.join=concat", "--model.encoder.image_size=32")
    assert run("test", *TINY, *other, "--name=tiny", "--ckpt_path=best") == 0
    told = (run_folder / "captions.jsonl").read_bytes()
    assert run("test", "--ckpt_path", run_folder / "checkpoints" / "best.ckpt") == 0
    assert (run_folder / "captions.jsonl").read_bytes() == told


def test_a_checkpoint_brings_its_own_vocabulary(run_folder: Path) -> None:
    """Images of another source are told in the words that the run was trained on."""
    flickr8k = make_flickr8k(run_folder.parent.parent / "data", train=2, val=1, test=2)
    options = ("--data=Images", f"--data.root={flickr8k}", "--data.min_count=1", "--data.num_workers=0")
    assert run("test", *TINY_MERGE, *options, *QUIET, "--name=tiny", "--ckpt_path=best") == 0
    checkpoint = torch.load(run_folder / "checkpoints" / "best.ckpt", weights_only=True)
    told = rows(run_folder / "captions.jsonl")
    assert len(told) == 2
    assert {word for row in told for word in row["caption"].split()} <= set(checkpoint["capbench"]["vocabulary"])


def test_best_and_last_are_the_latest_runs(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", *TINY, "--name=tiny", "--trainer.max_epochs=2", "--model.lr=0.1") == 0
    latest = run_folder.with_name("tiny-2")
    (latest / "checkpoints" / "best.ckpt").write_bytes(b"")
    assert run("predict", *TINY, "--name=tiny", "--ckpt_path=last") == 0
    assert (latest / "predictions.jsonl").exists()
    assert not (run_folder / "predictions.jsonl").exists()
    capsys.readouterr()
    assert run("predict", *TINY, "--name=tiny", "--ckpt_path=best") == 2
    assert_one_sentence(capsys, "tiny-2/checkpoints/best.ckpt")


def test_predict_captions_the_split_that_is_asked_for(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, count in (("train", 8), ("val", 4)):
        assert run("predict", *TINY, "--name=tiny", "--ckpt_path=best", f"--data.predict_split={split}") == 0
        assert len(rows(run_folder / "predictions.jsonl")) == count
    assert run("predict", *TINY, "--name=tiny", "--ckpt_path=best", "--data.predict_split=tset") == 2
    assert "no image in the split 'tset'" in capsys.readouterr().err


def test_a_checkpoint_holds_plain_data_and_tensors(trained: Path) -> None:
    for name in ("best", "last"):
        checkpoint = torch.load(trained / "runs" / "tiny" / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert {"state_dict", "hyper_parameters", "capbench", "optimizer_states"} <= set(checkpoint)
        assert checkpoint["hyper_parameters"]["decoder"]["init_args"]["join"] == "add"
        json.dumps([checkpoint["hyper_parameters"], checkpoint["capbench"]])


# One run after another


def test_fit_goes_on_where_it_ended(run_folder: Path) -> None:
    first = metrics(run_folder)
    assert [row["epoch"] for row in first] == [0]
    assert run("fit", *TINY, "--name=tiny", "--trainer.max_epochs=2", "--ckpt_path=last") == 0
    both = metrics(run_folder)
    assert both[:1] == first
    assert [(row["epoch"], row["step"]) for row in both] == [(0, 2), (1, 4)]
    assert result(run_folder)["status"] == "finished"
    assert (result(run_folder)["epochs"], result(run_folder)["steps"]) == (2, 4)
    checkpoint = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert (checkpoint["epoch"], checkpoint["global_step"]) == (1, 4)
    moments = checkpoint["optimizer_states"][0]["state"].values()
    assert {int(moment["step"]) for moment in moments} == {4}  # Adam did not start again
    assert [folder.name for folder in run_folder.parent.iterdir()] == ["tiny"]


def test_fit_goes_on_after_the_checkpoint_was_validated(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`validate` writes its own scores of the validation split into the result."""
    assert run("validate", *TINY, "--name=tiny", "--ckpt_path=best") == 0
    assert run("fit", *TINY, "--name=tiny", "--ckpt_path=last") == 0  # nothing left to do
    assert run("fit", *TINY, "--name=tiny", "--trainer.max_epochs=2", "--ckpt_path=last") == 0
    assert "Best validation (epoch 1, 4 images)" in capsys.readouterr().out


def test_the_seed_decides(empty_folder: Path) -> None:
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        assert run("fit", *TINY, "--name", name, "--seed_everything", seed, "--trainer.max_epochs=2") == 0
        assert run("test", *TINY, "--name", name, "--ckpt_path=best") == 0
    one, same, other = (empty_folder / "runs" / name for name in ("one", "same", "other"))
    assert metrics(one) == metrics(same) != metrics(other)
    assert rows(one / "captions.jsonl") == rows(same / "captions.jsonl")
    assert [row["image_id"] for row in rows(one / "captions.jsonl")] == [
        row["image_id"] for row in rows(other / "captions.jsonl")
    ]
    assert result(one)["encoder"]["weights_hash"] == result(same)["encoder"]["weights_hash"]
    assert [result(folder)["seed"] for folder in (one, same, other)] == [1, 1, 2]


def test_the_seed_decides_whether_the_features_are_stored_or_not(empty_folder: Path) -> None:
    """A run that encodes the images first draws the same numbers as one that finds their features."""
    for name in ("first", "second"):
        assert run("fit", *TINY, "--name", name) == 0
    assert len(list((empty_folder / ".features").iterdir())) == 2  # train and val, once
    assert metrics(empty_folder / "runs" / "first") == metrics(empty_folder / "runs" / "second")


def test_a_second_run_has_its_own_folder(run_folder: Path) -> None:
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    assert run("fit", *TINY, "--name=tiny", "--model.lr=0.01") == 0
    second = run_folder.with_name("tiny-2")
    assert result(second)["status"] == "finished"
    assert metrics(second) != metrics(run_folder)
    assert {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()} == before


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Lightning leaves SIGINT ignored after an interrupt, since its process ends."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("interrupts")
def test_a_run_that_is_interrupted_is_stopped_and_goes_on(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Captioner.training_step

    def interrupted(self: Captioner, batch: Any, batch_idx: int) -> Any:
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    options = (*TINY, "--name=tiny", "--trainer.max_epochs=3")
    with monkeypatch.context() as patch:
        patch.setattr(Captioner, "training_step", interrupted)
        try:
            status = run("fit", *options)
        except SystemExit as end:  # Lightning's own end after an interrupt
            status = int(end.code or 0)
    assert status != 0
    folder = empty_folder / "runs" / "tiny"
    assert result(folder)["status"] == "stopped"
    assert not result(folder).get("error")
    assert len(metrics(folder)) == 1

    assert run("fit", *options, "--ckpt_path=last") == 0
    assert result(folder)["status"] == "finished"
    assert [row["epoch"] for row in metrics(folder)] == [0, 1, 2]


def test_a_run_that_fails_says_so(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Captioner, batch: Any, batch_idx: int) -> Any:
        raise ZeroDivisionError("one too many")

    monkeypatch.setattr(Captioner, "training_step", failing)
    with pytest.raises(ZeroDivisionError):
        run("fit", *TINY, "--name=tiny")
    facts = result(empty_folder / "runs" / "tiny")
    assert facts["status"] == "failed"
    assert "ZeroDivisionError" in facts["error"]
    assert "one too many" in facts["error"]


def test_the_best_checkpoint_and_the_end_follow_the_generated_captions(
    empty_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss goes on falling; what counts is BLEU-4 of captions that the search found."""
    planned = iter([0.1, 0.3, 0.2, 0.25, 0.9])
    searched: list[str] = []
    score, words = Scorer.__call__, Found.words

    def planned_score(self: Scorer, captions: Any) -> Any:
        assert set(captions.values()) <= set(searched)
        scores = score(self, captions)
        return replace(scores, corpus=scores.corpus | {"bleu4": next(planned)})

    def remember(self: Found, vocabulary: Vocabulary) -> Any:
        captions = words(self, vocabulary)
        searched.extend(caption for image in captions for caption in image)
        return captions

    monkeypatch.setattr(Scorer, "__call__", planned_score)
    monkeypatch.setattr(Found, "words", remember)
    options = ("--name=tiny", "--trainer.max_epochs=9", "--early_stopping.patience=2", "--model.lr=0.0001")
    assert run("fit", *TINY, *options) == 0
    folder = empty_folder / "runs" / "tiny"
    assert [row["epoch"] for row in metrics(folder)] == [0, 1, 2, 3]
    losses = [row["val/loss"] for row in metrics(folder)]
    assert losses == sorted(losses, reverse=True)
    for name, epoch in (("best", 1), ("last", 3)):
        assert torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["epoch"] == epoch
    assert result(folder)["scores"]["val"]["epoch"] == 1
    assert result(folder)["scores"]["val"]["bleu4"] == 0.3


# The encoder


@pytest.fixture(scope="module")
def with_local_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `local-dir:` encoder and a run whose frozen encoder went along in every epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("encoder"))
        make_local_encoder(Path("weights"))
        options = ("--model.encoder.name=local-dir:weights", "--model.encoder.pretrained=true")
        assert run("fit", *TINY, *options, "--data.feature_store=null", "--name=tiny", "--trainer.max_epochs=2") == 0
        return Path.cwd()


def make_local_encoder(folder: Path) -> None:
    torch.manual_seed(7)
    model = timm.create_model("test_resnet", num_classes=0)
    for name, tensor in model.state_dict().items():
        if "running" in name:
            tensor.uniform_(0.5, 1.5)
    folder.mkdir()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    config = {"input_size": [3, 64, 64], "crop_pct": 1.0, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2]}
    content = {"architecture": "test_resnet", "num_classes": 0, "num_features": 96, "pretrained_cfg": config}
    (folder / "config.json").write_text(json.dumps(content))


def encoder_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    return {
        name.removeprefix("encoder.model."): tensor for name, tensor in state.items() if name.startswith("encoder.")
    }


def test_a_frozen_encoder_is_left_as_it_was(with_local_encoder: Path) -> None:
    """Weights and BatchNorm statistics, bit by bit, after two epochs of training with it."""
    original = torch.load(with_local_encoder / "weights" / "pytorch_model.bin", weights_only=True)
    kept = encoder_weights(with_local_encoder / "runs" / "tiny" / "checkpoints" / "last.ckpt")
    assert sum("running_mean" in name for name in kept) > 10
    assert kept.keys() == original.keys()
    assert [name for name, tensor in kept.items() if not tensor.equal(original[name])] == []


def test_an_encoder_that_is_not_frozen_learns(empty_folder: Path) -> None:
    make_local_encoder(Path("weights"))
    options = ("--model.encoder.name=local-dir:weights", "--model.encoder.pretrained=true")
    assert run("fit", *TINY, *options, "--model.encoder.frozen=false", "--name=tiny") == 0
    original = torch.load("weights/pytorch_model.bin", weights_only=True)
    kept = encoder_weights(empty_folder / "runs" / "tiny" / "checkpoints" / "last.ckpt")
    moved = [name for name, tensor in kept.items() if not tensor.equal(original[name])]
    assert any("running_mean" in name for name in moved)
    assert any("conv" in name for name in moved)
    assert not list(empty_folder.glob(".features/*"))


def test_a_checkpoint_alone_captions_the_same_elsewhere(
    with_local_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the encoder's folder, the run's and the data."""
    shutil.copytree(with_local_encoder, tmp_path / "here")
    picture = tmp_path / "picture.png"
    make_picture(3, (50, 40))[0].save(picture)
    monkeypatch.chdir(tmp_path / "here")
    capsys.readouterr()
    assert run("caption", picture, "--checkpoint=runs/tiny/checkpoints/best.ckpt", "--json") == 0
    here = capsys.readouterr().out

    (tmp_path / "there").mkdir()
    shutil.move(tmp_path / "here" / "runs" / "tiny" / "checkpoints" / "best.ckpt", tmp_path / "there" / "model.ckpt")
    monkeypatch.chdir(tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    assert run("caption", picture, "--checkpoint=model.ckpt", "--json") == 0
    assert capsys.readouterr().out == here
    assert json.loads(here)["captions"][0]["caption"]

    # The command line names the data; encoder and decoder come with the file, though their folder is gone.
    options = ("--model.encoder.name=local-dir:weights", "--name=moved", "--ckpt_path=model.ckpt")
    assert run("test", *TINY_SHAPES, *QUIET, *options, *TINY_MERGE) == 0
    assert len(rows(Path("runs/moved/captions.jsonl"))) == 3


# Help, and how light it is


@pytest.mark.parametrize(
    "code",
    [
        "import capbench",
        "import capbench.__main__",
        "from capbench.__main__ import main; main(['--help'])",
        "from capbench.__main__ import main; main(['--version'])",
        "from capbench.__main__ import main; main(['nothing'])",
        "import capbench.commands.caption",
    ],
)
def test_what_needs_no_torch_does_not_import_it(code: str) -> None:
    heavy = "{'torch', 'lightning', 'timm', 'numpy', 'wandb', 'jsonargparse', 'PIL', 'pycocoevalcap'}"
    code = f"import sys; sys.stderr = sys.stdout; {code}; assert not {heavy} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def test_fit_help_explains_every_option_of_the_captioner(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as end:
        run("fit", "--help")
    assert end.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    documentation = inspect.cleandoc(Captioner.__doc__ or "").partition("Args:\n")[2]
    explained = dict(re.findall(r"^ {4}(\w+): ((?:.+|\n {5,})+)", documentation, re.MULTILINE))
    options = set(inspect.signature(Captioner).parameters)
    assert explained.keys() == options
    for option in options - {"search"}:
        assert f"--model.{option} " in told
        assert " ".join(explained[option].split()).rstrip(".") in told
    for option in ("beam", "max_words", "length_penalty"):
        assert f"--model.search.{option} " in told
    for option in ("--data", "--name", "--runs", "--ckpt_path", "--seed_everything", "--early_stopping.patience"):
        assert f" {option} " in told


def test_a_data_sources_options_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run("fit", "--data.help=Images")
    assert end.value.code == 0
    told = capsys.readouterr().out
    for option in ("root", "max_missing", "batch_size", "fit_val_images", "feature_store", "min_count"):
        assert f"--data.{option} " in told


# What types and names hide


def test_one_batch_is_one_batch(empty_folder: Path) -> None:
    """`typing` may hand the Trainer's `int | float` over as `float | int`, by which 1 would be 1.0, all of them."""
    for order in (Optional[Union[float, int]], Optional[Union[int, float]]):  # noqa: UP007, UP045 - the cached forms
        L.Trainer.__init__.__wrapped__.__annotations__["limit_train_batches"] = order
        assert run("fit", *TINY, "--trainer.limit_train_batches=1", "--name=short") == 0
    assert [result(folder)["steps"] for folder in sorted((empty_folder / "runs").iterdir())] == [1, 1]


@pytest.mark.parametrize("option", ["data.batch_size=0", "data.fit_val_images=0", "model.decoder.hidden=0"])
def test_sizes_below_one_are_refused(option: str, empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", *TINY, f"--{option}") == 2
    assert_one_sentence(capsys, option.rpartition(".")[2].removesuffix("=0"), "at least 1")


def test_a_run_that_came_to_nothing_leaves_its_name(empty_folder: Path) -> None:
    assert run("fit", *TINY, "--name=again", "--model.encoder.name=resnet5") == 2
    assert result(empty_folder / "runs" / "again")["status"] == "failed"
    assert run("fit", *TINY, "--name=again") == 0
    assert result(empty_folder / "runs" / "again")["status"] == "finished"
    assert [folder.name for folder in (empty_folder / "runs").iterdir()] == ["again"]


def test_scores_on_other_data_say_so(run_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint = run_folder / "checkpoints" / "best.ckpt"
    assert run("test", f"--ckpt_path={checkpoint}") == 0
    assert "other images" not in capfd.readouterr().err
    same = result(run_folder)["scores"]["test"]["data"]
    assert same == {"source": "Shapes", "fingerprint": result(run_folder)["data"]["fingerprint"]}
    with pytest.warns(UserWarning, match="other images, captions or splits than .* was trained on"):
        assert run("test", f"--ckpt_path={checkpoint}", "--data.seed=7") == 0
    assert result(run_folder)["scores"]["test"]["data"] != same


def test_a_reader_that_has_read_enough(tmp_path: Path) -> None:
    flickr8k = make_flickr8k(tmp_path / "flickr8k")
    command = shlex.join(
        [sys.executable, "-m", "capbench", "data", f"--root={flickr8k}", f"--sheet={tmp_path / 's.png'}"]
    )
    done = subprocess.run(f"{command} | head -1", shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("Source: Flickr8k's original text")
    assert "Traceback" not in done.stderr
