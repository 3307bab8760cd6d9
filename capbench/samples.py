"""A few images of a split with their captions, and where the captioner looked for each word."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from zlib import crc32

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from capbench.captioner import Captioner
from capbench.data.captions import CaptionedImage
from capbench.search import Search, search

PICTURE, TILE, TILES_IN_ROW = 320, 128, 6
"""Sizes in pixels: the longer side of a sample's picture, and the side of the picture of one word."""


@dataclass
class Sample:
    """An image with its caption.

    Attributes:
        image: with its references.
        picture: the image, small.
        caption: what the captioner said.
        scores: of the caption.
        attention: the caption's words over where the captioner looked, where it attends.
    """

    image: CaptionedImage
    picture: Image.Image
    caption: str
    scores: dict[str, float]
    attention: Image.Image | None = None


@torch.no_grad()
def take_samples(
    captioner: Captioner, images: Iterable[CaptionedImage], split: str, count: int, options: Search
) -> list[Sample]:
    """At most `count` of a split's captioned images, always the same ones of the same images.

    Args:
        captioner: in eval mode, with captions and scores of the split.
        images: of the split.
        split: which.
        count: how many.
        options: with which the captions were searched.
    """
    captions, scores = captioner.captions[split], captioner.scores[split].per_image
    chosen = set(random.Random(0).sample(sorted(captions), min(count, len(captions))))
    samples, views = [], []
    for image in images:
        if image.id in chosen:
            picture = image.open()
            views.append(captioner.encoder.transform(picture))
            picture.thumbnail((PICTURE, PICTURE))
            samples.append(Sample(image, picture, captions[image.id], scores[image.id]))
    if samples and captioner.encoder.shape.places > 1:
        inputs = torch.stack(views).to(captioner.device, captioner.dtype)
        seeds = [crc32(sample.image.id.encode()) for sample in samples]
        found = search(captioner.decoder, captioner.encoder(inputs), options, attention=True, seeds=seeds)
        if found.attention is not None:
            grid = captioner.encoder.shape[:2]
            for sample, view, captions_, maps in zip(
                samples, views, found.words(captioner.vocabulary), found.attention, strict=True
            ):
                words = captions_[0].split()
                sample.attention = draw_attention(_picture(view), words, maps[0, : len(words)].unflatten(1, grid).cpu())
    return samples


def draw_attention(picture: Image.Image, words: list[str], maps: Tensor) -> Image.Image:
    """The picture once for each word, bright where the captioner looked.

    Args:
        picture: as the encoder sees it.
        words: T words.
        maps: (T, h, w) weights.
    """
    font = ImageFont.load_default(12)
    columns = min(len(words), TILES_IN_ROW) or 1
    sheet = Image.new("RGB", (columns * TILE, -(-len(words) // columns) * (TILE + 16) or 1), "white")
    bright = picture.resize((TILE, TILE), Image.Resampling.BICUBIC)
    dark = Image.blend(bright, Image.new("RGB", bright.size), 0.8)
    for number, (word, weights) in enumerate(zip(words, maps, strict=True)):
        left, top = number % columns * TILE, number // columns * (TILE + 16)
        light = (255 * weights / weights.max().clamp(min=1e-9)).byte().numpy()
        mask = Image.fromarray(light).resize(bright.size, Image.Resampling.BICUBIC)
        sheet.paste(Image.composite(bright, dark, mask), (left, top + 16))
        ImageDraw.Draw(sheet).text((left + 2, top + 1), word, fill="black", font=font)
    return sheet


def _picture(view: Tensor) -> Image.Image:
    """What the encoder sees, (3, H, W), from its darkest value to its brightest."""
    low, high = view.min(), view.max()
    pixels = 255 * (view - low) / (high - low).clamp(min=1e-9)
    return Image.fromarray(pixels.byte().permute(1, 2, 0).cpu().numpy())
