"""Data sources, interchangeable by class name."""

from capbench.data.images import Images
from capbench.data.module import CaptionData
from capbench.data.shapes import Shapes

__all__ = ["CaptionData", "Images", "Shapes"]
