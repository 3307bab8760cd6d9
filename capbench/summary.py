"""What a command prints: what is about to run; scores, a few captions, and what to type next."""

import json
import random
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as L

from capbench.captioner import Captioner
from capbench.likelihood import NAMES as LIKELIHOOD
from capbench.runs import RunFolder
from capbench.scores import columns
from capbench.scores.diversity import NAMES as DIVERSITY

SAMPLES = 5


def print_start(folder: RunFolder, facts: dict[str, Any], trainer: L.Trainer) -> None:
    """Print what is about to be trained, and what each validation costs."""
    encoder, decoder, data = facts["encoder"], facts["decoder"], facts["data"]
    name = encoder["init_args"].get("name", encoder["class_path"])
    learns = encoder["learns_from_epoch"]
    training = "frozen" if learns is None else f"trained from epoch {learns}" if learns else "trained"
    images, every = data["images"], trainer.check_val_every_n_epoch or 1
    print(
        f"Run {folder.path}\n"
        f"  encoder  {name}, {encoder['kind']} {encoder['shape']}, {encoder['parameters'] / 1e6:.1f} M parameters, "
        f"{training}\n"
        f"  decoder  {decoder['class_path'].rpartition('.')[2]}, {decoder['parameters'] / 1e6:.1f} M parameters, "
        f"vocabulary {facts['vocabulary']}{_coverage(facts['glove_coverage'])}\n"
        f"  data     {data['source']}, {images['train']} / {images['val']} / {images['test']} images\n"
        + (
            f"  every {'epoch' if every == 1 else f'{every} epochs'} {data['fit_val_images']} validation images are "
            "captioned and scored"
            if images["val"]
            else "  no validation images: all epochs are trained, and the last one counts"
        ),
        flush=True,
    )


def _coverage(share: float | None) -> str:
    return "" if share is None else f", {share:.1%} of it with GloVe vectors"


def print_summary(command: str | None, folder: RunFolder, trainer: L.Trainer) -> None:
    """Print the summary of a run's folder."""
    result, captioner = folder.result(), trainer.lightning_module
    assert isinstance(captioner, Captioner)
    split = "val" if command == "validate" else str(command)
    if command == "fit":
        best = result.get("scores", {}).get("val", {})
        print(
            f"\nRun {result.get('status', 'without result')}: {folder.path}, {result.get('epochs', 0)} epochs, "
            f"{result.get('wall_seconds', 0):.0f} s."
        )
        if "epoch" in best:
            print(f"Best validation (epoch {best['epoch']}, {best['images']} images): BLEU-4 {best['bleu4']:.3f}")
        if left := folder.left():
            print(f"Next: {_python()} -m capbench test --ckpt_path {_quoted(left)}")
    elif split not in captioner.captions:
        print(f"\nNo image was captioned, by --trainer.limit_{split}_batches: {folder.path} is as it was.")
    elif command == "predict":
        print(f"\nCaptions: {folder.predictions}")
    else:
        print()
        print_scores(split, result["scores"][split])
        print_captions(folder, split)
        print(f"All captions and scores: {folder.captions(split)}, {folder.result_file}")
        if left := folder.left():
            print(f"Next: {_python()} -m capbench caption --checkpoint {_quoted(left)} IMAGE...")


def print_scores(split: str, scores: dict[str, Any]) -> None:
    """The score table, and the figures beside it."""
    print(f"{split} ({scores['images']} images, beam {scores['search']['beam']})")
    print(table(columns(scores), {"": scores}))
    figures = {"": scores["figures"]}
    for titles in (DIVERSITY, LIKELIHOOD):
        print(table(present(titles, figures), figures))


def present(titles: Mapping[str, str], rows: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """The titles of those columns that some row has."""
    return {column: title for column, title in titles.items() if any(column in values for values in rows.values())}


def table(titles: Mapping[str, str], rows: Mapping[str, Mapping[str, float]]) -> str:
    """Lines of a table: the columns' titles, and each row's name and values, `-` where one is missing."""
    first = max(map(len, rows)) + 2 if any(rows) else 0
    width = {column: max(len(title), 7) for column, title in titles.items()}
    lines = [" " * first + "  ".join(f"{title:>{width[column]}}" for column, title in titles.items())]
    for name, values in rows.items():
        cells = (f"{_number(values.get(column)):>{width[column]}}" for column in titles)
        lines.append(f"{name:{first}}" + "  ".join(cells))
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def print_captions(folder: RunFolder, split: str) -> None:
    """A few captions beside their references, drawn by seed."""
    rows = [json.loads(line) for line in folder.captions(split).read_text(encoding="utf-8").splitlines()]
    for row in random.Random(0).sample(rows, min(SAMPLES, len(rows))):
        print(f"\n  {row['image_id']}\n    caption:   {row['caption']}")
        for number, reference in enumerate(row["references"]):
            print(f"    {'reference:' if number == 0 else '          '} {reference}")
    print()


def _python() -> str:
    """The Python that runs this, as one would type it here."""
    here = Path.cwd()
    path = Path(sys.executable)
    return _quoted(path.relative_to(here)) if path.is_relative_to(here) else "python"


def _quoted(path: Any) -> str:
    return shlex.quote(str(path))
