import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from capbench.decoders import Transformer
from capbench.decoders.transformer import positions
from capbench.errors import UserError
from capbench.features import FeatureShape

SHAPE, WORDS, IMAGES, LENGTH = FeatureShape(2, 3, 5), 11, 3, 6


def build(**options: int) -> Transformer:
    torch.manual_seed(0)
    return Transformer(SHAPE, WORDS, **{"embedding": 6, "hidden": 8, "layers": 2, "heads": 2} | options).eval()


def some_features() -> Tensor:
    return torch.randn(IMAGES, SHAPE.places, SHAPE.channels, generator=torch.Generator().manual_seed(1))


@contextmanager
def rows_through(decoder: Transformer) -> Iterator[dict[str, set[int]]]:
    """How many words or places an image each linear layer is given while this lasts."""
    seen: dict[str, set[int]] = {}
    hooks = []
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Linear):

            def note(_: nn.Module, arguments: tuple[Tensor, ...], name: str = name) -> None:
                seen.setdefault(name, set()).add(arguments[0].shape[1])

            hooks.append(module.register_forward_pre_hook(note))
    yield seen
    for hook in hooks:
        hook.remove()


def test_the_image_goes_through_its_layers_once_and_each_word_too() -> None:
    decoder, features = build(), some_features()
    linear = {name for name, module in decoder.named_modules() if isinstance(module, nn.Linear)}
    of_the_image = {"image.2", "keys_and_values"}
    with rows_through(decoder) as seen:
        context = decoder.context(features)
    assert seen == {name: {SHAPE.places} for name in of_the_image}

    state = decoder.start(context)
    for before in range(LENGTH):
        assert state["words"].shape == (IMAGES, 2, 2, 2, before, 4)
        with rows_through(decoder) as seen:
            _, state = decoder.step(torch.full((IMAGES,), before), state, context)
        assert seen.keys() == linear - of_the_image
        assert set.union(*seen.values()) == {1}


def test_the_cache_is_what_a_step_knows_of_earlier_words() -> None:
    decoder = build()
    context = decoder.context(some_features())
    _, state = decoder.step(torch.full((IMAGES,), 5), decoder.start(context), context)
    logits, _ = decoder.step(torch.full((IMAGES,), 7), state, context)
    forgetful, _ = decoder.step(torch.full((IMAGES,), 7), state | {"words": torch.zeros_like(state["words"])}, context)
    assert not torch.isclose(logits, forgetful).all(-1).any()


def test_the_same_words_in_another_order_say_something_else() -> None:
    decoder, tokens = build(layers=1), torch.tensor([[1, 5, 7, 4], [1, 7, 5, 4]])
    first, second = decoder(some_features()[[0, 0]], tokens)
    assert not torch.isclose(first[-1], second[-1]).all()


def test_positions_turn_faster_in_the_first_channels_and_go_on_where_they_were() -> None:
    table = positions(0, torch.zeros(1, 50, 8))
    assert table.shape == (50, 8)
    angles = [3, 3 / 10, 3 / 100, 3 / 1000]  # 10,000^(2 i / 8) is 10^i
    assert table[3].tolist() == pytest.approx([*map(math.sin, angles), *map(math.cos, angles)])
    torch.testing.assert_close(positions(20, torch.zeros(1, 30, 8)), table[20:])


def test_a_caption_may_be_longer_than_any_seen() -> None:
    assert build()(some_features(), torch.ones(IMAGES, 300, dtype=torch.long)).isfinite().all()


@pytest.mark.parametrize("embedding", [6, 8])
def test_word_vectors_of_another_size_are_brought_to_the_models(embedding: int) -> None:
    decoder = build(embedding=embedding)
    assert decoder.embedding.weight.shape == (WORDS, embedding)
    assert isinstance(decoder.widen, nn.Linear) == (embedding != 8)


def test_hidden_must_be_a_multiple_of_heads() -> None:
    with pytest.raises(UserError, match=r"hidden \(8\) must be a multiple of its heads \(3\)"):
        build(heads=3)


@pytest.mark.parametrize("size", ["embedding", "hidden", "layers", "heads", "feedforward"])
def test_sizes_below_one_are_refused(size: str) -> None:
    with pytest.raises(UserError, match=f"decoder's {size} must be at least 1, not 0"):
        build(**{size: 0})
