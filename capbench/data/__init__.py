"""Data sources, interchangeable by class name."""

from capbench.data.flickr8k import Flickr8k
from capbench.data.module import CaptionData
from capbench.data.shapes import Shapes

__all__ = ["CaptionData", "Flickr8k", "Shapes"]
