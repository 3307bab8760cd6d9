"""Checks a trained attention captioner's maps on test images: sums, and how far they move from word to word.

python benchmarks/attention_check.py CHECKPOINT FLICKR8K_ROOT
"""

import sys
from pathlib import Path

import torch

from capbench.data import Images
from capbench.model import load
from capbench.text import Vocabulary

IMAGES = 100


def main(checkpoint: Path, root: Path) -> None:
    """Print the figures of the first test images."""
    model = load(checkpoint)
    images = Images(root).read().split("test")[:IMAGES]
    pictures = torch.stack([model.tensor(image.open()) for image in images])
    found = model.search_images(pictures, model.search, attention=True)
    assert found.attention is not None
    maps, words = found.attention[:, 0], found.tokens[:, 0] != Vocabulary.PAD  # (N, T, L), (N, T)
    moved = (maps[:, 1:] - maps[:, :-1]).abs().sum(-1)[words[:, 1:]] / 2  # total variation, 0 to 1
    captions = [best for best, *_ in found.words(model.vocabulary)]
    print(f"{len(images)} test images, {int(words.sum())} words")
    print(f"largest distance of a map's sum from 1: {float((maps.sum(-1)[words] - 1).abs().max()):.1e}")
    print(f"part of the attention that moves from a word to the next: mean {moved.mean():.3f}, most {moved.max():.3f}")
    print(f"different captions: {len(set(captions))}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
