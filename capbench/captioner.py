"""The LightningModule: encoder, decoder, loss, optimiser, generated captions and their scores."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zlib import crc32

import lightning.pytorch as L
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torchmetrics import MeanMetric

from capbench import __version__
from capbench.decoders import Decoder, Merge, select
from capbench.encoder import Encoder, Saved, TimmEncoder
from capbench.errors import UserError
from capbench.features import FeatureShape
from capbench.glove import initialise
from capbench.parts import part_class, to_plain
from capbench.scores import CaptionScores, Scorer
from capbench.scores.diversity import diversity
from capbench.scores.generated import GeneratedCaptions
from capbench.search import Search, search
from capbench.text import Vocabulary


class Batch(NamedTuple):
    """N images and their B captions, image by image.

    Attributes:
        ids: N image ids.
        inputs: images (N, 3, H, W), or features (N, L, C) where `encoded`.
        encoded: whether `inputs` have been through the encoder.
        references: N tuples of captions as people wrote them.
        tokens: (B, T + 1) from `<start>` to `<end>`, `<pad>` behind.
        owners: (B,) which of the N images each caption belongs to.
        spare: whether the images are another process' too, since there are too few for this one, and count for nothing.
    """

    ids: list[str]
    inputs: Tensor
    encoded: bool
    references: list[tuple[str, ...]]
    tokens: Tensor
    owners: Tensor
    spare: bool = False


OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}


class Captioner(L.LightningModule):
    """An image captioner.

    Encoder and decoder are made when the vocabulary and the features' shape are known: from the data when
    training begins, or from a checkpoint.

    Args:
        encoder: which encoder, by class name, with its options.
        decoder: which decoder, by class name, with its options.
        glove: file of word vectors in GloVe's text format, which the decoder's begin at; null begins at random ones.
        tune_embedding: whether the word vectors learn.
        finetune_from: epoch, counted from 0, from which a frozen encoder learns too, all but its BatchNorm; null never.
        finetune_stages: how many of the encoder's last stages learn then; null all.
        encoder_lr: the encoder's learning rate at its highest, if it learns; null takes `lr`.
        search: how captions are searched at test, predict and validate.
        fit_beam: beam of the validations during training; 1 (greedy) is fastest.
        optimizer: `adam`, `adamw`, `rmsprop` or `sgd`.
        lr: learning rate at its highest.
        weight_decay: of the optimiser.
        schedule: the learning rate stays `constant`, or falls to zero over the whole training like a `cosine`
            or in a `linear` way.
        warmup: share of the training over which the learning rate rises from zero.
        label_smoothing: share of each target's probability spread over all words.
    """

    def __init__(
        self,
        encoder: Callable[[Literal["grid", "pooled"], Saved | None], Encoder] = TimmEncoder,
        decoder: Callable[[FeatureShape, int], Decoder] = Merge,
        glove: Path | None = None,
        tune_embedding: bool = True,
        finetune_from: int | None = None,
        finetune_stages: int | None = None,
        encoder_lr: float | None = None,
        search: Search = Search(),  # noqa: B008 - frozen
        fit_beam: int = 1,
        optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] = "adam",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        schedule: Literal["constant", "cosine", "linear"] = "constant",
        warmup: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        rates = (lr, lr if encoder_lr is None else encoder_lr)
        if min(rates) <= 0 or weight_decay < 0 or not (0 <= warmup <= 1 and 0 <= label_smoothing <= 1) or fit_beam < 1:
            raise UserError(
                "--model.lr and encoder_lr must be above 0, weight_decay at least 0, warmup and label_smoothing from 0 "
                f"to 1 and fit_beam at least 1, but they are {lr}, {encoder_lr}, {weight_decay}, {warmup}, "
                f"{label_smoothing} and {fit_beam}."
            )
        self.save_hyperparameters(
            {
                "encoder": to_plain(encoder),
                "decoder": to_plain(decoder),
                "glove": glove and str(glove),
                "tune_embedding": tune_embedding,
                "finetune_from": finetune_from,
                "finetune_stages": finetune_stages,
                "encoder_lr": encoder_lr,
                "search": asdict(search),
                "fit_beam": fit_beam,
                "optimizer": optimizer,
                "lr": lr,
                "weight_decay": weight_decay,
                "schedule": schedule,
                "warmup": warmup,
                "label_smoothing": label_smoothing,
            },
            logger=False,
        )
        self.make_encoder, self.make_decoder = encoder, decoder
        self.glove, self.tune_embedding = glove, tune_embedding
        self.finetune_from, self.finetune_stages = finetune_from, finetune_stages
        self.encoder_lr = encoder_lr
        self.glove_coverage: float | None = None
        self.search = search
        self.fit_search = replace(search, beam=fit_beam, captions=1, sample=False, temperature=1.0, top_k=0, top_p=1.0)
        self.optimizer, self.lr, self.weight_decay = optimizer, lr, weight_decay
        self.schedule, self.warmup = schedule, warmup
        self.loss = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
        self.val_loss = MeanMetric()
        self.vocabulary: Vocabulary | None = None
        self.awaits_checkpoint = False  # set by who runs the trainer, which tells configure_model nothing of it
        self.generated = GeneratedCaptions()
        self.captions: dict[str, dict[str, str]] = {}
        self.references: dict[str, dict[str, tuple[str, ...]]] = {}
        self.scorers: dict[str, Scorer] = {}
        self.scores: dict[str, CaptionScores] = {}
        self.figures: dict[str, dict[str, float]] = {}

    def build(self, vocabulary: Vocabulary, saved: Saved | None = None) -> None:
        """Make encoder and decoder for a vocabulary; `saved` is what the encoder left in a checkpoint.

        Word vectors are not read again for a checkpoint, which brings its own.

        Raises:
            UserError: fine-tuning of an encoder that is not frozen or of stages that it does not have, or settings
                for the training of one that never learns.
        """
        self.vocabulary = vocabulary
        self.encoder = self.make_encoder(part_class(self.make_decoder).needs, saved)
        self.learns_from = self.finetune_from if self.encoder.frozen else 0
        if self.finetune_from is not None:
            if not self.encoder.frozen or self.finetune_from < 0:
                raise UserError(
                    "--model.finetune_from is an epoch, from 0, for an encoder that begins frozen: set "
                    "--model.encoder.frozen=true, or leave it out to train the whole encoder from the start."
                )
            self.encoder.prepare_finetuning(self.finetune_stages)
        in_vain = {
            "--model.encoder_lr": self.encoder_lr is not None and self.learns_from is None,
            "--model.finetune_stages": self.finetune_stages is not None and self.finetune_from is None,
            "augmentation": self.encoder.train_transform is not self.encoder.transform and self.learns_from is None,
        }
        if any(in_vain.values()):
            raise UserError(
                f"{' and '.join(name for name, vain in in_vain.items() if vain)} would change nothing, since the "
                "encoder never learns: say from when on with --model.finetune_from=EPOCH, or leave it out."
            )
        self.decoder = self.make_decoder(self.encoder.shape, len(vocabulary))
        if self.glove and saved is None:
            self.glove_coverage = initialise(self.decoder.embedding, vocabulary, Path(self.glove))
        self.decoder.embedding.requires_grad_(self.tune_embedding)

    def configure_model(self) -> None:
        """Take the vocabulary of the training data; before a checkpoint is loaded, leave it to that."""
        if self.vocabulary is None and not self.awaits_checkpoint:
            self.build(self.trainer.datamodule.vocabulary())  # type: ignore[attr-defined]

    def encoder_learns(self, epoch: int) -> bool:
        """Whether the encoder is trained in an epoch."""
        return self.learns_from is not None and epoch >= self.learns_from

    def setup(self, stage: str) -> None:
        """Have the data's loaders made anew each epoch where stored features give way to pictures on the way.

        Raises:
            UserError: training ends before the epoch from which the encoder learns.
        """
        if stage == "fit" and self.finetune_from:
            trainer: Any = self.trainer
            if self.finetune_from >= (trainer.max_epochs or -1) > 0:
                raise UserError(
                    f"--model.finetune_from={self.finetune_from} never comes, since epochs are counted from 0 and "
                    f"--trainer.max_epochs is {trainer.max_epochs}."
                )
            trainer.reload_dataloaders_every_n_epochs = 1
            if isinstance(trainer.strategy, DDPStrategy):
                trainer.strategy._ddp_kwargs["find_unused_parameters"] = True

    def on_train_start(self) -> None:
        """Let each process draw its own dropout and augmentation."""
        if self.global_rank:
            torch.manual_seed(torch.initial_seed() + self.global_rank)

    def on_train_epoch_start(self) -> None:
        """Let the encoder learn from its epoch on."""
        if self.finetune_from is not None:
            self.encoder.frozen = not self.encoder_learns(self.current_epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is needed to caption without the data set."""
        assert self.vocabulary is not None
        checkpoint["capbench"] = {
            "version": __version__,
            "vocabulary": self.vocabulary.words,
            "encoder": self.encoder.saved(),
            "encoder_hash": self.encoder.weights_hash(),
            "glove_coverage": self.glove_coverage,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build encoder and decoder as they were."""
        if self.vocabulary is None:
            saved = checkpoint["capbench"]
            self.build(Vocabulary(saved["vocabulary"]), saved["encoder"])
            self.glove_coverage = saved.get("glove_coverage")

    def features(self, batch: Batch) -> Tensor:
        """(N, L, C), computed now or taken from the store."""
        if batch.encoded:
            return batch.inputs.to(self.dtype)
        features: Tensor = self.encoder(batch.inputs)
        return features

    def word_loss(self, batch: Batch, loss: nn.Module, together: bool = False) -> tuple[Tensor, int]:
        """Mean loss of a batch's real words, and how many they are; the decoder's own penalty added.

        `together` scales it, so that the mean over the processes is the loss of all their words and captions as one
        batch.
        """
        context = self.decoder.context(self.features(batch))
        if len({len(captions) for captions in batch.references}) > 1:  # else they may share their image's row
            context = select(context, batch.owners)
        inputs, targets = batch.tokens[:, :-1], batch.tokens[:, 1:]  # (B, T)
        mask = targets != Vocabulary.PAD
        hidden, attention = self.decoder.hidden(context, inputs, mask.sum(1))
        logits = self.decoder.output(hidden[mask])  # (real words, V)
        word_loss, penalty = loss(logits.float(), targets[mask]), self.decoder.penalty(attention, mask)
        if together and self.trainer.world_size > 1:
            own = torch.tensor([len(logits), len(mask)], dtype=torch.float, device=self.device) * (not batch.spare)
            weights = own * self.trainer.world_size / summed(own)
            word_loss, penalty = word_loss * weights[0], penalty * weights[1]
        return word_loss + penalty, len(logits)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Teacher forcing."""
        loss, words = self.word_loss(batch, self.loss, together=True)
        everyones = summed(loss.detach()) / self.trainer.world_size
        self.log("train/loss", everyones, prog_bar=True, on_step=True, on_epoch=False, batch_size=words)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss of the references, without smoothing, and captions; greedy ones during training."""
        batch = batch._replace(inputs=self.features(batch), encoded=True)  # once for the loss and the captions
        loss, words = self.word_loss(batch, nn.CrossEntropyLoss())
        self.val_loss.update(loss, words * (not batch.spare))
        self.log("val/loss", self.val_loss, on_epoch=True)
        fitting = self.trainer.state.fn == "fit"
        self.collect(batch, self.fit_search if fitting else self.search)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Captions."""
        self.collect(batch, self.search)

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Captions."""
        self.collect(batch, self.search)

    def caption(self, ids: Sequence[str], features: Tensor, options: Search) -> list[str]:
        """The best caption for each of the features (N, L, C); samples are drawn by the images' ids."""
        seeds = [crc32(image.encode()) for image in ids]
        assert self.vocabulary is not None
        return [captions[0] for captions in search(self.decoder, features, options, seeds=seeds).words(self.vocabulary)]

    def collect(self, batch: Batch, options: Search) -> None:
        """Caption a batch and keep the captions for the end of the epoch."""
        if batch.spare:
            return
        self.generated.update(batch.ids, self.caption(batch.ids, self.features(batch), options))

    def on_validation_epoch_end(self) -> None:
        """Score the validation split's captions."""
        self.score("val")

    def on_test_epoch_end(self) -> None:
        """Score the test split's captions."""
        self.score("test")

    def on_predict_epoch_end(self) -> None:
        """Bring the captions together."""
        self.gather("predict")

    def gather(self, split: str) -> None:
        """Bring together what all processes generated since the last time, and the images' references.

        Raises:
            RuntimeError: an image got no caption, though Lightning was not told to leave out batches.
        """
        captions = self.generated.compute()
        self.generated.reset()
        trainer: Any = self.trainer
        references = {image.id: image.references for image in trainer.datamodule.chosen(split)}
        limited = getattr(trainer, f"num_{split}_batches")[0] < len(getattr(trainer, f"{split}_dataloaders"))
        if len(captions) < len(references) and not (limited or trainer.sanity_checking):
            raise RuntimeError(f"{len(references) - len(captions)} of {len(references)} images got no caption.")
        self.captions[split] = captions
        self.references[split] = {image: references[image] for image in captions}

    def score(self, split: str) -> None:
        """Score what all processes generated, as one set, and log it; what takes Java not in training."""
        self.gather(split)
        java = self.trainer.state.fn != "fit" and self.trainer.is_global_zero
        scorer = self.scorers.get(split)
        if scorer is None or scorer.java != java or scorer.references != self.references[split]:
            scorer = self.scorers[split] = Scorer(self.references[split], java)
        self.scores[split] = scorer(self.captions[split])
        for name, value in self.scores[split].corpus.items():
            self.log(f"{split}/{name}", value, prog_bar=name == "bleu4")
        if self.trainer.state.fn != "fit":
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            training = (caption for image in data.captions.split("train") for caption in image.references)
            self.keep_figures(split, diversity(self.captions[split], training, self.vocabulary))

    def keep_figures(self, split: str, figures: dict[str, float]) -> None:
        """Keep and log what is measured of a split beside its scores."""
        self.figures.setdefault(split, {}).update(figures)
        for name, value in figures.items():
            self.log(f"{split}/{name}", value, rank_zero_only=True)

    def configure_optimizers(self) -> Any:
        """The optimiser over what is to be trained, and the schedule step by step."""
        rates = {"decoder": self.lr, "encoder": self.encoder_lr or self.lr}
        parts = {name: [p for p in getattr(self, name).parameters() if p.requires_grad] for name in rates}
        groups = [{"name": name, "params": part, "lr": rates[name]} for name, part in parts.items() if part]
        make: Any = OPTIMIZERS[self.optimizer]
        unclipped = self.trainer.precision.endswith("-mixed")  # Lightning clips no gradients of fused optimisers then
        fused = {"fused": True} if self.optimizer != "rmsprop" and not unclipped else {}  # all others can
        optimizer = make(groups, lr=self.lr, weight_decay=self.weight_decay, **fused)
        steps = max(1.0, float(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.lr_factor(step / steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def lr_factor(self, progress: float) -> float:
        """Share of the highest learning rate at a share of the training."""
        if progress < self.warmup:
            return progress / self.warmup
        rest = min(1.0, (progress - self.warmup) / max(1e-9, 1 - self.warmup))
        return {"constant": 1.0, "linear": 1 - rest, "cosine": (1 + math.cos(math.pi * rest)) / 2}[self.schedule]


def summed(values: Tensor) -> Tensor:
    """The sum over all processes."""
    if not dist.is_initialized():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total
