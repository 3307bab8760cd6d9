"""Decoders that give the image to the LSTM itself.

Tanti, Gatt and Camilleri (2018), "Where to put the image in an image caption generator", figure 2.
"""

import torch
from torch import Tensor, nn

from capbench.decoders.base import LSTMDecoder, State, expand_over_words, pool, repeat


class InitInject(LSTMDecoder):
    """The image is the LSTM's initial state (h and c, each through its own linear layer and tanh)."""

    def add_image(self, channels: int) -> None:
        """One projection for h and one for c, over all layers."""
        size = self.lstm.num_layers * self.lstm.hidden_size
        self.image_h = self.projection(channels, size, nn.Tanh())
        self.image_c = self.projection(channels, size, nn.Tanh())

    def context(self, features: Tensor) -> State:
        """Initial h and c (N, layers, H)."""
        image, size = pool(features), (self.lstm.num_layers, self.lstm.hidden_size)
        return {"h": self.image_h(image).unflatten(1, size), "c": self.image_c(image).unflatten(1, size)}

    def before(self, context: State) -> tuple[Tensor, Tensor]:
        """The image."""
        return context["h"], context["c"]


class PreInject(LSTMDecoder):
    """The image is the LSTM's first word."""

    def add_image(self, channels: int) -> None:
        """A projection to a word vector."""
        self.image = self.projection(channels, self.embedding.embedding_dim)

    def context(self, features: Tensor) -> State:
        """The image as a word vector (N, 1, E)."""
        return {"image": self.image(pool(features)).unsqueeze(1)}

    def padded(self, context: State, tokens: Tensor) -> Tensor:
        """Image and words in one call; the output at the image is left out."""
        words = self.dropout(self.embedding(tokens))
        image = repeat(context["image"], len(words))
        hidden, _, _ = self.run(torch.cat([image, words], 1), super().before(context))
        return self.dropout(hidden[:, 1:])

    def before(self, context: State) -> tuple[Tensor, Tensor]:
        """The state after the image."""
        _, h, c = self.run(context["image"], super().before(context))
        return h, c


class ParInject(LSTMDecoder):
    """The image goes into the LSTM beside every word."""

    def add_image(self, channels: int) -> None:
        """A projection to a word vector."""
        self.image = self.projection(channels, self.embedding.embedding_dim)

    def input_size(self, embedding: int) -> int:
        """Word and image."""
        return 2 * embedding

    def context(self, features: Tensor) -> State:
        """The image, as large as a word vector (N, E)."""
        return {"image": self.image(pool(features))}

    def inputs(self, words: Tensor, context: State) -> Tensor:
        """Word and image side by side (B, T, 2 E)."""
        return torch.cat([words, expand_over_words(context["image"], words)], -1)
