"""What a sweep file says of its parameters: their names and distributions, by W&B's rules."""

import math
import re
from collections.abc import Iterator
from typing import Any

from capbench.sweeps.distributions import DEFAULTS, DISTRIBUTIONS, Distribution
from capbench.sweeps.section import Section

LARGEST_EXPONENT = 700  # of e, in a float


def parameters(section: Section, outer: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Section]]:
    """Of each parameter the keys that lead to it, several where `parameters` are nested, and what is said of it.

    Raises:
        UserError: there are none, or one cannot be a parameter.
    """
    if not section.nodes:
        raise section.error(f"{section.what} are none: name at least one.")
    for key in section.nodes:
        keys = (*outer, key)
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", key):
            raise section.error(f"a parameter cannot be called {key!r}: write it as on the command line.", key)
        inner = section.section(key, ".".join(keys))
        assert inner is not None
        nested = inner.section("parameters", f"parameters of {inner.what}")
        if nested is None:
            yield keys, inner
        else:
            inner.allow(("parameters",))
            yield from parameters(nested, keys)


def distribution(section: Section) -> Distribution:
    """What is said of one parameter.

    Raises:
        UserError: it is no distribution.
    """
    name = section.choice("distribution", DISTRIBUTIONS) or _implied(section)
    make, keys = DISTRIBUTIONS[name]
    for key in section.nodes:
        if key not in ("distribution", *keys):
            raise section.error(f"{section.what}: {name} takes {', '.join(keys)}, and not {key}.", key)
    missing = [key for key in keys if key not in section.nodes and key not in DEFAULTS]
    if missing:
        raise section.error(f"{section.what}: {name} needs {' and '.join(missing)}.")
    kinds = {"value": "anything", "values": "a list", "probabilities": "a list of numbers"}
    number = "a whole number" if name == "int_uniform" else "a number"
    given = {key: section.get(key, kinds.get(key, number), DEFAULTS.get(key)) for key in keys}
    if "min" in given:
        _check_range(section, name, given["min"], given["max"])
    for key, least in (("q", "above 0"), ("a", "above 0"), ("b", "above 0"), ("sigma", "at least 0")):
        if key in given and (given[key] < 0 or (given[key] == 0 and least == "above 0")):
            raise section.error(f"{section.what}: {key} must be {least}, and is {given[key]}.", key)
    if "probabilities" in given:
        _check_probabilities(section, given["values"], given["probabilities"])
    return make(*(tuple(value) if key in ("values", "probabilities") else value for key, value in given.items()))


def _implied(section: Section) -> str:
    """W&B's name for what has none."""
    if "value" in section.nodes:
        return "constant"
    if "values" in section.nodes:
        return "categorical_w_probabilities" if "probabilities" in section.nodes else "categorical"
    if "min" in section.nodes and "max" in section.nodes:
        whole = all(isinstance(section.get(key, "a number"), int) for key in ("min", "max"))
        return "int_uniform" if whole else "uniform"
    raise section.error(f"{section.what} needs value, values, min and max, or a distribution with what belongs to it.")


def _check_range(section: Section, name: str, low: float, high: float) -> None:
    if low >= high:
        raise section.error(f"{section.what}: min {low} is not below max {high}.", "min")
    if name.endswith("log_uniform_values") and low <= 0:
        raise section.error(f"{section.what}: {name} needs a min above 0, and it is {low}.", "min")
    if name.endswith("log_uniform") and max(-low, high) > LARGEST_EXPONENT:
        raise section.error(
            f"{section.what}: {name} takes exponents of e, of at most {LARGEST_EXPONENT}; {name}_values takes the "
            "values themselves.",
            "min",
        )


def _check_probabilities(section: Section, values: list[Any], probabilities: list[float]) -> None:
    if len(values) != len(probabilities):
        counts = f"{len(values)} values and {len(probabilities)} probabilities"
        raise section.error(f"{section.what} has {counts}: give one for each value.", "probabilities")
    if min(probabilities) < 0 or not math.isclose(sum(probabilities), 1, rel_tol=1e-5):
        raise section.error(
            f"{section.what}: probabilities must be at least 0 and sum to 1, and not to {sum(probabilities):g}.",
            "probabilities",
        )
