"""What Weights & Biases shows of a run beside its numbers: its data, samples, and the best checkpoint."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.loggers import WandbLogger

from capbench.captioner import Captioner
from capbench.data import CaptionData
from capbench.runs import RunFolder
from capbench.samples import take_samples


class Tracking(L.Callback):
    """What W&B shows of a run beside its numbers.

    Args:
        samples: images in the table that each validation and test logs, with captions, references, scores and, where
            the decoder attends, the words over where it looked; 0 logs none.
        checkpoint: log the best checkpoint at the end of training, with its vocabulary and configuration.
    """

    def __init__(self, samples: int = 8, checkpoint: bool = True) -> None:
        self.samples, self.checkpoint = samples, checkpoint

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say which data it is."""
        for run in _runs(trainer):
            captions = _data(trainer).captions
            about = {"source": captions.source, "fingerprint": captions.fingerprint()}
            run.config.update({"dataset": about}, allow_val_change=True)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validation images."""
        if not trainer.sanity_checking:
            self.log_samples(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Test images."""
        self.log_samples(trainer, pl_module, "test")

    def log_samples(self, trainer: L.Trainer, captioner: L.LightningModule, split: str) -> None:
        """One table."""
        assert isinstance(captioner, Captioner)
        runs = _runs(trainer)
        if not (runs and self.samples):
            return
        import wandb

        options = captioner.fit_search if trainer.state.fn == "fit" else captioner.search
        with trainer.precision_plugin.forward_context():
            samples = take_samples(captioner, _data(trainer).captions.split(split), split, self.samples, options)
        names = list(samples[0].scores) if samples else []
        rows = [
            [
                sample.image.id,
                wandb.Image(sample.picture, file_type="jpg"),
                sample.attention and wandb.Image(sample.attention, file_type="jpg"),
                sample.caption,
                "\n".join(sample.image.references),
                *(sample.scores[name] for name in names),
            ]
            for sample in samples
        ]
        columns: list[str | int] = ["id", "image", "attention", "caption", "references", *names]
        for run in runs:
            table = wandb.Table(columns=columns, data=rows)
            run.log({f"{split}/samples": table, "trainer/global_step": trainer.global_step})

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the best checkpoint, or the last one where nothing was validated."""
        assert isinstance(pl_module, Captioner)
        folder = RunFolder(Path(trainer.default_root_dir))
        file = folder.left()
        for run in _runs(trainer) if file and self.checkpoint else []:
            import wandb

            assert file is not None
            assert pl_module.vocabulary is not None
            scores = folder.result().get("scores", {}).get("val", {})
            artifact = wandb.Artifact(f"captioner-{run.id}", "model", metadata={"val": scores})
            artifact.add_file(str(file), skip_cache=True)
            artifact.add_file(str(folder.config), skip_cache=True)
            with artifact.new_file("vocabulary.txt", encoding="utf-8") as text:
                text.write("".join(f"{word}\n" for word in pl_module.vocabulary.words))
            run.log_artifact(artifact, aliases=["best"])


def _runs(trainer: L.Trainer) -> list[Any]:
    """W&B's runs, in the first process."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
    return [logger.experiment for logger in loggers] if trainer.is_global_zero else []


def _data(trainer: L.Trainer) -> CaptionData:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, CaptionData)
    return data
