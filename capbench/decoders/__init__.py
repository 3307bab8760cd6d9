"""Decoders, interchangeable by class name."""

from capbench.decoders.attention import Attention
from capbench.decoders.base import Decoder, State, select
from capbench.decoders.inject import InitInject, ParInject, PreInject
from capbench.decoders.merge import Merge

__all__ = ["Attention", "Decoder", "InitInject", "Merge", "ParInject", "PreInject", "State", "select"]
