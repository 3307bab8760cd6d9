"""Captions images with what lies beside this file: python caption.py photo.jpg ... (numpy, Pillow, torch)."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

HERE = Path(__file__).parent
VOCABULARY, PICTURE = (json.loads((HERE / f"{name}.json").read_text()) for name in ("vocabulary", "preprocessing"))
ENCODER, START, STEP = (torch.export.load(HERE / f"{name}.pt2").module() for name in ("encoder", "start", "step"))


def pixels(image: Image.Image) -> torch.Tensor:
    resize, short, (height, width) = PICTURE["resize"], min(image.size), PICTURE["size"]
    size = resize[::-1] if isinstance(resize, list) else [int(resize * side / short) for side in image.size]
    image = image.resize(size, Image.Resampling[PICTURE["interpolation"].upper()])
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    values = np.asarray(image.crop((left, top, left + width, top + height))) / 255
    return torch.tensor((values - PICTURE["mean"]) / PICTURE["std"]).movedim(2, 0)[None].float()


@torch.inference_mode()
def caption(path: str, token: int = VOCABULARY["start"]) -> str:
    images, words = pixels(ImageOps.exif_transpose(Image.open(path)).convert("RGB")), [""]
    context, state = START(ENCODER(images))
    while token != VOCABULARY["end"] and len(words) <= VOCABULARY["max_words"]:
        logits, state = STEP(torch.tensor([token]), state, context)
        logits[:, VOCABULARY["never"]] = -torch.inf
        words.append(VOCABULARY["words"][token := int(logits.argmax())])
    return " ".join(words).removesuffix("<end>").strip().replace(" n't", "n't")


if __name__ == "__main__":
    print(*(f"{path}: {caption(path)}" for path in sys.argv[1:]), sep="\n")
