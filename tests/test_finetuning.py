"""A frozen encoder that learns from an epoch on."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor, nn

from capbench.captioner import Batch, Captioner
from capbench.data import Shapes
from capbench.decoders import Attention
from capbench.encoder import TimmEncoder
from capbench.errors import UserError
from capbench.text import Vocabulary
from tests.support import TINY, result, run

EPOCHS, FIRST = 4, 2


class Watched(Captioner):
    """Keeps what each epoch's batches were, and the encoder's state before each epoch and at the end."""

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.states: list[dict[str, Tensor]] = [*getattr(self, "states", []), state_of(self.encoder)]
        self.batches: list[list[Batch]] = [*getattr(self, "batches", []), []]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.batches[-1].append(batch)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.validated: list[bool] = [*getattr(self, "validated", []), batch.encoded]
        super().validation_step(batch, batch_idx)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., Watched]:
    def fit(epochs: int = EPOCHS, resume: str | None = None, **options: Any) -> Watched:
        torch.manual_seed(0)
        sizes = {"train": 8, "val": 4, "test": 4, "size": 64, "batch_size": 4, "min_count": 1, "num_workers": 0}
        data = Shapes(**sizes, feature_store=tmp_path / "features")  # type: ignore[arg-type]
        encoder = {"name": "test_resnet", "pretrained": False, "image_size": 64} | options.pop("encoder", {})
        captioner = Watched(
            encoder=partial(TimmEncoder, **encoder), decoder=partial(Attention, hidden=8, embedding=8), **options
        )
        trainer = L.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=tmp_path,
        )
        trainer.fit(captioner, data, ckpt_path=resume)
        trainer.save_checkpoint(tmp_path / "end.ckpt")
        return captioner

    return fit


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in before.items() if not tensor.equal(after[name])}


def batch_norm_of(encoder: nn.Module) -> set[str]:
    layers = [name for name, layer in encoder.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    assert layers
    return {name for name in encoder.state_dict() if name.rpartition(".")[0] in layers}


def test_the_encoder_learns_from_its_epoch_on_and_batch_norm_never(fit: Callable[..., Watched]) -> None:
    captioner = fit(finetune_from=FIRST, lr=0.01)
    states = [*captioner.states, state_of(captioner.encoder)]
    assert len(states) == EPOCHS + 1
    for epoch in range(EPOCHS):
        assert bool(changed(states[epoch], states[epoch + 1])) is (epoch >= FIRST)
    learnt, fixed = changed(states[0], states[-1]), batch_norm_of(captioner.encoder)
    assert not learnt & fixed
    assert "model.conv1.0.weight" in learnt  # others stand behind a BatchNorm that timm sets to 0


def test_stored_features_give_way_to_pictures(fit: Callable[..., Watched]) -> None:
    captioner = fit(finetune_from=FIRST)
    encoded = [{batch.encoded for batch in batches} for batches in captioner.batches]
    assert encoded == [{epoch < FIRST} for epoch in range(EPOCHS)]
    assert captioner.validated == [epoch < FIRST for epoch in range(EPOCHS)]


def test_only_the_last_stages_learn(fit: Callable[..., Watched]) -> None:
    captioner = fit(finetune_from=0, finetune_stages=1, epochs=1, lr=0.01)
    learnt = changed(captioner.states[0], state_of(captioner.encoder))
    assert learnt
    assert all(name.startswith("model.layer4.") for name in learnt)


def test_the_encoder_has_its_own_learning_rate(fit: Callable[..., Watched]) -> None:
    captioner = fit(finetune_from=0, lr=0.01, encoder_lr=1e-5, epochs=1)
    groups = {group["name"]: group for group in captioner.trainer.optimizers[0].param_groups}
    assert {name: group["lr"] for name, group in groups.items()} == {"decoder": 0.01, "encoder": 1e-5}
    end, begin = state_of(captioner.encoder), captioner.states[0]
    steps = max(float((end[name] - begin[name]).abs().max()) for name in changed(begin, end))
    assert 0 < steps < 5e-5  # two of Adam's steps


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(fit: Callable[..., Watched], tmp_path: Path) -> None:
    options = {"finetune_from": FIRST, "lr": 0.01}
    fit(epochs=FIRST + 1, **options)
    interrupted = tmp_path / "interrupted.ckpt"
    (tmp_path / "end.ckpt").rename(interrupted)
    resumed = fit(resume=str(interrupted), **options)
    assert [{batch.encoded for batch in batches} for batches in resumed.batches] == [{False}]
    assert changed(resumed.states[0], state_of(resumed.encoder))
    assert not changed(resumed.states[0], state_of(resumed.encoder)) & batch_norm_of(resumed.encoder)


def test_pictures_to_learn_from_are_augmented_and_others_are_not(fit: Callable[..., Watched]) -> None:
    captioner = fit(finetune_from=1, epochs=3, encoder={"crop_scale": 0.3})
    images = {image.id: image for image in captioner.trainer.datamodule.captions}  # type: ignore[attr-defined]
    seen: dict[str, list[Tensor]] = {}
    for batch in (batch for batches in captioner.batches[1:] for batch in batches):
        for name, picture in zip(batch.ids, batch.inputs, strict=True):
            seen.setdefault(name, []).append(picture)
    assert len(seen) == 8
    for name, (first, second) in seen.items():
        plain = captioner.encoder.transform(images[name].open())
        assert first.shape == plain.shape
        assert not first.equal(second)
        assert not first.equal(plain)
    loader: Any = captioner.trainer.val_dataloaders
    for batch in loader:
        plain = torch.stack([captioner.encoder.transform(images[name].open()) for name in batch.ids])
        assert batch.inputs.equal(plain)


def test_an_encoder_that_is_not_frozen_is_not_fine_tuned(tmp_path: Path) -> None:
    for options in ({"frozen": False}, {"frozen": True}):
        encoder = partial(TimmEncoder, name="test_resnet", pretrained=False, **options)  # type: ignore[arg-type]
        captioner = Captioner(encoder=encoder, finetune_from=3 if not options["frozen"] else -1)
        data = Shapes(train=2, val=1, test=1, min_count=1)
        data.setup("fit")
        with pytest.raises(UserError, match=r"--model\.finetune_from .*--model\.encoder\.frozen=true"):
            captioner.build(data.vocabulary())


@pytest.mark.parametrize(
    ("encoder", "options", "name"),
    [
        ({"flip": 0.5}, {}, "augmentation"),
        ({}, {"encoder_lr": 0.1}, "--model.encoder_lr"),
        ({}, {"finetune_stages": 1}, "--model.finetune_stages"),
        ({"frozen": False}, {"finetune_stages": 1}, "--model.finetune_stages"),
    ],
)
def test_what_would_change_nothing_is_refused(encoder: dict[str, Any], options: dict[str, Any], name: str) -> None:
    captioner = Captioner(encoder=partial(TimmEncoder, name="test_resnet", pretrained=False, **encoder), **options)
    with pytest.raises(UserError, match=rf"{name} would change nothing.*--model\.finetune_from"):
        captioner.build(Vocabulary(["dog"]))


def test_an_epoch_that_never_comes(fit: Callable[..., Watched]) -> None:
    with pytest.raises(UserError, match=r"finetune_from=2 never comes.*max_epochs is 2"):
        fit(finetune_from=2, epochs=2)


@pytest.mark.parametrize(
    "options", [{"lr": -1}, {"lr": 0}, {"encoder_lr": -1}, {"weight_decay": -1}, {"warmup": 5}, {"label_smoothing": 2}]
)
def test_numbers_that_make_no_training(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must be above 0"):
        Captioner(**options)


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    options = [*TINY, "--model.finetune_from=1", "--model.finetune_stages=1", "--model.encoder_lr=0.0001"]
    options += ["--model.encoder.flip=0.5", "--trainer.max_epochs=2", "--name=tuned"]
    assert run("fit", *options) == 0
    assert "trained from epoch 1" in capsys.readouterr().out
    facts = result(tmp_path / "runs" / "tuned")
    assert facts["encoder"]["learns_from_epoch"] == 1
    assert facts["decoder"]["parameters"] < facts["trained_parameters"]
    assert facts["trained_parameters"] < facts["decoder"]["parameters"] + facts["encoder"]["parameters"]
    assert run("test", "--ckpt_path=runs/tuned/checkpoints/last.ckpt") == 0
    assert run("fit", *options, "--model.finetune_stages=9") == 2
    assert "stages" in capsys.readouterr().err
