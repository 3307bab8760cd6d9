"""A comparison as a page to look at: one HTML file that holds all it shows, and fetches nothing."""

import html
import json
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from capbench import __version__
from capbench.errors import UserError
from capbench.report.comparison import Comparison, System
from capbench.report.gallery import Gallery
from capbench.report.importance import importance
from capbench.report.read import Run
from capbench.report.table import FIGURES, RISING, TITLES, Line, columns, number, verdict, write
from capbench.scores import NAMES


def page(rows: Sequence[Line], comparison: Comparison, gallery: Gallery, sort: str, attention: int = 0) -> str:
    """The page, whose scripts, styles and pictures are in it.

    Args:
        rows: of the table, sorted.
        comparison: what they are of.
        gallery: the images that are shown.
        sort: the column that the rows are sorted by.
        attention: at so many images, where decoders looked for each word.

    Raises:
        UserError: plotly is not installed.
    """
    plotly = _plotly()
    systems = _systems(rows, comparison)
    thumbnails = gallery.thumbnails()
    looked = gallery.attention(comparison, attention) if attention > 0 else []
    content = {
        "version": __version__,
        "split": comparison.split,
        "images": comparison.images,
        "baseline": comparison.baseline,
        "sort": sort,
        "titles": {name: TITLES[name] for name in columns(rows, list(TITLES))},
        "scores": columns(rows, list(NAMES)),
        "costs": [name for name in columns(rows, list(FIGURES)) if name in RISING - {"devices"}],
        "rising": sorted(RISING),
        "rows": [_row(row) for row in rows],
        "apart": comparison.apart,
        "systems": [
            {"name": system.name, "encoder": system.runs[0].encoder, "decoder": system.runs[0].decoder}
            for system in systems
        ],
        "runs": [_run(run, place, gallery) for place, system in enumerate(systems) for run in system.runs],
        "attends": attention > 0,
        "importance": _importance([run for system in systems for run in system.runs]),
        "gallery": {
            "images": gallery.images,
            "references": gallery.references(),
            "without": gallery.without,
        },
    }
    heading = f"{systems[0].runs[0].data}, {comparison.split} split"
    parts = {
        "title": html.escape(f"{heading}: {len(systems)} systems"),
        "heading": html.escape(heading),
        "style": _file("page.css"),
        "table": html.escape(write(rows, comparison, ".md")),
        "content": embedded(content),
        "pictures": embedded(thumbnails),
        "attention": embedded(looked),
        "plotly": plotly,
        "script": _file("page.js"),
    }
    return re.sub(r"\{\{ (\w+) \}\}", lambda match: parts[match[1]], _file("page.html"))


def embedded(content: Any) -> str:
    """JSON that may stand in a script element whatever strings it holds; numbers that JSON lacks are null."""
    plain = json.loads(json.dumps(content, default=str), parse_constant=lambda _: None)
    return json.dumps(plain, separators=(",", ":")).replace("<", "\\u003c")


def _row(row: Line) -> dict[str, Any]:
    """A row's values as they are sorted and as they are read, and what is said of its differences."""
    return {
        "values": row.values,
        "texts": {name: number(name, value) for name, value in row.values.items()},
        "intervals": row.intervals,
        "differences": row.differences,
        "verdicts": {name: verdict(row, name) for name in row.differences},
        "source": row.source,
    }


def _systems(rows: Sequence[Line], comparison: Comparison) -> list[System]:
    """In the order of the rows."""
    by_name = {system.name: system for system in comparison.systems}
    return [by_name[row.values["system"]] for row in rows if row.source is None]


def _run(run: Run, system: int, gallery: Gallery) -> dict[str, Any]:
    return {
        "name": run.name,
        "system": system,
        "seed": run.result["seed"],
        "settings": _facts(run),
        "scores": _scores(run),
        **_curves(run),
        "told": gallery.captions_of(run),
    }


def _scores(run: Run) -> dict[str, float]:
    return {name: run.scored[name] for name in NAMES if name in run.scored}


def _facts(run: Run) -> dict[str, Any]:
    """What may tell two runs apart."""
    result = run.result
    versions = {f"versions.{name}": version for name, version in result.get("versions", {}).items()}
    return run.settings | {"seed": result["seed"], "git_commit": result.get("git_commit")} | versions


def _curves(run: Run) -> dict[str, Any]:
    """Each metric's column, null where a line has none; or why they cannot be read."""
    try:
        rows = run.metrics
    except UserError as error:
        return {"metrics": {}, "unread": str(error)}
    names = dict.fromkeys(name for row in rows for name in row)
    return {"metrics": {name: [row.get(name) for row in rows] for name in names}}


def _importance(runs: Sequence[Run]) -> dict[str, list[dict[str, Any]]]:
    """Of each score that all runs have, what settings explain of it."""
    settings = [run.settings | {"seed": run.result["seed"]} for run in runs]
    scores = [_scores(run) for run in runs]
    return {
        name: [each._asdict() for each in importance(settings, [each[name] for each in scores])]
        for name in NAMES
        if all(name in each for each in scores)
    }


def _file(name: str) -> str:
    return (files("capbench.report") / "web" / name).read_text(encoding="utf-8")


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise UserError("--html needs plotly, whose charts are put into the page: pip install plotly.") from None
    script: str = get_plotlyjs()
    return script
