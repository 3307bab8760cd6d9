"""`python -m capbench score`: anybody's captions, scored as capbench scores its own."""

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

from capbench import __version__
from capbench.data import Images
from capbench.data.table import Columns
from capbench.errors import UserError
from capbench.parser import Parser
from capbench.runs import write_jsonl, write_text
from capbench.scores import NAMES, CaptionScores, columns, score_captions
from capbench.scores.diversity import NAMES as DIVERSITY
from capbench.scores.diversity import diversity
from capbench.scores.files import CaptionFile, pair, read_captions, read_references
from capbench.scores.human import LeaveOneOut
from capbench.scores.statistics import Statistics
from capbench.scores.uncertainty import Interval, differences, holm, intervals
from capbench.summary import present, table

DATA_FILES = (".txt", ".csv", ".tsv")
Pairs = Mapping[str, tuple[dict[str, str], dict[str, Sequence[str]]]]


def main(arguments: list[str]) -> int:
    """Score files of captions, print a table, and write the scores of all and of each image.

    Raises:
        UserError: files that cannot be read, or images that lack a caption or references.
    """
    parser = Parser(
        prog="python -m capbench score",
        description="Score captions against references: BLEU, METEOR (where Java runs), ROUGE-L, CIDEr-D, SPICE (where "
        "its files are), with 95 % intervals. Several files are compared with the first.",
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
    parser.add_argument("--no-java", action="store_true", help="leave out METEOR and SPICE, which take Java")
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
    known, training, label = _references(options, files[next(iter(files))])
    pairs = {
        name: pair(captions, known.references, known.other_names, options.allow_missing)
        for name, captions in files.items()
    }
    turns = LeaveOneOut(next(iter(pairs.values()))[1], not options.no_java) if options.human else None
    systems = _score(pairs, turns, not options.no_java)
    figures = _figures(pairs, turns, training)
    count = len(next(iter(pairs.values()))[0])
    against = "each time all references but one of" if options.human else "all references of"
    print(f"{count} of {len(known.references)} images, against {against} {label}\n")
    print_table({name: intervals([Statistics.of(*scores)]) for name, scores in systems.items()})
    print_differences({name: Statistics.of(*scores) for name, scores in systems.items()})
    print(f"\nHow varied the captions are\n{table(present(DIVERSITY, figures), figures)}\n")
    for name, scores in systems.items():
        if name in pairs:
            _write(options.output / f"{name}-scores", label, *pairs[name], scores, figures[name])
    return 0


def _name(file: Path, files: Sequence[Path]) -> str:
    """The file's name; with its folder where another has the same, as runs' `captions.jsonl` do."""
    same = [other for other in files if other.stem == file.stem]
    return file.stem if len(same) == 1 else f"{file.resolve().parent.name}-{file.stem}"


def _score(pairs: Pairs, turns: LeaveOneOut | None, java: bool) -> dict[str, list[CaptionScores]]:
    """Each system's scores; against each set of references but one, with people's, where people are scored too."""
    if turns is None:
        return {name: [score_captions(*each, java=java)] for name, each in pairs.items()}
    return {name: turns.system(captions) for name, (captions, _) in pairs.items()} | {"people": turns.people()}


def _figures(pairs: Pairs, turns: LeaveOneOut | None, training: Sequence[str]) -> dict[str, dict[str, float]]:
    """How varied each system's captions are; people's are the means over turns."""
    found = {name: diversity(captions, training) for name, (captions, _) in pairs.items()}
    if turns is not None:
        people = [diversity(captions, training) for captions in turns.captions]
        found["people"] = {name: fmean(each[name] for each in people) for name in people[0]}
    return found


def _references(options: Any, captions: CaptionFile) -> tuple[CaptionFile, list[str], str]:
    """The references, the training captions as far as there are any, and where both are from."""
    file, data = options.references, options.data.as_dict()
    if file is None and data["root"] is None:
        if not captions.references:
            raise UserError(
                f"{options.captions[0]} has no references: name them with --references FILE or --data.root FOLDER."
            )
        return CaptionFile(references=captions.references), [], str(options.captions[0])
    if file is not None and not file.is_file():
        raise UserError(f"There is no file {file} (--references).")
    if file is None or file.suffix.lower() in DATA_FILES or _is_karpathys(file):
        place = {} if file is None else {"root": file.parent, "captions": file}
        images = Images(**data | place | {"columns": Columns(**data["columns"])})
        splits, label = images.references(draw=file is None)
        split = None if None in splits else options.split
        if split not in splits:
            raise UserError(f"{label} has no image with captions in the split {split!r}.")
        references = {image: list(texts) for image, texts in splits[split].items()}
        training = [text for texts in splits.get("train", {}).values() for text in texts]
        return CaptionFile(references=references), training, f"{label}, {options.split}"
    return read_references(file), [], str(file)


def _is_karpathys(file: Path) -> bool:
    """Karpathy's `sentences` stand within the first image."""
    with file.open("rb") as opened:
        return file.suffix == ".json" and b'"sentences"' in opened.read(10_000)


def print_table(systems: Mapping[str, Mapping[str, Interval]]) -> None:
    """Each system's scores, and from where to where their 95 % intervals go."""
    rows = {}
    for system, scores in systems.items():
        rows[system] = {name: interval.value for name, interval in scores.items()}
        rows[f"{system}, from"] = {name: interval.low for name, interval in scores.items()}
        rows[f"{system}, to"] = {name: interval.high for name, interval in scores.items()}
    print(table(columns(*rows.values()), rows))


def print_differences(systems: Mapping[str, Statistics]) -> None:
    """How each system differs from the first, with p-values corrected, score by score, for all systems."""
    first, *others = systems
    if not others:
        return
    found = {other: differences([systems[other]], [systems[first]]) for other in others}
    p = {name: holm({other: scores[name].p for other, scores in found.items() if name in scores}) for name in NAMES}
    rows = {}
    for other, scores in found.items():
        rows[f"{other} - {first}"] = {name: each.value for name, each in scores.items()}
        rows[f"{other} - {first}, p"] = {name: p[name][other] for name in scores}
    print("\nDifferences, and p-values by approximate randomisation, of each score after Holm")
    print(table(columns(*rows.values()), rows))


def _write(
    path: Path,
    references_of: str,
    captions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    scores: Sequence[CaptionScores],
    figures: Mapping[str, float],
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
        "figures": figures,
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
