"""Run folders as `fit` and `test` leave them, written at once: real scores of captions that nobody searched."""

import json
import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from capbench.data import Shapes
from capbench.data.captions import CaptionSet
from capbench.scores import Scorer

SCENES = {"train": 8, "val": 4, "test": 12}
DECODERS = ("Attention", "Merge", "InitInject", "PreInject", "ParInject", "Transformer")


@cache
def scenes(test: int = SCENES["test"]) -> CaptionSet:
    """The drawn scenes that these runs are of."""
    return Shapes(**(SCENES | {"test": test})).read()


@cache
def _scorer(test: int) -> Scorer:
    return Scorer({image.id: image.references for image in scenes(test).split("test")})


def drawn_captions(quality: float, seed: int, test: int = SCENES["test"]) -> dict[str, str]:
    """A reference of each image, of which each word is another image's with probability 1 - quality."""
    dice = random.Random(f"{quality}-{seed}")
    images = scenes(test).split("test")
    words = [word for image in images for word in image.references[0].split()]
    return {
        image.id: " ".join(
            word if dice.random() < quality else dice.choice(words) for word in dice.choice(image.references).split()
        )
        for image in images
    }


def make_run(
    folder: Path,
    encoder: str = "test_resnet",
    decoder: str = "Merge",
    seed: int = 0,
    *,
    quality: float = 0.7,
    lr: float = 0.001,
    captions: Mapping[str, str] | None = None,
    epochs: int = 4,
    test: int = SCENES["test"],
    options: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """A finished and tested run, and its folder.

    Args:
        folder: to write.
        encoder: a name of timm's; its length decides what it costs.
        decoder: a class of capbench.
        seed: of the run; decides which captions it gives, too.
        quality: of the captions that are drawn, 0 to 1.
        lr: the setting in which runs differ.
        captions: image id -> caption, instead of those that are drawn for some of the images.
        epochs: lines of `metrics.jsonl`.
        test: images of the test split.
        options: more options of the decoder.
        changes: entries of `result.json` to replace, such as `status="failed"`.
    """
    told = drawn_captions(quality, seed, test) | dict(captions or {})
    scored = _scorer(test)(told)
    data = {"source": "Shapes", "fingerprint": scenes(test).fingerprint()}
    search = {"beam": 3, "max_words": 12, "length_penalty": 0.0, "captions": 1, "min_words": 0}
    search |= {"no_repeat_ngram": 0, "sample": False, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    make_encoder = {
        "class_path": "capbench.encoder.TimmEncoder",
        "init_args": {"name": encoder, "pretrained": False, "image_size": 64, "frozen": True},
    }
    make_decoder = {
        "class_path": f"capbench.decoders.{decoder}",
        "init_args": {"embedding": 8, "hidden": 8, **(options or {})},
    }
    config = {
        "seed_everything": seed,
        "trainer": {"accelerator": "cpu", "devices": "auto", "max_epochs": epochs, "precision": None},
        "model": {"encoder": make_encoder, "decoder": make_decoder, "search": search, "optimizer": "adam", "lr": lr},
        "data": {"class_path": "capbench.data.Shapes", "init_args": {**SCENES, "test": test, "batch_size": 4}},
        "name": folder.name,
        "runs": str(folder.parent),
    }
    place = DECODERS.index(decoder)
    result = {
        "status": "finished",
        "seed": seed,
        "encoder": make_encoder
        | {"weights_hash": f"{seed:016x}", "parameters": 30_000 * len(encoder), "gmacs": 0.01 * len(encoder)},
        "decoder": make_decoder | {"parameters": 50_000 + 40_000 * place},
        "data": data | {"images": {**SCENES, "test": test}, "fit_val_images": 4},
        "devices": "1 x cpu",
        "versions": {"torch": "2.15.0"},
        "git_commit": "0" * 40,
        "scores": {
            "test": scored.corpus
            | {"images": test, "missing": {}, "search": search, "data": data, "latency_ms": 3.0 + 2 * place + seed / 10}
            | {"figures": {"distinct_words": len({w for text in told.values() for w in text.split()}), "unique": 0.9}}
        },
        "epochs": epochs,
        "wall_seconds": 12.0 + place,
        "train_captions_per_second": 1000.0 - 50 * place,
        "peak_memory_mb": 800 + place,
    }
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (folder / "result.json").write_text(json.dumps(result | changes, indent=2))
    references = {image.id: image.references for image in scenes(test).split("test")}
    (folder / "captions.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in scored.rows(told, references)), encoding="utf-8"
    )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _metrics(scored.corpus, epochs)))
    return folder


def _metrics(scores: Mapping[str, float], epochs: int) -> list[dict[str, float]]:
    """Curves that end at the scores."""
    rows = []
    for epoch in range(epochs):
        learnt = 1 - 0.5 ** (epoch + 1)
        row = {"epoch": epoch, "step": 2 * (epoch + 1), "seconds": 3.0 * (epoch + 1), "lr": 0.001}
        row |= {"train/loss": 4 - 3 * learnt, "val/loss": 4 - 2.5 * learnt}
        rows.append(row | {f"val/{name}": value * learnt for name, value in scores.items()})
    return rows
