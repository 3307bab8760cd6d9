"""`python -m capbench data`: what captioned images there are, and whether they can be used."""

import random
import textwrap
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from statistics import mean, median

from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from capbench.data import Images
from capbench.data.captions import SPLITS, CaptionedImage, CaptionSet
from capbench.data.table import Columns
from capbench.errors import UserError
from capbench.parser import Parser
from capbench.text import tokenise

EXIT_UNREADABLE = 1
SHOWN = 20
SHEET = (4, 3)  # columns and rows
TILE = (320, 400)  # pixels of a picture with its captions
PICTURE = (304, 228)


def main(arguments: list[str]) -> int:
    """Print what there is, check that every image can be read, and draw some with their captions.

    Raises:
        UserError: nothing found.
    """
    parser = Parser(prog="python -m capbench data", description="Look at captioned images and check every file.")
    parser.add_class_arguments(Images)
    parser.add_argument(
        "--sheet", type=Path, default=Path("contact_sheet.png"), help="where a picture of some images is put"
    )
    options = parser.parse_args(arguments).as_dict()
    sheet, columns = options.pop("sheet"), Columns(**options.pop("columns"))
    data = Images(columns=columns, **options)
    try:
        captions = data.find()
    except UserError as error:
        raise UserError(str(error).replace("--data.", "--")) from error
    print(f"Source: {captions.source}, fingerprint {captions.fingerprint()}")
    _print_splits(captions)
    _print_words(captions, data.min_count)
    _print_list("images of the splits cannot be used", [f"{name}: {why}" for name, why in captions.missing.items()])
    _print_list("captions without a word are left out", captions.left_out)
    unreadable = _unreadable(captions)
    _print_list("images cannot be read", list(unreadable.values()))
    draw_sheet([image for image in captions if image.id not in unreadable], sheet)
    print(f"Some of them, drawn by seed: {sheet}")
    return EXIT_UNREADABLE if unreadable else 0


def _print_splits(captions: CaptionSet) -> None:
    print(f"\n{'':10}{'images':>8}{'captions':>10}   captions an image")
    for split in (*SPLITS, "all"):
        images = [image for image in captions if split in (image.split, "all")]
        counts = Counter(len(image.references) for image in images)
        shares = ", ".join(f"{count} (x {images})" for count, images in sorted(counts.items())) or "none"
        print(f"{split:10}{len(images):8,}{sum(len(image.references) for image in images):10,}   {shares}")


def _print_words(captions: CaptionSet, min_count: int) -> None:
    words = {
        split: [tokenise(caption) for image in captions.split(split) for caption in image.references]
        for split in SPLITS
    }
    if not words["train"]:
        print("\nNo training captions, so no vocabulary.")
        return
    seen = Counter(word for caption in words["train"] for word in caption)
    kept = {word for word, count in seen.items() if count >= min_count}
    print(
        f"\nVocabulary: {len(seen):,} different words in the training captions, {len(kept):,} of them at least "
        f"{min_count} times (--min_count)."
    )
    for split, sentences in words.items():
        if sentences:
            lengths = sorted(map(len, sentences))
            known = sum(word in kept for sentence in sentences for word in sentence) / sum(lengths)
            print(
                f"  {split:6} captions of {lengths[0]} to {lengths[-1]} words, mean {mean(lengths):.1f}, median "
                f"{median(lengths):.0f}, 95 % up to {lengths[ceil(0.95 * len(lengths)) - 1]}; "
                f"{known:.2%} of the words are in the vocabulary"
            )
    texts = [(image.id, caption) for image in captions for caption in image.references]
    if twice := len(texts) - len(set(texts)):
        print(f"  {twice:,} captions come more than once for their image, and are kept so")


def _print_list(what: str, items: Sequence[str]) -> None:
    if items:
        print(f"\n{len(items):,} {what}:")
        for item in items[:SHOWN]:
            print(f"  {item}")
        if len(items) > SHOWN:
            print(f"  and {len(items) - SHOWN:,} more")


def _unreadable(captions: CaptionSet) -> dict[str, str]:
    """Why images cannot be read, by id; each is opened once."""

    def fault(image: CaptionedImage) -> str | None:
        try:
            image.open()
        except UserError as error:
            return str(error)
        return None

    print(flush=True)
    with ThreadPoolExecutor() as pool:
        opened = pool.map(fault, captions)
        faults = list(tqdm(opened, "opening every image", len(captions), unit="image", mininterval=1))
    return {image.id: why for image, why in zip(captions, faults, strict=True) if why}


def draw_sheet(images: Sequence[CaptionedImage], path: Path) -> None:
    """Put some images with their captions, drawn by seed, into one picture."""
    columns, rows = SHEET
    chosen = random.Random(0).sample(list(images), min(columns * rows, len(images)))
    height = -(-len(chosen) // columns)
    sheet = Image.new("RGB", (columns * TILE[0], max(1, height) * TILE[1]), "white")
    for place, image in enumerate(chosen):
        sheet.paste(_tile(image), (place % columns * TILE[0], place // columns * TILE[1]))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be written ({error}): name a .png or .jpg file with --sheet.") from error


def _tile(image: CaptionedImage) -> Image.Image:
    tile = Image.new("RGB", TILE, "white")
    picture = image.open()
    scale = min(PICTURE[0] / picture.width, PICTURE[1] / picture.height)
    picture = picture.resize((max(1, round(scale * picture.width)), max(1, round(scale * picture.height))))
    tile.paste(picture, ((TILE[0] - picture.width) // 2, 8))
    pen = ImageDraw.Draw(tile)
    lines = [f"{image.id}  ({image.split})"]
    lines += [textwrap.shorten(caption, 100) for caption in image.references[:5]]
    wrapped = [part for line in lines for part in textwrap.wrap(line, 50, subsequent_indent="  ")]
    pen.multiline_text((8, PICTURE[1] + 14), "\n".join(wrapped), "black", ImageFont.load_default(12), spacing=2)
    return tile
