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
from capbench.scores.human import LeaveOneOut
from capbench.scores.statistics import Statistics
from capbench.scores.uncertainty import Interval, differences, holm, intervals

DATA_FILES = (".txt", ".csv", ".tsv")


def main(arguments: list[str]) -> int:
    """Score files of captions, print a table, and write the scores of all and of each image.

    Raises:
        UserError: files that cannot be read, or images that lack a caption or references.
    """
    parser = Parser(
        prog="python -m capbench score",
        description="Score captions against references: BLEU, METEOR (where Java runs), ROUGE-L, CIDEr-D, with 95 % "
        "intervals. Several files are compared with the first.",
    )
    parser.add_argument(
        "--captions",
        type=Path,
        nargs="+",
        required=True,
        help="captions.jsonl, COCO's [{image_id, caption}], or {image id: caption}; one or several",
    )
    parser.add_argument(
        "--references",
        type=Path | None,
        help="{image id: [caption]}, COCO's annotations, Flickr8k.token.txt, Karpathy's JSON, a .csv, ...; by default "
        "those under --data.root, or in the first file of captions itself",
    )
    parser.add_argument("--split", default="test", help="the split of the references")
    parser.add_argument("--allow-missing", action="store_true", help="score what has both caption and references")
    parser.add_argument("--no-java", action="store_true", help="leave out METEOR, which takes Java")
    parser.add_argument(
        "--human",
        action="store_true",
        help="score people too, each reference against the others, and all captions against as many",
    )
    parser.add_argument(
        "--output", type=Path, default=Path(), help="folder of NAME-scores.json and, by image, NAME-scores.jsonl"
    )
    parser.add_class_arguments(Images, "data")
    options = parser.parse_args(arguments)

    files = {_name(file, options.captions): read_captions(file) for file in options.captions}
    known, label = _references(options, files[next(iter(files))])
    pairs = {
        name: pair(captions, known.references, known.other_names, options.allow_missing)
        for name, captions in files.items()
    }
    systems = _score(pairs, options.human, not options.no_java)
    count = len(next(iter(pairs.values()))[0])
    against = "each time all references but one of" if options.human else "all references of"
    print(f"{count} of {len(known.references)} images, against {against} {label}\n")
    print_table({name: intervals([Statistics.of(*scores)]) for name, scores in systems.items()})
    print_differences({name: Statistics.of(*scores) for name, scores in systems.items()})
    print()
    for name, scores in systems.items():
        if name in pairs:
            _write(options.output / f"{name}-scores", label, *pairs[name], scores)
    return 0


def _name(file: Path, files: Sequence[Path]) -> str:
    """The file's name; with its folder where another has the same, as runs' `captions.jsonl` do."""
    same = [other for other in files if other.stem == file.stem]
    return file.stem if len(same) == 1 else f"{file.resolve().parent.name}-{file.stem}"


def _score(
    pairs: Mapping[str, tuple[dict[str, str], dict[str, Sequence[str]]]], human: bool, java: bool
) -> dict[str, list[CaptionScores]]:
    """Each system's scores; against each set of references but one, with people's, where people are scored too."""
    if not human:
        return {name: [score_captions(*each, java=java)] for name, each in pairs.items()}
    turns = LeaveOneOut(next(iter(pairs.values()))[1], java)
    return {name: turns.system(captions) for name, (captions, _) in pairs.items()} | {"people": turns.people()}


def _references(options: Any, captions: CaptionFile) -> tuple[CaptionFile, str]:
    """The references, and where they are from."""
    file, data = options.references, options.data.as_dict()
    if file is None and data["root"] is None:
        if not captions.references:
            raise UserError(
                f"{options.captions[0]} has no references: name them with --references FILE or --data.root FOLDER."
            )
        return CaptionFile(references=captions.references), str(options.captions[0])
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


def print_table(systems: Mapping[str, Mapping[str, Interval]]) -> None:
    """Each system's scores, and from where to where their 95 % intervals go."""
    width = max(map(len, systems)) + 2
    print(" " * width + "  ".join(f"{name:>7}" for name in NAMES.values()))
    for system, scores in systems.items():
        print(f"{system:{width}}" + _row({name: interval.value for name, interval in scores.items()}))
        print(f"{'  from':{width}}" + _row({name: interval.low for name, interval in scores.items()}))
        print(f"{'  to':{width}}" + _row({name: interval.high for name, interval in scores.items()}))


def print_differences(systems: Mapping[str, Statistics]) -> None:
    """How each system differs from the first, with p-values corrected for all comparisons that are printed."""
    first, *others = systems
    if not others:
        return
    found = {other: differences([systems[other]], [systems[first]]) for other in others}
    p = holm({f"{other} {name}": each.p for other, scores in found.items() for name, each in scores.items()})
    width = max(len(other) + len(first) for other in others) + 5
    print("\nDifferences, and p-values by approximate randomisation, after Holm")
    print(" " * width + "  ".join(f"{name:>7}" for name in NAMES.values()))
    for other, scores in found.items():
        print(f"{f'{other} - {first}':{width}}" + _row({name: each.value for name, each in scores.items()}))
        print(f"{'  p':{width}}" + _row({name: p[f"{other} {name}"] for name in scores}))


def _row(values: Mapping[str, float]) -> str:
    return "  ".join(f"{values[name]:7.4f}" if name in values else f"{'-':>7}" for name in NAMES)


def _write(
    path: Path,
    references_of: str,
    captions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    scores: Sequence[CaptionScores],
) -> None:
    whole, by_image = path.with_name(f"{path.name}.json"), path.with_name(f"{path.name}.jsonl")
    versions = {"python": platform.python_version(), "capbench": __version__}
    found = intervals([Statistics.of(*scores)])
    facts = {
        "command": sys.argv,
        "references": references_of,
        "references_left_out": len(scores) > 1,
        "images": len(captions),
        "scores": scores[0].corpus if len(scores) == 1 else {name: each.value for name, each in found.items()},
        "intervals": {name: [interval.low, interval.high] for name, interval in found.items()},
        "missing": scores[0].missing,
        "versions": versions | {"pycocoevalcap": version("pycocoevalcap")},
    }
    rows = (
        {
            "image_id": image,
            "caption": captions[image],
            "references": list(references[image]),
            "scores": scores[0].per_image[image],
            "statistics": scores[0].statistics[image],
        }
        for image in sorted(captions)
    )
    write_text(whole, json.dumps(facts, indent=2) + "\n")
    if len(scores) == 1:
        write_jsonl(by_image, rows)
    print(f"Scores: {whole}" + (f", by image: {by_image}" if len(scores) == 1 else ""))
