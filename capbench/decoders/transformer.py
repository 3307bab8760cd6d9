"""Transformer decoder.

Vaswani et al. (2017), "Attention Is All You Need", sections 3.1 to 3.5, with the layer norm before each sublayer and
after the last (pre-norm): Xiong et al. (2020), "On Layer Normalization in the Transformer Architecture".
"""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capbench.decoders.base import Decoder, Dropout, State, check_sizes, projection, repeat
from capbench.errors import UserError
from capbench.features import FeatureShape


class Transformer(Decoder):
    """Self-attention over the words so far, and attention to the places of the image, in every layer.

    A grid of one place, that is pooled features, will do. Captions may have any length.

    Args:
        shape: shape of one image's features.
        vocabulary_size: V.
        embedding: size E of the word vectors; a linear layer brings them to `hidden` where they differ.
        hidden: width H of the model.
        layers: how many.
        heads: parts into which every attention is divided; they divide `hidden` too.
        feedforward: size of the feed-forward layers; null makes it 4 times `hidden`.
        dropout: on word vectors, image and the output of every sublayer while training.

    Raises:
        UserError: `hidden` is no multiple of `heads`.
    """

    needs: ClassVar[Literal["grid", "pooled"]] = "grid"

    def __init__(
        self,
        shape: FeatureShape,
        vocabulary_size: int,
        embedding: int = 256,
        hidden: int = 256,
        layers: int = 3,
        heads: int = 4,
        feedforward: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        feedforward = 4 * hidden if feedforward is None else feedforward
        check_sizes(embedding=embedding, hidden=hidden, layers=layers, heads=heads, feedforward=feedforward)
        if hidden % heads:
            raise UserError(f"The decoder's hidden ({hidden}) must be a multiple of its heads ({heads}).")
        self.embedding = nn.Embedding(vocabulary_size, embedding)
        self.widen = nn.Linear(embedding, hidden) if embedding != hidden else nn.Identity()
        self.image = projection(shape.channels, hidden, dropout)
        self.keys_and_values = nn.Linear(hidden, layers * 2 * hidden)
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(Layer(hidden, heads, feedforward, dropout) for _ in range(layers))
        self.heads = heads
        self.norm = nn.LayerNorm(hidden)
        self.output = nn.Linear(hidden, vocabulary_size)

    def context(self, features: Tensor) -> State:
        """Keys and values of the places for every layer (N, heads, layers, 2, L, D)."""
        image = self.keys_and_values(self.image(features))  # (N, L, layers 2 H)
        return {"image": split(image, self.heads, len(self.layers), 2).contiguous()}  # else every step copies it

    def run(self, tokens: Tensor, words: Tensor, context: State) -> tuple[Tensor, list[Tensor], Tensor]:
        """Words (B, T) behind P others, whose keys and values are `words` (B, heads, layers, 2, P, D).

        Gives the hidden states (B, T, H), the keys and values with the new ones (B, heads, 2, P + T, D) of each
        layer, and the last layer's weights (B, T, L).
        """
        x = self.widen(self.embedding(tokens))  # (B, T, H)
        x = self.dropout(x + positions(words.shape[-2], x))
        known = []
        for layer, past, image in zip(self.layers, words.unbind(2), context["image"].unbind(2), strict=True):
            x, now, weights = layer(x, past, image)
            known.append(now)
        return self.norm(x), known, weights

    def hidden(self, context: State, tokens: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `Decoder.hidden`."""
        start = self.start(context, len(tokens) // len(context["image"]))
        hidden, _, weights = self.run(tokens, start["words"], context)
        return hidden, weights

    def start(self, context: State, hypotheses: int = 1) -> State:
        """See `Decoder.start`; `words` are the keys and values of no word yet (B, heads, layers, 2, 0, D)."""
        image = context["image"]
        rows = len(image) * hypotheses
        return {
            "words": repeat(image[..., :0, :].detach(), rows),
            "attention": image.new_zeros(rows, image.shape[-2]),
        }

    def step(self, tokens: Tensor, state: State, context: State) -> tuple[Tensor, State]:
        """See `Decoder.step`; earlier words are not computed again."""
        hidden, known, weights = self.run(tokens.unsqueeze(1), state["words"], context)
        return self.output(hidden).squeeze(1), {"words": torch.stack(known, 2), "attention": weights.squeeze(1)}


class Layer(nn.Module):
    """Self-attention, attention to the image, feed-forward: each x + dropout(f(norm(x))).

    Args:
        hidden: width H.
        heads: of D = H / heads each.
        feedforward: size of the feed-forward layer.
        dropout: on what each adds.
    """

    def __init__(self, hidden: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_words, self.norm_image, self.norm_feedforward = (nn.LayerNorm(hidden) for _ in range(3))
        self.words = nn.Linear(hidden, 3 * hidden)  # queries, keys, values
        self.words_out = nn.Linear(hidden, hidden)
        self.query = nn.Linear(hidden, hidden)
        self.image_out = nn.Linear(hidden, hidden)
        self.feedforward = nn.Sequential(nn.Linear(hidden, feedforward), nn.ReLU(), nn.Linear(feedforward, hidden))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, past: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Words (B, T, H) that may look at the `past` (B, heads, 2, P, D) and their images (N, heads, 2, L, D).

        Gives the words, past and new keys and values (B, heads, 2, P + T, D), and the weights (B, T, L) of the
        image's places, the mean over the heads. With a past there may be but one word.
        """
        words = split(self.words(self.norm_words(x)), self.heads, 3)  # (B, heads, 3, T, D)
        known = torch.cat([past, words[:, :, 1:]], -2)
        keys, values = known.unbind(2)  # (B, heads, P + T, D)
        read = F.scaled_dot_product_attention(words[:, :, 0], keys, values, is_causal=not past.shape[-2])
        x = x + self.dropout(self.words_out(join(read)))

        keys, values = image.unbind(2)  # (N, heads, L, D)
        queries = self.query(self.norm_image(x)).reshape(len(image), -1, x.shape[-1])  # (N, K T, H)
        weights = (split(queries, self.heads) @ keys.mT / math.sqrt(keys.shape[-1])).softmax(-1)  # (N, heads, K T, L)
        x = x + self.dropout(self.image_out(join(weights @ values).reshape(x.shape)))

        seen = weights.mean(1).reshape(*x.shape[:2], -1)
        return x + self.dropout(self.feedforward(self.norm_feedforward(x))), known, seen


def split(x: Tensor, *parts: int) -> Tensor:
    """(B, T, size) to (B, *parts, T, D), where the parts are of D each."""
    return x.unflatten(-1, (*parts, -1)).movedim(1, -2)


def join(heads: Tensor) -> Tensor:
    """(B, heads, T, D) to (B, T, H)."""
    return heads.transpose(1, 2).flatten(2)


def positions(first: int, words: Tensor) -> Tensor:
    """Section 3.5: sines and cosines (T, H) for words (B, T, H) of which `first` others stand before."""
    _, count, size = words.shape
    place = torch.arange(first, first + count, device=words.device).unsqueeze(1)
    angle = place / 10_000 ** (torch.arange(0, size, 2, device=words.device) / size)  # (T, H / 2)
    return torch.cat([angle.sin(), angle.cos()], -1)[:, :size].to(words.dtype)
