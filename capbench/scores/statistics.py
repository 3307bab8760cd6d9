"""Corpus scores of any choice of images, from what each image adds to them: no caption is scored again."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from capbench.errors import UserError
from capbench.scores.captions import NAMES, CaptionScores

Array = npt.NDArray[np.float64]

_BLEU, _METEOR, _MEANS = slice(0, 10), slice(10, 33), slice(33, 37)
_NO_METEOR = [np.nan] * 23
TINY, SMALL = 1e-15, 1e-9  # what coco-caption adds to BLEU's counts
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75  # METEOR's for English
STAGES = (1.0, 0.6, 0.8, 0.6)  # METEOR's weights of words that are equal, of one stem, synonyms, paraphrases


@dataclass(frozen=True, eq=False)
class Statistics:
    """What one set of captions brings to its corpus scores, image by image.

    BLEU and METEOR are functions of sums over images, ROUGE-L, CIDEr-D and SPICE are means. CIDEr-D's n-gram weights
    stay those of all images, whichever are chosen.

    Attributes:
        images: their N ids, sorted.
        numbers: (K, N, 37): BLEU's 10 counts, METEOR's 23, ROUGE-L, CIDEr-D, SPICE, and 1; METEOR's and SPICE's are NaN
            where they are missing. Captions that were scored K times, each time against other references, have the mean
            of the K corpus scores.
    """

    images: tuple[str, ...]
    numbers: Array

    @classmethod
    def of(cls, *scorings: CaptionScores) -> "Statistics":
        """Of captions that were scored once, or K times against other references of the same images.

        Raises:
            UserError: the images differ.
        """
        images = tuple(sorted(scorings[0].per_image))
        for other in scorings[1:]:
            require_same_images(images, other.per_image)
        rows = [[_numbers(found.per_image[i], found.statistics[i]) for i in images] for found in scorings]
        return cls(images, np.array(rows))

    @classmethod
    def of_rows(cls, rows: Iterable[Mapping[str, Any]], source: str) -> "Statistics":
        """Of the rows of a run's `captions.jsonl`; `source` is what an error calls them, their path.

        Raises:
            UserError: a row has no statistics, or other than those of these scorers.
        """
        numbers = {}
        for row in rows:
            try:
                numbers[str(row["image_id"])] = _numbers(row["scores"], row["statistics"])
            except (KeyError, TypeError, ValueError):
                raise UserError(
                    f"{source} has no statistics of image {row.get('image_id')!r} that this version of capbench knows: "
                    "run `test` again with it."
                ) from None
        if not numbers:
            raise UserError(f"{source} has no captions: run `test` again.")
        images = tuple(sorted(numbers))
        return cls(images, np.array([[numbers[image] for image in images]]))

    def sums(self, weights: Array) -> Array:
        """(K, R, 37) sums over images of R choices (R, N) of how often each image counts."""
        return weights @ self.numbers

    def scores(self, weights: Array | None = None) -> Array:
        """(8, R) corpus scores, in the order of `NAMES`, of R choices of images; of all images once without weights."""
        return corpus_scores(self.sums(np.ones((1, len(self.images))) if weights is None else weights))


def corpus_scores(sums: Array) -> Array:
    """(8, R) corpus scores, in the order of `NAMES`, of sums (K, R, 37); means over K. NaN where one is missing.

    Source: `pycocoevalcap.bleu`; `computeMetrics` of METEOR 1.5, which is Denkowski and Lavie 2014.
    """
    parts = (*_bleu(sums[..., _BLEU]), _meteor(sums[..., _METEOR]), *_means(sums[..., _MEANS]))
    scores: Array = np.stack(parts).mean(axis=1)
    return scores


def by_name(*columns: Array) -> dict[str, list[float]]:
    """Name of a score -> its value in each of the columns (8,), without the scores that are missing."""
    rows = zip(NAMES, *(column.tolist() for column in columns), strict=True)
    return {name: values for name, *values in rows if not np.isnan(values).any()}


def require_same_images(images: Sequence[str], others: Iterable[str]) -> None:
    """Raises a UserError unless both are the same images."""
    different = sorted(set(images).symmetric_difference(others))
    if different:
        raise UserError(
            f"Captions of different images cannot be compared: {len(different)} images, {different[0]} the first, have "
            "a caption on one side only; score the same split on both."
        )


def _numbers(scores: Mapping[str, float], statistics: Mapping[str, list[int]]) -> list[float]:
    bleu, meteor = statistics["bleu"], statistics.get("meteor")
    numbers = [
        *bleu,
        *(_NO_METEOR if meteor is None else _aggregable(meteor)),
        scores["rouge_l"],
        scores["cider_d"],
        scores.get("spice", np.nan),
        1.0,
    ]
    if len(bleu) != 10 or len(numbers) != 37:
        raise ValueError("not the statistics of these scorers")
    return numbers


def _aggregable(counts: list[int]) -> list[int]:
    """METEOR's counts as it adds them up: the one chunk of a caption that matches as a whole is none."""
    words, matched, chunks = counts[:2], [sum(counts[4:20:2]), sum(counts[5:20:2])], counts[20]
    return [*counts[:20], 0 if words == matched and chunks == 1 else chunks, *counts[21:]]


def _bleu(sums: Array) -> list[Array]:
    """BLEU-1 to 4 of (..., 10)."""
    ratio = (sums[..., 0] + TINY) / (sums[..., 1] + SMALL)
    brevity = np.exp(np.minimum(0.0, 1.0 - 1.0 / ratio))
    products = np.cumprod((sums[..., 6:] + TINY) / (sums[..., 2:6] + SMALL), axis=-1)
    return [brevity * products[..., n - 1] ** (1.0 / n) for n in range(1, 5)]


def _meteor(sums: Array) -> Array:
    """METEOR of (..., 23)."""
    words, function_words = sums[..., :2], sums[..., 2:4]  # of caption and reference
    matches = sums[..., 4:20].reshape(*sums.shape[:-1], len(STAGES), 2, 2)  # stage, content or function, which side
    matched = np.einsum("...abc,a,b->...c", matches, STAGES, (DELTA, 1 - DELTA))
    with np.errstate(invalid="ignore"):  # 0 / 0, where nothing matches
        shares = matched / (DELTA * (words - function_words) + (1 - DELTA) * function_words)
        precision, recall = shares[..., 0], shares[..., 1]
        mean = precision * recall / (ALPHA * precision + (1 - ALPHA) * recall)
        score = mean * (1 - GAMMA * (2 * sums[..., 20] / (sums[..., 21] + sums[..., 22])) ** BETA)
    return np.where(matches.sum(axis=(-3, -2, -1)) == 0, 0.0, score)


def _means(sums: Array) -> list[Array]:
    """ROUGE-L, CIDEr-D and SPICE of (..., 4): their sums, and how many images."""
    return [sums[..., i] / sums[..., 3] for i in range(3)]
