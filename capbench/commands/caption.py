"""`python -m capbench caption`: captions for image files."""

import argparse
import csv
import glob
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capbench.errors import UserError
from capbench.runs import require_writable

if TYPE_CHECKING:
    from capbench.model import Caption, Model

EXIT_UNREADABLE = 1
AHEAD = 2  # batches that are opened while one is captioned


def arguments_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m capbench caption",
        description="Caption image files. An unreadable one is reported, the others are captioned, and the exit status "
        "is then 1.",
    )
    add = parser.add_argument
    add(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="files, folders (searched for images), globs; - reads names from stdin",
    )
    add("--checkpoint", required=True, help="a run's checkpoints/best.ckpt, or what else `capbench.load` takes")
    add("--beam", type=_positive, help="hypotheses kept for each image (default: the checkpoint's)")
    add("--num-captions", type=_positive, default=1, help="captions an image, best first (default: 1)")
    add("--batch-size", type=_positive, default=32, help="images captioned at once (default: 32)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line: image, captions with log_prob")
    form.add_argument("--csv", action="store_true", help="a row for each caption: image, rank, caption, log_prob")
    add(
        "--attention",
        type=Path,
        metavar="DIR",
        help="write a picture for each image: where the decoder looks at each word",
    )
    return parser


def main(arguments: list[str]) -> int:
    """Caption images.

    Raises:
        UserError: no such image or checkpoint.
    """
    options = arguments_parser().parse_args(arguments)
    paths = find_images(options.images)
    from dataclasses import replace

    from tqdm import tqdm

    from capbench.model import load

    model = load(options.checkpoint)
    search = replace(model.search, beam=options.beam) if options.beam else model.search
    search = model.options(options.num_captions, search)
    if options.attention and not model.attends:
        raise UserError(f"{options.checkpoint} holds a decoder without attention: leave out --attention.")
    show = _as_csv() if options.csv else _as_json if options.json else _as_text
    # where captions are lines of a terminal they show the progress themselves
    bar = tqdm(total=len(paths), unit="image", delay=2, disable=sys.stdout.isatty() or not sys.stderr.isatty())
    unreadable = 0
    with bar:
        for names, pictures in _opened(model, paths, options.batch_size):
            readable = [(path, opened) for path, opened in zip(names, pictures, strict=True) if opened is not None]
            unreadable += len(names) - len(readable)
            found = model.caption(
                [opened for _, opened in readable], options.num_captions, search, bool(options.attention)
            )
            for (path, opened), captions in zip(readable, found, strict=True):
                show(path, captions)
                if options.attention:
                    _draw(path, opened, captions[0], options.attention)
            bar.update(len(names))
    return EXIT_UNREADABLE if unreadable else 0


def find_images(patterns: list[str]) -> list[Path]:
    """Files, the images in folders, and what globs match, each once, in order; `-` stands for names on stdin.

    Raises:
        UserError: a pattern matches nothing.
    """
    from PIL import Image

    extensions = set(Image.registered_extensions())
    paths: dict[Path, None] = {}
    for pattern in [line for each in patterns for line in (_lines_of_stdin() if each == "-" else [each])]:
        path = Path(pattern)
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in extensions)
        else:
            found = [path] if path.exists() else [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
        if not found:
            raise UserError(f"{pattern} names no image: give files, folders with images, or globs.")
        paths |= dict.fromkeys(found)
    return list(paths)


def _lines_of_stdin() -> list[str]:
    return [line for line in sys.stdin.read().splitlines() if line]


def _opened(model: "Model", paths: list[Path], size: int) -> Iterator[tuple[list[Path], list[Any]]]:
    """Batches of paths and what the encoder takes of them, opened by threads; None for an unreadable one."""
    batches = [paths[first : first + size] for first in range(0, len(paths), size)]
    ahead: deque[list[Future[Any]]] = deque()
    with ThreadPoolExecutor() as threads:
        try:
            for place in range(len(batches)):
                while len(ahead) <= AHEAD and place + len(ahead) < len(batches):
                    ahead.append([threads.submit(_open, model, path) for path in batches[place + len(ahead)]])
                yield batches[place], [future.result() for future in ahead.popleft()]
        finally:
            threads.shutdown(cancel_futures=True)


def _open(model: "Model", path: Path) -> Any:
    try:
        return model.tensor(path)
    except UserError as error:
        print(f"capbench: {error}", file=sys.stderr)
        return None


def _as_text(path: Path, captions: list["Caption"]) -> None:
    if len(captions) == 1:
        print(f"{path}: {captions[0].text}", flush=True)
    else:
        print(path, *(f"  {caption.text}  ({caption.log_prob:.2f})" for caption in captions), sep="\n", flush=True)


def _as_json(path: Path, captions: list["Caption"]) -> None:
    rows = [{"caption": caption.text, "log_prob": caption.log_prob} for caption in captions]
    print(json.dumps({"image": str(path), "captions": rows}), flush=True)


def _as_csv() -> Callable[[Path, list["Caption"]], None]:
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["image", "rank", "caption", "log_prob"])

    def show(path: Path, captions: list["Caption"]) -> None:
        table.writerows([path, rank, each.text, each.log_prob] for rank, each in enumerate(captions, start=1))

    return show


def _draw(path: Path, opened: Any, caption: "Caption", folder: Path) -> None:
    """Write DIR/NAME.png, beside the folders that the image lies in."""
    from capbench.overlay import attention_picture

    assert caption.attention is not None
    inside = path.relative_to(path.anchor) if path.is_absolute() else path
    file = (folder / Path(*(part for part in inside.parts if part != ".."))).with_suffix(f"{path.suffix}.png")
    require_writable(file)
    attention_picture(opened, caption.text, caption.attention).save(file)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
