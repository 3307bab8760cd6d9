"""Additive soft attention over the feature grid.

Xu et al. (2015), "Show, Attend and Tell", section 3.1.2 and equations 4 to 14 (soft attention), with its
gate beta (section 4.2.1) and doubly stochastic term (equation 14).
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capbench.decoders.base import (
    AdditiveAttention,
    Decoder,
    State,
    check_grid,
    check_sizes,
    pack,
    projection,
    repeat,
    unpack,
)
from capbench.decoders.recurrence import AttendingLSTM
from capbench.features import FeatureShape


class Attention(Decoder):
    """LSTM that looks at another part of the grid for each word.

    Args:
        shape: shape of one image's features; must be a grid.
        vocabulary_size: V.
        embedding: size M of the word vectors and of the deep output layer.
        hidden: size H of the LSTM.
        attention: size A in which grid and state are compared.
        project: size to which the grid's channels are brought first by a linear layer, which makes a wide grid
            several times cheaper; null keeps them, as the paper does.
        gate: scale the attended vector by beta, a sigmoid of the LSTM's state.
        doubly_stochastic: weight of the term that makes the attention over all words visit all places.
        dropout: on word vectors, grid and output while training.

    Raises:
        UserError: the features are no grid.
    """

    needs: ClassVar[Literal["grid", "pooled"]] = "grid"

    def __init__(
        self,
        shape: FeatureShape,
        vocabulary_size: int,
        embedding: int = 256,
        hidden: int = 256,
        attention: int = 256,
        project: int | None = None,
        gate: bool = True,
        doubly_stochastic: float = 0.0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_grid(self, shape)
        check_sizes(embedding=embedding, hidden=hidden, attention=attention)
        channels = project or shape.channels
        self.dropout = nn.Dropout(dropout)
        self.project = projection(shape.channels, project, dropout)
        self.embedding = nn.Embedding(vocabulary_size, embedding)
        self.initial = nn.Linear(channels, 2 * hidden)
        self.attention = AdditiveAttention(hidden, channels, attention)
        self.beta = nn.Linear(hidden, 1) if gate else None
        self.lstm = nn.LSTMCell(embedding + channels, hidden)
        self.deep_hidden = nn.Linear(hidden, embedding)
        self.deep_attended = nn.Linear(channels, embedding, bias=False)
        self.output = nn.Linear(embedding, vocabulary_size)
        self.doubly_stochastic = doubly_stochastic

    def context(self, features: Tensor) -> State:
        """Values (N, L, C), keys (N, L, A) and the LSTM's initial state (N, H) twice."""
        values = self.project(features)
        h, c = torch.tanh(self.initial(values.mean(1))).chunk(2, -1)
        keys = self.attention.key(values)
        return {"values": values.to(keys.dtype), "keys": keys, "h": h, "c": c}  # else autocast casts them at every word

    def attend(self, h: Tensor, context: State) -> tuple[Tensor, Tensor]:
        """The attended vector (B, C) and the weights (B, L) for the LSTM state h (B, H)."""
        keys, values = context["keys"], context["values"]
        queries = self.attention.query(h).unflatten(0, (len(keys), -1)).unsqueeze(2)  # (N, K, 1, A)
        weights = self.attention(queries, keys.unsqueeze(1)).softmax(-1)  # (N, K, L)
        attended = torch.bmm(weights, values).flatten(0, 1)  # (B, C)
        if self.beta is not None:
            attended = attended * torch.sigmoid(self.beta(h))
        return attended, weights.flatten(0, 1)

    def advance(self, words: Tensor, h: Tensor, c: Tensor, context: State) -> tuple[Tensor, ...]:
        """One word (B, M): new h and c, attended vector and weights."""
        attended, weights = self.attend(h, context)
        h, c = self.lstm(torch.cat([words, attended], -1), (h, c))
        return h, c, attended, weights

    def deep(self, words: Tensor, h: Tensor, attended: Tensor) -> Tensor:
        """Equation 7 without its last matrix: (..., M)."""
        deep: Tensor = self.dropout(words + self.deep_hidden(self.dropout(h)) + self.deep_attended(attended))
        return deep

    def hidden(self, context: State, tokens: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `Decoder.hidden`; what `advance` gives word by word, by `AttendingLSTM`."""
        packed = pack(tokens, lengths)
        rows = packed.sorted_indices
        assert rows is not None
        images = rows // (len(tokens) // len(context["keys"]))
        words = self.dropout(self.embedding(packed.data))  # (W, M)
        of_words, of_attended = self.lstm.weight_ih.split((words.shape[1], context["values"].shape[2]), 1)
        hs, attended, weights = AttendingLSTM.apply(
            packed.batch_sizes.tolist(),
            rows,
            F.linear(words, of_words, self.lstm.bias_ih + self.lstm.bias_hh),
            *(context[name].index_select(0, images) for name in ("h", "c", "keys")),
            *(
                part if part is None else part.to(context["keys"].dtype)  # as autocast would
                for part in (
                    context["values"],
                    self.attention.query.weight,
                    self.attention.energy.weight.squeeze(0),
                    torch.cat([of_attended, self.lstm.weight_hh], 1),
                    self.beta and self.beta.weight,
                    self.beta and self.beta.bias,
                )
            ),
            torch.is_grad_enabled(),
        )
        return unpack(self.deep(words, hs, attended), packed, tokens.shape[1]), weights

    def start(self, context: State, hypotheses: int = 1) -> State:
        """See `Decoder.start`."""
        rows = len(context["keys"]) * hypotheses
        nowhere = context["keys"].new_zeros(rows, context["keys"].shape[1])  # (B, L)
        return {"h": repeat(context["h"], rows), "c": repeat(context["c"], rows), "attention": nowhere}

    def step(self, tokens: Tensor, state: State, context: State) -> tuple[Tensor, State]:
        """See `Decoder.step`."""
        words = self.dropout(self.embedding(tokens))
        h, c, attended, weights = self.advance(words, state["h"], state["c"], context)
        return self.output(self.deep(words, h, attended)), {"h": h, "c": c, "attention": weights}

    def penalty(self, attention: Tensor | None, mask: Tensor) -> Tensor | float:
        """Equation 14's second term, as a mean over places and captions."""
        if attention is None or not self.doubly_stochastic:
            return 0.0
        visits = (attention * mask.unsqueeze(-1)).sum(1)  # (B, L)
        return self.doubly_stochastic * (1 - visits).square().mean()
