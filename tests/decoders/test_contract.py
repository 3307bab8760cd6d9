from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import capbench.decoders
from capbench.decoders import (
    AdaptiveAttention,
    Attention,
    Decoder,
    InitInject,
    Merge,
    ParInject,
    PreInject,
    Transformer,
    select,
)
from capbench.errors import UserError
from capbench.features import FeatureShape
from capbench.parts import part_class
from capbench.text import Vocabulary

SHAPE, WORDS = FeatureShape(2, 3, 5), 11
IMAGES, CAPTIONS, HYPOTHESES, LENGTH = 3, 4, 2, 6

Make = Callable[..., Decoder]
LSTM: dict[str, Any] = {"embedding": 6, "hidden": 7}
GRID: dict[str, Make] = {
    "Attention": partial(Attention, **LSTM, attention=4),
    "Attention without gate": partial(Attention, **LSTM, attention=4, gate=False),
    "Attention with projection": partial(Attention, **LSTM, attention=4, project=3),
    "Attention visiting all places": partial(Attention, **LSTM, attention=4, doubly_stochastic=0.7),
    "AdaptiveAttention": partial(AdaptiveAttention, **LSTM, attention=4),
    "AdaptiveAttention, wider": partial(AdaptiveAttention, embedding=9, hidden=16, attention=16),
}
TRANSFORMERS: dict[str, Make] = {
    "Transformer": partial(Transformer, embedding=6, hidden=8, layers=2, heads=2),
    "Transformer, 1 layer, 1 head": partial(Transformer, embedding=6, hidden=7, layers=1, heads=1, feedforward=5),
    "Transformer, 3 layers, H as E": partial(Transformer, embedding=8, hidden=8, layers=3, heads=4),
}
FUSED: dict[str, Make] = {
    "InitInject": partial(InitInject, **LSTM),
    "InitInject, 2 layers": partial(InitInject, **LSTM, layers=2),
    "PreInject": partial(PreInject, **LSTM),
    "PreInject, 2 layers": partial(PreInject, **LSTM, layers=2),
    "ParInject": partial(ParInject, **LSTM),
    "ParInject, 2 layers": partial(ParInject, **LSTM, layers=2),
    "Merge, concat": partial(Merge, **LSTM),
    "Merge, concat, 2 layers": partial(Merge, **LSTM, layers=2),
    "Merge, add": partial(Merge, **LSTM, join="add"),
    "Merge, add, deep": partial(Merge, **LSTM, join="add", deep=5),
    "Merge, multiply": partial(Merge, **LSTM, join="multiply"),
}
ATTENDING = GRID | TRANSFORMERS
DECODERS = FUSED | ATTENDING


def build(name: str, shape: FeatureShape = SHAPE, **options: float) -> Decoder:
    torch.manual_seed(0)
    return DECODERS[name](shape, WORDS, **options).eval()


def some_features(images: int = IMAGES, shape: FeatureShape = SHAPE, seed: int = 1) -> Tensor:
    return torch.randn(images, shape.places, shape.channels, generator=torch.Generator().manual_seed(seed))


def some_tokens(captions: int = IMAGES, length: int = LENGTH, seed: int = 2) -> Tensor:
    tokens = torch.randint(3, WORDS, (captions, length), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = Vocabulary.START
    return tokens


def unrolled(decoder: Decoder, features: Tensor, tokens: Tensor) -> Tensor:
    context = decoder.context(features)
    state, logits = decoder.start(context), []
    for word in tokens.unbind(1):
        step, state = decoder.step(word, state, context)
        logits.append(step)
    return torch.stack(logits, 1)


def test_every_decoder_is_tested_here() -> None:
    exported = {getattr(capbench.decoders, name) for name in capbench.decoders.__all__}
    decoders = {part for part in exported if isinstance(part, type) and issubclass(part, Decoder)} - {Decoder}
    assert {part_class(make) for make in DECODERS.values()} == decoders


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=5)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(2, 3), st.integers(0, 99))
def test_forward_equals_the_unrolled_steps(
    name: str, images: int, length: int, height: int, width: int, seed: int
) -> None:
    shape = FeatureShape(height, width, 5)
    decoder, features = build(name, shape), some_features(images, shape, seed)
    tokens = some_tokens(images, length, seed)
    logits = decoder(features, tokens)
    assert logits.shape == (images, length, WORDS)
    torch.testing.assert_close(logits, unrolled(decoder, features, tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", FUSED | TRANSFORMERS)
def test_one_place_is_grid_enough_for_all_but_lstms_that_attend(name: str) -> None:
    shape = FeatureShape(1, 1, 5)
    decoder, features, tokens = build(name, shape), some_features(shape=shape), some_tokens()
    torch.testing.assert_close(decoder(features, tokens), unrolled(decoder, features, tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("place", range(1, LENGTH))
def test_no_word_sees_a_later_one(name: str, place: int) -> None:
    decoder, features, tokens = build(name), some_features(), some_tokens()
    other = tokens.clone()
    other[:, place] = torch.where(tokens[:, place] == 5, 6, 5)
    difference = (decoder(features, tokens) - decoder(features, other)).abs().amax(-1)  # (B, T)
    assert not difference[:, :place].any()
    assert (difference[:, place] > 0).all()


@pytest.mark.parametrize("name", DECODERS)
def test_padding_behind_a_caption_changes_nothing_before_it(name: str) -> None:
    decoder, features, tokens = build(name), some_features(), some_tokens()
    padded = nn.functional.pad(tokens, (0, 4), value=Vocabulary.PAD)
    torch.testing.assert_close(decoder(features, padded)[:, :LENGTH], decoder(features, tokens), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", DECODERS)
def test_every_word_depends_on_the_image(name: str) -> None:
    decoder, tokens = build(name), some_tokens()
    difference = decoder(some_features(seed=1), tokens) - decoder(some_features(seed=3), tokens)
    assert (difference.abs().amax(-1) > 0).all()


@pytest.mark.parametrize("name", DECODERS)
def test_captions_find_their_images_by_number(name: str) -> None:
    decoder, features, tokens = build(name), some_features(), some_tokens(CAPTIONS)
    owners = torch.tensor([2, 0, 2, 1])
    expected = decoder(features[owners], tokens)
    torch.testing.assert_close(decoder(features, tokens, owners), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", DECODERS)
def test_states_are_batch_first_and_reordered_by_select(name: str) -> None:
    decoder, features, tokens = build(name), some_features(), some_tokens()
    context = decoder.context(features)
    start = decoder.start(context)
    _, state = decoder.step(tokens[:, 0], start, context)
    assert {key: tensor.ndim for key, tensor in start.items()} == {key: tensor.ndim for key, tensor in state.items()}
    assert all(len(tensor) == IMAGES for tensor in (*context.values(), *state.values()))

    rows = torch.tensor([2, 2, 0, 1, 0])
    logits, after = decoder.step(tokens[:, 1], state, context)
    chosen, chosen_after = decoder.step(tokens[rows, 1], select(state, rows), select(context, rows))
    torch.testing.assert_close(chosen, logits[rows], atol=1e-6, rtol=0)
    torch.testing.assert_close(chosen_after, select(after, rows), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", DECODERS)
def test_an_images_captions_share_its_row_of_the_context(name: str) -> None:
    decoder, tokens = build(name), some_tokens(IMAGES * HYPOTHESES)
    shared = decoder.context(some_features())
    repeated = select(shared, torch.arange(IMAGES).repeat_interleave(HYPOTHESES))
    torch.testing.assert_close(decoder.hidden(shared, tokens), decoder.hidden(repeated, tokens), atol=1e-6, rtol=0)

    state, expected = decoder.start(shared, HYPOTHESES), decoder.start(repeated)
    assert state.keys() == expected.keys()
    for word in tokens.unbind(1):
        torch.testing.assert_close(state, expected, atol=1e-6, rtol=0)
        logits, state = decoder.step(word, state, shared)
        expected_logits, expected = decoder.step(word, expected, repeated)
        torch.testing.assert_close(logits, expected_logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", DECODERS)
def test_lengths_change_nothing_before_a_captions_end(name: str) -> None:
    decoder, context, tokens = build(name), build(name).context(some_features()), some_tokens(IMAGES * HYPOTHESES)
    lengths = torch.tensor([3, 6, 1, 5, 2, 4])
    real = torch.arange(LENGTH) < lengths.unsqueeze(1)
    hidden, weights = decoder.hidden(context, tokens, lengths)
    expected, expected_weights = decoder.hidden(context, tokens)
    torch.testing.assert_close(hidden[real], expected[real], atol=1e-6, rtol=0)
    if weights is not None and expected_weights is not None:
        torch.testing.assert_close(weights[real], expected_weights[real], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", DECODERS)
def test_a_step_leaves_the_old_state_as_it_was(name: str) -> None:
    decoder, tokens = build(name), some_tokens()
    context = decoder.context(some_features())
    state = decoder.start(context)
    before = {key: tensor.clone() for key, tensor in (state | context).items()}
    decoder.step(tokens[:, 0], state, context)
    torch.testing.assert_close(state | context, before, atol=0, rtol=0)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("name", DECODERS)
def test_training_reaches_every_parameter(name: str, dropout: float) -> None:
    decoder = build(name, dropout=dropout).train()
    nn.functional.cross_entropy(
        decoder(some_features(), some_tokens()).flatten(0, 1), some_tokens().flatten()
    ).backward()
    untouched = [key for key, value in decoder.named_parameters() if value.grad is None or not value.grad.any()]
    assert not untouched


@pytest.mark.parametrize("name", DECODERS)
def test_dropout_is_felt_in_training_alone(name: str) -> None:
    decoder, features, tokens = build(name), some_features(), some_tokens()
    assert decoder(features, tokens).equal(decoder(features, tokens))
    decoder.train()
    assert not decoder(features, tokens).equal(decoder(features, tokens))


@pytest.mark.parametrize("name", FUSED)
def test_teacher_forcing_is_one_lstm_call(name: str) -> None:
    decoder, calls = build(name), []
    for module in decoder.modules():
        if isinstance(module, nn.LSTM | nn.LSTMCell):
            module.register_forward_hook(lambda module, *_: calls.append(type(module)))
    decoder.hidden(decoder.context(some_features()), some_tokens())
    assert calls == [nn.LSTM]


@pytest.mark.parametrize("name", DECODERS)
def test_mixed_precision_stays_near_full_precision(name: str) -> None:
    decoder, features, tokens = build(name), some_features(), some_tokens()
    expected = decoder(features, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        for logits in (decoder(features, tokens), unrolled(decoder, features, tokens)):
            torch.testing.assert_close(logits.float(), expected, atol=0.05, rtol=0)


@pytest.mark.parametrize("name", ATTENDING)
def test_attention_is_a_distribution_that_moves(name: str) -> None:
    decoder = build(name)
    context, tokens = decoder.context(some_features()), some_tokens()
    _, weights = decoder.hidden(context, tokens)
    assert weights is not None
    assert weights.shape == (IMAGES, LENGTH, SHAPE.places)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(IMAGES, LENGTH))
    assert (weights.diff(dim=1).abs().amax((0, 2)) > 1e-4).all()

    state = decoder.start(context)
    assert not state["attention"].any()
    for place, word in enumerate(tokens.unbind(1)):
        _, state = decoder.step(word, state, context)
        torch.testing.assert_close(state["attention"], weights[:, place])


@pytest.mark.parametrize("name", FUSED)
def test_the_others_attend_to_nothing(name: str) -> None:
    decoder = build(name)
    context = decoder.context(some_features())
    assert decoder.hidden(context, some_tokens())[1] is None
    assert "attention" not in decoder.start(context)
    assert decoder.penalty(None, torch.ones(IMAGES, LENGTH, dtype=torch.bool)) == 0


def test_the_penalty_wants_every_place_to_be_seen_once() -> None:
    attention = torch.tensor([[[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]], [[0.5, 0.5], [0.5, 0.5], [0.9, 0.1]]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    # visits: (1.75, 1.25) and (1, 1); their squared distances from 1, over two places and two captions
    expected = 0.7 * (0.75**2 + 0.25**2 + 0 + 0) / 4
    decoder = build("Attention visiting all places")
    assert float(decoder.penalty(attention, mask)) == pytest.approx(expected)
    assert build("Attention").penalty(attention, mask) == 0


@pytest.mark.parametrize("name", GRID)
def test_lstms_that_attend_refuse_features_without_a_grid(name: str) -> None:
    with pytest.raises(UserError, match=rf"^{part_class(GRID[name]).__name__} needs a grid.*encoder\.features=grid"):
        build(name, FeatureShape(1, 1, 5))


@pytest.mark.parametrize("name", DECODERS)
def test_the_word_vectors_are_the_embedding(name: str) -> None:
    decoder, tokens = build(name), some_tokens()
    assert decoder.embedding.num_embeddings == WORDS
    assert decoder.needs == ("pooled" if name in FUSED else "grid")
    other = build(name)
    other.embedding.weight.data[5] += 1
    changed = (decoder(some_features(), tokens) != other(some_features(), tokens)).any(-1)  # (B, T)
    assert changed.equal((tokens == 5).cumsum(1) > 0)


@pytest.mark.parametrize("name", {part_class(make): name for name, make in DECODERS.items()}.values())
def test_eight_captions_are_learnt_by_heart(name: str) -> None:
    decoder, features = build(name, embedding=16, hidden=32, dropout=0.0).train(), some_features(8)
    inputs, targets = some_tokens(8), some_tokens(8, seed=3)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.008)
    for _ in range(100):
        loss = nn.functional.cross_entropy(decoder(features, inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
