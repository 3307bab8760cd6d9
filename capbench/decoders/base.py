"""The decoder contract, and what several decoders share.

Shapes: N images, B captions or hypotheses, T words, L places of C channels in an image's features, V words in the
vocabulary.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from capbench.errors import UserError
from capbench.features import FeatureShape

BUCKETS = 4
"""How many lengths of captions an LSTM tells apart on a CPU; measured, for 160 captions of 256 and 512 units."""

State = dict[str, Tensor]
"""Named tensors, batch first, so that a search can reorder and repeat them with `select`."""


def select(state: State, rows: Tensor) -> State:
    """The given rows of every tensor of a state, in their order, repeats allowed."""
    return {name: tensor[rows] for name, tensor in state.items()}


def repeat(images: Tensor, rows: int) -> Tensor:
    """What N images have (N, ...) for each of their captions or hypotheses (rows, ...), which stand image by image."""
    return images if len(images) == rows else images.repeat_interleave(rows // len(images), 0)


class Decoder(nn.Module, ABC):
    """Features and the words so far to the next word.

    `context` does once an image what no word depends on. `hidden` runs whole captions (teacher forcing),
    `start` and `step` one word at a time; both give the same logits, and no word sees a later one. The tensors of a
    state keep their names; their dimensions but the first may grow with the words.

    Where N images have K captions or hypotheses each, the context has N rows and tokens and state B = N K, image by
    image: rows i K to i K + K - 1 are image i's. No decoder copies a grid for that. With B rows of context K is 1.

    Attributes:
        needs: which features the decoder works on.
        embedding: the word vectors (V, E).
        output: hidden states (..., H) to logits (..., V).
    """

    needs: ClassVar[Literal["grid", "pooled"]] = "pooled"
    embedding: nn.Embedding
    output: nn.Module

    def forward(self, features: Tensor, tokens: Tensor, images: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of the word after each of `tokens` (B, T).

        Args:
            features: (N, L, C).
            tokens: (B, T), each row beginning with `<start>`.
            images: (B,), which image each caption belongs to; left out when B = N and they are in order.
        """
        context = self.context(features)
        if images is not None:
            context = select(context, images)
        logits: Tensor = self.output(self.hidden(context, tokens)[0])
        return logits

    @abstractmethod
    def context(self, features: Tensor) -> State:
        """What the words need of the features (N, L, C), batch first."""

    @abstractmethod
    def hidden(self, context: State, tokens: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Hidden states (B, T, H) for `tokens` (B, T), and attention weights (B, T, L) if there are any.

        Where the rows' `lengths` (B,) are given, what stands behind them is of no use and need not be computed.
        """

    @abstractmethod
    def start(self, context: State, hypotheses: int = 1) -> State:
        """The state of N K rows before the first word, for K hypotheses an image.

        Where the decoder attends, it has an `attention` (N K, L) of zeros.
        """

    @abstractmethod
    def step(self, tokens: Tensor, state: State, context: State) -> tuple[Tensor, State]:
        """Logits (B, V) of the word after `tokens` (B,), and the state after them.

        Where the decoder attends, the new state's `attention` (B, L) holds the weights.
        """

    def penalty(self, attention: Tensor | None, mask: Tensor) -> Tensor | float:
        """What the decoder adds to the loss; `attention` (B, T, L), `mask` (B, T) true at real words."""
        return 0.0


class Dropout(nn.Dropout):
    """`nn.Dropout`; on a CPU with one random number for eight elements, since PyTorch draws them on one thread.

    There p is rounded to a 256th, and what is kept is scaled by what is rounded.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The same shape; as it is in eval mode."""
        dropped = round(256 * self.p)
        if not self.training or x.device.type != "cpu" or not 0 < dropped < 256:
            return super().forward(x)
        drawn = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        bytes_ = drawn.view(torch.uint8)[: x.numel()].view(x.shape)
        return x * (bytes_ >= dropped).to(x.dtype).mul_(256 / (256 - dropped))


class LSTMDecoder(Decoder):
    """Word embedding, LSTM, linear output; a subclass says where the image comes in.

    Args:
        shape: shape of one image's features.
        vocabulary_size: V.
        embedding: size of the word vectors.
        hidden: size of the LSTM.
        layers: LSTM layers.
        dropout: on word vectors, image vector and LSTM output while training.
    """

    def __init__(
        self,
        shape: FeatureShape,
        vocabulary_size: int,
        embedding: int = 256,
        hidden: int = 256,
        layers: int = 1,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_sizes(embedding=embedding, hidden=hidden, layers=layers)
        self.embedding = nn.Embedding(vocabulary_size, embedding)
        self.lstm = nn.LSTM(self.input_size(embedding), hidden, layers, batch_first=True)
        self.dropout = Dropout(dropout)
        self.output = nn.Linear(self.output_size(hidden), vocabulary_size)
        self.add_image(shape.channels)

    @abstractmethod
    def add_image(self, channels: int) -> None:
        """Make the layers through which an image vector (N, C) comes in."""

    def projection(self, channels: int, size: int, activation: nn.Module | None = None) -> nn.Module:
        """`projection` with the decoder's dropout: (N, channels) to (N, size)."""
        return projection(channels, size, self.dropout.p, activation)

    def input_size(self, embedding: int) -> int:
        """Size of the LSTM's input."""
        return embedding

    def output_size(self, hidden: int) -> int:
        """Size of the output layer's input."""
        return hidden

    def before(self, context: State) -> tuple[Tensor, Tensor]:
        """LSTM state before `<start>`: (N, layers, H) twice."""
        images = len(next(iter(context.values())))
        zeros = self.embedding.weight.new_zeros(images, self.lstm.num_layers, self.lstm.hidden_size)
        return zeros, zeros

    def inputs(self, words: Tensor, context: State) -> Tensor:
        """Word vectors (B, T, E) to the LSTM's inputs (B, T, E')."""
        return words

    def outputs(self, hidden: Tensor, context: State) -> Tensor:
        """LSTM outputs (B, T, H) to the output layer's inputs (B, T, H')."""
        return hidden

    def run(self, inputs: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """One fused LSTM call: inputs (B, T, E') to outputs (B, T, H) and the batch-first state after.

        The state before is that of B rows, or of the N images that these are about.
        """
        h, c = (repeat(tensor, len(inputs)).transpose(0, 1).contiguous() for tensor in state)  # (layers, B, H)
        hidden, (h, c) = self.lstm(inputs, (h, c))
        return hidden, h.transpose(0, 1), c.transpose(0, 1)

    def hidden(self, context: State, tokens: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """See `Decoder.hidden`.

        On a CPU captions of like length go through the LSTM together, and so most padding does not.
        """
        if lengths is None or tokens.is_cuda:
            return self.padded(context, tokens), None
        context = {name: repeat(tensor, len(tokens)) for name, tensor in context.items()}
        by_length = lengths.argsort(descending=True)
        hidden = []
        for rows in by_length.chunk(BUCKETS):
            words = int(lengths[rows].max())
            some = self.padded(select(context, rows), tokens[rows, :words])
            hidden.append(F.pad(some, (0, 0, 0, tokens.shape[1] - words)))
        return torch.cat(hidden)[by_length.argsort()], None

    def padded(self, context: State, tokens: Tensor) -> Tensor:
        """Hidden states (B, T, H') of all tokens (B, T)."""
        words = self.inputs(self.dropout(self.embedding(tokens)), context)
        hidden, _, _ = self.run(words, self.before(context))
        return self.outputs(self.dropout(hidden), context)

    def start(self, context: State, hypotheses: int = 1) -> State:
        """See `Decoder.start`."""
        h, c = (repeat(tensor, len(tensor) * hypotheses) for tensor in self.before(context))
        return {"h": h, "c": c}

    def step(self, tokens: Tensor, state: State, context: State) -> tuple[Tensor, State]:
        """See `Decoder.step`."""
        words = self.inputs(self.dropout(self.embedding(tokens.unsqueeze(1))), context)  # (B, 1, E')
        hidden, h, c = self.run(words, (state["h"], state["c"]))
        logits = self.output(self.outputs(self.dropout(hidden), context))
        return logits.squeeze(1), {"h": h, "c": c}


def check_sizes(**sizes: int) -> None:
    """Refuse sizes below 1, which PyTorch takes without a word.

    Raises:
        UserError: there is one.
    """
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"The decoder's {name} must be at least 1, not {size}.")


def check_grid(decoder: Decoder, shape: FeatureShape) -> None:
    """Refuse features of one place.

    Raises:
        UserError: they are.
    """
    if shape.places == 1:
        raise UserError(
            f"{type(decoder).__name__} needs a grid of features: set --model.encoder.features=grid (or auto)."
        )


def projection(channels: int, size: int | None, dropout: float, activation: nn.Module | None = None) -> nn.Sequential:
    """Layer norm (encoders differ in scale), dropout, linear layer, activation: (..., channels) to (..., size).

    Without a size there is no linear layer, the channels stay as many as they are, and the norm has no scale and shift:
    the linear layers that read it have their own, and no gradient need reach the grid.
    """
    linear = nn.Linear(channels, size) if size else None
    norm = nn.LayerNorm(channels, elementwise_affine=size is not None)
    layers = (norm, Dropout(dropout), linear, activation)
    return nn.Sequential(*(layer for layer in layers if layer))


class AdditiveAttention(nn.Module):
    """Bahdanau, Cho and Bengio (2015), "Neural Machine Translation by Jointly Learning to Align and Translate",
    section 3.1 and appendix A.1.2: how well a query goes with a key, w^T tanh(W q + U k).

    Args:
        query: size of what asks.
        key: size of what is asked.
        size: size A in which they are compared.
    """

    def __init__(self, query: int, key: int, size: int) -> None:
        super().__init__()
        self.key = nn.Linear(key, size)
        self.query = nn.Linear(query, size, bias=False)
        self.energy = nn.Linear(size, 1, bias=False)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Scores (...) of what `query` and `key` made, each (..., A), one broadcast over the other.

        tanh(k + q) = 1 - 2 / (1 + exp(2 k) exp(2 q)): so there are exponentials of each key and of each query, where
        there would be a tanh of each pair. In half precision that would cost digits.
        """
        if keys.dtype in (torch.float16, torch.bfloat16):
            return self.energy((keys + queries).tanh_()).squeeze(-1)
        exponentials = ((2 * each.clamp(-SATURATED, SATURATED)).exp() for each in (keys, queries))
        shares = torch.addcmul(keys.new_ones(()), *exponentials).reciprocal_()
        return self.energy.weight.sum() - 2 * self.energy(shares).squeeze(-1)


SATURATED = 40.0
"""Beyond it a query or key decides tanh alone; exp(80) is a number in single precision still."""


def pack(tokens: Tensor, lengths: Tensor | None) -> PackedSequence:
    """The first `lengths` (B,) tokens of each row of (B, T), or all: first the first of all rows, then the second."""
    if lengths is None:
        lengths = torch.full((len(tokens),), tokens.shape[1])
    return pack_padded_sequence(tokens, lengths.cpu(), batch_first=True, enforce_sorted=False)


def unpack(words: Tensor, packed: PackedSequence, length: int) -> Tensor:
    """Words (W, H) packed like these to (B, length, H), with zeros behind a row's last."""
    padded, _ = pad_packed_sequence(packed._replace(data=words), batch_first=True, total_length=length)
    return padded


def pool(features: Tensor) -> Tensor:
    """Features (N, L, C) to one vector an image (N, C)."""
    return features.mean(1)


def expand_over_words(vector: Tensor, words: Tensor) -> Tensor:
    """A vector of N images (N, D) repeated for each of their captions' words (B, T, E): (B, T, D)."""
    return repeat(vector, len(words)).unsqueeze(1).expand(-1, words.shape[1], -1)
