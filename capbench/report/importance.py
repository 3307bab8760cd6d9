"""Which settings of a sweep mattered: what each of them alone explains of a score."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from capbench.report.comparison import differing

VALUES = 4  # numbers of more values than this are cut into as many parts of like size


class Importance(NamedTuple):
    """What a setting explains alone.

    Attributes:
        settings: names of the setting, and of those that change wherever it does: nothing tells them apart.
        share: of the variance over runs, 0 to 1; None where there are no more runs than values, or no variance.
    """

    settings: list[str]
    share: float | None


def importance(settings: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> list[Importance]:
    """The settings in which runs differ, that which explains most first.

    The share is epsilon squared: of the runs' variance, what lies between the setting's values and not within them,
    less what chance would put there. It looks at one setting at a time: what only two together explain it does not see,
    and where a search tried good values of one setting with good ones of another it counts that for both.

    Source: Kelley 1935, "An unbiased correlation ratio measure".

    Args:
        settings: of each run, name -> value.
        scores: of each run.
    """
    alike: dict[tuple[int, ...], list[str]] = {}
    for name in differing([dict(each) for each in settings]):
        alike.setdefault(_parts([each.get(name) for each in settings]), []).append(name)
    found = [Importance(names, _explained(parts, scores)) for parts, names in alike.items() if max(parts) > 0]
    return sorted(found, key=lambda each: -1.0 if each.share is None else each.share, reverse=True)


def _parts(values: Sequence[Any]) -> tuple[int, ...]:
    """A number for each value, the same for the same, from 0 in their order."""
    numbers = [value for value in values if _is_number(value)]
    if len(set(numbers)) > VALUES:
        cuts = np.quantile(numbers, np.arange(1, VALUES) / VALUES)
        values = [int(np.searchsorted(cuts, value)) if _is_number(value) else value for value in values]
    order: dict[str, int] = {}
    return tuple(order.setdefault(repr(value), len(order)) for value in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _explained(parts: Sequence[int], scores: Sequence[float]) -> float | None:
    groups = max(parts) + 1
    values, of = np.asarray(scores, dtype=float), np.asarray(parts)
    total = values.var(ddof=1)
    if len(values) <= groups or not total > 0:
        return None
    means = np.array([values[of == group].mean() for group in range(groups)])
    within = ((values - means[of]) ** 2).sum() / (len(values) - groups)
    return float(np.clip(1 - within / total, 0, 1))
