"""Times image retrieval: the likelihood of every caption for every image, by decoders with random weights.

python benchmarks/retrieval.py [Flickr8k.token.txt] [--images 1000] [--bf16] [--decoders ParInject Merge Attention]

One caption an image: the first of the file's first images, or, without a file, 11 words drawn by chance, which share no
beginnings and so are the worst case. The time does not depend on what the weights are.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from capbench.decoders import Attention, Decoder, Merge, ParInject
from capbench.features import FeatureShape
from capbench.likelihood import log_likelihoods
from capbench.text import Vocabulary

POOLED, GRID = FeatureShape(1, 1, 1280), FeatureShape(7, 7, 1280)
DECODERS: dict[str, tuple[FeatureShape, Callable[[FeatureShape, int], Decoder]]] = {
    "ParInject": (POOLED, ParInject),
    "Merge": (POOLED, Merge),
    "Attention": (GRID, partial(Attention, project=256)),
}
WORDS, LENGTH = 2500, 11


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("token_file", nargs="?", type=Path, help="captions as Flickr8k.token.txt has them")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--decoders", nargs="+", choices=DECODERS, default=list(DECODERS))
    parser.add_argument("--bf16", action="store_true", help="run the decoders under bfloat16 autocast")
    options = parser.parse_args()
    torch.manual_seed(0)
    tokens = read(options.token_file, options.images) if options.token_file else drawn(options.images)
    captions = [caption[: caption.index(Vocabulary.END)] for caption in tokens.tolist()]
    words = sum(map(len, captions))  # each but the first of a caption, and <end>
    beginnings = len({tuple(caption[:length]) for caption in captions for length in range(1, len(caption) + 1)})
    print(f"{options.images} images, {len(captions)} captions, {words} words with <end>, {beginnings} to compute")
    print(f"{torch.get_num_threads()} threads, {'bfloat16' if options.bf16 else 'float32'}, torch {torch.__version__}")
    for name in options.decoders:
        shape, make = DECODERS[name]
        decoder, features = make(shape, WORDS).eval(), torch.randn(options.images, shape.places, shape.channels)
        began, busy = time.monotonic(), time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            log_likelihoods(decoder, features, tokens)
        print(f"{name}: {time.monotonic() - began:.0f} s, {time.process_time() - busy:.0f} s of processor time")


def read(token_file: Path, images: int) -> Tensor:
    """The first caption of each of the first images (images, T + 1)."""
    lines = token_file.read_text(encoding="utf-8").strip("\n").split("\n")
    captions = [line.partition("\t")[2] for line in lines]
    vocabulary = Vocabulary(Vocabulary.from_captions(captions).words[: WORDS - 4])
    first = [line.partition("\t")[2] for line in lines if line.partition("\t")[0].endswith("#0")][:images]
    encoded = [torch.tensor(vocabulary.encode(caption)) for caption in first]
    return pad_sequence(encoded, batch_first=True, padding_value=Vocabulary.PAD)


def drawn(images: int) -> Tensor:
    """Captions of words drawn by chance (images, LENGTH + 2)."""
    tokens = torch.randint(4, WORDS, (images, LENGTH + 2))
    tokens[:, 0], tokens[:, -1] = Vocabulary.START, Vocabulary.END
    return tokens


if __name__ == "__main__":
    main()
