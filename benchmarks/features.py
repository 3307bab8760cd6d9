"""Times the feature store: building it against a bare forward pass, and an epoch with it against one without.

python benchmarks/features.py [--device cuda] [--encoders resnet50 mobilenetv2_100] [--images 128] [--rounds 3]
    [--workers 2] [--batch 32]

The encoders have random weights. The pictures are drawn scenes with noise, saved as JPEGs of a photograph's size.
"""

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from measure import Row, faster, print_rows, side_by_side
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from capbench.data import CaptionData
from capbench.data.captions import CaptionedImage, CaptionSet
from capbench.data.features import BATCH, FeatureStore
from capbench.data.module import Collate, StoredFeatures
from capbench.data.scenes import describe, draw, make_scene
from capbench.decoders import Attention, Decoder, Merge
from capbench.encoder import TimmEncoder
from capbench.pictures import open_image
from capbench.text import Vocabulary

WIDTH, HEIGHT, QUALITY = 500, 375, 90  # about 130 kB an image, like Flickr8k's


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--encoders", nargs="+", default=["resnet50", "mobilenetv2_100"])
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--epoch-images", type=int, default=32, help="of the epoch with the encoder in the loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    device, sizes = str(options.device), (options.images, options.epoch_images)
    print_rows(rows(device, options.encoders, sizes, options.workers, options.rounds), device)


def rows(
    device: str = "cpu",
    encoders: Sequence[str] = ("resnet50", "mobilenetv2_100"),
    sizes: tuple[int, int] = (96, 32),
    workers: int = 2,
    rounds: int = 3,
) -> list[Row]:
    """Extraction of each encoder's features, and an epoch of each decoder with the first encoder's."""
    with tempfile.TemporaryDirectory() as folder:
        images, on = photographs(Path(folder), max(sizes)), torch.device(device)
        extractions = [extraction(name, images[: sizes[0]], on, workers, rounds) for name in encoders]
        few = images[: sizes[1]]
        return extractions + [epoch(encoders[0], each, few, on, workers, rounds) for each in (Merge, Attention)]


def photographs(folder: Path, count: int) -> list[CaptionedImage]:
    """Drawn JPEGs that are as large as photographs, with their captions."""
    rng, images = np.random.default_rng(0), []
    for index in range(count):
        scene = make_scene(0, index)
        picture = np.asarray(draw(scene, WIDTH).crop((0, 0, WIDTH, HEIGHT))).astype(int)
        noisy = picture + rng.integers(-24, 25, (HEIGHT, WIDTH, 1))
        file = folder / f"{index:06d}.jpg"
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, quality=QUALITY)
        images.append(CaptionedImage(file.name, describe(scene), "train", partial(open_image, file), str(index)))
    return images


def extraction(name: str, images: list[CaptionedImage], device: torch.device, workers: int, rounds: int = 3) -> Row:
    """From JPEGs to a store, against timm's forward alone on tensors that lie on the device."""
    encoder = TimmEncoder("grid", None, name, pretrained=False).to(device)
    bare = timm.create_model(name, num_classes=0).eval().to(device, memory_format=torch.channels_last)
    some = torch.stack([encoder.transform(image.open()) for image in images[:BATCH]])
    some = some.to(device, memory_format=torch.channels_last)

    def ours() -> None:
        with tempfile.TemporaryDirectory() as root:
            FeatureStore(Path(root), encoder, images, "float16").build(encoder, workers)

    @torch.inference_mode()
    def theirs() -> None:
        for first in range(0, len(images), BATCH):
            bare.forward_features(some[: len(images) - first])

    return faster(
        f"features of {name}, from JPEGs to the store",
        side_by_side(ours, theirs, rounds),
        0.85 if name == "resnet50" else None,
        (len(images), "images"),
        "timm's forward on tensors in memory, channels last",
    )


class Rows(Dataset[tuple[Tensor, Tensor]]):
    """A picture and one caption a row, as tutorials have it."""

    def __init__(self, images: list[CaptionedImage], encoder: TimmEncoder, vocabulary: Vocabulary) -> None:
        self.rows = [(image, torch.tensor(vocabulary.encode(text))) for image in images for text in image.references]
        self.transform = encoder.transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, tokens = self.rows[index]
        return self.transform(image.open()), tokens


def padded(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, H, W) and captions (B, T)."""
    pictures, captions = zip(*rows, strict=True)
    return torch.stack(pictures), pad_sequence(list(captions), batch_first=True)


class Drawn(CaptionData):
    """The images that it is given."""

    def __init__(self, images: list[CaptionedImage], **options: Path) -> None:
        super().__init__(**options)
        self.captions = CaptionSet(images)

    def read(self) -> CaptionSet:
        return self.captions


def epoch(
    name: str,
    decoder_class: type[Decoder],
    images: list[CaptionedImage],
    device: torch.device,
    workers: int,
    rounds: int = 3,
) -> Row:
    """An epoch over all captions: features from the store, against the encoder run for every caption's row."""
    captions = [text for image in images for text in image.references]
    vocabulary = Vocabulary.from_captions(captions)
    encoder = TimmEncoder(decoder_class.needs, None, name, pretrained=False).to(device)
    decoder = decoder_class(encoder.shape, len(vocabulary)).to(device)
    optimizer = torch.optim.Adam(decoder.parameters())
    loss = torch.nn.CrossEntropyLoss(ignore_index=Vocabulary.PAD)

    def learn(features: Tensor, tokens: Tensor, owners: Tensor | None = None) -> None:
        logits = decoder(features.float(), tokens[:, :-1], owners)
        optimizer.zero_grad()
        loss(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()

    with tempfile.TemporaryDirectory() as root:
        store = Drawn(images, feature_store=Path(root)).store(encoder, "train")
        assert store
        stored = DataLoader(
            StoredFeatures(images, store), BATCH, shuffle=True, collate_fn=Collate(vocabulary, 50, encoded=True)
        )
        rows = DataLoader(
            Rows(images, encoder, vocabulary), BATCH, shuffle=True, collate_fn=padded, num_workers=workers
        )

        def ours() -> None:
            for batch in stored:
                learn(batch.inputs.to(device), batch.tokens.to(device), batch.owners.to(device))

        def theirs() -> None:
            for pictures, tokens in rows:
                learn(encoder(pictures.to(device)), tokens.to(device))

        times = side_by_side(ours, theirs, rounds)
    return faster(
        f"epoch with the store, {name} and {decoder_class.__name__}",
        times,
        20 if name == "resnet50" else None,
        (len(captions), "captions"),
        f"stored features and {BATCH} images a batch with all their captions; against the encoder in the loop and "
        f"{BATCH} rows a batch with one caption each",
    )


if __name__ == "__main__":
    main()
