from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from capbench.decoders import AdaptiveAttention
from capbench.features import FeatureShape

SHAPE, WORDS, LENGTH = FeatureShape(2, 3, 5), 11, 6


class Expected(NamedTuple):
    logits: list[Tensor]
    alphas: list[Tensor]
    betas: list[Tensor]


def by_the_paper(decoder: AdaptiveAttention, features: Tensor, tokens: Tensor) -> Expected:
    """One image's features (L, C) and words (T,), equation by equation, in column vectors as the paper has them."""
    weights = dict(decoder.named_parameters())

    def affine(layer: str, x: Tensor) -> Tensor:
        bias = weights.get(f"{layer}.bias")
        return weights[f"{layer}.weight"] @ x + (0 if bias is None else bias.unsqueeze(1))

    def normed(layer: str, x: Tensor) -> Tensor:
        gain, bias = weights[f"{layer}.weight"].unsqueeze(1), weights[f"{layer}.bias"].unsqueeze(1)
        return gain * (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() + bias

    a = features.T  # (C, k)
    a_g = a.mean(1, keepdim=True)  # equation 14
    v = affine("grid.2", normed("grid.0", a)).relu()  # 15
    v_g = affine("image.2", normed("image.0", a_g)).relu()  # 16
    ones = torch.ones(1, a.shape[1])
    h = m = torch.zeros(decoder.lstm.hidden_size, 1)
    expected = Expected([], [], [])
    for token in tokens:
        x = torch.cat([weights["embedding.weight"][token].unsqueeze(1), v_g])
        before = h
        gates = weights["lstm.weight_ih"] @ x + weights["lstm.weight_hh"] @ before
        gates = gates + (weights["lstm.bias_ih"] + weights["lstm.bias_hh"]).unsqueeze(1)
        i, f, g, o = gates.chunk(4)
        m = f.sigmoid() * m + i.sigmoid() * g.tanh()
        h = o.sigmoid() * m.tanh()  # 4
        w_h = weights["attention.energy.weight"]  # (1, A)
        z = w_h @ (affine("attention.key", v) + affine("attention.query", h) @ ones).tanh()  # 6
        alpha = z.softmax(1)  # 7, (1, k)
        c = v @ alpha.T  # 8
        gate = affine("gate", torch.cat([x, before])).sigmoid()  # 9
        s = gate * m.tanh()  # 10
        compared = (affine("sentinel", s) + affine("attention.query", h)).tanh()
        beta = torch.cat([z, w_h @ compared], 1).softmax(1)[0, -1]  # 12
        c_hat = beta * s + (1 - beta) * c  # 11
        expected.logits.append(affine("output", c_hat + h).squeeze(1))  # 13
        expected.alphas.append(alpha.squeeze(0))
        expected.betas.append(beta)
    return expected


@pytest.fixture
def decoder() -> AdaptiveAttention:
    torch.manual_seed(0)
    decoder = AdaptiveAttention(SHAPE, WORDS, embedding=6, hidden=7, attention=4).eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter)
    return decoder


def test_all_words_at_once_are_what_the_paper_says_of_each(decoder: AdaptiveAttention) -> None:
    features, tokens = torch.randn(3, SHAPE.places, SHAPE.channels), torch.randint(WORDS, (3, LENGTH))
    context = decoder.context(features)
    hidden, attention = decoder.hidden(context, tokens)
    state = decoder.start(context)
    betas = []
    for word in tokens.unbind(1):
        _, state = decoder.step(word, state, context)
        betas.append(state["sentinel"])
    for image in range(3):
        expected = by_the_paper(decoder, features[image], tokens[image])
        torch.testing.assert_close(decoder.output(hidden[image]), torch.stack(expected.logits), atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(attention[image], torch.stack(expected.alphas), atol=1e-5, rtol=0)
        torch.testing.assert_close(torch.stack(betas, 1)[image], torch.stack(expected.betas), atol=1e-5, rtol=0)


def test_the_sentinel_counts_between_nothing_and_everything(decoder: AdaptiveAttention) -> None:
    context = decoder.context(torch.randn(20, SHAPE.places, SHAPE.channels))
    _, state = decoder.step(torch.randint(WORDS, (20,)), decoder.start(context), context)
    assert state["sentinel"].shape == (20,)
    assert ((state["sentinel"] > 0) & (state["sentinel"] < 1)).all()
    assert state["sentinel"].std() > 0.01
