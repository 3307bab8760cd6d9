"""Intervals and tests against plain ones that score every round anew; Holm by hand."""

from collections.abc import Sequence
from math import sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capbench.errors import UserError
from capbench.scores import CaptionScores, score_captions
from capbench.scores.captions import _normalise
from capbench.scores.statistics import Array, Statistics
from capbench.scores.uncertainty import differences, holm, intervals
from tests.scores.plain import plain_scores

WORDS = ["a", "the", "dog", "man", "bike", "runs", "rides", "red", "big", "in", "on", "park", "grass"]
IMAGES = [f"{i:02d}" for i in range(40)]
Captions = dict[str, str]


def draw_captions(seed: int, truth: float) -> tuple[Captions, dict[str, list[str]]]:
    """Captions that repeat a reference's word with probability `truth`; the references are the same for all seeds."""
    dice = np.random.default_rng(99)
    references = {image: [" ".join(dice.choice(WORDS, dice.integers(4, 9))) for _ in range(3)] for image in IMAGES}
    dice = np.random.default_rng(seed)
    captions = {}
    for image in IMAGES:
        words = references[image][dice.integers(3)].split()
        captions[image] = " ".join(word if dice.random() < truth else str(dice.choice(WORDS)) for word in words)
    return captions, references


class Run:
    """A run's captions, its statistics, and the plain corpus scores of any list of (whose captions, image)."""

    def __init__(self, seed: int, truth: float) -> None:
        self.captions, self.references = draw_captions(seed, truth)
        self.found: CaptionScores = score_captions(self.captions, self.references)
        self.statistics = Statistics.of(self.found)


def plain(choice: list[tuple[Run, str]]) -> dict[str, float]:
    """Corpus scores by the library, CIDEr-D with the weights of all images."""
    captions = {f"{i}": _normalise(run.captions[image]) for i, (run, image) in enumerate(choice)}
    corpus, _ = plain_scores(captions, {f"{i}": run.references[image] for i, (run, image) in enumerate(choice)})
    corpus["cider_d"] = np.mean([run.found.per_image[image]["cider_d"] for run, image in choice])
    return corpus


def plain_mean(runs: list[Run], ids: list[str]) -> Array:
    return np.mean([list(plain([(run, image) for image in ids]).values()) for run in runs], axis=0)


def plain_draws(dice: np.random.Generator, rounds: int) -> list[list[str]]:
    """The images of each round, drawn as the vectorised ones are."""
    counts = dice.multinomial(len(IMAGES), [1 / len(IMAGES)] * len(IMAGES), size=rounds)
    return [[image for image, times in zip(IMAGES, row, strict=True) for _ in range(times)] for row in counts.tolist()]


def plain_error(points: Array, t: float) -> Array:
    """Of the mean over seeds: t times its standard error."""
    return t * points.std(axis=0, ddof=1) / sqrt(len(points))


@pytest.fixture(scope="module")
def good() -> list[Run]:
    return [Run(seed, 0.8) for seed in range(3)]


@pytest.fixture(scope="module")
def bad() -> list[Run]:
    return [Run(seed, 0.6) for seed in (10, 11)]


def statistics(runs: list[Run]) -> list[Statistics]:
    return [run.statistics for run in runs]


def table(named: dict[str, Any]) -> Array:
    return np.array(list(named.values()))


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_are_those_of_scoring_each_round_anew(seeds: int, good: list[Run]) -> None:
    runs = good[:seeds]
    dice = np.random.default_rng(7)
    rounds = [plain_mean(runs, ids) for ids in plain_draws(dice, 12)]
    points = np.array([plain_mean([run], IMAGES) for run in runs])
    if seeds > 1:
        ts = dice.standard_t(seeds - 1, 12)
        rounds = [scores + plain_error(points, t) for scores, t in zip(rounds, ts, strict=True)]
    expected = np.array([points.mean(axis=0), *np.quantile(rounds, [0.025, 0.975], axis=0)]).T
    np.testing.assert_allclose(table(intervals(statistics(runs), rounds=12, seed=7)), expected, rtol=0, atol=1e-12)


def test_differences_are_those_of_scoring_each_round_anew() -> None:
    """Of one run each: the interval from drawn images, p from exchanged captions."""
    one, other = Run(0, 0.8), Run(20, 0.75)
    dice = np.random.default_rng(7)
    drawn = [plain_mean([one], ids) - plain_mean([other], ids) for ids in plain_draws(dice, 12)]
    value = plain_mean([one], IMAGES) - plain_mean([other], IMAGES)
    larger = np.ones(6)
    for row in dice.integers(0, 2, size=(12, len(IMAGES))):
        ours = [(one if stays else other, image) for image, stays in zip(IMAGES, row, strict=True)]
        theirs = [(other if stays else one, image) for image, stays in zip(IMAGES, row, strict=True)]
        exchanged = np.array(list(plain(ours).values())) - np.array(list(plain(theirs).values()))
        larger += np.abs(exchanged) >= np.abs(value)
    expected = np.array([value, *np.quantile(drawn, [0.025, 0.975], axis=0), larger / 13]).T
    assert 1 / 13 < expected[:, 3].min() < expected[:, 3].max()
    found = differences([one.statistics], [other.statistics], rounds=12, seed=7)
    np.testing.assert_allclose(table(found), expected, rtol=0, atol=1e-12)


def test_differences_of_several_seeds_are_those_of_scoring_each_round_anew(good: list[Run], bad: list[Run]) -> None:
    dice = np.random.default_rng(7)
    drawn = [plain_mean(good, ids) - plain_mean(bad, ids) for ids in plain_draws(dice, 6)]
    points = [np.array([plain_mean([run], IMAGES) for run in runs]) for runs in (good, bad)]

    def errors() -> list[Array]:
        ts = zip(dice.standard_t(2, 6), dice.standard_t(1, 6), strict=True)
        return [plain_error(points[0], t) - plain_error(points[1], u) for t, u in ts]

    drawn = [scores + error for scores, error in zip(drawn, errors(), strict=True)]
    value = points[0].mean(axis=0) - points[1].mean(axis=0)
    exchanged = []
    for row in dice.integers(0, 2, size=(6, len(IMAGES))):
        pairs = []
        for one in good:
            for other in bad:
                ours = [(one if stays else other, image) for image, stays in zip(IMAGES, row, strict=True)]
                theirs = [(other if stays else one, image) for image, stays in zip(IMAGES, row, strict=True)]
                pairs.append(np.array(list(plain(ours).values())) - np.array(list(plain(theirs).values())))
        exchanged.append(np.mean(pairs, axis=0))
    as_large = [np.abs(scores + error) >= np.abs(value) for scores, error in zip(exchanged, errors(), strict=True)]
    p = (1 + np.sum(as_large, axis=0)) / 7
    expected = np.array([value, *np.quantile(drawn, [0.025, 0.975], axis=0), p]).T
    found = differences(statistics(good), statistics(bad), rounds=6, seed=7)
    np.testing.assert_allclose(table(found), expected, rtol=0, atol=1e-12)


def test_the_same_seed_draws_the_same(good: list[Run], bad: list[Run]) -> None:
    assert intervals(statistics(good)) == intervals(statistics(good))
    assert intervals(statistics(good)) != intervals(statistics(good), seed=1)
    assert differences(statistics(good), statistics(bad)) == differences(statistics(good), statistics(bad))


def test_the_order_of_images_changes_nothing(good: list[Run]) -> None:
    run = good[0]
    rows = [
        {"image_id": image, "scores": run.found.per_image[image], "statistics": run.found.statistics[image]}
        for image in reversed(IMAGES)
    ]
    assert intervals([Statistics.of_rows(rows, "")]) == intervals([run.statistics])


def test_equal_runs_add_nothing_to_the_interval_over_images(good: list[Run]) -> None:
    one = intervals([good[0].statistics])
    three = intervals([good[0].statistics] * 3)
    assert table(three) == pytest.approx(table(one), rel=0, abs=1e-12)


def test_a_system_does_not_differ_from_itself(good: list[Run]) -> None:
    for runs in (good[:1], [good[0], good[0]]):
        found = differences(statistics(runs), statistics(runs))
        assert {name: tuple(row) for name, row in found.items()} == dict.fromkeys(found, (0, 0, 0, 1))


def test_an_obvious_difference_is_found(good: list[Run]) -> None:
    found = differences([Run(0, 1.0).statistics], [Run(1, 0.2).statistics])
    assert len(found) == 6
    for row in found.values():
        assert 0 < row.low < row.value < row.high
        assert row.p == 1 / 1001


def test_one_image_is_no_evidence(good: list[Run]) -> None:
    """Each exchange differs as much as the systems do, but for rounding."""
    for image in range(0, len(IMAGES), 5):
        other = good[0].statistics.numbers.copy()
        other[:, image] = good[1].statistics.numbers[:, image]
        found = differences([good[0].statistics], [Statistics(tuple(IMAGES), other)])
        assert any(row.value for row in found.values())
        assert {row.p for row in found.values()} == {1}


def test_signs_turn_with_the_systems(good: list[Run], bad: list[Run]) -> None:
    there = differences(statistics(good[:1]), statistics(bad[:1]))
    back = differences(statistics(bad[:1]), statistics(good[:1]))
    for name, row in there.items():
        assert row == pytest.approx((-back[name].value, -back[name].high, -back[name].low, back[name].p))


def test_a_score_that_one_side_lacks_is_left_out(good: list[Run]) -> None:
    with_meteor = Statistics(good[0].statistics.images, np.nan_to_num(good[0].statistics.numbers, nan=1.0))
    assert "meteor" in intervals([with_meteor])
    assert "meteor" not in intervals([with_meteor, good[1].statistics])
    assert "meteor" not in differences([with_meteor], [good[1].statistics])


def test_spice_is_a_mean_in_each_round(good: list[Run]) -> None:
    """Drawn images have the mean of their SPICE; two systems that differ by it alone differ in it alone."""
    dice = np.random.default_rng(3)
    values = dice.random((2, len(IMAGES)))
    ours, theirs = (with_spice(good[0].statistics, row) for row in values)
    rounds = [
        np.mean([values[0][IMAGES.index(image)] for image in ids]) for ids in plain_draws(np.random.default_rng(7), 12)
    ]
    expected = (values[0].mean(), *np.quantile(rounds, [0.025, 0.975]))
    assert tuple(intervals([ours], rounds=12, seed=7)["spice"]) == pytest.approx(expected, rel=0, abs=1e-12)
    found = differences([ours], [theirs])
    assert found["spice"].value == pytest.approx(values[0].mean() - values[1].mean(), rel=0, abs=1e-12)
    assert {name for name, row in found.items() if row.value} == {"spice"}
    assert "spice" not in differences([ours], [good[0].statistics])


def with_spice(statistics: Statistics, values: Array) -> Statistics:
    numbers = statistics.numbers.copy()
    numbers[0, :, -2] = values
    return Statistics(statistics.images, numbers)


def test_other_images_are_a_user_error(good: list[Run]) -> None:
    some = Statistics(tuple(IMAGES[:-1]), good[0].statistics.numbers[:, :-1])
    for call in (lambda: intervals([some, good[0].statistics]), lambda: differences([good[0].statistics], [some])):
        with pytest.raises(UserError, match="1 images, 39 the first, have a caption on one side only"):
            call()


def test_other_references_are_a_user_error(good: list[Run]) -> None:
    twice = Statistics.of(good[0].found, good[0].found)
    with pytest.raises(UserError, match="all but one"):
        differences([twice], [good[0].statistics])


# Holm


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # by hand
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),  # by hand
        ([0.5, 0.7], [1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.03], [0.03]),
        ([], []),
    ],
)
def test_holm_by_hand(p: list[float], corrected: list[float]) -> None:
    named = {f"{i}": value for i, value in enumerate(p)}
    assert list(holm(named)) == list(named)
    assert list(holm(named).values()) == pytest.approx(corrected)


def test_holm_on_a_published_table() -> None:
    """15 comparisons of Benjamini and Hochberg 1995, section 3.2: three hold at 0.05 over all of them."""
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459]
    p += [0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    corrected = list(holm({f"{i}": value for i, value in enumerate(p)}).values())
    assert corrected[:4] == pytest.approx([0.0015, 0.0056, 0.0247, 0.1140])
    assert sum(value <= 0.05 for value in corrected) == 3


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(values: Sequence[float]) -> None:
    p = {f"{i}": value for i, value in enumerate(values)}
    corrected = holm(p)
    for name, value in corrected.items():
        assert p[name] <= value <= min(1, len(p) * p[name])
    in_order = sorted(p, key=lambda name: (p[name], corrected[name]))
    assert in_order == sorted(p, key=lambda name: (corrected[name], p[name]))
