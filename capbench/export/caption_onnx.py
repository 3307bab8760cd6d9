"""Captions images with what lies beside this file: python caption.py photo.jpg ... (numpy, Pillow, onnxruntime)."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).parent
VOCABULARY, PICTURE = (json.loads((HERE / f"{name}.json").read_text()) for name in ("vocabulary", "preprocessing"))
ENCODER, START, STEP = (onnxruntime.InferenceSession(HERE / f"{name}.onnx") for name in ("encoder", "start", "step"))


def run(program: onnxruntime.InferenceSession, **known: np.ndarray) -> dict[str, np.ndarray]:
    outputs = program.run(None, {each.name: known[each.name] for each in program.get_inputs()})
    return {each.name: output for each, output in zip(program.get_outputs(), outputs, strict=True)}


def pixels(image: Image.Image) -> np.ndarray:
    resize, short, (height, width) = PICTURE["resize"], min(image.size), PICTURE["size"]
    size = resize[::-1] if isinstance(resize, list) else [int(resize * side / short) for side in image.size]
    image = image.resize(size, Image.Resampling[PICTURE["interpolation"].upper()])
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    values = np.asarray(image.crop((left, top, left + width, top + height))) / 255
    return ((values - PICTURE["mean"]) / PICTURE["std"]).transpose(2, 0, 1)[None].astype(np.float32)


def caption(path: str, token: int = VOCABULARY["start"]) -> str:
    images, words = pixels(ImageOps.exif_transpose(Image.open(path)).convert("RGB")), [""]
    known = run(START, **run(ENCODER, images=images))
    while token != VOCABULARY["end"] and len(words) <= VOCABULARY["max_words"]:
        found = run(STEP, tokens=np.array([token]), **known)
        known |= {name.replace("next_", "state_", 1): tensor for name, tensor in found.items()}
        found["logits"][:, VOCABULARY["never"]] = -np.inf
        words.append(VOCABULARY["words"][token := int(found["logits"].argmax())])
    return " ".join(words).removesuffix("<end>").strip().replace(" n't", "n't")


if __name__ == "__main__":
    print(*(f"{path}: {caption(path)}" for path in sys.argv[1:]), sep="\n")
