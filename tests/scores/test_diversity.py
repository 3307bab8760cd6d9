import random
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capbench.errors import UserError
from capbench.scores.diversity import NAMES, diversity
from capbench.text import Vocabulary, tokenise
from tests.scores.conftest import data_file

Published = Callable[[str], tuple[dict[str, str], dict[str, float]]]

CAPTIONS = {"x": "a dog", "y": "A dog runs .", "z": "a dog"}
TRAINING = ["A dog !", "the cat runs", "a dog runs fast"]
VOCABULARY = Vocabulary(["a", "dog", "the", "cat", "fast"])

# The results that the study's authors published: words of the vocabulary used, mean length, captions that are training
# captions (of 1,000), and the entropies of words and of pairs.
PUBLISHED = {
    "merge_1": (346, 9.94, 106, 5.64545839319, 7.68303700426),
    "init_1": (295, 9.979, 111, 5.55859292241, 7.57817769253),
    "human_1": (1187, 11.139, 11, 7.33344334854, 10.8357967056),
}
words = st.sampled_from(["a", "dog", "cat", "runs", "n't", "<unk>", "<end>", "A", "Dog.", "é", "\u2028", ""])
sentences = st.lists(words, max_size=6).map(" ".join)
several = st.lists(sentences, min_size=1, max_size=8)


def measured(captions: list[str], training: list[str]) -> dict[str, float]:
    return diversity({str(i): caption for i, caption in enumerate(captions)}, training, VOCABULARY)


def entropy(things: Sequence[Hashable]) -> float:
    return log2(len(things)) - sum(n * log2(n) for n in Counter(things).values()) / len(things) if things else 0.0


def test_hand_computed_figures() -> None:
    """Words: a 3, dog 3, runs 1. Pairs: a dog 3, dog runs 1."""
    assert diversity(CAPTIONS, TRAINING, VOCABULARY) == pytest.approx(
        {
            "distinct_words": 3,
            "vocabulary_used": 2 / 5,
            "unigram_entropy": 2 * 3 / 7 * log2(7 / 3) + 1 / 7 * log2(7),
            "bigram_entropy": 3 / 4 * log2(4 / 3) + 1 / 4 * log2(4),
            "mean_length": 7 / 3,
            "copied": 2 / 3,
            "unique": 2 / 3,
        }
    )


@pytest.mark.parametrize("run", PUBLISHED)
def test_published_captions_get_their_published_figures(
    run: str, flickr8k: dict[str, list[str]], published: Published
) -> None:
    names = data_file("flickr8k/Flickr8k_text/Flickr_8k.trainImages.txt").read_text().split()
    training = [caption for name in names for caption in flickr8k[name]]
    vocabulary = Vocabulary.from_captions(training, 5)
    captions, _ = published(run)
    used, length, copied, unigrams, bigrams = PUBLISHED[run]
    figures = diversity(captions, training, vocabulary)
    assert figures["vocabulary_used"] == used / len(vocabulary.words)
    assert figures["mean_length"] == pytest.approx(length)
    assert figures["copied"] == copied / 1000

    # the study leaves words that no captioner knows out of the other three; only people use them
    known = {image: vocabulary.decode(vocabulary.encode(caption)) for image, caption in captions.items()}
    assert (known == captions) == (run != "human_1")
    figures = diversity(known, training, vocabulary)
    assert figures["distinct_words"] == used
    assert figures["unigram_entropy"] == pytest.approx(unigrams, rel=0, abs=1e-9)
    assert figures["bigram_entropy"] == pytest.approx(bigrams, rel=0, abs=1e-9)


@given(several, several)
def test_figures_are_what_their_names_say(captions: list[str], training: list[str]) -> None:
    figures, said = measured(captions, training), [tokenise(caption) for caption in captions]
    spoken = [word for caption in said for word in caption]
    assert list(figures) == [name for name in NAMES if name in figures]
    assert figures["distinct_words"] == len(set(spoken))
    assert figures["mean_length"] == pytest.approx(len(spoken) / len(said))
    assert figures["unique"] * len(said) == pytest.approx(len({" ".join(caption) for caption in said}))
    assert figures["unigram_entropy"] == pytest.approx(entropy(spoken))
    assert figures["bigram_entropy"] == pytest.approx(entropy([pair for caption in said for pair in pairwise(caption)]))
    assert figures.get("copied", 0) == sum(c in map(tokenise, training) for c in said if c) / len(said)


@given(several, several, st.randoms(use_true_random=False))
def test_neither_order_nor_spelling_matters(captions: list[str], training: list[str], rng: random.Random) -> None:
    figures = measured(captions, training)
    shuffled = [f" {caption.upper()} !" for caption in rng.sample(captions, len(captions))]
    assert measured(shuffled, rng.sample(training, len(training))) == figures


@given(several)
def test_training_captions_are_copied_and_one_word_more_is_not(training: list[str]) -> None:
    said = [caption for caption in training if tokenise(caption)]
    if said:
        assert measured(said, training)["copied"] == 1
        assert measured([f"{caption} zebra" for caption in said], training)["copied"] == 0


def test_captions_without_words_count_but_say_nothing() -> None:
    expected = {"distinct_words": 0, "vocabulary_used": 0, "unigram_entropy": 0, "bigram_entropy": 0, "mean_length": 0}
    assert measured(["", "<unk> ."], ["!", "a dog"]) == expected | {"copied": 0, "unique": 1 / 2}


@pytest.mark.parametrize("training", [[], ["!", ""]])
def test_without_training_captions_nothing_is_said_of_copies(training: list[str]) -> None:
    assert set(NAMES) - measured(["a dog"], training).keys() == {"copied"}


def test_no_captions_are_refused() -> None:
    with pytest.raises(UserError, match=r"no captions .* give at least one"):
        diversity({}, TRAINING, VOCABULARY)
