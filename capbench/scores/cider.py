"""CIDEr-D, with what depends on the references alone computed once."""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import e, sqrt
from typing import NamedTuple

Ngram = tuple[str, ...]
LONGEST = 4  # words of an n-gram
SIGMA = 6.0  # of the penalty for a difference in length, in words


class _Vector(NamedTuple):
    """A caption's n-grams with their tf-idf weights, their norms for each length, and the caption's own length."""

    weights: dict[Ngram, float]
    norms: list[float]
    length: int


class CiderD:
    """CIDEr-D of captions against references that stay the same.

    Source: Vedantam, Zitnick and Parikh 2015 (arXiv:1411.5726), section 8, as `pycocoevalcap.cider` computes it,
    operation by operation, so that no digit differs; that one weighs all references anew for each set of captions.

    Args:
        references: for each image its references, words separated by spaces.
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        import numpy as np
        from pycocoevalcap.cider.cider_scorer import cook_refs

        counts = [cook_refs(captions) for captions in references]
        images_with = Counter(ngram for image in counts for ngram in set().union(*image))
        logs = {number: float(np.log(float(number))) for number in {1, len(counts), *images_with.values()}}
        self._unseen = logs[len(counts)]
        self._idf = {ngram: self._unseen - logs[number] for ngram, number in images_with.items()}
        self._references = [[self._vector(caption) for caption in image] for image in counts]

    def scores(self, captions: Sequence[str]) -> list[float]:
        """The score of each image's caption, 0 to 10; the corpus's is their mean."""
        import numpy as np
        from pycocoevalcap.cider.cider_scorer import cook_test

        scores = []
        for caption, references in zip(captions, self._references, strict=True):
            vector = self._vector(cook_test(caption))
            total = np.sum([_similarities(vector, reference) for reference in references], axis=0)
            scores.append(float(np.mean(total) / len(references) * 10.0))
        return scores

    def _vector(self, counts: Mapping[Ngram, int]) -> _Vector:
        weights, squares = {}, [0.0] * LONGEST
        for ngram, count in counts.items():
            weight = float(count) * self._idf.get(ngram, self._unseen)
            weights[ngram] = weight
            squares[len(ngram) - 1] += weight**2
        return _Vector(weights, [sqrt(square) for square in squares], sum(n for g, n in counts.items() if len(g) == 2))


def _similarities(caption: _Vector, reference: _Vector) -> list[float]:
    """For n-grams of 1 to 4 words the cosine, no weight above the reference's, times the penalty for the length."""
    products = [0.0] * LONGEST
    for ngram, weight in caption.weights.items():
        if other := reference.weights.get(ngram):
            products[len(ngram) - 1] += min(weight, other) * other
    penalty = e ** (-(float(caption.length - reference.length) ** 2) / (2 * SIGMA**2))
    return [
        (product / (mine * its) if mine and its else product) * penalty
        for product, mine, its in zip(products, caption.norms, reference.norms, strict=True)
    ]
