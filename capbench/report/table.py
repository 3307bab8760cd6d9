"""A comparison as a table: on the terminal, and as Markdown, CSV, LaTeX or JSON."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from capbench.errors import UserError
from capbench.report.comparison import SIGNIFICANT, Comparison, System
from capbench.scores import NAMES

PUBLISHED = "published"

FIGURES: dict[str, str] = {
    "distinct_words": "words used",
    "unique": "unique",
    "parameters": "parameters (M)",
    "gmacs": "encoder GMACs",
    "captions_per_second": "training captions/s",
    "latency_ms": "caption (ms)",
    "memory_mb": "peak memory (MB)",
    "wall_seconds": "training (s)",
    "devices": "devices",
}
"""What a system costs and how varied its captions are -> the column's title."""

TITLES = {"system": "system", "encoder": "encoder", "decoder": "decoder", "data": "data", "seeds": "seeds"}
TITLES |= NAMES | FIGURES
RISING = {"system", "encoder", "decoder", "data", "devices", *("parameters", "gmacs", "latency_ms", "memory_mb")}
RISING |= {"wall_seconds"}
"""Columns of which less, or the first of the alphabet, comes first."""


@dataclass(frozen=True)
class Line:
    """One row.

    Attributes:
        values: column -> plain value; of scores the mean over seeds.
        intervals: score -> the 95 % interval.
        differences: score -> difference to the baseline, its interval, and the p-value after Holm.
        source: where a published row was published.
    """

    values: dict[str, Any]
    intervals: dict[str, tuple[float, float]]
    differences: dict[str, dict[str, float]]
    source: str | None = None


def lines(comparison: Comparison, published: Sequence[Line], sort: str) -> list[Line]:
    """The table's rows, sorted by a column; a row without a value there comes last.

    Raises:
        UserError: there is no such column.
    """
    if sort not in TITLES:
        raise UserError(f"There is no column {sort!r} to sort by; there are {', '.join(TITLES)}.")
    rows = [_line(system) for system in comparison.systems] + list(published)
    there = sorted(
        (row for row in rows if sort in row.values), key=lambda row: row.values[sort], reverse=sort not in RISING
    )
    return there + [row for row in rows if sort not in row.values]


def _line(system: System) -> Line:
    run = system.runs[0]

    def mean(value: Callable[[dict[str, Any]], Any]) -> float | None:
        values = [value(each.result | {"of": each.scored}) for each in system.runs]
        return fmean(values) if all(isinstance(each, int | float) for each in values) else None

    facts = {
        "distinct_words": mean(lambda result: result["of"]["figures"].get("distinct_words")),
        "unique": mean(lambda result: result["of"]["figures"].get("unique")),
        "parameters": mean(lambda result: (result["encoder"]["parameters"] + result["decoder"]["parameters"]) / 1e6),
        "gmacs": mean(lambda result: result["encoder"].get("gmacs")),
        "captions_per_second": mean(lambda result: result.get("train_captions_per_second")),
        "latency_ms": mean(lambda result: result["of"].get("latency_ms")),
        "memory_mb": mean(lambda result: result.get("peak_memory_mb")),
        "wall_seconds": mean(lambda result: result.get("wall_seconds")),
        "devices": run.result.get("devices"),
    }
    names = {"system": system.name, "encoder": run.encoder, "decoder": run.decoder}
    data = {"data": run.data, "seeds": len(system.runs)}
    scores = {name: interval.value for name, interval in system.scores.items()}
    return Line(
        names | data | scores | {name: value for name, value in facts.items() if value is not None},
        {name: (interval.low, interval.high) for name, interval in system.scores.items()},
        {name: each._asdict() for name, each in system.differences.items()},
    )


def read_published(file: Path | None = None) -> list[Line]:
    """Scores of the literature; those that capbench ships, or of a file like it.

    Raises:
        UserError: the file is none of these.
    """
    try:
        text = (file or files("capbench.report") / "published.yaml").read_text(encoding="utf-8")
        rows = yaml.safe_load(text)
        return [
            Line(
                {"system": row["name"], "data": row["data"], "seeds": PUBLISHED} | _scores(row["scores"]),
                {},
                {},
                str(row["source"]),
            )
            for row in rows
        ]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise UserError(
            f"{file} is no list of published scores, each with name, source, data and scores ({error})."
        ) from None


def _scores(scores: dict[str, Any]) -> dict[str, float]:
    if unknown := scores.keys() - NAMES.keys():
        raise ValueError(f"unknown score {min(unknown)}")
    return {name: float(value) for name, value in scores.items()}


def columns(rows: Sequence[Line], wanted: Sequence[str]) -> list[str]:
    """Those of the columns in which some row has a value."""
    return [name for name in wanted if any(name in row.values for row in rows)]


def require_format(file: Path) -> None:
    """Raises a UserError unless a table can be written to such a file."""
    if file.suffix not in WRITERS:
        raise UserError(f"{file} names no format of a table: let it end with {', '.join(WRITERS)}.")


def write(rows: Sequence[Line], comparison: Comparison, ending: str) -> str:
    """The whole table as text in the format of a file's ending, one of `WRITERS`."""
    return WRITERS[ending](rows, comparison)


def number(name: str, value: Any) -> str:
    """A value of a column as one reads it."""
    if value is None:
        return "-"
    if isinstance(value, str | int):
        return f"{value}"
    if name in NAMES:
        return f"{value:.4f}"
    return (
        f"{value:.3f}" if name in ("unique", "gmacs") else f"{value:,.2f}" if name == "parameters" else f"{value:,.0f}"
    )


def verdict(row: Line, score: str) -> str:
    """What can be said of a row's difference to the baseline."""
    if score not in row.differences:
        return "-"
    found = row.differences[score]
    if not found["p"] < SIGNIFICANT:
        return f"no difference shown (p {found['p']:.3f})"
    return f"{found['value']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}] (p {found['p']:.3f})"


def _cell(row: Line, name: str) -> str:
    text = number(name, row.values.get(name))
    low_high = row.intervals.get(name)
    return f"{text} [{low_high[0]:.4f}, {low_high[1]:.4f}]" if low_high else text


def _markdown(rows: Sequence[Line], comparison: Comparison) -> str:
    names = columns(rows, list(TITLES))
    parts = [_grid([TITLES[name] for name in names], [[_cell(row, name) for name in names] for row in rows])]
    if comparison.baseline:
        scores = columns(rows, list(NAMES))
        cells = [[row.values["system"], *(verdict(row, name) for name in scores)] for row in rows if row.differences]
        parts += [f"Against {comparison.baseline}:", _grid(["system", *(NAMES[name] for name in scores)], cells)]
    if sources := [f"- {row.values['system']}: {row.source}" for row in rows if row.source]:
        parts += ["Published:", "\n".join(sources)]
    if comparison.apart:
        parts += ["Not compared:", "\n".join(f"- {path}: {reason}" for path, reason in comparison.apart.items())]
    return "\n\n".join(parts) + "\n"


def _grid(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    table = [titles, ["---"] * len(titles), *cells]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in table)


def _csv(rows: Sequence[Line], comparison: Comparison) -> str:
    names, scores = columns(rows, list(TITLES)), columns(rows, list(NAMES))
    against = [name for name in scores if any(name in row.differences for row in rows)]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    ends = [f"{name}_{end}" for name in scores for end in ("low", "high")]
    table.writerow([*names, *ends, *(f"{name}_{what}" for name in against for what in ("difference", "p")), "source"])
    for row in rows:
        bounds = [bound for name in scores for bound in row.intervals.get(name, ("", ""))]
        tests = [row.differences.get(name, {}).get(what, "") for name in against for what in ("value", "p")]
        table.writerow([*(row.values.get(name, "") for name in names), *bounds, *tests, row.source or ""])
    return text.getvalue()


def _json(rows: Sequence[Line], comparison: Comparison) -> str:
    runs = {
        system.name: [{"run": run.name, "seed": run.result["seed"]} for run in system.runs]
        for system in comparison.systems
    }
    content = {
        "split": comparison.split,
        "images": comparison.images,
        "baseline": comparison.baseline,
        "systems": [
            row.values
            | {"intervals": row.intervals, "differences": row.differences}
            | ({"source": row.source} if row.source else {"runs": runs[row.values["system"]]})
            for row in rows
        ],
        "not_compared": comparison.apart,
    }
    return json.dumps(content, indent=2) + "\n"


_LATEX = str.maketrans(
    {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {sign: rf"\{sign}" for sign in "&%$#_{}"}
)


def _latex(rows: Sequence[Line], comparison: Comparison) -> str:
    """A booktabs table of the scores; half an interval's width behind each."""
    names = columns(rows, ["system", "seeds", *NAMES])
    best = {name: max(row.values[name] for row in rows if name in row.values) for name in names if name in NAMES}

    def cell(row: Line, name: str) -> str:
        value = row.values.get(name)
        text = number(name, value).translate(_LATEX)
        text = rf"\textbf{{{text}}}" if name in best and value == best[name] else text
        return rf"{text} {{\tiny$\pm${half_width(row, name)}}}" if name in row.intervals else text

    body = [" & ".join(cell(row, name) for name in names) + r" \\" for row in rows]
    head = " & ".join(TITLES[name] for name in names) + r" \\"
    note = f"% {comparison.split} split, {comparison.images} images; 95 % intervals over images and seeds"
    top = [note, rf"\begin{{tabular}}{{l{'r' * (len(names) - 1)}}}", r"\toprule", head, r"\midrule"]
    return "\n".join([*top, *body, r"\bottomrule", r"\end{tabular}"]) + "\n"


WRITERS = {".md": _markdown, ".csv": _csv, ".tex": _latex, ".json": _json}
"""A file's ending -> how a table is written to it."""


def half_width(row: Line, name: str) -> str:
    """Half of a score's interval."""
    low, high = row.intervals[name]
    return f"{(high - low) / 2:.3f}"


def terminal(rows: Sequence[Line], comparison: Comparison) -> str:
    """What `compare` prints: scores with half their intervals, what they cost, differences, and what is left out."""
    scores = columns(rows, list(NAMES))
    width = max(len(row.values["system"]) for row in rows)
    parts = [
        f"{comparison.split} split, {comparison.images} images; 95 % intervals over images, and over seeds where there "
        "are several",
        _aligned(
            ["system", "seeds", *(NAMES[name] for name in scores)],
            [
                [row.values["system"], str(row.values["seeds"]), *(_with_half(row, name) for name in scores)]
                for row in rows
            ],
            width,
        ),
    ]
    figures = columns(rows, list(FIGURES))
    ours = [row for row in rows if row.source is None]
    cells = [[row.values["system"], *(number(name, row.values.get(name)) for name in figures)] for row in ours]
    parts.append(_aligned(["", *(FIGURES[name] for name in figures)], cells, width))
    if comparison.baseline:
        against = [[row.values["system"], *(_short(row, name) for name in scores)] for row in rows if row.differences]
        parts.append(
            f"Against {comparison.baseline}, p-values after Holm over the systems; = is no difference shown\n"
            + _aligned(["", *(NAMES[name] for name in scores)], against, width)
        )
    if comparison.apart:
        listed = "\n".join(f"  {path}: {reason}" for path, reason in comparison.apart.items())
        parts.append(f"Not compared:\n{listed}")
    return "\n\n".join(parts)


def _with_half(row: Line, name: str) -> str:
    text = number(name, row.values.get(name))
    return f"{text} ±{half_width(row, name)}" if name in row.intervals else text


def _short(row: Line, name: str) -> str:
    if name not in row.differences:
        return "-"
    found = row.differences[name]
    return f"{found['value']:+.4f} p {found['p']:.3f}" if found["p"] < SIGNIFICANT else f"= p {found['p']:.3f}"


def _aligned(titles: Sequence[str], cells: Sequence[Sequence[str]], first: int) -> str:
    table = [titles, *cells]
    widths = [max(len(row[place]) for row in table) for place in range(len(titles))]
    widths[0] = first
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in table
    )
