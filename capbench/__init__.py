"""capbench: train, score and compare image captioners, any timm encoder x any decoder x any captioned images."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from capbench.model import load

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """`capbench.load`, which takes torch: imported when it is asked for."""
    if name == "load":
        from capbench.model import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
