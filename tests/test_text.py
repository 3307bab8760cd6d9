import subprocess
import sys
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capbench.errors import UserError
from capbench.text import SPECIALS, Vocabulary, detokenise, tokenise

PIECES = st.sampled_from(["n't", "N'T", "n", "'t", "do", "#", "&", " ", "\u2028", "_", "İ", "Σ", *SPECIALS])
CAPTIONS = st.lists(PIECES | st.text(max_size=6)).map("".join)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A dog , running ; it's fast !", ["a", "dog", "running", "it", "s", "fast"]),
        ("They don't / CAN'T stop .", ["they", "do", "n't", "ca", "n't", "stop"]),
        ("number #3 in black&white", ["number", "#", "3", "in", "black", "&", "white"]),
        ("a t-shirt's “logo”", ["a", "t", "shirt", "s", "logo"]),
        ("<start> a <UNK> dog<unk>s <end><pad>", ["a", "dog", "s"]),
        ("the unk at the start and end", ["the", "unk", "at", "the", "start", "and", "end"]),
        ("a\u2028dog\u2029on\x85the\x0bgrass\u00a0here", ["a", "dog", "on", "the", "grass", "here"]),
        (" .,;!? ", []),
    ],
)
def test_tokenise_examples(caption: str, words: list[str]) -> None:
    assert tokenise(caption) == words


@given(CAPTIONS)
def test_tokenise_is_idempotent_and_its_words_survive_any_split(caption: str) -> None:
    words = tokenise(caption)
    assert tokenise(" ".join(words)) == words
    assert " ".join(words).split() == words
    assert not set(words) & set(SPECIALS)


@given(st.lists(CAPTIONS.map(tokenise)), st.randoms(use_true_random=False))
def test_detokenise_is_undone_by_tokenise(sentences: list[list[str]], random: Random) -> None:
    words = [word for sentence in sentences for word in sentence]
    random.shuffle(words)
    assert tokenise(detokenise(words)) == words


def test_detokenise_glues_only_the_negation() -> None:
    assert detokenise(["they", "do", "n't", "run", "&", "hide"]) == "they don't run & hide"
    assert detokenise([]) == ""


@given(CAPTIONS)
def test_known_captions_come_back_from_their_ids(caption: str) -> None:
    words = tokenise(caption)
    vocabulary = Vocabulary.from_captions([caption, "dog"])
    ids = vocabulary.encode(caption)
    assert (ids[0], ids[-1], len(ids)) == (Vocabulary.START, Vocabulary.END, len(words) + 2)
    assert all(len(SPECIALS) <= i < len(vocabulary) for i in ids[1:-1])
    assert vocabulary.decode(ids) == detokenise(words)
    assert vocabulary.encode(vocabulary.decode(ids)) == ids


@given(st.lists(CAPTIONS), st.integers(1, 3), st.randoms(use_true_random=False))
def test_the_vocabulary_does_not_depend_on_the_order_of_captions(
    captions: list[str], min_count: int, random: Random
) -> None:
    captions = [*captions, *["dog"] * min_count]
    shuffled = random.sample(captions, len(captions))
    vocabulary = Vocabulary.from_captions(captions, min_count)
    assert vocabulary.words == Vocabulary.from_captions(shuffled, min_count).words
    assert type(vocabulary.words) is list
    assert len(vocabulary) == len(vocabulary.words) + 4


def test_words_are_ordered_by_count_then_alphabet_and_rare_ones_left_out() -> None:
    captions = ["the dog and the cat", "The cat", "a dog"]
    assert Vocabulary.from_captions(captions).words == ["the", "cat", "dog", "a", "and"]
    assert Vocabulary.from_captions(captions, min_count=2).words == ["the", "cat", "dog"]


def test_ids_of_specials_and_unknown_words() -> None:
    vocabulary = Vocabulary(["a", "dog"])
    assert (Vocabulary.PAD, Vocabulary.START, Vocabulary.END, Vocabulary.UNK) == (0, 1, 2, 3)
    assert vocabulary.encode("a big Dog") == [1, 4, 3, 5, 2]
    assert vocabulary.encode("") == [1, 2]
    assert vocabulary.decode([1, 4, 3, 5, 2, 4, 0, 0]) == "a dog"
    assert vocabulary.decode([4, 5]) == "a dog"


@pytest.mark.parametrize(("max_words", "ids"), [(None, [1, 4, 5, 4, 2]), (2, [1, 4, 5, 2]), (0, [1, 2])])
def test_encode_cuts_to_max_words(max_words: int | None, ids: list[int]) -> None:
    assert Vocabulary(["a", "b"]).encode("a b a", max_words) == ids


@pytest.mark.parametrize("foreign", [-100, -1, 6])
def test_decode_refuses_foreign_ids(foreign: int) -> None:
    with pytest.raises(KeyError):
        Vocabulary(["a", "dog"]).decode([4, foreign])


@pytest.mark.parametrize("words", [["a", "b", "a"], ["a", "<unk>"]])
def test_duplicates_and_specials_are_refused(words: list[str]) -> None:
    with pytest.raises(ValueError, match=words[-1]):
        Vocabulary(words)


@pytest.mark.parametrize(("captions", "best"), [(["a dog", "a cat"], 2), ([], 0), (["."], 0)])
def test_a_min_count_that_no_word_reaches_is_a_user_error(captions: list[str], best: int) -> None:
    with pytest.raises(UserError, match=rf"occurs 3 times \(the most frequent one: {best}\).*min_count"):
        Vocabulary.from_captions(captions, min_count=3)


def test_text_and_scores_import_nothing_heavy() -> None:
    code = "import sys, capbench.text, capbench.scores; assert not {'torch', 'pycocoevalcap', 'numpy'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
