"""What a sweep file says of one parameter: W&B's distributions, by its own names.

W&B's engine draws a share from 0 to 1 and takes the value below which that share of the distribution lies; what is
quantised is then rounded to a multiple of `q`, which may lie outside of `min` and `max`, and is whole where `q` is.
"""

import math
import random as rng
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

TINY = 1e-12
"""The shares 0 and 1 of a normal distribution lie nowhere: the outermost ones are this far from them."""


class Distribution(ABC):
    """The values that a parameter may take, and how likely each is."""

    @property
    def values(self) -> Sequence[Any] | None:
        """All of them, where a grid can take them."""
        return None

    @abstractmethod
    def sample(self, random: rng.Random) -> Any:
        """One value."""

    @abstractmethod
    def suggest(self, trial: "optuna.Trial", name: str) -> Any:
        """One value of Optuna's choice.

        What Optuna keeps of it may be the number that it was made of: the value itself is for the caller to keep.
        """

    @abstractmethod
    def ends(self) -> Sequence[Any]:
        """The values by which to tell whether a command takes all: each of a few, or the lowest and the highest."""


@dataclass(frozen=True)
class Constant(Distribution):
    """`constant`."""

    value: Any

    @property
    def values(self) -> Sequence[Any]:
        """The one."""
        return (self.value,)

    def sample(self, random: rng.Random) -> Any:
        """The one."""
        return self.value

    def suggest(self, trial: "optuna.Trial", name: str) -> Any:
        """The one, of which Optuna learns nothing."""
        return self.value

    def ends(self) -> Sequence[Any]:
        """The one."""
        return self.values


@dataclass(frozen=True)
class Categorical(Distribution):
    """`categorical` and `categorical_w_probabilities`."""

    choices: tuple[Any, ...]
    probabilities: tuple[float, ...] | None = None

    @property
    def values(self) -> Sequence[Any] | None:
        """All; null where they have probabilities, which W&B's grid refuses."""
        return None if self.probabilities else self.choices

    def sample(self, random: rng.Random) -> Any:
        """One by its probability."""
        return random.choices(self.choices, self.probabilities)[0]

    def suggest(self, trial: "optuna.Trial", name: str) -> Any:
        """One, known to Optuna by the words that the command line has for it, which any storage can keep."""
        possible = {str(value): value for value in self.ends()}
        return possible[trial.suggest_categorical(name, list(possible))]

    def ends(self) -> Sequence[Any]:
        """All that can be drawn."""
        probabilities = self.probabilities or (1.0,) * len(self.choices)
        return tuple(value for value, share in zip(self.choices, probabilities, strict=True) if share > 0)


@dataclass(frozen=True)
class IntUniform(Distribution):
    """`int_uniform`: whole numbers, both ends among them."""

    min: int
    max: int

    @property
    def values(self) -> Sequence[Any]:
        """All."""
        return range(self.min, self.max + 1)

    def sample(self, random: rng.Random) -> int:
        """One, each as likely."""
        return random.randint(self.min, self.max)

    def suggest(self, trial: "optuna.Trial", name: str) -> int:
        """One."""
        return trial.suggest_int(name, self.min, self.max)

    def ends(self) -> Sequence[int]:
        """Both."""
        return self.min, self.max


@dataclass(frozen=True)
class Uniform(Distribution):
    """`uniform`, or in the logarithm (`log`) `log_uniform_values` and its like; with `q` in multiples of it."""

    min: float
    max: float
    q: float | None = None
    log: bool = False

    @property
    def values(self) -> Sequence[Any] | None:
        """What W&B's grid takes of `q_uniform`: from `min` in steps of `q`, and below `max`; null for all others."""
        if self.q is None or self.log:
            return None
        import numpy

        return tuple(numpy.arange(self.min, self.max, self.q).tolist())

    def sample(self, random: rng.Random) -> float:
        """One."""
        low, high = (math.log(self.min), math.log(self.max)) if self.log else (self.min, self.max)
        value = low + (high - low) * random.random()
        value = math.exp(value) if self.log else value
        return quantised(min(max(value, self.min), self.max), self.q)

    def suggest(self, trial: "optuna.Trial", name: str) -> float:
        """One; Optuna keeps it as it is before it is rounded."""
        return quantised(trial.suggest_float(name, self.min, self.max, log=self.log), self.q)

    def ends(self) -> Sequence[float]:
        """Both."""
        return quantised(self.min, self.q), quantised(self.max, self.q)


@dataclass(frozen=True)
class Normal(Distribution):
    """`normal`, or in the logarithm (`log`) `log_normal`; with `q` in multiples of it."""

    mu: float
    sigma: float
    q: float | None = None
    log: bool = False

    def at(self, share: float) -> float:
        """The value below which this share of all lie."""
        value = self.mu + self.sigma * NormalDist().inv_cdf(min(max(share, TINY), 1 - TINY))
        return quantised(math.exp(value) if self.log else value, self.q)

    def sample(self, random: rng.Random) -> float:
        """One."""
        return self.at(random.random())

    def suggest(self, trial: "optuna.Trial", name: str) -> float:
        """One; Optuna knows it by its share, as W&B's own search does."""
        return self.at(trial.suggest_float(name, 0.0, 1.0))

    def ends(self) -> Sequence[float]:
        """Between which all but one in a thousand lie."""
        return self.at(0.0005), self.at(0.9995)


@dataclass(frozen=True)
class Beta(Distribution):
    """`beta`; with `q` in multiples of it."""

    a: float
    b: float
    q: float | None = None

    def sample(self, random: rng.Random) -> float:
        """One."""
        return quantised(random.betavariate(self.a, self.b), self.q)

    def suggest(self, trial: "optuna.Trial", name: str) -> float:
        """One; Optuna's search begins uniformly."""
        return quantised(trial.suggest_float(name, 0.0, 1.0), self.q)

    def ends(self) -> Sequence[float]:
        """Both."""
        return quantised(0.0, self.q), quantised(1.0, self.q)


def quantised(value: float, q: float | None) -> float:
    """The nearest multiple of `q`; halves go to the even one."""
    return value if q is None else round(value / q) * q


def _of_exponents(min: float, max: float, q: float | None = None) -> Uniform:
    return Uniform(math.exp(min), math.exp(max), q, log=True)


def _of_inverse_exponents(min: float, max: float) -> Uniform:
    return _of_exponents(-max, -min)


_values = partial(Uniform, log=True)
_normal = partial(Normal, log=True)

DISTRIBUTIONS: dict[str, tuple[Callable[..., Distribution], tuple[str, ...]]] = {
    "constant": (Constant, ("value",)),
    "categorical": (Categorical, ("values",)),
    "categorical_w_probabilities": (Categorical, ("values", "probabilities")),
    "int_uniform": (IntUniform, ("min", "max")),
    "uniform": (Uniform, ("min", "max")),
    "q_uniform": (Uniform, ("min", "max", "q")),
    "log_uniform": (_of_exponents, ("min", "max")),
    "q_log_uniform": (_of_exponents, ("min", "max", "q")),
    "inv_log_uniform": (_of_inverse_exponents, ("min", "max")),
    "log_uniform_values": (_values, ("min", "max")),
    "q_log_uniform_values": (_values, ("min", "max", "q")),
    "inv_log_uniform_values": (_values, ("min", "max")),  # uniform in log(1/x), so in log(x) too
    "normal": (Normal, ("mu", "sigma")),
    "q_normal": (Normal, ("mu", "sigma", "q")),
    "log_normal": (_normal, ("mu", "sigma")),
    "q_log_normal": (_normal, ("mu", "sigma", "q")),
    "beta": (Beta, ("a", "b")),
    "q_beta": (Beta, ("a", "b", "q")),
}
"""Of each of W&B's names, what makes it of which keys of the file."""

DEFAULTS = {"mu": 0.0, "sigma": 1.0, "a": 1.0, "b": 1.0, "q": 1.0}
"""The keys that a file may leave out."""
