"""`python -m capbench score`: anybody's captions, scored as capbench scores its own."""

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from capbench import __version__
from capbench.data import Images
from capbench.data.table import Columns
from capbench.errors import UserError
from capbench.parser import Parser
from capbench.runs import write_jsonl, write_text
from capbench.scores import NAMES, CaptionScores, score_captions
from capbench.scores.files import CaptionFile, pair, read_captions, read_references

DATA_FILES = (".txt", ".csv", ".tsv")


def main(arguments: list[str]) -> int:
    """Score a file of captions, print a table, and write the scores of all and of each image.

    Raises:
        UserError: files that cannot be read, or images that lack a caption or references.
    """
    parser = Parser(
        prog="python -m capbench score",
        description="Score captions against references: BLEU, METEOR (where Java runs), ROUGE-L, CIDEr-D.",
    )
    parser.add_argument(
        "--captions",
        type=Path,
        required=True,
        help="captions.jsonl, COCO's [{image_id, caption}], or {image id: caption}",
    )
    parser.add_argument(
        "--references",
        type=Path | None,
        help="{image id: [caption]}, COCO's annotations, Flickr8k.token.txt, Karpathy's JSON, a .csv, ...; by default "
        "those under --data.root, or in the file of captions itself",
    )
    parser.add_argument("--split", default="test", help="the split of the references")
    parser.add_argument("--allow-missing", action="store_true", help="score what has both caption and references")
    parser.add_argument("--no-java", action="store_true", help="leave out METEOR, which takes Java")
    parser.add_argument(
        "--output", type=Path | None, help="FILE.json of all scores and FILE.jsonl by image; default: CAPTIONS-scores"
    )
    parser.add_class_arguments(Images, "data")
    options = parser.parse_args(arguments)

    captions = read_captions(options.captions)
    known, label = _references(options, captions)
    kept, references = pair(captions, known.references, known.other_names, options.allow_missing)
    scores = score_captions(kept, references, java=not options.no_java)
    print_table(str(options.captions), label, len(kept), len(known.references), scores)
    written = _write(
        options.output or Path(f"{options.captions.stem}-scores"), options, label, kept, references, scores
    )
    print(f"\nScores: {written[0]}, by image: {written[1]}")
    return 0


def _references(options: Any, captions: CaptionFile) -> tuple[CaptionFile, str]:
    """The references, and where they are from."""
    file, data = options.references, options.data.as_dict()
    if file is None and data["root"] is None:
        if not captions.references:
            raise UserError(
                f"{options.captions} has no references: name them with --references FILE or --data.root FOLDER."
            )
        return CaptionFile(references=captions.references), str(options.captions)
    if file is not None and not file.is_file():
        raise UserError(f"There is no file {file} (--references).")
    if file is None or file.suffix.lower() in DATA_FILES or _is_karpathys(file):
        place = {} if file is None else {"root": file.parent, "captions": file}
        images = Images(**data | place | {"columns": Columns(**data["columns"])})
        found, label = images.references(options.split, draw=file is None)
        references = {image: list(texts) for image, texts in found.items()}
        return CaptionFile(references=references), f"{label}, {options.split}"
    return read_references(file), str(file)


def _is_karpathys(file: Path) -> bool:
    """Karpathy's `sentences` stand within the first image."""
    with file.open("rb") as opened:
        return file.suffix == ".json" and b'"sentences"' in opened.read(10_000)


def print_table(captions: str, references: str, count: int, of: int, scores: CaptionScores) -> None:
    """The scores, and how they came about."""
    print(f"{captions}: {count} of {of} images, against {references}\n")
    print("  ".join(f"{name:>7}" for name in NAMES.values()))
    print("  ".join(f"{scores.corpus[key]:7.4f}" if key in scores.corpus else f"{'-':>7}" for key in NAMES))


def _write(
    path: Path,
    options: Any,
    label: str,
    captions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    scores: CaptionScores,
) -> tuple[Path, Path]:
    whole, by_image = path.with_name(f"{path.name}.json"), path.with_name(f"{path.name}.jsonl")
    versions = {"python": platform.python_version(), "capbench": __version__}
    facts = {
        "command": sys.argv,
        "captions": str(options.captions),
        "references": label,
        "images": len(captions),
        "scores": scores.corpus,
        "missing": scores.missing,
        "versions": versions | {"pycocoevalcap": version("pycocoevalcap")},
    }
    rows = (
        {
            "image_id": image,
            "caption": captions[image],
            "references": list(references[image]),
            "scores": scores.per_image[image],
        }
        for image in sorted(captions)
    )
    write_text(whole, json.dumps(facts, indent=2) + "\n")
    write_jsonl(by_image, rows)
    return whole, by_image
