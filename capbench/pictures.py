"""Pictures from files, as encoders take them."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from capbench.errors import UserError


def open_image(path: Path) -> Image.Image:
    """The RGB picture in a file, turned as its EXIF data says.

    Raises:
        UserError: the file is no readable image.
    """
    try:
        with Image.open(path) as image:
            return upright(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}).") from error


def upright(image: Image.Image) -> Image.Image:
    """The picture in RGB, on white where it is transparent, turned as its EXIF data says.

    Raises:
        ValueError: nothing says which of its values is white.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode.startswith("I"):  # more than 8 bits of grey, of which `convert` would make white
        grey = np.asarray(image)
        image = Image.fromarray((grey if grey.max() < 256 else grey >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
