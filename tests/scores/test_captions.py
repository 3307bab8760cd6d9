import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import exp

import pytest

from capbench.errors import UserError
from capbench.scores import NAMES, CaptionScores, Scorer, columns, score_captions
from capbench.text import tokenise
from tests.scores.plain import WITHOUT_JAVA

CAPTIONS = {"x": "a dog", "y": "a man rides a red bike", "z": "two birds in the blue sky"}
REFERENCES = {
    "x": ["A dog runs .", "a brown dog in the grass", "the dog"],
    "y": ["A man rides his bike .", "a man on a red bike", "someone is riding"],
    "z": ["Birds fly in the sky .", "the sky is blue", "two birds"],
}
RUNS = ("merge_1", "init_1", "human_1")
Published = Callable[[str], tuple[dict[str, str], dict[str, float]]]
References = dict[str, list[str]]


@pytest.mark.parametrize("run", RUNS)
def test_published_captions_get_their_published_scores_without_java(
    run: str, flickr8k: References, published: Published
) -> None:
    captions, expected = published(run)
    assert len(captions) == 1000
    scores = score_captions(captions, {image: flickr8k[image] for image in captions})
    assert list(scores.corpus) == WITHOUT_JAVA
    assert scores.missing == {}
    for key, value in scores.corpus.items():
        assert value == pytest.approx(expected[key], rel=0, abs=1e-9), key


def test_published_captions_get_all_their_published_scores_with_java(
    flickr8k: References, published: Published, java: str
) -> None:
    for run in RUNS:  # one after the other, so that METEOR starts once
        captions, expected = published(run)
        scores = score_captions(captions, {image: flickr8k[image] for image in captions}, java=True)
        assert scores.missing == {}
        assert list(scores.corpus) == list(columns())
        for key, value in expected.items():
            assert scores.corpus[key] == pytest.approx(value, rel=0, abs=1e-9), (run, key)


def test_a_table_has_seven_columns_and_spice_only_where_a_row_has_it() -> None:
    assert list(columns().values()) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr-D"]
    assert columns({"bleu1": 0.5}, {}) == columns()
    assert columns({}, {"spice": 0.0}) == NAMES == columns() | {"spice": "SPICE"}


def test_a_negation_is_a_word_whether_glued_or_not() -> None:
    scores = score_captions({"x": "it doesn't move"}, {"x": ["It does n't move !"]})
    assert scores.corpus["bleu4"] == pytest.approx(1)


def test_words_that_ptb_parts_are_parted_without_java_too() -> None:
    caption = "they cannot and wanna and gonna and gotta so gimme lemme"
    parted = "they can not and wan na and gon na and got ta so gim me lem me"
    assert score_captions({"x": caption}, {"x": [parted]}) == score_captions({"x": parted}, {"x": [parted]})


def test_hand_computed_scores() -> None:
    """Two words of three: BLEU's brevity penalty is exp(1 - 3/2); ROUGE-L has P = 1, R = 2/3, beta = 1.2."""
    scores = score_captions({"x": "a dog"}, {"x": ["A dog runs ."]}).corpus
    assert scores["bleu1"] == pytest.approx(exp(-0.5))
    assert scores["bleu2"] == pytest.approx(exp(-0.5))
    assert scores["rouge_l"] == pytest.approx((1 + 1.44) * (2 / 3) / (2 / 3 + 1.44))


def test_bleu_takes_the_shorter_of_two_equally_close_references() -> None:
    references = {"x": ["a b c d", "a b"]}
    assert score_captions({"x": "a b c"}, references).corpus["bleu1"] == pytest.approx(1)


def test_cider_d_is_ten_for_the_reference_itself_and_nothing_for_strangers() -> None:
    references = {"x": ["a dog runs fast"], "y": ["two birds fly south"]}
    scores = score_captions({"x": "a dog runs fast", "y": "one red sofa here"}, references)
    assert scores.per_image["x"]["cider_d"] == pytest.approx(10)
    assert scores.per_image["y"]["cider_d"] == 0
    assert scores.corpus["cider_d"] == pytest.approx(5)


def test_one_image_scores_and_its_cider_d_is_zero() -> None:
    scores = score_captions({"x": "a dog runs fast"}, {"x": ["a dog runs fast"]})
    assert scores.corpus["bleu4"] == pytest.approx(1)
    assert scores.corpus["rouge_l"] == 1
    assert scores.corpus["cider_d"] == 0
    assert scores.per_image == {"x": pytest.approx(scores.corpus)}


def test_per_image_scores_have_the_corpus_keys_as_plain_floats() -> None:
    scores = score_captions(CAPTIONS, REFERENCES)
    assert list(scores.per_image) == ["x", "y", "z"]
    for row in (scores.corpus, *scores.per_image.values()):
        assert list(row) == WITHOUT_JAVA
        assert {type(value) for value in row.values()} == {float}
    for key in ("rouge_l", "cider_d"):
        assert sum(row[key] for row in scores.per_image.values()) / 3 == pytest.approx(scores.corpus[key])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("empty", ["", " \u2028", "...", "<start> <unk> <end>"])
def test_captions_without_words_score_zero_in_silence(empty: str, capfd: pytest.CaptureFixture[str]) -> None:
    scores = score_captions(CAPTIONS | {"x": empty}, REFERENCES)
    assert set(scores.per_image["x"].values()) == {0.0}
    assert set(score_captions({"x": empty}, {"x": ["a dog"]}).corpus.values()) == {0.0}
    assert capfd.readouterr() == ("", "")


def test_references_without_words_are_left_out() -> None:
    padded = REFERENCES | {"x": [*REFERENCES["x"], "", " . "]}
    assert score_captions(CAPTIONS, padded) == score_captions(CAPTIONS, REFERENCES)


@pytest.mark.parametrize(
    "dirty", ["a\u2028dog", "A dog .", "<start> a <unk> dog <end> <pad>", "\ta\ndog\x85", "a|||dog"]
)
def test_dirt_in_a_caption_changes_no_score(dirty: str) -> None:
    assert score_captions(CAPTIONS | {"x": dirty}, REFERENCES) == score_captions(CAPTIONS, REFERENCES)


def scores_in_order(captions: dict[str, str], references: References, dice: random.Random, java: bool) -> CaptionScores:
    """Scores with images, and the references of each, in an order that `dice` gives."""
    ids = dice.sample(sorted(captions), len(captions))
    others = dice.sample(ids, len(ids))
    return score_captions(
        {image: captions[image] for image in ids},
        {image: dice.sample(references[image], len(references[image])) for image in others},
        java,
    )


def test_order_changes_no_digit(flickr8k: References, published: Published) -> None:
    captions, _ = published("merge_1")
    one, other = (scores_in_order(captions, flickr8k, random.Random(seed), java=False) for seed in (0, 1))
    assert one == other


def test_order_changes_no_digit_of_meteor_which_takes_the_first_of_equally_bad_references(java: str) -> None:
    captions = CAPTIONS | {"x": "", "y": "zzz"}  # both score 0 against references of different lengths
    one, other, third = (scores_in_order(captions, REFERENCES, random.Random(seed), java=True) for seed in (0, 1, 2))
    assert one.corpus["meteor"] > 0
    assert one == other == third


def test_a_scorer_remembers_nothing_of_earlier_captions() -> None:
    scorer = Scorer(REFERENCES)
    first = scorer(CAPTIONS)
    other = scorer({"x": "", "y": "a a a a", "z": "birds " * 50})
    assert other != first
    assert scorer(CAPTIONS) == first == score_captions(CAPTIONS, REFERENCES)


def test_threads_may_share_a_scorer() -> None:
    scorer = Scorer(REFERENCES)
    sets = [{image: f"{caption} {'birds ' * i}" for image, caption in CAPTIONS.items()} for i in range(8)]
    truth = [scorer(captions) for captions in sets]
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(scorer, sets * 50)) == truth * 50
    finally:
        sys.setswitchinterval(usual)


def test_a_scorer_does_the_work_for_its_references_once(flickr8k: References, published: Published) -> None:
    """A fifth of the time in fact; benchmarks/scores.py measures it."""
    captions, _ = published("merge_1")
    references = {image: flickr8k[image] for image in captions}
    scorer = Scorer(references)
    scorer(captions)
    again = min(seconds(lambda: scorer(captions)) for _ in range(3))
    anew = min(seconds(lambda: score_captions(captions, references)) for _ in range(3))
    assert again < anew / 2


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@pytest.mark.parametrize(
    ("captions", "references", "message"),
    [
        ("abcd", "abcdefgh", r"4 .* no caption \(e, f, g, \.\.\.\)"),
        ("abcd", "abc", r"1 .* no references \(d\)"),
        ("", "", "no captions"),
    ],
)
def test_wrong_ids_are_user_errors(captions: str, references: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        score_captions(dict.fromkeys(captions, "a dog"), {image: ["a dog"] for image in references})


@pytest.mark.parametrize("nothing", [[], [""], ["...", "<unk>"]])
def test_an_image_without_a_real_reference_is_a_user_error(nothing: list[str]) -> None:
    assert not any(map(tokenise, nothing))
    with pytest.raises(UserError, match=r"1 .* no reference with a word in it \(y\)"):
        Scorer(REFERENCES | {"y": nothing})
