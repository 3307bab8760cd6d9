"""Which trials are stopped early: Hyperband (Li et al. 2017, arXiv 1603.06560), by W&B's brackets and rule.

A trial's iterations are the values of the metric that it has logged. At each bracket its value is compared with what
all trials had there: whoever is not among the best `1/eta` of them is stopped.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, TypeVar

from capbench.sweeps.file import Hyperband

Key = TypeVar("Key")


def brackets(rule: Hyperband, longest: int) -> list[int]:
    """The iterations at which trials are compared, as far as the longest history goes."""
    found: list[int] = []
    if rule.max_iter is not None:
        band = rule.max_iter / rule.eta
        while band >= 1 and len(found) < (rule.s or 0):
            found.append(int(band))
            band /= rule.eta
        found.reverse()
    else:
        band = float(rule.min_iter or 1)
        while band < longest + 1:
            found.append(int(band))
            band *= rule.eta
    return [band for band in found if band <= longest]


def to_stop(
    rule: Hyperband,
    goal: Literal["minimize", "maximize"],
    histories: Mapping[Key, Sequence[float]],
    running: Collection[Key],
) -> list[Key]:
    """Those of the running trials that the rule stops.

    Args:
        rule: when.
        goal: of the metric.
        histories: the metric's finite values in the order in which they were logged, of all trials ever run.
        running: the trials that could be stopped.
    """
    sign = -1 if goal == "maximize" else 1
    costs = {key: [sign * value for value in values] for key, values in histories.items()}
    bands = brackets(rule, max(map(len, costs.values()), default=0))
    thresholds = {}
    for band in bands:
        there = sorted(values[band - 1] for values in costs.values() if len(values) >= band)
        thresholds[band] = there[int(len(there) / rule.eta)]
    stopped = []
    for key in running:
        values = costs.get(key, [])
        passed = [band for band in bands if band <= len(values)]
        if passed:
            cost = values[passed[-1] - 1] if rule.strict else min(values)
            if cost > thresholds[passed[-1]]:
                stopped.append(key)
    return stopped
