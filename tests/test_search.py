from collections.abc import Callable
from functools import partial
from itertools import product
from math import exp
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from capbench.decoders import (
    AdaptiveAttention,
    Attention,
    Decoder,
    InitInject,
    Merge,
    ParInject,
    PreInject,
    Transformer,
)
from capbench.decoders.base import State
from capbench.errors import UserError
from capbench.features import FeatureShape
from capbench.search import NEVER, Found, Search, _draw, search
from capbench.text import SPECIALS, Vocabulary
from tests.plain_search import next_words, plain_beam

SHAPE, SPOKEN = FeatureShape(2, 2, 5), 3  # three words: 40 captions of up to three words
LSTM = {"embedding": 6, "hidden": 8}
DECODERS: dict[str, Callable[..., Decoder]] = {
    "InitInject": partial(InitInject, **LSTM, layers=2),
    "PreInject": partial(PreInject, **LSTM),
    "ParInject": partial(ParInject, **LSTM),
    "Merge": partial(Merge, **LSTM, join="multiply"),
    "Attention": partial(Attention, **LSTM, attention=4),
    "AdaptiveAttention": partial(AdaptiveAttention, **LSTM, attention=4),
    "Transformer": partial(Transformer, **LSTM, layers=2, heads=2),
}


def build(name: str, seed: int, spoken: int = SPOKEN) -> Decoder:
    """A decoder with large random weights, so that captions differ in length and from image to image."""
    torch.manual_seed(seed)
    decoder = DECODERS[name](SHAPE, len(SPECIALS) + spoken).eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.8)
    decoder.output.bias.data[Vocabulary.END] = 1.5  # type: ignore[index]
    return decoder


def all_of(beam: int, max_words: int, length_penalty: float = 0.0, **options: Any) -> Search:
    """A search that keeps the whole beam's captions."""
    return Search(beam, max_words, length_penalty, captions=beam, **options)


def some_features(images: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(images, SHAPE.places, SHAPE.channels, generator=torch.Generator().manual_seed(seed))


def words_of(tokens: Tensor) -> list[int]:
    """The words of one row; whatever stands behind the first `<pad>` must be `<pad>` too."""
    ids: list[int] = tokens.tolist()
    words = [i for i in ids if i != Vocabulary.PAD]
    assert ids == words + [Vocabulary.PAD] * (len(ids) - len(words))
    return words


def teacher_forced(decoder: Decoder, image: Tensor, words: list[int], ended: bool) -> float:
    tokens = torch.tensor([[Vocabulary.START, *words]])
    targets = torch.tensor([*words, Vocabulary.END] if ended else words)
    log_probs = decoder(image.unsqueeze(0), tokens)[0].log_softmax(-1)[: len(targets)]
    return log_probs.gather(1, targets.unsqueeze(1)).sum().item()


def all_captions(max_words: int) -> list[tuple[list[int], bool]]:
    ids = range(len(SPECIALS), len(SPECIALS) + SPOKEN)
    return [
        (list(words), length < max_words) for length in range(max_words + 1) for words in product(ids, repeat=length)
    ]


def assert_same(found: Found, expected: Found, images: Tensor) -> None:
    torch.testing.assert_close(found.log_probs, expected.log_probs[images], atol=1e-5, rtol=0)
    torch.testing.assert_close(found.scores, expected.scores[images], atol=1e-5, rtol=0)
    assert found.tokens.equal(expected.tokens[images])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", DECODERS)
def test_a_beam_of_one_takes_the_best_word_each_time(name: str, seed: int) -> None:
    decoder, features = build(name, seed, spoken=9), some_features(4)
    found = search(decoder, features, Search(beam=1, max_words=6))
    for image, row in zip(features, found.tokens[:, 0], strict=True):
        expected: list[int] = []
        while len(expected) < 6:
            following = next_words(decoder, image, expected)
            word = max(following, key=lambda i: following[i])
            if word == Vocabulary.END:
                break
            expected.append(word)
        assert words_of(row) == expected


@pytest.mark.parametrize("beam", [2, 4])
@pytest.mark.parametrize("name", DECODERS)
def test_a_beam_keeps_the_best_and_shrinks_as_captions_end(name: str, beam: int) -> None:
    decoder, features = build(name, 2, spoken=9), some_features(4)
    found = search(decoder, features, all_of(beam, 5, 0.7))
    for image, rows, scores in zip(features, found.tokens, found.scores, strict=True):
        expected = plain_beam(decoder, image, beam, 5, 0.7)
        assert [words_of(row) for row in rows] == [words for _, words in expected]
        torch.testing.assert_close(scores, torch.tensor([score for score, _ in expected]), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", DECODERS)
def test_a_beam_as_wide_as_the_search_space_finds_every_caption_in_order(
    name: str, seed: int, length_penalty: float
) -> None:
    decoder, features, captions = build(name, seed), some_features(2, seed), all_captions(3)
    found = search(decoder, features, all_of(len(captions), 3, length_penalty))
    for image in range(2):
        log_probs = [teacher_forced(decoder, features[image], *caption) for caption in captions]
        scores = [
            log_prob / (len(words) + ended) ** length_penalty
            for log_prob, (words, ended) in zip(log_probs, captions, strict=True)
        ]
        order = sorted(range(len(captions)), key=lambda i: -scores[i])
        torch.testing.assert_close(found.scores[image], torch.tensor([scores[i] for i in order]), atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(
            found.log_probs[image], torch.tensor([log_probs[i] for i in order]), atol=1e-4, rtol=1e-5
        )
        assert [words_of(row) for row in found.tokens[image]] == [captions[i][0] for i in order]


def test_a_beam_wider_than_the_search_space_leaves_the_rest_empty() -> None:
    found = search(build("Merge", 0), some_features(2), all_of(9, 1))  # four captions
    assert (found.log_probs[:, :4] > -torch.inf).all()
    assert (found.scores[:, 4:] == -torch.inf).all()
    assert (found.log_probs[:, 4:] == -torch.inf).all()


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("name", DECODERS)
def test_an_image_gets_the_same_captions_alone_and_in_any_batch(name: str, beam: int) -> None:
    order, options, lengths = torch.tensor([3, 0, 4, 1, 2]), all_of(beam, 6), set()
    for seed in range(4, 10):
        decoder, features = build(name, seed, spoken=9), some_features(5, seed)
        together = search(decoder, features, options)
        assert_same(search(decoder, features[order], options), together, order)
        for image in range(5):
            assert_same(search(decoder, features[[image]], options), together, torch.tensor([image]))
        lengths |= {len(words_of(row)) for row in together.tokens.flatten(0, 1)}
    assert len(lengths) > 1  # else this would say nothing of captions that end before others


@pytest.mark.parametrize("beam", [1, 3, 6])
@pytest.mark.parametrize("name", DECODERS)
def test_captions_are_sorted_distinct_and_as_probable_as_they_claim(name: str, beam: int) -> None:
    decoder, features, options = build(name, 7, spoken=9), some_features(4), all_of(beam, 5, 0.7)
    found = search(decoder, features, options)
    assert found.tokens.shape == (4, beam, 5)
    assert (found.scores.diff(dim=1) <= 0).all()
    for image in range(4):
        captions = [words_of(row) for row in found.tokens[image]]
        assert len({tuple(words) for words in captions}) == beam
        for words, log_prob, score in zip(captions, found.log_probs[image], found.scores[image], strict=True):
            ended = len(words) < 5
            assert float(log_prob) == pytest.approx(teacher_forced(decoder, features[image], words, ended), abs=1e-4)
            assert float(score) == pytest.approx(float(log_prob) / (len(words) + ended) ** 0.7, abs=1e-4)


@pytest.mark.parametrize("never", ["PAD", "START", "UNK"])
@pytest.mark.parametrize("beam", [1, 4])
def test_markers_are_never_said_however_probable(never: str, beam: int) -> None:
    decoder = build("Merge", 1)
    assert isinstance(decoder.output, torch.nn.Linear)
    with torch.no_grad():
        decoder.output.bias[getattr(Vocabulary, never)] = 50.0
    found = search(decoder, some_features(3), all_of(beam, 4))
    assert {i for row in found.tokens.flatten(0, 1) for i in words_of(row)} <= {4, 5, 6}
    assert (found.scores[:, 0] > -torch.inf).all()


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("max_words", [1, 4])
def test_a_captioner_that_never_ends_is_stopped(beam: int, max_words: int) -> None:
    decoder = build("Merge", 1)
    assert isinstance(decoder.output, torch.nn.Linear)
    with torch.no_grad():
        decoder.output.bias[Vocabulary.END] = -50.0
    tokens = search(decoder, some_features(3), all_of(beam, max_words)).tokens
    assert tokens.shape[-1] == max_words
    assert (tokens >= len(SPECIALS)).all()


def test_a_captioner_with_nothing_to_say_gives_empty_captions() -> None:
    decoder = build("Merge", 1)
    assert isinstance(decoder.output, torch.nn.Linear)
    with torch.no_grad():
        decoder.output.bias[Vocabulary.END] = 50.0
    found = search(decoder, some_features(3), Search(beam=1, max_words=4))
    assert not found.tokens.any()
    torch.testing.assert_close(found.log_probs, torch.zeros(3, 1))


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("name", ["Attention", "AdaptiveAttention", "Transformer"])
def test_attention_maps_belong_to_the_words_of_their_caption(beam: int, name: str) -> None:
    decoder, features = build(name, 3, spoken=9), some_features(4)
    found = search(decoder, features, all_of(beam, 5), attention=True)
    assert found.attention is not None
    assert found.attention.shape == (4, beam, 5, SHAPE.places)
    for image in range(4):
        for row, maps in zip(found.tokens[image], found.attention[image], strict=True):
            words = words_of(row)
            context = decoder.context(features[image].unsqueeze(0))
            _, expected = decoder.hidden(context, torch.tensor([[Vocabulary.START, *words]]))
            assert expected is not None
            torch.testing.assert_close(maps[: len(words)], expected[0, : len(words)], atol=1e-5, rtol=0)


def test_without_attention_there_are_no_maps() -> None:
    assert search(build("Merge", 0), some_features(1), Search(), attention=True).attention is None


@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("name", DECODERS)
def test_the_best_captions_are_the_same_however_many_are_asked_for(name: str, length_penalty: float) -> None:
    """An image that is done early, and leaves the batch, loses none."""
    for seed in range(6):
        decoder, features = build(name, seed, spoken=9), some_features(6, seed)
        everything = search(decoder, features, all_of(5, 8, length_penalty), attention=True)
        for captions in (1, 2):
            found = search(decoder, features, Search(5, 8, length_penalty, captions), attention=True)
            assert found.tokens.equal(everything.tokens[:, :captions])
            torch.testing.assert_close(found.scores, everything.scores[:, :captions], atol=1e-5, rtol=0)
            if found.attention is not None and everything.attention is not None:
                said = (found.tokens != Vocabulary.PAD).unsqueeze(-1)
                ours, theirs = found.attention * said, everything.attention[:, :captions] * said
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_images_that_are_done_are_not_searched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, features, rows = build("ParInject", 2, spoken=9), some_features(40), []
    decoder.output.bias.data[Vocabulary.END] = 1.0  # type: ignore[index]
    step = decoder.step

    def count(tokens: Tensor, *rest: State) -> tuple[Tensor, State]:
        rows.append(len(tokens))
        return step(tokens, *rest)

    monkeypatch.setattr(decoder, "step", count)
    found = search(decoder, features, Search(3, 12))
    lengths = (found.tokens[:, 0] != Vocabulary.PAD).sum(1)
    assert rows[0] == 40
    assert rows[-1] < max(rows) / 2
    assert len(rows) >= lengths.max()


def repeats(words: list[int], size: int) -> bool:
    ngrams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return len(set(ngrams)) < len(ngrams)


@pytest.mark.parametrize(("size", "shortest"), [(0, 3), (1, 0), (2, 0), (3, 4)])
@pytest.mark.parametrize("name", ["ParInject", "Attention"])
def test_no_ngram_comes_twice_and_captions_are_long_enough(name: str, size: int, shortest: int) -> None:
    """As a beam search written plainly, which strikes out what is not allowed."""
    beam, longest, differs = 3, 6, False
    for seed in range(4):
        decoder, features = build(name, seed), some_features(3, seed)
        found = search(decoder, features, all_of(beam, longest, min_words=shortest, no_repeat_ngram=size))
        free = search(decoder, features, all_of(beam, longest))
        differs |= not free.tokens.equal(found.tokens)
        for image, rows, scores in zip(features, found.tokens, found.scores, strict=True):
            alive: list[tuple[float, list[int]]] = [(0.0, [])]
            done: list[tuple[float, list[int]]] = []
            for _ in range(longest):
                longer = [
                    (log_prob + more, [*words, i])
                    for log_prob, words in alive
                    for i, more in next_words(decoder, image, words).items()
                    if not (size and repeats([*words, i], size)) and (i != Vocabulary.END or len(words) >= shortest)
                ]
                best = sorted(longer, reverse=True)[: beam - len(done)]
                alive = [(log_prob, words) for log_prob, words in best if words[-1] != Vocabulary.END]
                done += [(log_prob, words[:-1]) for log_prob, words in best if words[-1] == Vocabulary.END]
            expected = sorted([*done, *alive], reverse=True)
            assert [words_of(row) for row in rows[: len(expected)]] == [words for _, words in expected]
            torch.testing.assert_close(
                scores[: len(expected)], torch.tensor([score for score, _ in expected]), atol=1e-4, rtol=1e-5
            )
    assert differs


# Sampling


def sampled(captions: int = 1, max_words: int = 6, **options: Any) -> Search:
    return Search(sample=True, captions=captions, max_words=max_words, **options)


@given(
    st.lists(st.floats(-4, 4, width=16), min_size=4, max_size=4),
    st.floats(0.3, 3),
    st.integers(0, 5),
    st.floats(0.05, 1),
)
def test_words_are_drawn_as_often_as_they_are_probable(
    logits: list[float], temperature: float, top_k: int, top_p: float
) -> None:
    """10,000 dice, evenly spread."""
    weights = {i: exp(logit / temperature) for i, logit in enumerate(logits)}
    nucleus = sorted(weights, key=lambda i: -logits[i])[: top_k or None]
    whole, kept, reached = sum(weights[i] for i in nucleus), [], 0.0
    for i in nucleus:
        if reached < top_p * whole * (1 - 1e-5):
            kept.append(i)
        reached += weights[i]
    if any(abs(sum(weights[i] for i in nucleus[:n]) / whole - top_p) < 1e-4 for n in range(len(nucleus))):
        return  # rounding decides
    options = sampled(temperature=temperature, top_k=top_k, top_p=top_p)
    dice = (torch.arange(10_000) + 0.5) / 10_000
    rows = torch.tensor(logits).expand(10_000, -1)
    _, _, words = _draw(rows, rows.logsumexp(-1), torch.zeros(10_000, 1), dice.unsqueeze(1), options)
    found = words.flatten().bincount(minlength=4) / 10_000
    expected = torch.tensor([weights[i] / sum(weights[k] for k in kept) if i in kept else 0.0 for i in range(4)])
    if len(set(logits)) < 4:  # which of equally probable words is kept is chance
        found, expected = found.sort().values, expected.sort().values
    torch.testing.assert_close(found, expected, atol=3e-4, rtol=0)


@pytest.mark.parametrize("name", DECODERS)
def test_samples_are_captions_as_probable_as_they_claim(name: str) -> None:
    decoder, features = build(name, 7, spoken=9), some_features(4)
    options = sampled(5, length_penalty=0.7, temperature=0.8, top_p=0.9, min_words=1, no_repeat_ngram=2)
    found = search(decoder, features, options, seeds=range(4))
    assert (found.scores.diff(dim=1) <= 0).all()
    for image in range(4):
        for row, log_prob, score in zip(found.tokens[image], found.log_probs[image], found.scores[image], strict=True):
            words = words_of(row)
            ended = len(words) < 6
            assert words
            assert not repeats(words, 2)
            assert not set(words) & set(NEVER)
            assert float(log_prob) == pytest.approx(teacher_forced(decoder, features[image], words, ended), abs=1e-4)
            assert float(score) == pytest.approx(float(log_prob) / (len(words) + ended) ** 0.7, abs=1e-4)


@pytest.mark.parametrize("name", DECODERS)
def test_samples_depend_on_the_images_seed_and_not_on_its_batch(name: str) -> None:
    decoder, features, seeds = build(name, 5, spoken=9), some_features(5), [10, 11, 12, 13, 14]
    together = search(decoder, features, sampled(3), seeds=seeds)
    for image in range(5):
        alone = search(decoder, features[[image]], sampled(3), seeds=[seeds[image]])
        assert_same(alone, together, torch.tensor([image]))
    assert not search(decoder, features, sampled(3), seeds=range(5)).tokens.equal(together.tokens)


def test_samples_of_one_image_differ() -> None:
    found = search(build("Merge", 1, spoken=9), some_features(1), sampled(20), seeds=[0])
    assert len({tuple(words_of(row)) for row in found.tokens[0]}) > 5


def test_a_sample_of_the_most_probable_word_alone_is_greedy() -> None:
    decoder, features = build("Attention", 3, spoken=9), some_features(4)
    greedy = search(decoder, features, Search(1, 6))
    for options in (sampled(top_k=1), sampled(temperature=1e-4), sampled(top_p=1e-6)):
        assert_same(search(decoder, features, options), greedy, torch.arange(4))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beam": 0}, "beam, max_words"),
        ({"beam": -3}, "beam, max_words"),
        ({"max_words": 0}, "beam, max_words"),
        ({"length_penalty": -0.1}, "length_penalty of at least 0"),
        ({"captions": 4}, "beam of 3 has no 4 captions"),
        ({"min_words": 21}, "min_words from 0 to max_words"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram"),
        ({"temperature": 0.7}, "would change nothing: set sample=true"),
        ({"sample": True, "temperature": 0}, "temperature above 0"),
        ({"sample": True, "top_p": 1.5}, "top_p above 0"),
    ],
)
def test_what_cannot_be_searched_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Search(**options)
