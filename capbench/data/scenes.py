"""The scenes behind the Shapes set: two groups of equal shapes side by side, drawn and described from a seed.

A group is one to three circles, squares, triangles or crosses of one colour and one size. One group lies left
of or above the other, and their colours differ. A sentence is right only if number, size, colour and shape of
both groups and their places are: 23,040 meanings, so that most scenes of a test split say something new.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image, ImageDraw

T = TypeVar("T")
RGB = tuple[int, int, int]

NUMBERS = ("a", "two", "three")
COLOURS: dict[str, RGB] = {
    "red": (215, 40, 40),
    "green": (40, 160, 70),
    "blue": (45, 80, 215),
    "yellow": (240, 200, 30),
    "purple": (145, 55, 175),
}
# Radii as parts of the picture's side: the smallest and the largest one that the word stands for.
SIZES = {"small": (0.068, 0.078), "large": (0.130, 0.145)}
# Outlines in units of the radius, y downwards; none for the circle.
OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "circle": (),
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "triangle": ((0, -1), (1, 0.9), (-1, 0.9)),
    "cross": (
        (-0.35, -1), (0.35, -1), (0.35, -0.35), (1, -0.35), (1, 0.35), (0.35, 0.35),
        (0.35, 1), (-0.35, 1), (-0.35, 0.35), (-1, 0.35), (-1, -0.35), (-0.35, -0.35),
    ),
}  # fmt: skip
# Where a group's shapes stand along its half of the picture, and how far each may stray from there.
ROWS = {1: ((0.5,), 0.12), 2: ((0.28, 0.72), 0.06), 3: ((0.17, 0.5, 0.83), 0.015)}


@dataclass(frozen=True, slots=True)
class Shape:
    """One drawn shape: its centre from the top left corner and its radius, in parts of the picture's side."""

    x: float
    y: float
    radius: float
    fill: RGB


@dataclass(frozen=True, slots=True)
class Group:
    """One to three shapes that the same words fit: keys of `SIZES`, `COLOURS` and `OUTLINES`."""

    size: str
    colour: str
    outline: str
    shapes: tuple[Shape, ...]

    def __str__(self) -> str:
        """The group as a noun phrase: `a small red circle`, `two large blue crosses`."""
        number = len(self.shapes)
        ending = "" if number == 1 else "es" if self.outline.endswith("s") else "s"
        return f"{NUMBERS[number - 1]} {self.size} {self.colour} {self.outline}{ending}"


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that is drawn: `first` lies left of `second` if `across`, else above it."""

    first: Group
    second: Group
    across: bool
    background: RGB


def make_scene(seed: int, index: int) -> Scene:
    """Scene `index` of the endless series `seed`: the same on every machine.

    Of the generator only `random()` is used, the one method whose numbers Python promises never to change.
    """
    rng = random.Random(f"{seed}/{index}")
    across = rng.random() < 0.5
    colour = _choose(rng, tuple(COLOURS))
    other_colour = _choose(rng, tuple(name for name in COLOURS if name != colour))
    return Scene(
        first=_make_group(rng, colour, across, middle=0.25),
        second=_make_group(rng, other_colour, across, middle=0.75),
        across=across,
        background=_shade(rng, (235, 235, 235), 20),
    )


def describe(scene: Scene) -> tuple[str, ...]:
    """Five sentences of 9 to 14 words that say the same, built in the same five ways for every scene."""
    first, second = scene.first, scene.second
    if scene.across:
        before, after, long_before, long_after, aside = (
            "left of", "right of", "to the left of", "to the right of", "to the right"
        )  # fmt: skip
    else:
        before, after, long_before, long_after, aside = "above", "below", "above", "below", "underneath"
    first_is = "is" if len(first.shapes) == 1 else "are"
    second_sits = "sits" if len(second.shapes) == 1 else "sit"
    return (
        f"{first} {before} {second}",
        f"{second} {after} {first}",
        f"there {first_is} {first} with {second} {aside}",
        f"{second} {second_sits} {long_after} {first}",
        f"{long_before} {second} {first_is} {first}",
    )


def draw(scene: Scene, size: int = 64) -> Image.Image:
    """The scene as an RGB picture of `size` x `size` pixels, drawn four times as large and averaged down."""
    scale = 4 * size
    image = Image.new("RGB", (scale, scale), scene.background)
    pen = ImageDraw.Draw(image)
    for group in (scene.first, scene.second):
        for shape in group.shapes:
            x, y, radius = shape.x * scale, shape.y * scale, shape.radius * scale
            if group.outline == "circle":
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=shape.fill)
            else:
                corners = [(x + dx * radius, y + dy * radius) for dx, dy in OUTLINES[group.outline]]
                pen.polygon(corners, fill=shape.fill)
    return image.reduce(4)


def _make_group(rng: random.Random, colour: str, across: bool, middle: float) -> Group:
    """A group in the half of the picture around `middle`, its shapes lined up loosely along that half."""
    size = _choose(rng, tuple(SIZES))
    outline = _choose(rng, tuple(OUTLINES))
    row, stray = ROWS[_choose(rng, tuple(ROWS))]
    shapes = []
    for place in row:
        along = _between(rng, place - stray, place + stray)
        aside = _between(rng, middle - 0.06, middle + 0.06)
        x, y = (aside, along) if across else (along, aside)
        shapes.append(Shape(x, y, _between(rng, *SIZES[size]), _shade(rng, COLOURS[colour], 15)))
    return Group(size, colour, outline, tuple(shapes))


def _choose(rng: random.Random, options: Sequence[T]) -> T:
    return options[int(rng.random() * len(options))]


def _between(rng: random.Random, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _shade(rng: random.Random, colour: RGB, stray: int) -> RGB:
    """The colour with each channel moved by up to `stray` of 255."""
    red, green, blue = (min(255, max(0, round(_between(rng, c - stray, c + stray)))) for c in colour)
    return red, green, blue
