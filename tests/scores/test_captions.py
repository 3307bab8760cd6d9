import json
import random
from math import exp
from pathlib import Path

import pytest

from capbench.errors import UserError
from capbench.scores.captions import CaptionScores, score_captions
from capbench.text import tokenise

DATA = Path(__file__).parents[2] / "../shared/data"
PUBLISHED_NAMES = {
    "bleu1": "Bleu_1",
    "bleu2": "Bleu_2",
    "bleu3": "Bleu_3",
    "bleu4": "Bleu_4",
    "rouge_l": "ROUGE_L",
    "cider_d": "CIDEr",
}
CAPTIONS = {"x": "a dog", "y": "a man rides a red bike", "z": "two birds in the blue sky"}
REFERENCES = {
    "x": ["A dog runs .", "a brown dog in the grass", "the dog"],
    "y": ["A man rides his bike .", "a man on a red bike", "someone is riding"],
    "z": ["Birds fly in the sky .", "the sky is blue", "two birds"],
}


@pytest.fixture(scope="module")
def flickr8k() -> dict[str, list[str]]:
    """Image name -> its five references, as written."""
    path = DATA / "flickr8k/Flickr8k_text/Flickr8k.token.txt"
    if not path.exists():
        pytest.skip(f"the published scores are NOT checked: there is no {path}")
    references: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").strip("\n").split("\n"):
        name, caption = line.split("\t")
        references.setdefault(name.partition("#")[0], []).append(caption)
    return references


def published(run: str) -> tuple[dict[str, str], dict[str, float]]:
    path = DATA / f"published/{run}.json"
    if not path.exists():
        pytest.skip(f"the published scores are NOT checked: there is no {path}")
    file = json.loads(path.read_text(encoding="utf-8"))
    return file["captions"], {key: file["scores"][name] for key, name in PUBLISHED_NAMES.items()}


@pytest.mark.parametrize("run", ["merge_1", "init_1", "human_1"])
def test_published_captions_get_their_published_scores(run: str, flickr8k: dict[str, list[str]]) -> None:
    captions, expected = published(run)
    assert len(captions) == 1000
    scores = score_captions(captions, {image: flickr8k[image] for image in captions})
    assert scores.corpus.keys() == expected.keys()
    for key, value in expected.items():
        assert scores.corpus[key] == pytest.approx(value, rel=0, abs=1e-5 if key == "cider_d" else 1e-12), key


def test_a_negation_is_a_word_whether_glued_or_not() -> None:
    scores = score_captions({"x": "it doesn't move"}, {"x": ["It does n't move !"]})
    assert scores.corpus["bleu4"] == pytest.approx(1)


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
        assert row.keys() == PUBLISHED_NAMES.keys()
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


@pytest.mark.parametrize("dirty", ["a\u2028dog", "A dog .", "<start> a <unk> dog <end> <pad>", "\ta\ndog\x85"])
def test_dirt_in_a_caption_changes_no_score(dirty: str) -> None:
    assert score_captions(CAPTIONS | {"x": dirty}, REFERENCES) == score_captions(CAPTIONS, REFERENCES)


def scores_in_order(captions: dict[str, str], references: dict[str, list[str]], dice: random.Random) -> CaptionScores:
    """Scores with images, and the references of each, in an order that `dice` gives."""
    ids = dice.sample(sorted(captions), len(captions))
    others = dice.sample(ids, len(ids))
    return score_captions(
        {image: captions[image] for image in ids},
        {image: dice.sample(references[image], len(references[image])) for image in others},
    )


def test_order_changes_no_digit(flickr8k: dict[str, list[str]]) -> None:
    captions, _ = published("merge_1")
    one, other = (scores_in_order(captions, flickr8k, random.Random(seed)) for seed in (0, 1))
    assert one == other


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
        score_captions(CAPTIONS, REFERENCES | {"y": nothing})
