"""Decoders, interchangeable by class name."""

from capbench.decoders.adaptive import AdaptiveAttention
from capbench.decoders.attention import Attention
from capbench.decoders.base import Decoder, State, select
from capbench.decoders.inject import InitInject, ParInject, PreInject
from capbench.decoders.merge import Merge
from capbench.decoders.transformer import Transformer

__all__ = [
    "AdaptiveAttention",
    "Attention",
    "Decoder",
    "InitInject",
    "Merge",
    "ParInject",
    "PreInject",
    "State",
    "Transformer",
    "select",
]
