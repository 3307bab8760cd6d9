"""Batches of captioned images, image by image, for whatever source."""

import random
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from capbench.captioner import Batch, Captioner
from capbench.data.captions import CaptionedImage, CaptionSet
from capbench.data.features import FeatureStore, OpenedImages
from capbench.encoder import Encoder
from capbench.errors import UserError
from capbench.text import Vocabulary


class CaptionData(L.LightningDataModule, ABC):
    """Captioned images in splits; a source says in `read` where they come from.

    A batch holds images with all their captions, so that an image is encoded once for its captions; where the
    encoder is frozen it runs once over the data, and its features are read from the store from then on. Several
    processes (DDP) share each batch out among them: their number changes neither the batches nor their order.

    Args:
        batch_size: images in a training batch, each with all its captions; of all processes together.
        eval_batch_size: images that a process takes at once in validation, test and predict.
        fit_val_images: at most so many images of the validation split, drawn by a fixed seed, are captioned and
            scored in each validation during training; `validate` takes all. null takes all there too.
        min_count: a word is in the vocabulary if it occurs so often in the training captions.
        max_words: longer training captions are cut.
        num_workers: processes that read and resize images, for each device; 0 does it in the main process. For features
            on a CPU none are started: the threads that encode images read them too.
        feature_store: folder of the features that frozen encoders gave; null runs the encoder in every epoch. They are
            read from it batch by batch, or once, if they take at most half of a GPU's free memory.
        feature_dtype: precision of the stored features.
        predict_split: the split that `predict` captions.
    """

    def __init__(
        self,
        batch_size: int = 32,
        eval_batch_size: int = 100,
        fit_val_images: int | None = 1000,
        min_count: int = 5,
        max_words: int = 50,
        num_workers: int = 2,
        feature_store: Path | None = Path(".features"),
        feature_dtype: Literal["float16", "float32"] = "float16",
        predict_split: str = "test",
    ) -> None:
        super().__init__()
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.fit_val_images, self.predict_split = fit_val_images, predict_split
        self.min_count, self.max_words = min_count, max_words
        self.num_workers = num_workers
        self.feature_store, self.feature_dtype = feature_store, feature_dtype
        self.captions = CaptionSet([])
        self.stores: dict[Path, FeatureStore] = {}

    @abstractmethod
    def read(self) -> CaptionSet:
        """The captioned images of the source."""

    def setup(self, stage: str) -> None:
        """Read the source, once.

        Raises:
            UserError: sizes that are none.
        """
        sizes = (self.batch_size, self.eval_batch_size, self.fit_val_images)
        if any(size is not None and size < 1 for size in sizes) or self.num_workers < 0:
            raise UserError(
                "--data.batch_size, eval_batch_size and fit_val_images must be at least 1, and num_workers at least 0."
            )
        if not len(self.captions):
            self.captions = self.read()

    def vocabulary(self) -> Vocabulary:
        """The words of the training split."""
        references = (caption for image in self.captions.split("train") for caption in image.references)
        return Vocabulary.from_captions(references, self.min_count)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Training images in a new order each epoch."""
        return self._loader("train", self.batch_size)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Validation images; a sample of them while training, and none at all where the data set has no such split."""
        if self._fitting() and not self.captions.split("val"):
            return []
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Test images."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Images of `predict_split`."""
        return self._loader("predict")

    def whole(self, part: str) -> DataLoader[Batch]:
        """All images of `val` or `test` in each process that goes through it."""
        return self._loader(part, shared=False)

    def chosen(self, part: str) -> list[CaptionedImage]:
        """The images of `train`, `val`, `test` or `predict`, as far as the command that runs takes them.

        Raises:
            UserError: there are none.
        """
        split = self.predict_split if part == "predict" else part
        images = self.captions.split(split)
        if not images:
            raise UserError(f"{type(self).__name__} has no image in the split {split!r}.")
        if part == "val" and self._fitting() and self.fit_val_images and self.fit_val_images < len(images):
            return random.Random(0).sample(images, self.fit_val_images)
        return images

    def _fitting(self) -> bool:
        return self.trainer is not None and self.trainer.state.fn == "fit"

    def _loader(self, part: str, batch_size: int | None = None, shared: bool = True) -> DataLoader[Batch]:
        images = self.chosen(part)
        assert self.trainer is not None
        rank, processes = (self.trainer.global_rank, self.trainer.world_size) if shared else (0, 1)
        if batch_size and batch_size < processes:
            raise UserError(
                f"--data.batch_size={batch_size} images are those of all processes together, too few for {processes}: "
                f"make it {processes} or more, or take fewer devices."
            )
        captioner = self.trainer.lightning_module
        assert isinstance(captioner, Captioner)
        assert captioner.vocabulary is not None
        learns = self._fitting() and captioner.encoder_learns(self.trainer.current_epoch)
        augment = learns and part == "train"
        encoder = captioner.encoder
        if learns:
            self.stores.clear()
        store = None if learns else self.store(encoder, images[0].split)
        samples: Samples = OpenedImages(images, encoder.train_transform if augment else encoder.transform)
        if store:
            samples = StoredFeatures(images, store)
            if store.held is None and has_room(captioner.device, store.size):
                store.hold(captioner.device)
        collate: Any = Collate(captioner.vocabulary, self.max_words, encoded=store is not None)  # of whole batches
        workers = 0 if store else self.num_workers
        seed = 1000 * self.trainer.strategy.broadcast(torch.initial_seed()) % 2**32  # to which the epoch is added
        order: Any = DistributedSampler(samples, 1, 0, shuffle=part == "train", seed=seed)  # the same in all processes
        shares: Dataset[Any] = Shares(samples, rank, processes)
        return DataLoader(
            shares,
            batch_size=batch_size or self.eval_batch_size * processes,
            sampler=order,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available() and not (store and store.held is not None),
        )

    def store(self, encoder: Encoder, split: str) -> FeatureStore | None:
        """The features of a split, built first if need be.

        None where the encoder must run in every epoch. All processes that train together must call this.
        """
        if self.feature_store is None or not encoder.frozen:
            return None
        store = FeatureStore(self.feature_store, encoder, self.captions.split(split), self.feature_dtype)
        if store.folder not in self.stores:
            store.build(encoder, self.num_workers)
            self.stores[store.folder] = store.open()
        return self.stores[store.folder]


def has_room(device: torch.device, size: int) -> bool:
    """Whether so many bytes are at most half of what a GPU has free."""
    return device.type == "cuda" and 2 * size <= torch.cuda.mem_get_info(device)[0]


class StoredFeatures(Dataset[tuple[CaptionedImage, Tensor]]):
    """Images with their features (L, C) from the store; batches are taken whole."""

    def __init__(self, images: list[CaptionedImage], store: FeatureStore) -> None:
        self.images, self.store = images, store

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[CaptionedImage, Tensor]:
        """An image and its features."""
        images, features = self.__getitems__([index])
        return images[0], features[0]

    def __getitems__(self, indices: list[int]) -> tuple[list[CaptionedImage], Tensor]:
        """A batch: N images and their features (N, L, C)."""
        images = [self.images[index] for index in indices]
        return images, self.store.features(images)


Samples = OpenedImages | StoredFeatures


class Shares(Dataset[tuple[list[CaptionedImage], Tensor, bool]]):
    """One process' shares of the batches that all processes take together.

    Args:
        samples: all images.
        rank: of the process.
        processes: how many there are.
    """

    def __init__(self, samples: Samples, rank: int, processes: int) -> None:
        self.samples, self.rank, self.processes = samples, rank, processes

    def __len__(self) -> int:
        """Number of images, all processes together."""
        return len(self.samples)

    def __getitems__(self, indices: list[int]) -> tuple[list[CaptionedImage], Tensor, bool]:
        """This process' images of a batch and what is known of them; one to spare where there are too few for it."""
        own = indices[self.rank :: self.processes]
        return *self.samples.__getitems__(own or indices[:1]), not own


class Collate:
    """Images or features, and their captions as padded token ids, to a `Batch`."""

    def __init__(self, vocabulary: Vocabulary, max_words: int, encoded: bool) -> None:
        self.vocabulary, self.max_words, self.encoded = vocabulary, max_words, encoded

    def __call__(self, samples: tuple[list[CaptionedImage], Tensor, bool]) -> Batch:
        """N images, their pictures (N, 3, H, W) or features (N, L, C), and whether they are to spare."""
        images, inputs, spare = samples
        captions = [
            torch.tensor(self.vocabulary.encode(caption, self.max_words))
            for image in images
            for caption in image.references
        ]
        counts = torch.tensor([len(image.references) for image in images])
        return Batch(
            ids=[image.id for image in images],
            inputs=inputs,
            encoded=self.encoded,
            references=[image.references for image in images],
            tokens=pad_sequence(captions, batch_first=True, padding_value=Vocabulary.PAD),
            owners=torch.arange(len(images)).repeat_interleave(counts),
            spare=spare,
        )
