"""Draws docs/demo.png: scenes of the demo's test split with the captions they were given.

python docs/picture.py runs/demo docs/demo.png
"""

import json
import random
import sys
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from capbench.data.scenes import draw, make_scene

COLUMNS, ROWS, SIDE, TEXT, GAP = 4, 2, 220, 76, 16


def main(run: Path, picture: Path) -> None:
    """Draw eight scenes chosen by seed."""
    lines = (run / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    chosen = random.Random(0).sample([json.loads(line) for line in lines], COLUMNS * ROWS)
    sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, ROWS * (SIDE + TEXT + GAP) + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for number, row in enumerate(chosen):
        x = GAP + number % COLUMNS * (SIDE + GAP)
        y = GAP + number // COLUMNS * (SIDE + TEXT + GAP)
        scene = make_scene(0, int(row["image_id"].removeprefix("scene-")))
        sheet.paste(draw(scene, SIDE), (x, y))
        pen.multiline_text((x, y + SIDE + 6), textwrap.fill(row["caption"], 30), fill="black", font=font)
    sheet.save(picture, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
