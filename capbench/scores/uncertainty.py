"""How far a corpus score, or a difference, may be off: over images, and over seeds where there are several."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from capbench.errors import UserError
from capbench.scores.statistics import Array, Statistics, by_name, corpus_scores, require_same_images

ROUNDS = 1000
TAILS = (0.025, 0.975)
SAME = 1e-12  # what rounding may make of two equal differences


class Interval(NamedTuple):
    """A score, the mean over the system's runs, and its 95 % interval."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """How much more one system scores than the other, its 95 % interval, and the two-sided p-value."""

    value: float
    low: float
    high: float
    p: float


def intervals(runs: Sequence[Statistics], rounds: int = ROUNDS, seed: int = 0) -> dict[str, Interval]:
    """Each corpus score of a system with its 95 % interval: the bootstrap's percentiles.

    Each round draws as many images as there are, with replacement, the same for all runs. Of one run the interval is
    over images: it says nothing of another seed. Of several it is over images and seeds: to each round's mean of the
    runs comes an error of the mean over seeds, drawn from Student's t. Drawing seeds from three would not do: no draw
    lies beyond the three, so that where seeds matter most a fifth of such intervals miss the truth (docs/scores.md).

    Source: Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13; of corpus scores, Koehn 2004,
    "Statistical significance tests for machine translation evaluation".

    Args:
        runs: of the same configuration on the same images, one for each seed.
        rounds: of the bootstrap.
        seed: for its draws; the same gives the same intervals.

    Raises:
        UserError: the runs' images differ.
    """
    weights, dice = _draw_images(runs, rounds, seed)
    points = _points(runs)
    low, high = np.quantile(_mean(runs, weights) + _error_of_seeds(points, rounds, dice), TAILS, axis=1)
    columns = by_name(points.mean(axis=0), low, high)
    return {name: Interval(*values) for name, values in columns.items()}


def differences(
    one: Sequence[Statistics], other: Sequence[Statistics], rounds: int = ROUNDS, seed: int = 0
) -> dict[str, Difference]:
    """Of each corpus score, how much more `one` has than `other`; scores that both have.

    The interval is `intervals`' for the difference: each round draws the same images for both. The p-value is that of
    approximate randomisation: if the systems were alike, it would not matter whose caption of an image is whose. Each
    round exchanges those of half the images, in all pairs of runs, and adds the error of the mean over seeds; p is the
    share of rounds, the real one among them, that differ at least as much. With one run each it is about these two
    models; only with several it is about what made them.

    Source: Riezler and Maxwell 2005, "On some pitfalls in automatic evaluation and significance testing for MT", who
    find the bootstrap's p-values too small; Dror et al. 2018, "The hitchhiker's guide to testing statistical
    significance in natural language processing".

    Raises:
        UserError: the images of any two runs differ, or how many times they were scored.
    """
    weights, dice = _draw_images([*one, *other], rounds, seed)
    points, others = _points(one), _points(other)
    difference = points.mean(axis=0) - others.mean(axis=0)

    def error() -> Array:
        return _error_of_seeds(points, rounds, dice) - _error_of_seeds(others, rounds, dice)

    low, high = np.quantile(_mean(one, weights) - _mean(other, weights) + error(), TAILS, axis=1)
    exchanged = _exchanged(one, other, rounds, dice) + error()
    as_large = np.abs(exchanged) >= np.abs(difference)[:, None] - SAME
    p = np.where(np.isnan(difference), np.nan, (1 + as_large.sum(axis=1)) / (1 + rounds))
    return {name: Difference(*values) for name, values in by_name(difference, low, high, p).items()}


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values of several comparisons, corrected: that any of those below 0.05 is mere chance has less than 5 %.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    corrected, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p_values}


def holm_by_score(found: Mapping[str, Mapping[str, Difference]]) -> dict[str, dict[str, float]]:
    """System -> score -> the p-value of its difference, corrected score by score for all systems."""
    names = dict.fromkeys(name for scores in found.values() for name in scores)
    p = {name: holm({system: each[name].p for system, each in found.items() if name in each}) for name in names}
    return {system: {name: p[name][system] for name in scores} for system, scores in found.items()}


def _draw_images(runs: Sequence[Statistics], rounds: int, seed: int) -> tuple[Array, np.random.Generator]:
    """(R, N): how often each round draws each image; and what all else is drawn from."""
    for run in runs[1:]:
        require_same_images(runs[0].images, run.images)
        if len(run.numbers) != len(runs[0].numbers):
            raise UserError(
                "Captions scored against different sets of references cannot be compared: score all of them against "
                "all references, or all against all but one."
            )
    weights, state = _drawn(len(runs[0].images), rounds, seed)
    dice = np.random.default_rng()
    dice.bit_generator.state = state
    return weights, dice


@lru_cache(maxsize=2)
def _drawn(count: int, rounds: int, seed: int) -> tuple[Array, dict[str, Any]]:
    """(R, N) of `_draw_images`, kept since each system of a table gets the same, and the generator's state behind."""
    dice = np.random.default_rng(seed)
    weights: Array = dice.multinomial(count, np.full(count, 1 / count), size=rounds).astype(float)
    return weights, dict(dice.bit_generator.state)


def _parted(run: Statistics, stay: Array) -> tuple[Array, Array]:
    """(K, R, 37) sums over the images that stay in each round, and over the others."""
    stays = run.sums(stay)
    return stays, run.numbers.sum(axis=1, keepdims=True) - stays


def _points(runs: Sequence[Statistics]) -> Array:
    """(S, 8) corpus scores of S runs."""
    return np.stack([run.scores()[:, 0] for run in runs])


def _mean(runs: Sequence[Statistics], weights: Array) -> Array:
    """(8, R) means over runs of their corpus scores."""
    scores: Array = np.mean([run.scores(weights) for run in runs], axis=0)
    return scores


def _error_of_seeds(points: Array, rounds: int, dice: np.random.Generator) -> Array:
    """(8, R) draws of how far the mean over S seeds (S, 8) may be off; of one seed nothing is known, and 0 drawn."""
    seeds = len(points)
    if seeds == 1:
        return np.zeros((points.shape[1], rounds))
    return np.outer(points.std(axis=0, ddof=1) / np.sqrt(seeds), dice.standard_t(seeds - 1, rounds))


def _exchanged(one: Sequence[Statistics], other: Sequence[Statistics], rounds: int, dice: np.random.Generator) -> Array:
    """(8, R) differences, where each round exchanges the systems' captions of half the images."""
    stay = dice.integers(0, 2, size=(rounds, len(one[0].images))).astype(float)
    ours, theirs = ([_parted(run, stay) for run in runs] for runs in (one, other))
    pairs = [
        corpus_scores(our_stay + their_go) - corpus_scores(their_stay + our_go)
        for (our_stay, our_go), (their_stay, their_go) in product(ours, theirs)
    ]
    differences: Array = np.mean(pairs, axis=0)
    return differences
