"""Runs as systems: one configuration each, its seeds pooled; scores with intervals, and differences to a baseline."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from capbench.errors import UserError
from capbench.report.read import Run
from capbench.scores.uncertainty import Difference, Interval, differences, holm_by_score, intervals

SIGNIFICANT = 0.05


@dataclass(frozen=True, eq=False)
class System:
    """One configuration, trained with one seed or several.

    Attributes:
        name: encoder and decoder, and what else tells it from the others.
        runs: one for each seed.
        scores: means over seeds with 95 % intervals, over images and, of several seeds, over seeds.
        differences: to the baseline, with p-values after Holm over the systems.
    """

    name: str
    runs: Sequence[Run]
    scores: dict[str, Interval]
    differences: dict[str, Difference] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        """Of its runs."""
        return sorted(run.result["seed"] for run in self.runs)


@dataclass(frozen=True, eq=False)
class Comparison:
    """What can be compared, and what cannot.

    Attributes:
        systems: in the order in which their first runs were given.
        split: whose captions are compared.
        images: how many.
        baseline: name of the system that the others are compared with, if there is one.
        apart: path of a run -> why it is not among the systems.
    """

    systems: list[System]
    split: str
    images: int
    baseline: str | None
    apart: dict[str, str]


def compare(runs: Sequence[Run], skipped: dict[str, str], baseline: str | None = None) -> Comparison:
    """Pools seeds, sets apart what cannot be compared, and scores what can.

    Args:
        runs: of one split.
        skipped: path -> why it could not be read.
        baseline: name of a system, or path or folder's name of one of its runs.

    Raises:
        UserError: no run is left, or there is no such baseline.
    """
    if not runs:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in list(skipped.items())[:3])
        raise UserError(f"No run can be compared ({reasons}).")
    same, apart = _alike(runs, _named(runs, baseline) if baseline else [])
    kept, twice = _once_a_seed(same)
    groups = list(_by_settings(kept).values())
    pooled = {
        name: (group, intervals([run.statistics for run in group]))
        for name, group in zip(system_names(groups), groups, strict=True)
    }
    base = _baseline(baseline, {name: group for name, (group, _) in pooled.items()}) if baseline else None
    against = {
        name: differences([run.statistics for run in group], [run.statistics for run in pooled[base][0]])
        for name, (group, _) in pooled.items()
        if base and name != base
    }
    p = holm_by_score(against)
    corrected = {
        name: {score: each._replace(p=p[name][score]) for score, each in found.items()}
        for name, found in against.items()
    }
    systems = [System(name, group, scores, corrected.get(name, {})) for name, (group, scores) in pooled.items()]
    return Comparison(systems, runs[0].split, len(same[0].statistics.images), base, skipped | apart | twice)


def _alike(runs: Sequence[Run], wanted: Sequence[Run]) -> tuple[list[Run], dict[str, str]]:
    """Those with the references and normalisation of most, or of those wanted; and what is otherwise with others."""
    kinds = Counter((run.references, run.scored.get("normalisation")) for run in (wanted or runs))
    references, normalisation = kinds.most_common(1)[0][0]
    same, apart = [], {}
    for run in runs:
        tested, trained = run.scored.get("data", {}).get("fingerprint"), run.result["data"].get("fingerprint")
        if run.references != references:
            apart[run.name] = "other images or references than those of most runs"
        elif run.scored.get("normalisation") != normalisation:
            apart[run.name] = "its words were normalised in another way before they were scored"
        elif tested != trained:
            apart[run.name] = "captioned on other data than it was trained with"
        else:
            same.append(run)
    if not same:
        raise UserError(f"No run can be compared: {next(iter(apart.values()))}.")
    return same, apart


def _once_a_seed(runs: Sequence[Run]) -> tuple[list[Run], dict[str, str]]:
    """Of runs of the same configuration and seed the youngest; what stands for the others."""
    youngest: dict[tuple[str, int], Run] = {}
    for run in runs:
        other = youngest.setdefault(run.identity, run)
        if _age(run) > _age(other):
            youngest[run.identity] = run
    kept = [run for run in runs if youngest[run.identity] is run]
    twice = {
        run.name: f"the same configuration and seed as {youngest[run.identity].name}"
        for run in runs
        if youngest[run.identity] is not run
    }
    return kept, twice


def _age(run: Run) -> float:
    return run.folder.captions(run.split).stat().st_mtime


def _by_settings(runs: Sequence[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.identity[0], []).append(run)
    return groups


def system_names(groups: Sequence[Sequence[Run]]) -> list[str]:
    """`encoder + decoder`, and where several are that, the settings in which these differ."""
    firsts: dict[str, list[Run]] = {}
    for group in groups:
        firsts.setdefault(f"{group[0].encoder} + {group[0].decoder}", []).append(group[0])
    names = {}
    for label, runs in firsts.items():
        apart = differing([run.settings for run in runs])
        for run in runs:
            settings = (f"{name.rpartition('.')[2]}={_short(run.settings.get(name))}" for name in apart)
            names[run] = " ".join([label, *settings])
    counts = Counter(names.values())
    return [f"{names[run]} ({run.folder.path.name})" if counts[names[run]] > 1 else names[run] for run, *_ in groups]


def differing(settings: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the settings that are not the same in all."""
    names = dict.fromkeys(name for each in settings for name in each)
    return [name for name in names if len({repr(each.get(name)) for each in settings}) > 1]


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _named(runs: Sequence[Run], baseline: str) -> list[Run]:
    """The runs that a baseline may mean: by path, folder, encoder and decoder, or decoder."""
    return [
        run
        for run in runs
        if baseline.rstrip("/") in (run.name, run.folder.path.name, f"{run.encoder} + {run.decoder}", run.decoder)
    ]


def _baseline(asked: str, systems: dict[str, Sequence[Run]]) -> str:
    """The name of the system that is asked for."""
    if asked in systems:
        return asked
    found = [name for name, runs in systems.items() if _named(runs, asked)]
    if len(found) != 1:
        raise UserError(
            f"The baseline {asked!r} is {'none' if not found else 'several'} of the systems: name one of "
            f"{', '.join(map(repr, found or systems))}, or a run's folder."
        )
    return found[0]
