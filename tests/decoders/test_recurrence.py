import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capbench.decoders import Attention
from capbench.decoders.base import State
from capbench.features import FeatureShape

SHAPE, WORDS, IMAGES, LENGTH = FeatureShape(2, 3, 5), 11, 3, 6
LENGTHS = torch.tensor([3, 6, 1, 5, 2, 4])


def build(gate: bool, project: int | None = None, early: bool = True) -> Attention:
    torch.manual_seed(0)
    options = {"embedding": 6, "hidden": 7, "attention": 4, "dropout": 0.0}
    decoder = Attention(SHAPE, WORDS, gate=gate, project=project, **options).double()
    decoder.early = early
    return decoder


def plain(decoder: Attention, context: State, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """All words one by one, under autograd."""
    state = decoder.start(context, len(tokens) // len(context["keys"]))
    h, c, hidden, attention = state["h"], state["c"], [], []
    for word in decoder.embedding(tokens).unbind(1):
        gates = F.linear(word, decoder.gates_of()[0], decoder.lstm.bias_ih)
        h, c, seen, weights = decoder.advance(gates, h, c, context)
        hidden.append(decoder.deep(word, h, seen))
        attention.append(weights)
    return torch.stack(hidden, 1), torch.stack(attention, 1)


def gradients(decoder: Attention, features: Tensor, hidden: Tensor, attention: Tensor, real: Tensor) -> list[Tensor]:
    """Of all that hidden states and weights of real words depend on, for one sum of them by chance."""
    chance = torch.Generator().manual_seed(4)
    total = sum(
        (each * torch.randn(each.shape, generator=chance, dtype=each.dtype))[real].sum() for each in (hidden, attention)
    )
    learnt = [parameter for name, parameter in decoder.named_parameters() if not name.startswith("output")]
    return list(torch.autograd.grad(total, [features, *learnt]))


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("gate", [True, False])
def test_a_word_is_what_the_paper_says(gate: bool, early: bool) -> None:
    """With PyTorch's own LSTM cell, and all matrices behind the attention."""
    decoder, features = build(gate, early=early), torch.randn(2, SHAPE.places, SHAPE.channels).double()
    tokens = torch.tensor([4, 7])
    state, context = decoder.start(decoder.context(features)), decoder.context(features)
    word, values, h = decoder.embedding(tokens), decoder.project(features), state["h"]
    energies = torch.tanh(decoder.attention.key(values) + decoder.attention.query(h).unsqueeze(1))
    weights = decoder.attention.energy(energies).squeeze(2).softmax(1)
    attended = (weights.unsqueeze(2) * values).sum(1)
    attended = attended if decoder.beta is None else attended * decoder.beta(h).sigmoid()
    h, c = decoder.lstm(torch.cat([word, attended], 1), (h, state["c"]))
    logits = decoder.output(word + decoder.deep_hidden(h) + decoder.deep_attended(attended))
    found, after = decoder.step(tokens, state, context)
    for ours, theirs in ((found, logits), (after["h"], h), (after["c"], c), (after["attention"], weights)):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("project", [None, 3])
@pytest.mark.parametrize("captions", [1, 2])
def test_all_words_at_once_are_the_plain_loop_forward_and_backward(
    gate: bool, project: int | None, captions: int, early: bool
) -> None:
    decoder = build(gate, project, early)
    features = torch.randn(IMAGES, SHAPE.places, SHAPE.channels, dtype=torch.double, requires_grad=True)
    tokens, lengths = torch.randint(3, WORDS, (IMAGES * captions, LENGTH)), LENGTHS[: IMAGES * captions]
    real = torch.arange(LENGTH) < lengths.unsqueeze(1)
    expected = plain(decoder, decoder.context(features), tokens)
    found = decoder.hidden(decoder.context(features), tokens, lengths)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours[real], theirs[real])
        assert not ours[~real].any()
    for ours, theirs in zip(
        gradients(decoder, features, *found, real), gradients(decoder, features, *expected, real), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_step_of_training_in_mixed_precision_is_near_that_in_full() -> None:
    decoder = build(gate=True).float()
    features, tokens = torch.randn(IMAGES, SHAPE.places, SHAPE.channels), torch.randint(3, WORDS, (6, LENGTH))
    gradient = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = decoder.output(decoder.hidden(decoder.context(features), tokens, LENGTHS)[0])
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens.flatten())
        gradient.append(torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(decoder.parameters()))]))
    assert nn.functional.cosine_similarity(*gradient, dim=0) > 0.999


def test_without_learning_it_says_the_same() -> None:
    decoder = build(gate=True)
    features, tokens = torch.randn(IMAGES, SHAPE.places, SHAPE.channels).double(), torch.randint(3, WORDS, (3, LENGTH))
    learning = decoder.hidden(decoder.context(features), tokens)
    with torch.no_grad():
        torch.testing.assert_close(decoder.hidden(decoder.context(features), tokens), learning)
