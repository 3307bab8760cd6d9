"""Word vectors from files in GloVe's text format.

Pennington, Socher and Manning (2014), "GloVe: Global vectors for word representation".
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
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
        embedding.weight.normal_(values.mean().item(), values.std(correction=0).item())
        embedding.weight[rows] = values
    return len(vectors) / len(vocabulary.words)


def read_glove(path: Path, words: Sequence[str], size: int) -> dict[str, Vector]:
    """The vectors (size,) of those words that the file has, line by line, so that a file of any length fits.

    Raises:
        UserError: there is no such file, its vectors are of another size, or a line is too short or no vector.
    """
    path = path.expanduser()
    if not path.is_file() or not path.stat().st_size:
        raise UserError(
            f"There is no file {path} (--model.glove), or nothing in it: download one from "
            "https://nlp.stanford.edu/projects/glove and unzip it, or begin with random word vectors with "
            "--model.glove=null."
        )
    wanted = {word.encode(): word for word in words}
    vectors: dict[str, Vector] = {}
    for place, (number, word, values) in enumerate(_lines(path)):
        numbers = values.count(b" ") + 1
        if place == 0 and len(_vector(values, path, number)) != size:
            raise UserError(
                f"{path} has vectors of {numbers} numbers, and the decoder's word vectors have {size}: set "
                f"--model.decoder.embedding={numbers}, or name another file with --model.glove."
            )
        if numbers < size:
            raise UserError(
                f"{path}, line {number}: {numbers} numbers where {size} are expected, so the file is damaged or cut "
                "short: download it again."
            )
        if numbers == size and word in wanted:  # a line with more numbers is a word with spaces in it
            vectors.setdefault(wanted[word], _vector(values, path, number))
    return vectors


def _lines(path: Path) -> Iterator[tuple[int, bytes, bytes]]:
    """Numbers of lines, words and their vectors, without the header of counts that some files have."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            word, _, values = line.rstrip().partition(b" ")
            header = number == 1 and word.isdigit() and values.isdigit()
            if word and not header:
                yield number, word, values


def _vector(values: bytes, path: Path, number: int) -> Vector:
    with suppress(ValueError), np.errstate(over="ignore"):
        vector = np.array(values.split(b" "), dtype=np.float32)
        if np.isfinite(vector).all():
            return vector
    raise UserError(
        f"{path}, line {number}: expected a word and its numbers, as in GloVe's unzipped text files, found "
        f"{values[:40]!r}."
    )
