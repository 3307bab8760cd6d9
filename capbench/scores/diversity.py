"""How varied captions are, which no comparison with references tells."""

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from math import fsum, log2

from capbench.errors import UserError
from capbench.text import Vocabulary, tokenise

NAMES = {
    "distinct_words": "words used",
    "vocabulary_used": "of vocabulary",
    "unigram_entropy": "1-gram bits",
    "bigram_entropy": "2-gram bits",
    "mean_length": "mean length",
    "copied": "copied",
    "unique": "unique",
}
"""Figure -> the title of its column. `vocabulary_used`, `copied` and `unique` are shares, 0 to 1."""


def diversity(
    captions: Mapping[str, str], training: Iterable[str] = (), vocabulary: Vocabulary | None = None
) -> dict[str, float]:
    """The figures under the keys of `NAMES`, of all captions together.

    Words are those of `capbench.text.tokenise`; `<start>` and `<end>` are none.

    - `distinct_words`: different words that the captions use.
    - `vocabulary_used`: share of the vocabulary's words (its four specials are none) that the captions use. Without a
      vocabulary there is no such figure.
    - `unigram_entropy`, `bigram_entropy`: -sum p log2 p, in bits, where p is the share of a word among all captions'
      words, and of two adjacent words of a caption among all such pairs; 0 where there are none.
    - `mean_length`: words of a caption.
    - `copied`: share of captions whose words, in their order, are a whole training caption's. One without words is
      copied from nowhere. Without training captions there is no such figure.
    - `unique`: different captions over captions.

    Source: Tanti, Gatt and Camilleri (2018), "Where to put the image in an image caption generator", as their code
    computes them; `unique` from the toolkit of van Miltenburg, Elliott and Vossen (2018), "Measuring the diversity of
    automatic image descriptions", whose "novel" is 1 - `copied`.

    Args:
        captions: image id -> caption.
        training: the training split's captions, as people wrote them.
        vocabulary: the words that the captioner can say; null where they are not known.

    Raises:
        UserError: there are no captions.
    """
    if not captions:
        raise UserError("There are no captions whose diversity could be measured: give at least one.")
    sentences = [tuple(tokenise(caption)) for caption in captions.values()]
    known = {tuple(tokenise(caption)) for caption in training} - {()}
    words = Counter(word for sentence in sentences for word in sentence)
    pairs = Counter(pair for sentence in sentences for pair in pairwise(sentence))
    figures = {
        "distinct_words": len(words),
        "vocabulary_used": _share_used(vocabulary, words) if vocabulary else None,
        "unigram_entropy": _entropy(words),
        "bigram_entropy": _entropy(pairs),
        "mean_length": words.total() / len(sentences),
        "copied": sum(sentence in known for sentence in sentences) / len(sentences) if known else None,
        "unique": len(set(sentences)) / len(sentences),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def _share_used(vocabulary: Vocabulary, words: Counter[str]) -> float:
    return len(words.keys() & set(vocabulary.words)) / len(vocabulary.words)


def _entropy(counts: Counter[str] | Counter[tuple[str, str]]) -> float:
    total = counts.total()
    return fsum(count / total * log2(total / count) for count in counts.values())
