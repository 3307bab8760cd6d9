"""A sweep's distributions against W&B's own engine and against closed forms."""

import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from capbench.sweeps.distributions import DEFAULTS, DISTRIBUTIONS, Distribution

SHARES = (0.1, 0.45, 0.99)

# What `sweeps` 0.3.0, W&B's engine, gives at these shares (HyperParameter.ppf, on numpy 1.26 and scipy 1.17).
QUANTILES: list[tuple[str, dict[str, float], list[float]]] = [
    ("uniform", {"min": -1, "max": 3}, [-0.6, 0.8, 2.96]),
    ("q_uniform", {"min": 0.3, "max": 7, "q": 2}, [0, 4, 6]),
    ("q_uniform", {"min": 0, "max": 1, "q": 0.1}, [0.1, 0.4, 1.0]),
    ("q_uniform", {"min": 1, "max": 9}, [2.0, 5.0, 9.0]),
    ("log_uniform", {"min": -9, "max": -2}, [0.00024851682710795185, 0.0028798991580882435, 0.12618578170503872]),
    ("q_log_uniform", {"min": 0, "max": 5, "q": 4}, [0, 8, 140]),
    ("inv_log_uniform", {"min": 1, "max": 4}, [0.024723526470339385, 0.07065121306042957, 0.3570069605691474]),
    ("log_uniform_values", {"min": 1e-5, "max": 0.1}, [2.511886431509579e-05, 0.0006309573444801935, 0.0912010839355]),
    ("q_log_uniform_values", {"min": 16, "max": 512, "q": 16}, [16, 80, 496]),
    ("inv_log_uniform_values", {"min": 0.01, "max": 10}, [0.019952623149688792, 0.22387211385683387, 9.33254300796]),
    ("normal", {}, [-1.2815515655446004, -0.12566134685507402, 2.3263478740408408]),
    ("normal", {"mu": 3, "sigma": 0.5}, [2.3592242172277, 2.937169326572463, 4.163173937020421]),
    ("q_normal", {"mu": 100, "sigma": 30, "q": 8}, [64, 96, 168]),
    ("q_normal", {}, [-1.0, 0.0, 2.0]),
    ("log_normal", {"mu": -6, "sigma": 1}, [0.000688117076246837, 0.002186044906087995, 0.025383596365678197]),
    ("q_log_normal", {"mu": 4, "sigma": 1, "q": 10}, [20, 50, 560]),
]


def make(name: str, said: dict[str, Any]) -> Distribution:
    build, keys = DISTRIBUTIONS[name]
    return build(*(said.get(key, DEFAULTS.get(key)) for key in keys))


class Share(random.Random):
    """Draws always the same share."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def random(self) -> float:
        return self.share


@pytest.mark.parametrize(("name", "said", "expected"), QUANTILES)
def test_a_share_is_the_value_that_it_is_at_wandb(name: str, said: dict[str, float], expected: list[float]) -> None:
    distribution = make(name, said)
    values = [distribution.sample(Share(share)) for share in SHARES]
    assert values == pytest.approx(expected, rel=1e-11)
    assert [type(value) for value in values] == [type(value) for value in expected]  # 3 where W&B gives 3, else 3.0


def normal(x: float, mu: float = 0.0, sigma: float = 1.0) -> float:
    return (1 + math.erf((x - mu) / sigma / math.sqrt(2))) / 2


def line(x: float, low: float, high: float) -> float:
    return min(max((x - low) / (high - low), 0.0), 1.0)


def below(log: Callable[[float], float]) -> Callable[[float], float]:
    """The share below x, of what is distributed in the logarithm."""
    return lambda x: log(math.log(x)) if x > 0 else 0.0


def beta_2_3(x: float) -> float:
    x = min(max(x, 0.0), 1.0)
    return 6 * x**2 - 8 * x**3 + 3 * x**4


# Name, what is said, the share below x before rounding, and the lowest and highest value there is.
MARGINALS: list[tuple[str, dict[str, float], Callable[[float], float], float, float]] = [
    ("uniform", {"min": -1, "max": 3}, lambda x: line(x, -1, 3), -1, 3),
    ("q_uniform", {"min": 0.3, "max": 7, "q": 2}, lambda x: line(x, 0.3, 7), 0, 8),
    ("q_uniform", {"min": 0, "max": 1, "q": 0.25}, lambda x: line(x, 0, 1), 0, 1),
    ("log_uniform", {"min": -9, "max": -2}, below(lambda x: line(x, -9, -2)), math.exp(-9), math.exp(-2)),
    ("q_log_uniform", {"min": 0, "max": 5, "q": 4}, below(lambda x: line(x, 0, 5)), 0, 148),
    ("inv_log_uniform", {"min": 1, "max": 4}, below(lambda x: line(x, -4, -1)), math.exp(-4), math.exp(-1)),
    (
        "log_uniform_values",
        {"min": 1e-5, "max": 0.1},
        below(lambda x: line(x, math.log(1e-5), math.log(0.1))),
        1e-5,
        0.1,
    ),
    (
        "q_log_uniform_values",
        {"min": 16, "max": 512, "q": 16},
        below(lambda x: line(x, math.log(16), math.log(512))),
        16,
        512,
    ),
    ("inv_log_uniform_values", {"min": 1, "max": 9}, below(lambda x: line(x, 0, math.log(9))), 1, 9),
    ("normal", {"mu": 3, "sigma": 0.5}, lambda x: normal(x, 3, 0.5), -math.inf, math.inf),
    ("q_normal", {"mu": 10, "sigma": 3, "q": 2}, lambda x: normal(x, 10, 3), -math.inf, math.inf),
    ("log_normal", {"mu": -6, "sigma": 1}, below(lambda x: normal(x, -6)), 0, math.inf),
    ("q_log_normal", {"mu": 2, "sigma": 1, "q": 5}, below(lambda x: normal(x, 2)), 0, math.inf),
    ("beta", {"a": 2, "b": 3}, beta_2_3, 0, 1),
    ("q_beta", {"a": 2, "b": 3, "q": 0.25}, beta_2_3, 0, 1),
]
NAMES = [name for name, *_ in MARGINALS]
BY_TPE_UNIFORM = {"beta", "q_beta"}  # where Optuna's search begins with another marginal than W&B's


def check(drawn: list[Any], share: Callable[[float], float], q: float | None) -> None:
    """Refuse what is unlikely (1 in 1,000) to be drawn from a distribution: Kolmogorov and Smirnov's test."""
    count = len(drawn)
    bound = 1.95 / math.sqrt(count)
    if q is None:
        for place, value in enumerate(sorted(drawn)):
            assert abs(share(value) - (place + 0.5) / count) < bound
        return
    counts = Counter(round(value / q) for value in drawn)
    below = 0
    for multiple in range(min(counts), max(counts) + 1):
        below += counts[multiple]
        assert abs(share((multiple + 0.5) * q) - below / count) < bound


def check_support(drawn: list[Any], low: float, high: float, q: float | None) -> None:
    assert all(low * (1 - 1e-12) <= value <= high * (1 + 1e-12) for value in drawn)
    if q is not None:
        assert all(value == round(value / q) * q for value in drawn)
        assert {type(value) for value in drawn} == {type(q)}


@pytest.mark.parametrize(("name", "said", "share", "low", "high"), MARGINALS, ids=NAMES)
def test_samples_have_the_support_and_the_marginal(
    name: str, said: dict[str, float], share: Callable[[float], float], low: float, high: float
) -> None:
    distribution, rng = make(name, said), random.Random(0)
    drawn = [distribution.sample(rng) for _ in range(4000)]
    check_support(drawn, low, high, said.get("q"))
    check(drawn, share, said.get("q"))
    ends = distribution.ends()
    assert low <= ends[0] < ends[1] <= high


@pytest.mark.parametrize(("name", "said", "share", "low", "high"), MARGINALS, ids=NAMES)
def test_optuna_begins_with_the_support_and_the_marginal(
    name: str, said: dict[str, float], share: Callable[[float], float], low: float, high: float
) -> None:
    optuna = pytest.importorskip("optuna")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    distribution = make(name, said)
    drawn = [distribution.suggest(study.ask(), "x") for _ in range(800)]
    check_support(drawn, low, high, said.get("q"))
    if name not in BY_TPE_UNIFORM:
        check(drawn, share, said.get("q"))


def test_every_name_of_wandbs_is_tested() -> None:
    named = {"constant", "categorical", "categorical_w_probabilities", "int_uniform"}
    assert set(DISTRIBUTIONS) == named | set(NAMES)
    assert {name for name, *_ in QUANTILES} == set(NAMES) - BY_TPE_UNIFORM


def test_whole_numbers_are_drawn_alike_with_both_ends() -> None:
    rng, distribution = random.Random(0), make("int_uniform", {"min": -2, "max": 2})
    counts = Counter(distribution.sample(rng) for _ in range(5000))
    assert set(counts) == {-2, -1, 0, 1, 2}
    assert all(abs(count - 1000) < 100 for count in counts.values())
    assert list(distribution.values or ()) == [-2, -1, 0, 1, 2]


def test_choices_are_drawn_by_their_probabilities() -> None:
    rng, said = random.Random(0), {"values": ("a", None, 3), "probabilities": (0.7, 0.3, 0.0)}
    counts = Counter(make("categorical_w_probabilities", said).sample(rng) for _ in range(5000))
    assert set(counts) == {"a", None}
    assert abs(counts["a"] - 3500) < 110
    counts = Counter(make("categorical", said).sample(rng) for _ in range(5000))
    assert all(abs(counts[value] - 5000 / 3) < 110 for value in ("a", None, 3))


def test_a_constant_is_one_value_and_optuna_is_not_asked_for_it() -> None:
    optuna = pytest.importorskip("optuna")
    trial = optuna.create_study().ask()
    constant = make("constant", {"value": [1, 2]})
    assert constant.suggest(trial, "x") == constant.sample(random.Random(0)) == [1, 2]
    assert constant.values == ([1, 2],)
    assert trial.params == {}


@pytest.mark.parametrize(
    ("name", "said", "possible"),
    [
        ("categorical", {"values": (True, 1, "adam", None, [-2, -1], 0.5)}, [True, 1, "adam", None, [-2, -1], 0.5]),
        ("categorical_w_probabilities", {"values": (1, 2, 3), "probabilities": (0.5, 0.5, 0.0)}, [1, 2]),
        ("int_uniform", {"min": 3, "max": 5}, [3, 4, 5]),
    ],
)
def test_optuna_takes_every_possible_choice_and_a_database_keeps_it(
    name: str, said: dict[str, Any], possible: list[Any], tmp_path: Any
) -> None:
    optuna = pytest.importorskip("optuna")
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/study.db", sampler=optuna.samplers.TPESampler(seed=0))
    distribution = make(name, said)
    drawn = []
    for _ in range(25):
        trial = study.ask()
        drawn.append(distribution.suggest(trial, "x"))
        study.tell(trial, 0.0)
    key = [(type(value), str(value)) for value in drawn]
    assert set(key) == {(type(value), str(value)) for value in possible}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"min": 0, "max": 1, "q": 0.25}, [0.0, 0.25, 0.5, 0.75]),  # W&B's grid leaves the end out
        ({"min": 1, "max": 10, "q": 3}, [1, 4, 7]),
        ({"min": 0, "max": 3}, [0.0, 1.0, 2.0]),
    ],
)
def test_a_grid_over_a_quantised_range_is_wandbs(said: dict[str, float], expected: list[float]) -> None:
    values = list(make("q_uniform", said).values or ())
    assert values == expected
    assert [type(value) for value in values] == [type(value) for value in expected]


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"q_uniform"}))
def test_what_has_no_end_of_values_has_none_for_a_grid(name: str) -> None:
    assert all(make(name, said).values is None for other, said, *_ in MARGINALS if other == name)
