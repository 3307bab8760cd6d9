"""Writes the run folder as training goes."""

import platform
import resource
import subprocess
import sys
import time
import warnings
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import lightning.pytorch as L
import torch
import yaml
from lightning.pytorch.utilities.exceptions import SIGTERMException
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from capbench.captioner import Batch, Captioner, summed
from capbench.data import CaptionData
from capbench.data.captions import SPLITS
from capbench.encoder import Encoder
from capbench.parts import to_plain
from capbench.processes import tells
from capbench.runs import RunFolder, write_jsonl, write_text
from capbench.scaling import one_device_speed
from capbench.scores.captions import NORMALISATION
from capbench.summary import print_start


class Recorder(L.Callback):
    """Keeps `config.yaml`, `metrics.jsonl`, `captions*.jsonl` and `result.json` of a run.

    Of several processes the first writes, into its folder; but one that fails alone says so itself.

    Args:
        folder: of the run, in the first process.
        config: the resolved configuration; null to leave the folder's own as it is.
        seed: with which everything was seeded.
    """

    def __init__(self, folder: RunFolder, config: dict[str, Any] | None, seed: int | None) -> None:
        self.folder, self.config, self.seed = folder, config, seed
        self.began = time.monotonic()
        self.captions_seen, self.seconds_training = 0, 0.0
        self.speed: dict[str, float] = {}
        self.one_device: float | None = None
        self.knows_folder = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the configuration."""
        self.folder, self.knows_folder = RunFolder(trainer.strategy.broadcast(self.folder.path)), True
        if trainer.is_global_zero and self.config is not None:
            write_text(self.folder.config, yaml.safe_dump(self.config, sort_keys=False))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say what runs."""
        if trainer.is_global_zero:
            facts = self.facts(trainer, pl_module)
            self.folder.update_result(status="running", **facts)
            if trainer.world_size > 1:
                self.one_device = one_device_speed(self.folder, facts)
            print_start(self.folder, facts, trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of this epoch's training."""
        self.captions_seen, self.epoch_began = 0, time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count captions."""
        self.captions_seen += len(batch.tokens) * (not batch.spare)
        self.seconds_training = time.monotonic() - self.epoch_began

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the validation's line; keep the best validation's scores."""
        assert isinstance(pl_module, Captioner)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.measure_speed(trainer)
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        if trainer.state.fn != "fit":
            self.keep_captions(trainer, pl_module, "val")
            return
        self.append_row(trainer)
        kept = self.folder.result().get("scores", {}).get("val", {})
        # `validate` leaves scores without an epoch; `row` is rounded to 32 bits
        if "epoch" not in kept or pl_module.scores["val"].corpus["bleu4"] > kept["bleu4"]:
            self.keep_captions(trainer, pl_module, "val", epoch=trainer.current_epoch)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add a line where there is no validation."""
        self.measure_speed(trainer)
        if trainer.is_global_zero and not any(trainer.num_val_batches):
            self.append_row(trainer)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say that training is finished."""
        if trainer.is_global_zero:
            self.end(trainer, "finished")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Say that the run was stopped or failed."""
        if trainer.state.fn != "fit" or not (trainer.is_global_zero or self.knows_folder):
            return
        if isinstance(exception, KeyboardInterrupt | SIGTERMException):
            if trainer.is_global_zero and tells():
                self.end(trainer, "stopped", error=None)
        elif tells():
            self.end(trainer, "failed", error=repr(exception))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep captions and scores."""
        assert isinstance(pl_module, Captioner)
        if trainer.is_global_zero:
            self.keep_captions(trainer, pl_module, "test", latency_ms=_latency(trainer, pl_module))

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the captions."""
        assert isinstance(pl_module, Captioner)
        if trainer.is_global_zero:
            captions = pl_module.captions["predict"].items()
            rows = ({"image_id": image, "caption": caption} for image, caption in captions)
            write_jsonl(self.folder.predictions, rows)

    def append_row(self, trainer: L.Trainer) -> None:
        """Add where training stands to `metrics.jsonl` and the loggers."""
        metrics = trainer.callback_metrics.items()
        row = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "seconds": round(self.seconds(), 1),
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            **{f"train/{name}": round(value, 4) for name, value in self.speed.items()},
            **{name: float(value) for name, value in metrics if name.startswith(("train/", "val/"))},
        }
        self.folder.append_metrics(row)
        for logger in trainer.loggers:
            speed = {f"train/{name}": value for name, value in self.speed.items()}
            logger.log_metrics(speed, step=trainer.global_step)

    def measure_speed(self, trainer: L.Trainer) -> None:
        """How fast this epoch's training was; in all processes.

        `captions_per_second` is that of all together. Where there are several, `captions_per_second_per_device` is
        their mean, and `scaling_efficiency` its share of what one device does alone, if a run beside this one shows it.
        """
        captions = torch.tensor(float(self.captions_seen), device=trainer.strategy.root_device)
        speed = float(summed(captions)) / max(self.seconds_training, 1e-9)
        self.speed = {"captions_per_second": speed}
        if trainer.world_size > 1:
            self.speed["captions_per_second_per_device"] = speed / trainer.world_size
            if self.one_device:
                self.speed["scaling_efficiency"] = speed / trainer.world_size / self.one_device

    def seconds(self) -> float:
        """Since the command began."""
        return time.monotonic() - self.began

    def end(self, trainer: L.Trainer, status: str, **more: Any) -> None:
        """Close `result.json`."""
        self.folder.update_result(
            status=status,
            epochs=trainer.current_epoch,
            steps=trainer.global_step,
            wall_seconds=round(self.seconds(), 1),
            **{f"train_{name}": round(value, 4) for name, value in self.speed.items()},
            peak_memory_mb=round(_peak_memory_mb()),
            **more,
        )

    def keep_captions(self, trainer: L.Trainer, captioner: Captioner, split: str, **more: Any) -> None:
        """Write a split's captions with references and scores per image; its scores, how they came, of what data."""
        data = trainer.datamodule.captions  # type: ignore[attr-defined]
        trained_on = self.folder.result().get("data", {}).get("fingerprint")
        if trained_on not in (None, data.fingerprint()):
            warnings.warn(
                f"These are other images, captions or splits than {self.folder.path} was trained on: some may have "
                f"been trained with, and its scores and captions of {split} are those of {data.source} now.",
                stacklevel=2,
            )
        rows = captioner.scores[split].rows(captioner.captions[split], captioner.references[split])
        write_jsonl(self.folder.captions(split), rows)
        found = captioner.scores[split]
        search = captioner.fit_search if trainer.state.fn == "fit" else captioner.search
        facts = {
            "images": len(captioner.captions[split]),
            "normalisation": NORMALISATION,
            "missing": found.missing,
            "figures": captioner.figures.get(split, {}),
            "search": asdict(search),
            "data": {"source": data.source, "fingerprint": data.fingerprint()},
        }
        scores = self.folder.result().get("scores", {})
        self.folder.update_result(scores=scores | {split: found.corpus | facts | more})

    def facts(self, trainer: L.Trainer, captioner: L.LightningModule) -> dict[str, Any]:
        """What is known before training."""
        assert isinstance(captioner, Captioner)
        assert captioner.vocabulary is not None
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, CaptionData)
        images = {split: len(data.captions.split(split)) for split in SPLITS}
        return {
            "command": sys.argv,
            "seed": self.seed,
            "encoder": {
                **to_plain(captioner.make_encoder),
                **captioner.encoder.saved(),
                "kind": captioner.encoder.kind,
                "learns_from_epoch": captioner.learns_from,
                "shape": list(captioner.encoder.shape),
                "weights_hash": captioner.encoder.weights_hash(),
                "parameters": _count(captioner.encoder),
                "gmacs": round(_gmacs(captioner.encoder), 4),
            },
            "decoder": {**to_plain(captioner.make_decoder), "parameters": _count(captioner.decoder)},
            "trained_parameters": sum(p.numel() for p in captioner.parameters() if p.requires_grad),
            "vocabulary": len(captioner.vocabulary),
            "glove_coverage": captioner.glove_coverage,
            "data": {
                "source": data.captions.source or type(data).__name__,
                "fingerprint": data.captions.fingerprint(),
                "images": images,
                "fit_val_images": min(data.fit_val_images or images["val"], images["val"]),
            },
            "batch_size": data.batch_size,
            "precision": str(trainer.precision),
            "devices": f"{trainer.world_size} x {captioner.device.type}",
            "device": _device_name(captioner.device),
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in ("torch", "lightning", "timm", "pycocoevalcap")},
            "git_commit": git_commit(),
        }


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _gmacs(encoder: Encoder) -> float:
    """Multiply-adds, in 10^9, of encoding one image."""
    device, mode = next(encoder.parameters()).device, encoder.training
    encoder.eval()
    picture = encoder.transform(Image.new("RGB", (256, 256))).unsqueeze(0).to(device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(picture)
    encoder.train(mode)
    return float(counter.get_total_flops()) / 2e9


@torch.no_grad()
def _latency(trainer: L.Trainer, captioner: Captioner, images: int = 5) -> float:
    """Milliseconds from a picture in memory to its caption, alone in its batch; the median of a few, after a first."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    seconds = []
    for image in data.chosen("test")[: images + 1]:
        picture = captioner.encoder.transform(image.open()).unsqueeze(0)
        began = time.perf_counter()
        with trainer.precision_plugin.test_step_context():
            captioner.caption([image.id], captioner.encoder(picture.to(captioner.device)), captioner.search)
        seconds.append(time.perf_counter() - began)
    return round(1e3 * median(seconds[1:] or seconds), 2)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def _peak_memory_mb() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def git_commit() -> str | None:
    """The checkout's commit, with a `+` behind it if files are changed; none outside a checkout."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip()
