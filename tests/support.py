"""What the end-to-end tests share: `main` as a user calls it, a tiny Flickr8k, and ways to read a run."""

import json
import random
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401 - its log goes to the stderr of now, and a test with capsys closes its own
from PIL import Image, ImageDraw

from capbench.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
REAL_DATA = ROOT.parent / "shared" / "data"

QUIET = ("--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu")
QUICK = (*QUIET, "--trainer.max_epochs=1")
TINY_ENCODER = (
    "--model.encoder.name=test_resnet",
    "--model.encoder.pretrained=false",
    "--model.encoder.image_size=64",  # 2 x 2 x 96
)
TINY_SHAPES = (
    "--data=Shapes",
    *("--data.train=8", "--data.val=4", "--data.test=3", "--data.size=32"),
    *("--data.batch_size=4", "--data.min_count=1", "--data.num_workers=0"),
)
TINY_MERGE = ("--model.decoder=Merge", "--model.decoder.hidden=8", "--model.decoder.embedding=8")
TINY = (*TINY_SHAPES, *TINY_ENCODER, *TINY_MERGE, "--model.search.max_words=6", *QUICK)
"""A whole fit without a config: about a second."""

COLOURS = ("red", "green", "blue", "yellow", "purple", "black")


def run(*arguments: object) -> int:
    """The exit status of a command line."""
    return main([str(argument) for argument in arguments])


def result(folder: Path) -> dict[str, Any]:
    """What a run's `result.json` says."""
    content: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return content


def rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a `.jsonl` file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def make_picture(seed: int, size: tuple[int, int]) -> tuple[Image.Image, str]:
    """A picture of a coloured box, and the colour."""
    rng = random.Random(seed)
    colour, (width, height) = COLOURS[seed % len(COLOURS)], size
    picture = Image.new("RGB", size, (rng.randrange(200, 256),) * 3)
    left, top = rng.randrange(width // 2), rng.randrange(height // 2)
    ImageDraw.Draw(picture).rectangle((left, top, left + width // 3, top + height // 3), fill=colour)
    return picture, colour


def make_flickr8k(root: Path, train: int = 6, val: int = 3, test: int = 3) -> Path:
    """Drawn pictures of different sizes under Flickr8k's own folders and files."""
    images, texts = root / "Flickr8k_Dataset" / "Flicker8k_Dataset", root / "Flickr8k_text"
    images.mkdir(parents=True)
    texts.mkdir()
    captions, number = [], 0
    for split, count in (("train", train), ("dev", val), ("test", test)):
        names = []
        for _ in range(count):
            name = f"{1000 + number}_{number:010x}.jpg"
            picture, colour = make_picture(number, (32 + 8 * (number % 5), 64 - 8 * (number % 4)))
            picture.save(images / name)
            sentences = (
                f"A {colour} box lies on the floor .",
                f"There is a {colour} box .",
                f"The box is {colour} , isn't it ?",
                f"Somebody put a {colour} box here .",
                f"a {colour} square",
            )
            captions += [f"{name}#{place}\t{sentence}" for place, sentence in enumerate(sentences)]
            names.append(name)
            number += 1
        (texts / f"Flickr_8k.{split}Images.txt").write_text("".join(f"{name}\n" for name in names))
    (texts / "Flickr8k.token.txt").write_text("".join(f"{line}\n" for line in captions))
    return root
