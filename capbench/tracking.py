"""Everything that knows Weights & Biases."""

import os
import random
import sys
from typing import Any

import lightning.pytorch as L
from jsonargparse import Namespace
from lightning.pytorch.loggers import Logger, WandbLogger

from capbench.captioner import Captioner
from capbench.data import CaptionData
from capbench.runs import RunFolder

SAMPLES = 8
DATA_DIR = os.environ.get("WANDB_DATA_DIR")


def configure_wandb(options: Namespace, folder: RunFolder) -> None:
    """Put a WandbLogger's files into the run's folder; without a key it works offline and asks nothing."""
    folder.path.mkdir(parents=True, exist_ok=True)
    options.save_dir, options.name = str(folder.path), options.name or folder.path.name
    os.environ["WANDB_DATA_DIR"] = DATA_DIR or str(folder.path.resolve() / "wandb")  # where media wait for `wandb sync`
    if "WANDB_MODE" not in os.environ and (options.offline or not _has_key()):
        import wandb

        wandb.setup(settings=wandb.Settings(mode="offline"))  # asking for the key has read the environment already


def drop_anonymous(loggers: list[Logger]) -> None:
    """Lightning hands wandb an option that wandb 0.31 only warns of."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger._wandb_init.pop("anonymous", None)


def finish_wandb() -> None:
    """Close the run that a WandbLogger began, so that the next command in this process begins its own."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish()


def _has_key() -> bool:
    """Whether W&B would find a key, in the environment or where `wandb login` put it."""
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    host = wandb_setup.singleton().settings.base_url
    return bool(wbauth.authenticate_session(host=host, source="capbench", prompt=False, update_session=False))


class SampleTable(L.Callback):
    """Logs a few images with captions and references at each validation and test, always the same ones."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validation images."""
        self.log_samples(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Test images."""
        self.log_samples(trainer, pl_module, "test")

    def log_samples(self, trainer: L.Trainer, captioner: L.LightningModule, split: str) -> None:
        """One table."""
        assert isinstance(captioner, Captioner)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, CaptionData)
        captions, scores = captioner.captions[split], captioner.scores[split]
        chosen = set(random.Random(0).sample(sorted(captions), min(SAMPLES, len(captions))))
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.is_global_zero:
                import wandb

                rows = [
                    [
                        image.id,
                        wandb.Image(image.open()),
                        captions[image.id],
                        "\n".join(image.references),
                        scores.per_image[image.id]["bleu4"],
                    ]
                    for image in data.captions.split(split)
                    if image.id in chosen
                ]
                logger.log_table(f"{split}/samples", ["id", "image", "caption", "references", "bleu4"], rows)
