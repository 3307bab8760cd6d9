"""The feature store: what a frozen encoder gives for each image, computed once and mapped from disk."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from capbench.data.captions import CaptionedImage
from capbench.encoder import Encoder
from capbench.errors import UserError

BATCH = 32


class OpenedImages(Dataset[tuple[CaptionedImage, Tensor]]):
    """Images opened and transformed (3, H, W) when asked for."""

    def __init__(self, images: list[CaptionedImage], transform: Callable[[Image.Image], Tensor]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[CaptionedImage, Tensor]:
        """An image and its picture.

        Raises:
            UserError: it cannot be read.
        """
        image = self.images[index]
        try:
            return image, self.transform(image.open())
        except UserError as error:
            raise UserError(f"{error} Repair it or take it out; `python -m capbench data` lists all such.") from error


class FeatureStore:
    """Features (L, C) by image id, in one file a set of images.

    The file's folder is named by a hash of everything that the features depend on: the encoder's weights,
    architecture, preprocessing and kind of features, the precision, and the pictures. It appears whole or not
    at all.

    Args:
        root: folder of all stores.
        encoder: a frozen encoder.
        images: the images.
        dtype: precision on disk.
    """

    def __init__(
        self, root: Path, encoder: Encoder, images: list[CaptionedImage], dtype: Literal["float16", "float32"]
    ) -> None:
        self.images, self.dtype = images, dtype
        self.made_of = {
            "weights": encoder.weights_hash(),
            "encoder": encoder.saved(),
            "kind": encoder.kind,
            "dtype": dtype,
            "images": len(images),
            "pictures": _hash([(image.id, image.stamp) for image in images]),
        }
        self.folder = Path(root) / _hash(self.made_of)
        self.file = self.folder / "features.npy"
        self.shape = (len(images), encoder.shape.places, encoder.shape.channels)

    def exists(self) -> bool:
        """Whether the features are there."""
        return self.file.is_file()

    def build(self, encoder: Encoder, num_workers: int) -> None:
        """Run the encoder over all images, with a progress bar, and put the store in its place at the end.

        Raises:
            UserError: no room on the disk, or features too large for half precision.
        """
        size = int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        if size > shutil.disk_usage(self.folder.parent).free:
            raise UserError(
                f"The features of {len(self.images)} images need {size / 1e9:.1f} GB, more than is free under "
                f"{self.folder.parent}: name another folder with --data.feature_store, or null to do without."
            )
        loader = DataLoader(
            OpenedImages(self.images, encoder.transform),
            BATCH,
            num_workers=num_workers,
            collate_fn=_pictures,
            generator=torch.Generator(),  # its own, so that training draws the same whether the store was there or not
        )
        device = next(encoder.parameters()).device
        unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=self.folder.parent))
        try:
            rows = np.lib.format.open_memmap(unfinished / "features.npy", "w+", self.dtype, self.shape)
            title = f"encoding {len(self.images)} images once ({size / 1e6:.0f} MB)"
            with tqdm(total=len(self.images), desc=title, unit="image", mininterval=1) as bar:
                for pictures in loader:
                    features = encoder(pictures.to(device)).to(getattr(torch, self.dtype))
                    if not features.isfinite().all():
                        raise UserError("These features overflow half precision: set --data.feature_dtype=float32.")
                    rows[bar.n : bar.n + len(pictures)] = features.cpu().numpy()
                    bar.update(len(pictures))
            rows.flush()
            (unfinished / "made_of.json").write_text(json.dumps(self.made_of, indent=2))
            if not self.exists():
                os.replace(unfinished, self.folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def open(self) -> Self:
        """Map the features."""
        self.rows = np.load(self.file, mmap_mode="r")
        self.row_of = {image.id: row for row, image in enumerate(self.images)}
        return self

    def __getitem__(self, image_id: str) -> Tensor:
        """Features (L, C) of an image."""
        return torch.from_numpy(np.array(self.rows[self.row_of[image_id]]))


def _pictures(samples: list[tuple[CaptionedImage, Tensor]]) -> Tensor:
    return torch.stack([picture for _, picture in samples])


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
