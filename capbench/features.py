"""What an encoder hands to a decoder."""

from typing import Literal, NamedTuple

FeatureKind = Literal["grid", "pooled", "pre_logits"]


class FeatureShape(NamedTuple):
    """Shape of one image's features, a (L, C) tensor with L = height * width places of C channels.

    Pooled and pre-logits features are a grid of one place.
    """

    height: int
    width: int
    channels: int

    @property
    def places(self) -> int:
        """L."""
        return self.height * self.width
