from collections.abc import Callable
from functools import partial
from itertools import product

import pytest
import torch
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
from capbench.errors import UserError
from capbench.features import FeatureShape
from capbench.search import Found, Search, search
from capbench.text import SPECIALS, Vocabulary

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


def next_words(decoder: Decoder, image: Tensor, words: list[int]) -> dict[int, float]:
    """Log-probability of every word that may follow, and of `<end>`."""
    log_probs = decoder(image.unsqueeze(0), torch.tensor([[Vocabulary.START, *words]]))[0, -1].log_softmax(-1).tolist()
    return {i: log_prob for i, log_prob in enumerate(log_probs) if i == Vocabulary.END or i >= len(SPECIALS)}


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
    found = search(decoder, features, Search(beam, 5, 0.7))
    for image, rows, scores in zip(features, found.tokens, found.scores, strict=True):
        alive: list[tuple[float, list[int]]] = [(0.0, [])]
        done: list[tuple[float, list[int]]] = []
        for length in range(1, 6):
            longer = [
                (log_prob + more, [*words, i])
                for log_prob, words in alive
                for i, more in next_words(decoder, image, words).items()
            ]
            best = sorted(longer, reverse=True)[: beam - len(done)]
            alive = [(log_prob, words) for log_prob, words in best if words[-1] != Vocabulary.END]
            done += [(log_prob / length**0.7, words[:-1]) for log_prob, words in best if words[-1] == Vocabulary.END]
        expected = sorted([*done, *((log_prob / 5**0.7, words) for log_prob, words in alive)], reverse=True)
        assert [words_of(row) for row in rows] == [words for _, words in expected]
        torch.testing.assert_close(scores, torch.tensor([score for score, _ in expected]), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", DECODERS)
def test_a_beam_as_wide_as_the_search_space_finds_every_caption_in_order(
    name: str, seed: int, length_penalty: float
) -> None:
    decoder, features, captions = build(name, seed), some_features(2, seed), all_captions(3)
    found = search(decoder, features, Search(len(captions), 3, length_penalty))
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
    found = search(build("Merge", 0), some_features(2), Search(beam=9, max_words=1))  # four captions
    assert (found.log_probs[:, :4] > -torch.inf).all()
    assert (found.scores[:, 4:] == -torch.inf).all()
    assert (found.log_probs[:, 4:] == -torch.inf).all()


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("name", DECODERS)
def test_an_image_gets_the_same_captions_alone_and_in_any_batch(name: str, beam: int) -> None:
    order, options, lengths = torch.tensor([3, 0, 4, 1, 2]), Search(beam, 6), set()
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
    decoder, features, options = build(name, 7, spoken=9), some_features(4), Search(beam, 5, 0.7)
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
    found = search(decoder, some_features(3), Search(beam, 4))
    assert {i for row in found.tokens.flatten(0, 1) for i in words_of(row)} <= {4, 5, 6}
    assert (found.scores[:, 0] > -torch.inf).all()


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("max_words", [1, 4])
def test_a_captioner_that_never_ends_is_stopped(beam: int, max_words: int) -> None:
    decoder = build("Merge", 1)
    assert isinstance(decoder.output, torch.nn.Linear)
    with torch.no_grad():
        decoder.output.bias[Vocabulary.END] = -50.0
    tokens = search(decoder, some_features(3), Search(beam, max_words)).tokens
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
    found = search(decoder, features, Search(beam, 5))
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
    assert search(build("Merge", 0), some_features(1), Search()).attention is None


@pytest.mark.parametrize(
    "options", [{"beam": 0}, {"beam": -3}, {"max_words": 0}, {"length_penalty": -0.1}], ids=lambda options: str(options)
)
def test_what_cannot_be_searched_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="beam and max_words"):
        Search(**options)  # type: ignore[arg-type]
