"""Corpus scores of any choice of images are those of scoring the choice."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capbench.errors import UserError
from capbench.scores import CaptionScores, columns, score_captions
from capbench.scores.captions import _normalise
from capbench.scores.meteor import METEOR
from capbench.scores.statistics import Array, Statistics, by_name
from tests.scores.plain import WITHOUT_JAVA, Images, images, named, plain_scores

CAPTIONS = {
    "w": "the dogs",
    "x": "a dog runs",
    "y": "a man rides a red bike quickly",
    "z": "",
}
REFERENCES = {
    "w": ["the dogs", "dogs"],  # matches as a whole, which METEOR counts as no chunk among others
    "x": ["A dog is running .", "a brown dog in the grass"],
    "y": ["Someone is riding a bicycle .", "the men ride red bikes fast"],
    "z": ["two birds", "birds in the sky"],
}


def chosen(statistics: Statistics, weights: list[int]) -> dict[str, float]:
    return {name: score for name, (score,) in by_name(statistics.scores(np.array([weights], float))[:, 0]).items()}


def as_rows(scores: CaptionScores) -> list[dict[str, Any]]:
    """What a run's `captions.jsonl` would hold, written and read."""
    rows = [
        {"image_id": image, "scores": scores.per_image[image], "statistics": scores.statistics[image]}
        for image in scores.per_image
    ]
    loaded: list[dict[str, Any]] = json.loads(json.dumps(rows))
    return loaded


def test_hand_counted() -> None:
    """Two words of three, and one pair of them; the shorter of two references equally close."""
    scores = score_captions({"x": "a dog sleeps"}, {"x": ["A dog .", "A dog runs away ."]})
    assert scores.statistics == {"x": {"bleu": [3, 2, 3, 2, 1, 0, 2, 1, 0, 0]}}


@given(images, st.data())
def test_any_choice_of_images_has_the_scores_of_the_plain_scorers(pairs: Images, data: st.DataObject) -> None:
    captions, references = named(pairs)
    scores = score_captions(captions, references)
    statistics = Statistics.of(scores)
    everything = chosen(statistics, [1] * len(captions))
    assert everything == pytest.approx(scores.corpus, rel=0, abs=1e-12)

    count = st.lists(st.integers(0, 3), min_size=len(captions), max_size=len(captions)).filter(any)
    weights = data.draw(count)
    ids = [image for image, times in zip(statistics.images, weights, strict=True) for _ in range(times)]
    corpus, _ = plain_scores(
        {f"{i}": _normalise(captions[image]) for i, image in enumerate(ids)},
        {f"{i}": references[image] for i, image in enumerate(ids)},
    )
    corpus["cider_d"] = np.mean([scores.per_image[image]["cider_d"] for image in ids])
    assert chosen(statistics, weights) == pytest.approx(corpus, rel=0, abs=1e-12)


@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [3, 0, 2, 1], [1, 0, 0, 0], [0, 2, 5, 0], [0, 0, 0, 1]])
def test_any_choice_of_images_has_the_meteor_of_the_jar(weights: list[int], java: str) -> None:
    statistics = Statistics.of(score_captions(CAPTIONS, REFERENCES, java=True))
    ids = [image for image, times in zip(statistics.images, weights, strict=True) for _ in range(times)]
    corpus, _, _ = METEOR.scores(
        [CAPTIONS[image] for image in ids], [sorted(map(_normalise, REFERENCES[image])) for image in ids]
    )
    assert chosen(statistics, weights)["meteor"] == pytest.approx(corpus, rel=0, abs=1e-12)


def test_meteor_of_published_captions_is_the_jars(
    flickr8k: dict[str, list[str]], published: Callable[[str], tuple[dict[str, str], dict[str, float]]], java: str
) -> None:
    captions, expected = published("merge_1")
    scores = score_captions(captions, {image: flickr8k[image] for image in captions}, java=True)
    statistics = Statistics.of(scores)
    assert chosen(statistics, [1] * 1000) == pytest.approx(scores.corpus, rel=0, abs=1e-12)
    assert chosen(statistics, [1] * 1000) == pytest.approx(expected, rel=0, abs=1e-9)
    for i, image in enumerate(statistics.images[:50]):
        alone = chosen(statistics, [int(i == k) for k in range(1000)])
        assert alone == pytest.approx(scores.per_image[image], rel=0, abs=1e-12)


def test_rows_of_a_file_have_the_same_statistics_in_any_order() -> None:
    scores = score_captions(CAPTIONS, REFERENCES)
    statistics, read = Statistics.of(scores), Statistics.of_rows(reversed(as_rows(scores)), "captions.jsonl")
    assert read.images == statistics.images == tuple(sorted(CAPTIONS))
    np.testing.assert_array_equal(read.numbers, statistics.numbers)


@pytest.mark.filterwarnings("error")
def test_meteor_is_missing_where_one_image_has_none() -> None:
    scores = score_captions(CAPTIONS, REFERENCES)
    scores.statistics["x"]["meteor"] = [1] * 23
    statistics = Statistics.of(scores)
    assert list(chosen(statistics, [1] * 4)) == WITHOUT_JAVA
    for image in "wyz":
        scores.statistics[image]["meteor"] = [1] * 23
    assert list(chosen(Statistics.of(scores), [1] * 4)) == list(columns())


@pytest.mark.filterwarnings("error")
def test_spice_is_a_mean_and_missing_where_one_image_has_none() -> None:
    scores = score_captions(CAPTIONS, REFERENCES)
    for image, score in zip("wxy", (1.0, 0.25, 0.125), strict=True):
        scores.per_image[image]["spice"] = score
    assert list(chosen(Statistics.of(scores), [1] * 4)) == WITHOUT_JAVA
    scores.per_image["z"]["spice"] = 0.0
    for statistics in (Statistics.of(scores), Statistics.of_rows(as_rows(scores), "captions.jsonl")):
        assert list(chosen(statistics, [1] * 4)) == [*WITHOUT_JAVA, "spice"]
        assert chosen(statistics, [1] * 4)["spice"] == (1 + 0.25 + 0.125 + 0) / 4
        assert chosen(statistics, [3, 0, 2, 1])["spice"] == pytest.approx((3 + 0.25) / 6, rel=0, abs=1e-12)


def test_several_scorings_have_the_mean_of_their_corpus_scores() -> None:
    first = score_captions(CAPTIONS, REFERENCES)
    second = score_captions(CAPTIONS, {image: texts[1:] for image, texts in REFERENCES.items()})
    both = chosen(Statistics.of(first, second), [1] * 4)
    assert both == pytest.approx({name: (first.corpus[name] + second.corpus[name]) / 2 for name in both})
    assert both["bleu1"] != first.corpus["bleu1"]


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.pop("statistics"),
        lambda row: row.pop("scores"),
        lambda row: row["scores"].pop("cider_d"),
        lambda row: row["statistics"]["bleu"].append(0),
        lambda row: row["statistics"].update(bleu=[1] * 9, meteor=[1] * 24),
        lambda row: row["statistics"].update(meteor=None, bleu=None),
    ],
)
def test_rows_without_our_statistics_are_a_user_error(change: Callable[[dict[str, Any]], object]) -> None:
    rows = as_rows(score_captions(CAPTIONS, REFERENCES))
    change(rows[1])
    with pytest.raises(UserError, match=r"runs/old/captions\.jsonl has no statistics of image 'x'.*run `test` again"):
        Statistics.of_rows(rows, "runs/old/captions.jsonl")


def test_no_rows_are_a_user_error() -> None:
    with pytest.raises(UserError, match="a file has no captions"):
        Statistics.of_rows([], "a file")


def test_scorings_of_different_images_are_a_user_error() -> None:
    less = {image: caption for image, caption in CAPTIONS.items() if image != "x"}
    other = score_captions(less, {image: REFERENCES[image] for image in less})
    with pytest.raises(UserError, match="1 images, x the first, have a caption on one side only"):
        Statistics.of(score_captions(CAPTIONS, REFERENCES), other)


def test_numbers_are_plain_and_few() -> None:
    scores = score_captions(CAPTIONS, REFERENCES)
    counts = [count for row in scores.statistics.values() for part in row.values() for count in part]
    assert {type(count) for count in counts} == {int}
    numbers: Array = Statistics.of(scores).numbers
    assert numbers.shape == (1, 4, 37)
