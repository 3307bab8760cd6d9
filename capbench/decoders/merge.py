"""The decoder whose LSTM sees words alone; the image joins at the output.

Tanti, Gatt and Camilleri (2018), "Where to put the image in an image caption generator", figure 2.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from capbench.decoders.base import LSTMDecoder, State, check_sizes, expand_over_words, pool
from capbench.features import FeatureShape


class Merge(LSTMDecoder):
    """LSTM over the words, then joined with the image.

    Args:
        shape: shape of one image's features.
        vocabulary_size: V.
        join: how image and LSTM output meet: `concat`, `add` or `multiply`.
        deep: size of a layer with ReLU between them and the output layer; null goes without one.
        options: see `LSTMDecoder`.
    """

    def __init__(
        self,
        shape: FeatureShape,
        vocabulary_size: int,
        join: Literal["concat", "add", "multiply"] = "concat",
        deep: int | None = None,
        **options: Any,
    ) -> None:
        check_sizes(deep=1 if deep is None else deep)
        self.join, self.deep_size = join, deep
        super().__init__(shape, vocabulary_size, **options)

    def add_image(self, channels: int) -> None:
        """A projection to the LSTM's output, and the deep layer."""
        self.image = self.projection(channels, self.lstm.hidden_size, nn.Tanh())
        joined = self.joined_size(self.lstm.hidden_size)
        self.deep = nn.Sequential(nn.Linear(joined, self.deep_size), nn.ReLU()) if self.deep_size else nn.Identity()

    def joined_size(self, hidden: int) -> int:
        """Twice the LSTM's where both are kept."""
        return 2 * hidden if self.join == "concat" else hidden

    def output_size(self, hidden: int) -> int:
        """The deep layer's, where there is one."""
        return self.deep_size or self.joined_size(hidden)

    def context(self, features: Tensor) -> State:
        """The image, as large as the LSTM's output (N, H)."""
        return {"image": self.image(pool(features))}

    def outputs(self, hidden: Tensor, context: State) -> Tensor:
        """LSTM output joined with the image (B, T, H or 2 H), through the deep layer (B, T, D) if there is one."""
        image = expand_over_words(context["image"], hidden)
        if self.join == "concat":
            joined = torch.cat([hidden, image], -1)
        else:
            joined = hidden + image if self.join == "add" else hidden * image
        deep: Tensor = self.deep(joined)
        return deep
