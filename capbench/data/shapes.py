"""Shapes, the embedded set: drawn scenes that need no download."""

from functools import partial
from typing import Any

from capbench.data.captions import CaptionedImage, CaptionSet
from capbench.data.module import CaptionData
from capbench.data.scenes import describe, draw, make_scene


class Shapes(CaptionData):
    """Coloured, sized and placed shapes, with five sentences each, drawn by code from a seed.

    Args:
        train: number of training images.
        val: number of validation images.
        test: number of test images.
        size: side of the pictures in pixels.
        seed: of all scenes.
        options: see `CaptionData`.
    """

    def __init__(
        self,
        train: int = 3000,
        val: int = 300,
        test: int = 300,
        size: int = 64,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.counts = {"train": train, "val": val, "test": test}
        self.size, self.seed = size, seed

    def read(self) -> CaptionSet:
        """Make the scenes; they are drawn when opened."""
        images: list[CaptionedImage] = []
        for split, count in self.counts.items():
            for _ in range(count):
                index = len(images)
                scene = make_scene(self.seed, index)
                opener = partial(draw, scene, self.size)
                stamp = f"{self.seed}-{index}-{self.size}"
                images.append(CaptionedImage(f"scene-{index:06d}", describe(scene), split, opener, stamp))
        return CaptionSet(images, "Shapes")
