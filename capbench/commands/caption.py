"""`python -m capbench caption`: captions for image files."""

import argparse
import glob
import json
import sys
from dataclasses import replace
from pathlib import Path

from capbench.errors import UserError
from capbench.runs import read_checkpoint

EXIT_UNREADABLE = 1


def arguments_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m capbench caption",
        description="Caption image files. An unreadable one is reported, and the exit status is then 1.",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders (searched for images) or globs")
    parser.add_argument("--checkpoint", type=Path, required=True, help="a run's checkpoints/best.ckpt")
    parser.add_argument("--beam", type=_positive, help="hypotheses kept for each image (default: the checkpoint's)")
    parser.add_argument("--num-captions", type=_positive, default=1, help="captions an image, best first (default: 1)")
    parser.add_argument("--batch-size", type=_positive, default=16, help="images captioned at once (default: 16)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line: image, captions with log_prob")
    return parser


def main(arguments: list[str]) -> int:
    """Caption images.

    Raises:
        UserError: no such image or checkpoint.
    """
    options = arguments_parser().parse_args(arguments)
    paths = find_images(options.images)
    checkpoint = read_checkpoint(options.checkpoint)

    import torch

    from capbench.captioner import Captioner
    from capbench.data.captions import open_image
    from capbench.search import search

    captioner = Captioner.load(checkpoint).to("cuda" if torch.cuda.is_available() else "cpu")
    beam = max(options.beam or captioner.search.beam, options.num_captions)
    settings = replace(captioner.search, beam=beam, captions=options.num_captions)
    unreadable = 0
    for first in range(0, len(paths), options.batch_size):
        readable, pictures = [], []
        for path in paths[first : first + options.batch_size]:
            try:
                pictures.append(captioner.encoder.transform(open_image(path)))
                readable.append(path)
            except UserError as error:
                unreadable += 1
                print(f"capbench: {error}", file=sys.stderr)
        if not readable:
            continue
        with torch.no_grad():
            found = search(captioner.decoder, captioner.encoder(torch.stack(pictures).to(captioner.device)), settings)
        for path, captions, log_probs in zip(readable, captioner.words(found), found.log_probs.tolist(), strict=True):
            pairs = [pair for pair in zip(captions, log_probs, strict=True) if pair[1] > -torch.inf]
            show(path, pairs, options.json)
    return EXIT_UNREADABLE if unreadable else 0


def find_images(patterns: list[str]) -> list[Path]:
    """Files, the images in folders, and what globs match, each once, in order.

    Raises:
        UserError: a pattern matches nothing.
    """
    from PIL import Image

    extensions = set(Image.registered_extensions())
    paths: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in extensions)
        else:
            found = [path] if path.exists() else [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
        if not found:
            raise UserError(f"{pattern} names no image: give files, folders with images, or globs.")
        paths |= dict.fromkeys(found)
    return list(paths)


def show(path: Path, captions: list[tuple[str, float]], as_json: bool) -> None:
    """Print an image's captions."""
    if as_json:
        rows = [{"caption": caption, "log_prob": log_prob} for caption, log_prob in captions]
        print(json.dumps({"image": str(path), "captions": rows}), flush=True)
    elif len(captions) == 1:
        print(f"{path}: {captions[0][0]}", flush=True)
    else:
        print(path, *(f"  {caption}  ({log_prob:.2f})" for caption, log_prob in captions), sep="\n", flush=True)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
