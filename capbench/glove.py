"""Word vectors from files in GloVe's text format.

Pennington, Socher and Manning (2014), "GloVe: Global vectors for word representation".
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from capbench.errors import UserError
from capbench.text import Vocabulary

Vector = NDArray[np.float32]


def initialise(embedding: nn.Embedding, vocabulary: Vocabulary, path: Path) -> float:
    """Give the words of a vocabulary their vectors (V, E), and the others random ones of the same mean and spread.

    Returns:
        The share of the vocabulary's words that have a vector in the file.

    Raises:
        UserError: see `read_glove`; or the file has a vector for no word.
    """
    vectors = read_glove(path, vocabulary.words, embedding.embedding_dim)
    if not vectors:
        raise UserError(f"{path} has a vector for none of the {len(vocabulary.words)} words: is it in this language?")
    rows = torch.tensor([vocabulary.encode(word)[1] for word in vectors])
    values = torch.from_numpy(np.stack(list(vectors.values())))  # (found, E)
    with torch.no_grad():
        embedding.weight.normal_(values.mean().item(), values.std().item())
        embedding.weight[rows] = values
    return len(vectors) / len(vocabulary.words)


def read_glove(path: Path, words: Sequence[str], size: int) -> dict[str, Vector]:
    """The vectors (size,) of those words that the file has, line by line, so that a file of any length fits.

    Raises:
        UserError: there is no such file, its vectors are of another size, or a line is too short or no vector.
    """
    if not path.is_file():
        raise UserError(
            f"There is no file {path} (--model.glove): download one from https://nlp.stanford.edu/projects/glove and "
            "unzip it, or begin with random word vectors with --model.glove=null."
        )
    wanted = {word.encode(): word for word in words}
    vectors: dict[str, Vector] = {}
    for number, line in _lines(path):
        numbers = line.count(b" ")
        if number == 1 and numbers != size:
            raise UserError(
                f"{path} has vectors of {numbers} numbers, and the decoder's word vectors have {size}: set "
                f"--model.decoder.embedding={numbers}, or name another file with --model.glove."
            )
        if numbers < size:
            raise UserError(
                f"{path}, line {number}: {numbers} numbers where {size} are expected, so the file is damaged or cut "
                "short: download it again."
            )
        word, _, values = line.partition(b" ")
        if numbers == size and word in wanted:  # a line with more numbers is a word with spaces in it
            try:
                vectors.setdefault(wanted[word], np.array(values.split(), dtype=np.float32))
            except ValueError as error:
                raise UserError(f"{path}, line {number}: {error}.") from error
    return vectors


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers, without the header of word and vector counts that some files have."""
    with path.open("rb") as file:
        first = file.readline().rstrip()
        header = len(first.split()) == 2 and all(part.isdigit() for part in first.split())
        if not header:
            yield 1, first
        for number, line in enumerate(file, start=1 if header else 2):
            yield number, line.rstrip()
