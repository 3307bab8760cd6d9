"""Captions as words, and words as numbers: the one tokeniser, for training and for scoring alike."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Self

from capbench.errors import UserError

SPECIALS = ("<pad>", "<start>", "<end>", "<unk>")
_SPECIAL_OR_WORD = re.compile("|".join(SPECIALS) + r"|(n't|(?:(?!n't)\w)+|[#&])")


def tokenise(caption: str) -> list[str]:
    """The words of a caption, by the rule behind the scores of Tanti, Gatt and Camilleri (2018).

    In lower case, `n't` is a word of its own, so is every other run of word characters, and so are `#` and `&`.
    Everything else only separates words: punctuation, any white space (U+2028 too), and markers such as `<unk>`
    that a captioner left in its sentence.
    """
    return [word for word in _SPECIAL_OR_WORD.findall(caption.lower()) if word]


def detokenise(words: Sequence[str]) -> str:
    """One readable line, with `n't` glued to the word before it.

    `tokenise(detokenise(words)) == words` for all words that came from `tokenise`, in any order and number.
    """
    return "".join(word if i == 0 or word == "n't" else f" {word}" for i, word in enumerate(words))


class Vocabulary:
    """The words a captioner can say, numbered after the four specials.

    Attributes:
        words: all words but the specials; `words[i]` has the id `i + 4`.
    """

    PAD, START, END, UNK = range(len(SPECIALS))

    def __init__(self, words: Sequence[str]) -> None:
        """Raises ValueError if a word comes twice or is a special."""
        self.words = list(words)
        self._id_of = {word: i for i, word in enumerate(self.words, start=len(SPECIALS))}
        self._word_of = {i: word for word, i in self._id_of.items()}
        if len(self._id_of) < len(self.words):
            raise ValueError(f"words come twice: {[w for w, n in Counter(self.words).items() if n > 1][:3]}")
        if specials := [word for word in SPECIALS if word in self._id_of]:
            raise ValueError(f"specials are not words: {specials}")

    @classmethod
    def from_captions(cls, captions: Iterable[str], min_count: int = 1) -> Self:
        """The words that occur at least `min_count` times, the most frequent first, equals by alphabet.

        Raises UserError if there is no such word.
        """
        counts = Counter(word for caption in captions for word in tokenise(caption))
        words = [word for word, count in counts.items() if count >= min_count]
        if not words:
            raise UserError(
                f"No word of the captions occurs {min_count} times (the most frequent one: "
                f"{max(counts.values(), default=0)}): lower the vocabulary's min_count or give more captions."
            )
        return cls(sorted(words, key=lambda word: (-counts[word], word)))

    def __len__(self) -> int:
        """The number of ids, specials included: they run from 0 to `len(vocabulary) - 1`."""
        return len(SPECIALS) + len(self.words)

    def encode(self, caption: str, max_words: int | None = None) -> list[int]:
        """START, the ids of the caption's first `max_words` words (UNK for unknown ones), END."""
        words = tokenise(caption)[:max_words]
        return [self.START, *(self._id_of.get(word, self.UNK) for word in words), self.END]

    def decode(self, ids: Iterable[int]) -> str:
        """The caption up to the first END, without PAD, START and UNK.

        Raises KeyError for an id that is none of this vocabulary's.
        """
        words = []
        for i in ids:
            if i == self.END:
                break
            if i not in (self.PAD, self.START, self.UNK):
                words.append(self._word_of[i])
        return detokenise(words)
