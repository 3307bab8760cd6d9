"""How much of its speed a device keeps where several train together."""

from statistics import fmean
from typing import Any

import yaml

from capbench.runs import RunFolder

SAME_RESULT = ("device", "precision")
SAME_TRAINER = ("accumulate_grad_batches", "limit_train_batches", "gradient_clip_val")


def one_device_speed(folder: RunFolder, facts: dict[str, Any]) -> float | None:
    """Training captions per second on one such device, as the finished runs beside this one have measured it.

    It is the mean of those that trained the same: model, data, batch size and precision; none if there is no such run.
    """
    speeds, training = [], _training(folder)
    for file in sorted(folder.path.parent.glob("*/result.json")):
        other = RunFolder(file.parent)
        result = other.result()
        alone = result.get("status") == "finished" and str(result.get("devices")).startswith("1 x ")
        if alone and all(result.get(key) == facts[key] for key in SAME_RESULT) and _training(other) == training:
            speeds.append(result["train_captions_per_second"])
    return fmean(speeds) if speeds else None


def _training(folder: RunFolder) -> dict[str, Any] | None:
    """What a run's configuration says of its training, but for the devices."""
    if not folder.config.is_file():
        return None
    config = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    return {part: config.get(part) for part in ("model", "data")} | {
        key: config.get("trainer", {}).get(key) for key in SAME_TRAINER
    }
