"""Attention that knows when to look.

Lu, Xiong, Parikh and Socher (2017), "Knowing When to Look: Adaptive Attention via a Visual Sentinel for Image
Captioning", sections 2.2, 2.3 and 3, equations 4 to 16.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from capbench.decoders.base import (
    AdditiveAttention,
    Decoder,
    Dropout,
    State,
    check_grid,
    check_sizes,
    expand_over_words,
    pool,
    projection,
)
from capbench.features import FeatureShape


class AdaptiveAttention(Decoder):
    """LSTM that looks at the grid, or at what it knows already, for each word.

    The LSTM sees words and pooled image. What it has become with a word asks the grid; beta, between 0 and 1, says
    how much a sentinel, made from the LSTM's memory, counts for the next word instead of the grid.

    Args:
        shape: shape of one image's features; must be a grid.
        vocabulary_size: V.
        embedding: size E of the word vectors, and of the pooled image beside them.
        hidden: size H of the LSTM, and of the grid's channels once projected.
        attention: size A in which grid, sentinel and state are compared; the paper's is L.
        dropout: on word vectors, image and output while training.

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
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_grid(self, shape)
        check_sizes(embedding=embedding, hidden=hidden, attention=attention)
        self.dropout = Dropout(dropout)
        self.grid = projection(shape.channels, hidden, dropout, nn.ReLU())
        self.image = projection(shape.channels, embedding, dropout, nn.ReLU())
        self.embedding = nn.Embedding(vocabulary_size, embedding)
        self.lstm = nn.LSTMCell(2 * embedding, hidden)
        self.gate = nn.Linear(2 * embedding + hidden, hidden)
        self.attention = AdditiveAttention(hidden, hidden, attention)
        self.sentinel = nn.Linear(hidden, attention)
        self.output = nn.Linear(hidden, vocabulary_size)

    def context(self, features: Tensor) -> State:
        """Equations 14 to 16: values (N, L, H) and image (N, E); and the values' keys (N, L, A)."""
        values = self.grid(features)
        return {"values": values, "keys": self.attention.key(values), "image": self.image(pool(features))}

    def run(self, tokens: Tensor, state: State, context: State) -> tuple[Tensor, Tensor, Tensor, State]:
        """Words (B, T) from a state on: what the output layer sees (B, T, H), weights (B, T, L), beta (B, T), and
        the LSTM's state after them.
        """
        words = self.dropout(self.embedding(tokens))
        inputs = torch.cat([words, expand_over_words(context["image"], words)], -1)  # (B, T, 2 E)
        hs, ms = [state["h"]], [state["m"]]
        for word in inputs.unbind(1):
            h, m = self.lstm(word, (hs[-1], ms[-1]))
            hs.append(h)
            ms.append(m)
        before, after, memory = (torch.stack(each, 1) for each in (hs[:-1], hs[1:], ms[1:]))  # (B, T, H)
        sentinel = torch.sigmoid(self.gate(torch.cat([inputs, before], -1))) * torch.tanh(memory)
        by_image = (len(context["keys"]), -1, self.lstm.hidden_size)
        seen = self.attend(after.reshape(by_image), sentinel.reshape(by_image), context)
        attended, weights, beta = (each.reshape(*tokens.shape, *each.shape[2:]) for each in seen)
        return self.dropout(attended + after), weights, beta, {"h": hs[-1], "m": ms[-1]}

    def attend(self, h: Tensor, sentinel: Tensor, context: State) -> tuple[Tensor, Tensor, Tensor]:
        """Equations 6 to 8, 11 and 12 for W words of each image: c hat (N, W, H), alpha (N, W, L) and beta (N, W)."""
        queries = self.attention.query(h)  # (N, W, A)
        z = self.attention(queries.unsqueeze(2), context["keys"].unsqueeze(1))  # (N, W, L)
        z_sentinel = self.attention(queries, self.sentinel(sentinel))  # (N, W)
        weights = z.softmax(-1)
        beta = torch.cat([z, z_sentinel.unsqueeze(-1)], -1).softmax(-1)[..., -1]
        share = beta.unsqueeze(-1)
        return share * sentinel + (1 - share) * torch.bmm(weights, context["values"]), weights, beta

    def hidden(self, context: State, tokens: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `Decoder.hidden`."""
        hidden, weights, _, _ = self.run(tokens, self.start(context, len(tokens) // len(context["keys"])), context)
        return hidden, weights

    def start(self, context: State, hypotheses: int = 1) -> State:
        """See `Decoder.start`; `sentinel` (B,) is the last word's beta."""
        keys = context["keys"]
        rows = len(keys) * hypotheses
        nothing = keys.new_zeros(rows, self.lstm.hidden_size)  # (B, H)
        nowhere = keys.new_zeros(rows, keys.shape[1])  # (B, L)
        return {"h": nothing, "m": nothing, "attention": nowhere, "sentinel": nowhere[:, 0]}

    def step(self, tokens: Tensor, state: State, context: State) -> tuple[Tensor, State]:
        """See `Decoder.step`."""
        hidden, weights, beta, after = self.run(tokens.unsqueeze(1), state, context)
        seen = {"attention": weights.squeeze(1), "sentinel": beta.squeeze(1)}
        return self.output(hidden).squeeze(1), after | seen
