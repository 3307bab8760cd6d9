"""Where a decoder looked for each word, drawn over the picture."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

TILE, LINE, GAP, IN_A_ROW = 168, 24, 8, 6
DARK = 0.25
"""What is left of the light where the decoder does not look."""


def light(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """How bright places are, 0 to 1: weights of any shape, the largest of them all the light."""
    return DARK + (1 - DARK) * weights / max(float(weights.max()), 1e-9)


def seen(image: Tensor) -> Image.Image:
    """What the encoder sees (3, H, W), of which the maps are, from its darkest value to its brightest."""
    low, high = image.min(), image.max()
    pixels = 255 * (image - low) / (high - low).clamp(min=1e-9)
    return Image.fromarray(pixels.byte().permute(1, 2, 0).cpu().numpy())


def lit(picture: Image.Image, weights: npt.NDArray[np.float32]) -> Image.Image:
    """The picture, bright where the weights (rows, columns) are largest and dark where they are none."""
    small = Image.fromarray((255 * light(weights)).astype(np.uint8))
    places = np.asarray(small.resize(picture.size, Image.Resampling.BICUBIC), dtype=np.float32)[..., None] / 255
    return Image.fromarray((np.asarray(picture.convert("RGB")) * places).astype(np.uint8))


def attention_picture(image: Tensor, text: str, maps: npt.NDArray[np.float32]) -> Image.Image:
    """What the encoder sees (3, H, W), and again for each word of a caption with its map (words, rows, columns)."""
    picture = seen(image)
    picture = picture.resize((TILE, round(TILE * picture.height / picture.width)), Image.Resampling.BICUBIC)
    words = text.split()
    tiles = [(picture, ""), *((lit(picture, weights), word) for word, weights in zip(words, maps, strict=True))]
    return _sheet(tiles, picture.size)


def _sheet(tiles: Sequence[tuple[Image.Image, str]], size: tuple[int, int]) -> Image.Image:
    columns = min(IN_A_ROW, len(tiles))
    rows = -(-len(tiles) // columns)
    width, height = size[0] + GAP, size[1] + LINE + GAP
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for place, (tile, word) in enumerate(tiles):
        left, top = GAP + place % columns * width, GAP + place // columns * height
        sheet.paste(tile, (left, top))
        draw.text((left + size[0] / 2, top + size[1] + LINE / 2), word, fill="black", font=font, anchor="mm")
    return sheet
