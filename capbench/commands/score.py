"""`python -m capbench score`: anybody's captions, scored as capbench scores its own."""

import json
import os
import platform
import sys
from collections import Counter
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
from capbench.runs import require_writable, write_jsonl, write_text
from capbench.scores import CaptionScores, columns, score_captions
from capbench.scores.diversity import NAMES as DIVERSITY
from capbench.scores.diversity import diversity
from capbench.scores.files import CaptionFile, pair, read_captions, read_references, require_file
from capbench.scores.human import LeaveOneOut
from capbench.scores.statistics import Statistics
from capbench.scores.uncertainty import Interval, differences, holm_by_score, intervals
from capbench.summary import present, table

DATA_FILES = (".txt", ".csv", ".tsv")
PEOPLE = "people"
INTERVAL = {"": "value", ", from": "low", ", to": "high"}
"""Ending of a row's name -> what of a score, or of a difference, the row shows."""

Captions = dict[str, str]
References = dict[str, Sequence[str]]


def main(arguments: list[str]) -> int:
    """Score files of captions, print tables, and write the scores of all and of each image, and what differs.

    Raises:
        UserError: files that cannot be read, images that lack a caption or references, or options in vain.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    usual = parser.get_defaults().data.as_dict()
    given = [f"--data.{name}" for name, value in options.data.as_dict().items() if value != usual[name]]
    given += ["--split"] * (options.split is not None)

    names = _names(options.captions, [PEOPLE] if options.human else [])
    files = {name: read_captions(file) for name, file in zip(names, options.captions, strict=True)}
    known, training = _references(options, given, files[names[0]])
    captions, references = pair(files, known, 2 if options.human else 1, options.allow_missing)
    ending = "human-scores" if options.human else "scores"
    whole = {name: options.output / f"{name}-{ending}.json" for name in names}
    by_image = {} if options.human else {name: path.with_suffix(".jsonl") for name, path in whole.items()}
    comparison = [options.output / "comparison.json"] if options.human or len(files) > 1 else []
    for path in (*whole.values(), *by_image.values(), *comparison):
        require_writable(path)

    turns = LeaveOneOut(references, not options.no_java) if options.human else None
    systems = _score(captions, references, turns, not options.no_java)
    statistics = {name: Statistics.of(*scores) for name, scores in systems.items()}
    scored = {name: intervals([each]) for name, each in statistics.items()}
    differing, figures = _compare(statistics), _figures(captions, turns, training)

    against = "each time all references but one of" if options.human else "all references of"
    print(f"{len(references)} of {len(known.references)} images, against {against} {known.name}\n")
    print_table({name: _plain(scores) for name, scores in scored.items()}, INTERVAL)
    if differing:
        print(
            "\nDifferences, their 95 % intervals, and p-values by approximate randomisation, of each score after Holm"
        )
        print_table(differing, INTERVAL | {", p": "p_holm"})
    print(f"\nHow varied the captions are\n{table(present(DIVERSITY, figures), figures)}\n")

    facts = _facts(known.name, len(references), options.human)
    found = {name: _found(scores, scored[name], figures[name]) for name, scores in systems.items()}
    for name, path in whole.items():
        found[name] = {"captions": files[name].name} | found[name]
        _write(path, facts | found[name])
        if by_image:
            write_jsonl(by_image[name], systems[name][0].rows(captions[name], references))
        print(f"Scores: {path}" + (f", by image: {by_image[name]}" if by_image else ""))
    for path in comparison:
        _write(path, facts | {"systems": found, "differences": differing})
        print(f"Comparison: {path}")
    return 0


def _parser() -> Parser:
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
    parser.add_argument("--split", type=str | None, help="the split of the references; where they have any, test")
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="score the images that have references and a caption in every file",
    )
    parser.add_argument("--no-java", action="store_true", help="leave out METEOR and SPICE, which take Java")
    parser.add_argument(
        "--human",
        action="store_true",
        help="score people too, each reference against the others, and all captions against as many",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(),
        help="folder of NAME-scores.json (NAME-human-scores.json with --human), NAME-scores.jsonl by image, and "
        "comparison.json",
    )
    parser.add_class_arguments(Images, "data")
    return parser


def _names(files: Sequence[Path], taken: Sequence[str]) -> list[str]:
    """Each file's name, with as many of its folders as tell it from the others, and from names that are taken.

    Raises:
        UserError: a file comes twice.
    """
    if twice := [file for file, count in Counter(file.resolve() for file in files).items() if count > 1]:
        raise UserError(f"{twice[0]} comes twice among --captions: name it once.")
    paths = [Path(os.path.abspath(file)) for file in files]
    stems = Counter(path.with_suffix("") for path in paths)
    parts = [
        [str(number), *path.parts[1:-1], path.name if stems[path.with_suffix("")] > 1 else path.stem]
        for number, path in enumerate(paths, start=1)
    ]
    lengths = [1] * len(files)
    while True:
        names = ["-".join(each[-length:]) for each, length in zip(parts, lengths, strict=True)]
        counts = Counter([*names, *taken])
        if max(counts.values()) == 1:
            return names
        lengths = [length + (counts[name] > 1) for name, length in zip(names, lengths, strict=True)]


def _score(
    captions: Mapping[str, Captions], references: References, turns: LeaveOneOut | None, java: bool
) -> dict[str, list[CaptionScores]]:
    """Each system's scores; against each set of references but one, with people's, where people are scored too."""
    if turns is None:
        return {name: [score_captions(each, references, java=java)] for name, each in captions.items()}
    return {name: turns.system(each) for name, each in captions.items()} | {PEOPLE: turns.people()}


def _figures(
    captions: Mapping[str, Captions], turns: LeaveOneOut | None, training: Sequence[str]
) -> dict[str, dict[str, float]]:
    """How varied each system's captions are; people's are the means over turns."""
    found = {name: diversity(each, training) for name, each in captions.items()}
    if turns is not None:
        people = [diversity(each, training) for each in turns.captions]
        found[PEOPLE] = {name: fmean(each[name] for each in people) for name in people[0]}
    return found


def _compare(systems: Mapping[str, Statistics]) -> dict[str, dict[str, dict[str, float]]]:
    """How each system differs from the first; p-values as they are, and corrected, score by score, for all systems."""
    first, *others = systems
    found = {other: differences([systems[other]], [systems[first]]) for other in others}
    p = holm_by_score(found)
    return {
        f"{other} - {first}": {name: each._asdict() | {"p_holm": p[other][name]} for name, each in scores.items()}
        for other, scores in found.items()
    }


def _references(options: Any, given: Sequence[str], captions: CaptionFile) -> tuple[CaptionFile, list[str]]:
    """The references, and the training captions as far as there are any; `given` are the options that choose them."""
    file = options.references
    if file is not None:
        require_file(file)
    elif options.data.root is None:
        if not captions.references:
            raise UserError(
                f"{captions.name} has no references: name them with --references FILE or --data.root FOLDER."
            )
        _refuse(given, captions.name)
        return CaptionFile(captions.name, references=captions.references), []
    if file is not None and not (file.suffix.lower() in DATA_FILES or _is_karpathys(file)):
        _refuse(given, file)
        return read_references(file), []

    place = {}
    if file is not None:
        _refuse([option for option in given if option in ("--data.root", "--data.captions")], file)
        place = {"root": file.parent, "captions": file}
    data = options.data.as_dict()
    images = Images(**data | place | {"columns": Columns(**data["columns"])})
    splits, label = images.references(draw=file is None)
    if None in splits:
        _refuse([option for option in given if option == "--split"], label)
        return CaptionFile(label, references=splits[None]), []
    split = options.split or "test"
    if split not in splits:
        raise UserError(f"{label} has no image with captions in the split {split!r}.")
    training = [text for texts in splits.get("train", {}).values() for text in texts]
    return CaptionFile(f"the {split} split of {label}", references=splits[split]), training


def _refuse(options: Sequence[str], source: object) -> None:
    """Raises a UserError that names options which change nothing, unless there are none."""
    if options:
        raise UserError(
            f"{' and '.join(options)} would change nothing, since the references are all those in {source}: leave it "
            "out."
        )


def _is_karpathys(file: Path) -> bool:
    """Karpathy's `sentences` stand within the first image."""
    with file.open("rb") as opened:
        return file.suffix == ".json" and b'"sentences"' in opened.read(10_000)


def print_table(systems: Mapping[str, Mapping[str, Mapping[str, float]]], parts: Mapping[str, str]) -> None:
    """Scores, or differences, of each system: a row for each of `parts` (ending of the row's name -> what it shows)."""
    rows = {
        f"{system}{ending}": {name: each[part] for name, each in scores.items()}
        for system, scores in systems.items()
        for ending, part in parts.items()
    }
    print(table(columns(*rows.values()), rows))


def _plain(scores: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    return {name: interval._asdict() for name, interval in scores.items()}


def _facts(source: str, images: int, human: bool) -> dict[str, Any]:
    """What holds for all systems."""
    return {
        "command": sys.argv,
        "references": source,
        "references_left_out": human,
        "images": images,
        "versions": {
            "python": platform.python_version(),
            "capbench": __version__,
            "pycocoevalcap": version("pycocoevalcap"),
        },
    }


def _found(
    scores: Sequence[CaptionScores], found: Mapping[str, Interval], figures: Mapping[str, float]
) -> dict[str, Any]:
    """What was found of one system."""
    return {
        "scores": scores[0].corpus if len(scores) == 1 else {name: each.value for name, each in found.items()},
        "intervals": {name: [interval.low, interval.high] for name, interval in found.items()},
        "missing": scores[0].missing,
        "figures": figures,
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")
