"""Prints runs as Markdown: scores and costs, and ten captions drawn by seed.

python benchmarks/results_table.py RUN... >> docs/results.md
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

from capbench.scores import columns

CAPTIONS = 10


def main(folders: list[Path]) -> None:
    """Print the tables."""
    results = [json.loads((folder / "result.json").read_text(encoding="utf-8")) for folder in folders]
    captions = [read_captions(folder) for folder in folders]
    scores = columns(*(result["scores"]["test"] for result in results))
    header = ["decoder", *scores.values(), "different captions", "trained parameters", "epochs", "seconds of fit"]
    print_row(header)
    print_row(["---"] * len(header))
    for result, run in zip(results, captions, strict=True):
        test = result["scores"]["test"]
        print_row(
            [name(result)]
            + [f"{test[key]:.4f}" if key in test else "-" for key in scores]
            + [len({row["caption"] for row in run.values()})]
            + [f"{result['trained_parameters']:,}", result["epochs"], round(result["wall_seconds"])]
        )
    print("\nTen test images, drawn with `random.Random(0)`:\n")
    print_row(["image", "first reference", *map(name, results)])
    print_row(["---"] * (len(results) + 2))
    for image in random.Random(0).sample(sorted(captions[0]), CAPTIONS):
        first_reference = captions[0][image]["references"][0]
        print_row([image.removesuffix(".jpg"), first_reference, *(run[image]["caption"] for run in captions)])


def name(result: dict[str, Any]) -> str:
    """The decoder's class name."""
    return str(result["decoder"]["class_path"]).rpartition(".")[2]


def read_captions(folder: Path) -> dict[str, dict[str, Any]]:
    """A run's captions by image id."""
    lines = (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["image_id"]: row for row in map(json.loads, lines)}


def print_row(cells: list[Any]) -> None:
    """One Markdown row."""
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
