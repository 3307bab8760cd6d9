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
    Dropout,
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

LOOKS = 60
"""So often an image is looked at in training, by five captions of twelve words; more often by a beam."""


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
        self.dropout = Dropout(dropout)
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
        self.early = shape.places <= LOOKS

    def context(self, features: Tensor) -> State:
        """Keys (N, L, A), the LSTM's initial state (N, H) twice, and what is `seen` of the grid (N, L, D).

        What words see passes two matrices: into the LSTM's gates, and into the deep output layer. A small grid passes
        them here, once, and D = 4 H + M; a large one has more places than an image has words that look, and D = C.
        """
        values = self.project(features)
        h, c = torch.tanh(self.initial(values.mean(1))).chunk(2, -1)
        keys = self.attention.key(values)
        seen = F.linear(values, torch.cat([self.gates_of()[1], self.deep_attended.weight])) if self.early else values
        return {"seen": seen.to(keys.dtype), "keys": keys, "h": h, "c": c}  # else autocast casts it at every word

    def gates_of(self) -> tuple[Tensor, Tensor]:
        """The LSTM's matrices from a word (4 H, M) and from the attended vector (4 H, C)."""
        of_words, of_attended = self.lstm.weight_ih.tensor_split((self.embedding.embedding_dim,), 1)
        return of_words, of_attended

    def attend(self, h: Tensor, context: State) -> tuple[Tensor, Tensor]:
        """What is seen (B, D), and the weights (B, L), for the LSTM state h (B, H)."""
        keys = context["keys"]
        queries = self.attention.query(h).unflatten(0, (len(keys), -1)).unsqueeze(2)  # (N, K, 1, A)
        weights = self.attention(queries, keys.unsqueeze(1)).softmax(-1)  # (N, K, L)
        seen = torch.bmm(weights, context["seen"]).flatten(0, 1)  # (B, D)
        if self.beta is not None:
            seen = seen * torch.sigmoid(self.beta(h))
        return seen, weights.flatten(0, 1)

    def advance(self, words: Tensor, h: Tensor, c: Tensor, context: State) -> tuple[Tensor, ...]:
        """One word, of which the gates get (B, 4 H): new h and c, what was seen and with which weights."""
        seen, weights = self.attend(h, context)
        gates = words + F.linear(h, self.lstm.weight_hh, self.lstm.bias_hh)
        gates = gates + (seen[:, : gates.shape[1]] if self.early else F.linear(seen, self.gates_of()[1]))
        i, f, g, o = gates.chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c, seen, weights

    def deep(self, words: Tensor, h: Tensor, seen: Tensor) -> Tensor:
        """Equation 7 without its last matrix: (..., M)."""
        attended = seen[..., -words.shape[-1] :] if self.early else self.deep_attended(seen)
        deep: Tensor = self.dropout(words + self.deep_hidden(self.dropout(h)) + attended)
        return deep

    def hidden(self, context: State, tokens: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `Decoder.hidden`; what `advance` gives word by word, by `AttendingLSTM`."""
        packed = pack(tokens, lengths)
        rows = packed.sorted_indices
        assert rows is not None
        images = rows // (len(tokens) // len(context["keys"]))
        words = self.dropout(self.embedding(packed.data))  # (W, M)
        of_words, of_attended = self.gates_of()
        recurrent = self.lstm.weight_hh if self.early else torch.cat([of_attended, self.lstm.weight_hh], 1)
        hs, seen, weights = AttendingLSTM.apply(
            packed.batch_sizes.tolist(),
            rows,
            F.linear(words, of_words, self.lstm.bias_ih + self.lstm.bias_hh),
            *(context[name].index_select(0, images) for name in ("h", "c", "keys")),
            *(
                part if part is None else part.to(context["keys"].dtype)  # as autocast would
                for part in (
                    context["seen"],
                    self.attention.query.weight,
                    self.attention.energy.weight.squeeze(0),
                    recurrent,
                    self.beta and self.beta.weight,
                    self.beta and self.beta.bias,
                )
            ),
            torch.is_grad_enabled(),
        )
        return unpack(self.deep(words, hs, seen), packed, tokens.shape[1]), weights

    def start(self, context: State, hypotheses: int = 1) -> State:
        """See `Decoder.start`."""
        rows = len(context["keys"]) * hypotheses
        nowhere = context["keys"].new_zeros(rows, context["keys"].shape[1])  # (B, L)
        return {"h": repeat(context["h"], rows), "c": repeat(context["c"], rows), "attention": nowhere}

    def step(self, tokens: Tensor, state: State, context: State) -> tuple[Tensor, State]:
        """See `Decoder.step`; a word that many hypotheses share passes its matrix once."""
        if torch.compiler.is_exporting():  # not every runtime has `unique`
            different, which = tokens, torch.arange(len(tokens), device=tokens.device)
        else:
            different, which = tokens.unique(return_inverse=True)
        words = self.dropout(self.embedding(different))
        gates = F.linear(words, self.gates_of()[0], self.lstm.bias_ih)
        words, gates = words.index_select(0, which), gates.index_select(0, which)
        h, c, seen, weights = self.advance(gates, state["h"], state["c"], context)
        return self.output(self.deep(words, h, seen)), {"h": h, "c": c, "attention": weights}

    def penalty(self, attention: Tensor | None, mask: Tensor) -> Tensor | float:
        """Equation 14's second term, as a mean over places and captions."""
        if attention is None or not self.doubly_stochastic:
            return 0.0
        visits = (attention * mask.unsqueeze(-1)).sum(1)  # (B, L)
        return self.doubly_stochastic * (1 - visits).square().mean()
