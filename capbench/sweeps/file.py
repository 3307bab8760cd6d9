"""W&B's own sweep file, read whole: what is wrong in it is told with its line."""

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from capbench.errors import UserError
from capbench.sweeps.distributions import Distribution
from capbench.sweeps.parameters import distribution, parameters
from capbench.sweeps.section import Section, error_at, instead_of
from capbench.sweeps.words import ARGUMENTS, DEFAULT, MACROS, VARIABLE, expand, macro_of

METHODS = ("grid", "random", "bayes")
KEYS = (
    *("program", "command", "method", "metric", "parameters", "early_terminate", "run_cap"),
    *("name", "project", "entity", "description"),
)
IMPUTE = ("latest", "best", "worst")
"""What W&B's own search may put in the place of a failed run's metric."""

LARGEST_GRID = 10**6

Point = dict[str, Any]


@dataclass(frozen=True)
class Metric:
    """What a sweep looks for."""

    name: str
    goal: Literal["minimize", "maximize"]
    target: float | None


@dataclass(frozen=True)
class Hyperband:
    """When trials are stopped early: at `min_iter` and its multiples by `eta`, or `s` times before `max_iter`."""

    min_iter: int | None
    max_iter: int | None
    eta: float
    s: int | None
    strict: bool


@dataclass(frozen=True)
class SweepFile:
    """A sweep.

    Attributes:
        path: the file.
        name: its own, or the file's.
        content: all of it, as W&B takes it.
        command: the words of a trial's command line, with W&B's macros.
        method: how points are chosen.
        metric: what is looked for; null where no trial depends on it.
        parameters: distributions by dotted name, those of nested `parameters` too, in the file's order.
        early_terminate: when trials are stopped early; null: never.
        run_cap: at most so many trials.
        keys: by dotted name, the keys that lead to a parameter; several where it is nested.
        lines: where in the file a parameter stands, by dotted name, and each of the file's own keys.
    """

    path: Path
    name: str
    content: dict[str, Any]
    command: list[str]
    method: Literal["grid", "random", "bayes"]
    metric: Metric | None
    parameters: dict[str, Distribution]
    early_terminate: Hyperband | None
    run_cap: int | None
    keys: dict[str, tuple[str, ...]]
    lines: dict[str, int]

    def error(self, parameter: str, message: str) -> UserError:
        """A complaint about one of the parameters."""
        return error_at(self.path, self.lines[parameter], message)

    def ordered(self) -> list[str]:
        """The parameters as W&B orders them: by name, level by level."""
        return sorted(self.parameters, key=lambda name: self.keys[name])

    def grid(self) -> list[Point]:
        """Every point, in W&B's order: the parameters by name, the last one's values changing fastest.

        Raises:
            UserError: a parameter that has no end of values, or more points than anyone can run.
        """
        axes = {name: self.axis(name) for name in self.ordered()}
        if math.prod(map(len, axes.values())) > LARGEST_GRID:
            longest = max(axes, key=lambda name: len(axes[name]))
            raise self.error(longest, f"{longest} makes this a grid of more than {LARGEST_GRID:,} points: take fewer.")
        return [dict(zip(axes, values, strict=True)) for values in itertools.product(*map(_distinct, axes.values()))]

    def axis(self, parameter: str) -> Sequence[Any]:
        """What a grid takes of a parameter.

        Raises:
            UserError: it has no end of values.
        """
        values = self.parameters[parameter].values
        if values is None:
            raise self.error(
                parameter,
                f"a grid takes every value of {parameter}, so give it values, int_uniform or q_uniform, or choose the "
                "method random or bayes.",
            )
        return values

    def words(self, point: Point) -> list[str]:
        """A trial's command line, as W&B's agent makes it; nested parameters are one argument, as they are there."""
        given: Point = {}
        for name in self.ordered():
            *outer, last = self.keys[name]
            section = given
            for key in outer:
                section = section.setdefault(key, {})
            section[last] = point[name]
        return expand(self.command, self.content.get("program", ""), given)


def _distinct(values: Iterable[Any]) -> list[Any]:
    """Each value once; to W&B a float without a fraction is the whole number."""
    found = {}
    for value in values:
        plain = int(value) if isinstance(value, float) and value.is_integer() else value
        found[yaml.dump(plain, sort_keys=True)] = value
    return list(found.values())


def read_sweep(path: Path) -> SweepFile:
    """Read a sweep file.

    Raises:
        UserError: there is none, or something in it is wrong, with the line.
    """
    if not path.is_file():
        there = ", ".join(str(file) for file in sorted(path.parent.glob("*.yaml"))) or "none"
        raise UserError(f"There is no sweep file {path}; in that folder there are: {there}.")
    top = Section.read(path, "a sweep")
    top.allow(KEYS)
    for key in ("name", "project", "entity", "description"):
        top.get(key, "text")
    method = top.choice("method", METHODS)
    if method is None:
        raise top.error(f"a sweep needs a method: {', '.join(METHODS)}.")
    metric = _metric(top.section("metric", "metric"))
    if metric is None and (method == "bayes" or "early_terminate" in top.nodes):
        key = "method" if method == "bayes" else "early_terminate"
        raise top.error(f"{'method bayes' if method == 'bayes' else key} needs a metric, with name and goal.", key)
    run_cap = top.get("run_cap", "a whole number")
    if run_cap is not None and run_cap < 1:
        raise top.error("run_cap must be at least 1.", "run_cap")
    said = top.section("parameters", "parameters")
    if said is None:
        raise top.error("a sweep needs parameters.")
    found: dict[str, tuple[tuple[str, ...], Section]] = {}
    for keys, section in parameters(said):
        if (name := ".".join(keys)) in found:
            raise section.error(f"the parameter {name} is given twice: leave one of them.")
        found[name] = keys, section
    sweep = SweepFile(
        path=path,
        name=top.get("name", "text", path.stem),
        content=top.values(),
        command=_command(top),
        method=method,
        metric=metric,
        parameters={name: distribution(section) for name, (_, section) in found.items()},
        early_terminate=_hyperband(top.section("early_terminate", "early_terminate")),
        run_cap=run_cap,
        keys={name: keys for name, (keys, _) in found.items()},
        lines=top.lines | {name: section.line for name, (_, section) in found.items()},
    )
    if method == "grid":
        for name in found:
            sweep.axis(name)
    return sweep


def _metric(section: Section | None) -> Metric | None:
    if section is None:
        return None
    section.allow(("name", "goal", "target", "impute", "impute_while_running"))
    name = section.get("name", "text")
    if name is None:
        raise section.error("metric needs the name under which it is logged, like val/bleu4.")
    section.choice("impute", IMPUTE)
    section.choice("impute_while_running", (*IMPUTE, "false"))
    goal = section.choice("goal", ("minimize", "maximize"), "minimize")
    return Metric(name, goal, section.get("target", "a number"))


def _hyperband(section: Section | None) -> Hyperband | None:
    if section is None:
        return None
    section.allow(("type", "min_iter", "max_iter", "s", "eta", "strict"))
    if section.choice("type", ("hyperband",)) is None:
        raise section.error("early_terminate needs a type: hyperband.")
    min_iter, max_iter, s = (section.get(key, "a whole number") for key in ("min_iter", "max_iter", "s"))
    for key, value in (("min_iter", min_iter), ("max_iter", max_iter), ("s", s)):
        if value is not None and value < 1:
            raise section.error(f"{key} must be at least 1.", key)
    eta = section.get("eta", "a number", 3)
    if eta <= 1:
        raise section.error("eta must be above 1: one of eta trials goes on.", "eta")
    if min_iter is None and (max_iter is None or s is None):
        raise section.error("hyperband needs min_iter, or max_iter and s.")
    if max_iter is not None and s is None:
        raise section.error("max_iter needs an s: how often trials are stopped before it.", "max_iter")
    if max_iter is not None and max_iter < eta:
        raise section.error(f"max_iter must be at least eta, {eta}, so that something lies before it.", "max_iter")
    return Hyperband(min_iter, max_iter, eta, s, section.get("strict", "true or false", True))


def _command(top: Section) -> list[str]:
    words = [str(word) for word in top.get("command", "a list", DEFAULT)]
    for word in words:
        for macro in re.findall(r"\$\{(.*?)\}", VARIABLE.sub("", word)):
            if macro not in MACROS:
                raise top.error(f"the command's ${{{macro}}} is unknown{instead_of(macro, MACROS)}", "command")
            if macro_of(word) != macro:
                raise top.error(f"${{{macro}}} must be a word by itself, and is part of {word!r}.", "command")
    if not any(macro_of(word) in ARGUMENTS for word in words):
        raise top.error("the command has no ${args}, so that no parameter would reach the trials: add it.", "command")
    if top.get("program", "text") is None and "${program}" in words:
        raise top.error("nothing says what ${program} is: add `program: train.py`, or a command that names it.")
    return words
