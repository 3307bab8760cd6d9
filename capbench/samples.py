"""A few images of a split with their captions, and where the captioner looked for each word."""

import random
from collections.abc import Iterable
from dataclasses import dataclass
from zlib import crc32

import torch
from PIL import Image

from capbench.captioner import Captioner
from capbench.data.captions import CaptionedImage
from capbench.overlay import attention_picture
from capbench.search import Search, search

PICTURE = 320
"""Pixels of the longer side of a sample's picture."""


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
        assert captioner.vocabulary is not None
        inputs = torch.stack(views).type_as(next(captioner.parameters()))
        seeds = [crc32(sample.image.id.encode()) for sample in samples]
        found = search(captioner.decoder, captioner.encoder(inputs), options, attention=True, seeds=seeds)
        if found.attention is not None:
            grid = captioner.encoder.shape[:2]
            for sample, view, captions_, maps in zip(
                samples, views, found.words(captioner.vocabulary), found.attention, strict=True
            ):
                words = maps[0, : len(captions_[0].split())].unflatten(1, grid).cpu().numpy()
                sample.attention = attention_picture(view, captions_[0], words)
    return samples
