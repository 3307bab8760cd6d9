"""The sweep file: read as W&B reads it, and every mistake told with its line."""

import itertools
import json
import random
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from capbench.errors import UserError
from capbench.sweeps.distributions import Categorical, Constant, IntUniform, Uniform
from capbench.sweeps.file import Hyperband, Metric, SweepFile, read_sweep

WHOLE = """\
program: train.py
command:
  - ${env}
  - ${interpreter}
  - -m
  - capbench
  - fit
  - ${args}
name: sizes
project: captions
entity: us
description: what it is for
method: bayes
metric:
  name: val/bleu4
  goal: maximize
  target: 0.4
parameters:
  model.lr:
    distribution: log_uniform_values
    min: 0.0001
    max: 0.01
  data:
    parameters:
      batch_size:
        values: [8, 16]
      seed:
        value: 3
  depth:
    min: 1
    max: 4
  dropout:
    min: 0
    max: 0.5
early_terminate:
  type: hyperband
  max_iter: 27
  s: 2
  eta: 3
  strict: false
run_cap: 20
"""


def read(tmp_path: Path, text: str) -> SweepFile:
    file = tmp_path / "sweep.yaml"
    file.write_text(text, encoding="utf-8")
    return read_sweep(file)


def sweep_of(tmp_path: Path, parameters: dict[str, Any], method: str = "grid", command: Any = None) -> SweepFile:
    content = {"program": "train.py", "method": method, "parameters": parameters}
    return read(tmp_path, yaml.safe_dump(content | ({"command": command} if command else {}), sort_keys=False))


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    sweep = read(tmp_path, WHOLE)
    assert (sweep.path, sweep.name, sweep.method, sweep.run_cap) == (tmp_path / "sweep.yaml", "sizes", "bayes", 20)
    assert sweep.content == yaml.safe_load(WHOLE)
    assert sweep.metric == Metric("val/bleu4", "maximize", 0.4)
    assert sweep.early_terminate == Hyperband(None, 27, 3, 2, strict=False)
    assert sweep.parameters == {
        "model.lr": Uniform(0.0001, 0.01, None, log=True),
        "data.batch_size": Categorical((8, 16)),
        "data.seed": Constant(3),
        "depth": IntUniform(1, 4),
        "dropout": Uniform(0, 0.5),
    }
    assert list(sweep.parameters) == ["model.lr", "data.batch_size", "data.seed", "depth", "dropout"]
    assert {name: sweep.lines[name] for name in sweep.parameters} == {
        "model.lr": 19, "data.batch_size": 25, "data.seed": 27, "depth": 29, "dropout": 32,
    }  # fmt: skip
    assert sweep.keys["data.seed"] == ("data", "seed")
    assert sweep.keys["model.lr"] == ("model.lr",)


def test_what_is_not_said_is_as_at_wandb(tmp_path: Path) -> None:
    sweep = read(tmp_path, "{program: train.py, method: random, parameters: {a: {value: 1}}}")
    assert sweep.command == ["${env}", "${interpreter}", "${program}", "${args}"]
    assert (sweep.name, sweep.metric, sweep.early_terminate, sweep.run_cap) == ("sweep", None, None, None)
    metric = (
        "{program: train.py, method: random, metric: {name: loss}, parameters: {a: {value: 1}}, early_terminate: {}}"
    )
    sweep = read(tmp_path, metric.replace("{}", "{type: hyperband, min_iter: 3}"))
    assert sweep.metric == Metric("loss", "minimize", None)
    assert sweep.early_terminate == Hyperband(3, None, 3, None, strict=True)


def test_anchors_and_merges_are_yamls_own(tmp_path: Path) -> None:
    text = """\
    program: train.py
    method: random
    parameters:
      a: &rate {distribution: log_uniform_values, min: 0.001, max: 0.1}
      b:
        <<: *rate
        max: 1.0
    """
    sweep = read(tmp_path, dedent(text))
    assert sweep.parameters["b"] == Uniform(0.001, 1.0, None, log=True)


LEFT_OUT = object()


def changed(path: str, value: Any) -> str:
    """WHOLE with another value somewhere, laid out by YAML."""
    content = yaml.safe_load(WHOLE)
    *outer, last = path.split("/")
    section = content
    for key in outer:
        section = section[key]
    if value is LEFT_OUT:
        del section[last]
    else:
        section[last] = value
    return yaml.safe_dump(content, sort_keys=False)


ANY = "a:\n    value: 1\n"
MISTAKES: list[tuple[str, str, Any, str, str]] = [
    # name, where, what stands there, the key (`key:` in the file) whose line is told, what is said
    ("unknown key", "methods", 1, "methods:", "no key 'methods': did you mean method?"),
    ("no method", "method", LEFT_OUT, "", "needs a method: grid, random, bayes"),
    ("unknown method", "method", "bayesian", "method:", "no method 'bayesian': did you mean bayes?"),
    ("W&B Launch", "method", "custom", "method:", "no method 'custom'; there are grid, random, bayes."),
    ("bayes without metric", "metric", LEFT_OUT, "method:", "bayes needs a metric"),
    ("metric without name", "metric/name", LEFT_OUT, "metric:", "needs the name"),
    ("misspelt goal", "metric/goal", "maximise", "goal:", "did you mean maximize?"),
    ("target as text", "metric/target", "high", "target:", "target must be a number, and is 'high'"),
    ("unknown key of metric", "metric/mode", "max", "mode:", "metric has no key 'mode'"),
    ("no parameters", "parameters", LEFT_OUT, "", "needs parameters"),
    ("empty parameters", "parameters", {}, "parameters:", "at least one"),
    ("parameters without keys", "parameters", ["a"], "parameters:", "must be keys with values"),
    ("a bare value", "parameters/depth", 3, "depth:", "depth must be keys with values"),
    ("no values", "parameters/depth", {"values": []}, "values:", "a list, and is empty"),
    ("null for values", "parameters/depth", {"values": None}, "values:", "a list, and is empty"),
    ("one value as values", "parameters/depth", {"values": 3}, "values:", "values must be a list, and is 3"),
    ("nothing said", "parameters/depth", {}, "depth:", "depth needs value, values, min and max"),
    ("half a range", "parameters/depth", {"min": 1}, "depth:", "depth needs value, values, min and max"),
    ("range without max", "parameters/depth", {"distribution": "uniform", "min": 1}, "depth:", "uniform needs max"),
    ("range turned round", "parameters/depth/min", 9, "min: 9", "depth: min 9 is not below max 4"),
    ("empty range", "parameters/depth/min", 4, "min: 4", "min 4 is not below max 4"),
    ("text for a number", "parameters/depth/max", "many", "max: many", "max must be a number, and is 'many'"),
    ("YAML's 1e-4", "parameters/depth/min", "1e-4", "min: 1e-4", "a point and a sign, like 1.0e-4"),
    ("infinity", "parameters/depth/max", float("inf"), "max: .inf", "max must be a number, and is inf"),
    ("true for a number", "parameters/depth/min", True, "min: true", "min must be a number, and is True"),
    (
        "unknown distribution",
        "parameters/model.lr/distribution",
        "loguniform",
        "distribution:",
        "did you mean log_uniform?",
    ),
    ("log of zero", "parameters/model.lr/min", 0, "min: 0", "log_uniform_values needs a min above 0, and it is 0"),
    ("log of less", "parameters/model.lr/min", -1.0, "min: -1.0", "log_uniform_values needs a min above 0"),
    (
        "values for exponents",
        "parameters/model.lr",
        {"distribution": "log_uniform", "min": 1, "max": 9999},
        "min: 1",
        "exponents",
    ),
    ("a key of another", "parameters/depth/q", 2, "q: 2", "int_uniform takes min, max, and not q"),
    (
        "an unknown key",
        "parameters/model.lr/minimum",
        2,
        "minimum:",
        "log_uniform_values takes min, max, and not minimum",
    ),
    (
        "value and values",
        "parameters/depth",
        {"value": 1, "values": [1]},
        "values:",
        "constant takes value, and not values",
    ),
    (
        "whole numbers that are not",
        "parameters/depth",
        {"distribution": "int_uniform", "min": 0.5, "max": 3},
        "min: 0.5",
        "a whole number",
    ),
    (
        "no step",
        "parameters/depth",
        {"distribution": "q_uniform", "min": 1, "max": 3, "q": 0},
        "q: 0",
        "q must be above 0",
    ),
    (
        "spread below zero",
        "parameters/depth",
        {"distribution": "normal", "sigma": -1},
        "sigma:",
        "sigma must be at least 0",
    ),
    ("no shape", "parameters/depth", {"distribution": "beta", "a": 0}, "a: 0", "a must be above 0"),
    (
        "too few shares",
        "parameters/depth",
        {"values": [1, 2], "probabilities": [1.0]},
        "probabilities:",
        "2 values and 1 probabilities",
    ),
    (
        "shares that are not 1",
        "parameters/depth",
        {"values": [1, 2], "probabilities": [0.5, 0.6]},
        "probabilities:",
        "sum to 1, and not to 1.1",
    ),
    (
        "a share below 0",
        "parameters/depth",
        {"values": [1, 2], "probabilities": [-0.5, 1.5]},
        "probabilities:",
        "at least 0",
    ),
    (
        "shares as text",
        "parameters/depth",
        {"values": [1], "probabilities": ["all"]},
        "probabilities:",
        "a list of numbers",
    ),
    ("a name with a hyphen", "parameters/--lr", {"value": 1}, "--lr", "cannot be called '--lr'"),
    ("nested beside others", "parameters/data/value", 3, "value: 3", "data has no key 'value'"),
    ("nested and empty", "parameters/data/parameters", {}, "parameters: {}", "at least one"),
    ("nested and dotted", "parameters/data.seed", {"value": 3}, "data.seed:", "data.seed is given twice"),
    ("no hyperband", "early_terminate/type", "median", "type:", "no type 'median'; there are hyperband."),
    ("no type", "early_terminate/type", LEFT_OUT, "early_terminate:", "needs a type"),
    ("no iterations", "early_terminate/max_iter", LEFT_OUT, "early_terminate:", "needs min_iter, or max_iter and s"),
    (
        "max_iter alone",
        "early_terminate",
        {"type": "hyperband", "min_iter": 1, "max_iter": 9},
        "max_iter:",
        "needs an s",
    ),
    ("no bracket", "early_terminate/max_iter", 2, "max_iter:", "at least eta, 3"),
    ("no reduction", "early_terminate/eta", 1, "eta:", "above 1"),
    ("zero iterations", "early_terminate/min_iter", 0, "min_iter:", "at least 1"),
    ("half an iteration", "early_terminate/min_iter", 1.5, "min_iter:", "a whole number, and is 1.5"),
    ("strict as text", "early_terminate/strict", "no", "strict:", "true or false"),
    ("no trials", "run_cap", 0, "run_cap:", "at least 1"),
    ("command as text", "command", "python train.py", "command:", "command must be a list"),
    ("empty command", "command", [], "command:", "command must be a list, and is empty"),
    ("nothing for the trials", "command", ["python", "${program}"], "command:", "no ${args}"),
    (
        "unknown macro",
        "command",
        ["${interpretor}", "${args}"],
        "command:",
        "${interpretor} is unknown: did you mean interpreter?",
    ),
    ("macro within a word", "command", ["sh", "-c", "train ${args}"], "command:", "${args} must be a word by itself"),
    ("name as number", "name", 3, "name:", "name must be text, and is 3"),
]


@pytest.mark.parametrize(
    ("where", "value", "key", "said"),
    [mistake[1:] for mistake in MISTAKES],
    ids=[mistake[0] for mistake in MISTAKES],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, where: str, value: Any, key: str, said: str) -> None:
    text = changed(where, value)
    with pytest.raises(UserError) as raised:
        read(tmp_path, text)
    file, line, *_ = str(raised.value).split(", ")
    assert file == str(tmp_path / "sweep.yaml")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert key in text.splitlines()[int(line.split(":")[0].removeprefix("line ")) - 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- a\n- b\n", "line 1: a sweep must be keys with values"),
        ("method: grid\nparameters: {a: [1\n", "line 3: this is not YAML"),
        ("method: grid\nmethod: random\n", "line 2: a sweep has method twice"),
        (
            "method: grid\nparameters:\n  a: {value: 1}\n  b: {value: 1}\n  a: {value: 2}\n",
            "line 5: parameters has a twice",
        ),
        ("method: grid\nparameters:\n  a:\n    value: 1\n    value: 2\n", "line 5: a has value twice"),
        ("method: grid\nparameters: {a: {value: 1}}\n", "line 1: nothing says what ${program} is"),
        ("method: random\nprogram: a.py\nparameters: {a: {value: *b}}\n", "undefined alias"),
        (
            "program: a.py\nmethod: grid\nearly_terminate: {type: hyperband, s: 1}\nparameters: {a: {value: 1}}\n",
            "line 3: early_terminate needs a metric",
        ),
    ],
)
def test_a_file_that_is_no_sweep_is_told_so(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as raised:
        read(tmp_path, text)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").touch()
    with pytest.raises(UserError, match=r"There is no sweep file .*sweep.yaml; in that folder there are: .*other.yaml"):
        read_sweep(tmp_path / "sweep.yaml")


@pytest.mark.parametrize(
    "said",
    [
        {"min": 0.0, "max": 1.0},
        {"distribution": "normal"},
        {"distribution": "q_log_uniform_values", "min": 1, "max": 8, "q": 2},
        {"values": [1, 2], "probabilities": [0.5, 0.5]},
    ],
)
def test_a_grid_refuses_what_has_no_end_of_values(tmp_path: Path, said: dict[str, Any]) -> None:
    parameters = {"fine": {"values": [1]}, "rate": said}
    with pytest.raises(UserError, match="line 7: a grid takes every value of rate"):
        sweep_of(tmp_path, parameters)
    with pytest.raises(UserError, match="a grid takes every value of rate"):
        sweep_of(tmp_path, parameters, "random").grid()


def test_a_grid_that_nobody_can_run_is_refused(tmp_path: Path) -> None:
    parameters = {"few": {"values": [1, 2]}, "many": {"min": 0, "max": 10**9}}
    with pytest.raises(UserError, match="line 8: many makes this a grid of more than 1,000,000 points"):
        sweep_of(tmp_path, parameters).grid()


def test_a_grid_is_wandbs(tmp_path: Path) -> None:
    """The points that `sweeps` 0.3.0, W&B's engine, gave of these parameters, and their order."""
    parameters = {
        "b": {"values": [1, 1.0, 2, "x"]},
        "a": {"min": 1, "max": 2},
        "c": {"parameters": {"z": {"value": 3}, "y": {"values": [True, 1]}}},
        "q": {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.5},
    }
    expected = [
        {"a": a, "b": b, "c.y": y, "c.z": 3, "q": q}
        for a, b, y, q in itertools.product([1, 2], [1.0, 2, "x"], [True, 1], [0.0, 0.5])
    ]
    points = sweep_of(tmp_path, parameters).grid()
    assert [list(map(repr, point.values())) for point in points] == [list(map(repr, p.values())) for p in expected]
    assert [list(point) for point in points] == [list(point) for point in expected]


def plain_grid(parameters: dict[str, Any], prefix: str = "") -> list[tuple[str, list[Any]]]:
    """The axes of a grid, plainly: sorted by key at each level, a value that comes again left out."""
    axes: list[tuple[str, list[Any]]] = []
    for key, said in sorted(parameters.items()):
        if "parameters" in said:
            axes += plain_grid(said["parameters"], f"{prefix}{key}.")
        else:
            axes.append((f"{prefix}{key}", list(dict.fromkeys(said.get("values", [said.get("value")])))))
    return axes


@pytest.mark.parametrize("seed", range(20))
def test_any_grid_has_every_point_once_in_order(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)

    def some(depth: int) -> dict[str, Any]:
        names = rng.sample(["a", "b", "ab", "a_b", "b.c", "z", "m.lr", "m-1"], rng.randint(1, 3))
        return {name: one(depth) for name in names}

    def one(depth: int) -> dict[str, Any]:
        if depth and rng.random() < 0.4:
            return {"parameters": some(depth - 1)}
        return rng.choice([{"value": rng.randint(0, 3)}, {"values": rng.choices(["u", "v", "w", 3, 0.5], k=4)}])

    parameters = some(2)
    axes = plain_grid(parameters)
    if len(dict(axes)) < len(axes):
        with pytest.raises(UserError, match="is given twice"):
            sweep_of(tmp_path, parameters)
        return
    expected = [dict(zip(dict(axes), point, strict=True)) for point in itertools.product(*dict(axes).values())]
    assert sweep_of(tmp_path, parameters).grid() == expected


VALUES = {"a.b": 0.5, "flag": True, "off": False, "none": None, "text": "x y", "sizes": [1, 2]}


@pytest.mark.parametrize(
    ("macro", "words"),
    [
        ("args", ["--a.b=0.5", "--flag=True", "--none=None", "--off=False", "--sizes=[1, 2]", "--text=x y"]),
        ("args_no_hyphens", ["a.b=0.5", "flag=True", "none=None", "off=False", "sizes=[1, 2]", "text=x y"]),
        ("args_no_boolean_flags", ["--a.b=0.5", "--flag", "--none=None", "--sizes=[1, 2]", "--text=x y"]),
        (
            "args_no_equals",
            [
                "--a.b",
                "0.5",
                "--flag",
                "True",
                "--none",
                "None",
                "--off",
                "False",
                "--sizes",
                "[1, 2]",
                "--text",
                "x y",
            ],
        ),
        ("args_append_hydra", ["+a.b=0.5", "+flag=True", "+none=None", "+off=False", "+sizes=[1, 2]", "+text=x y"]),
        (
            "args_override_hydra",
            ["++a.b=0.5", "++flag=True", "++none=None", "++off=False", "++sizes=[1, 2]", "++text=x y"],
        ),
    ],
)
def test_the_command_is_the_one_of_wandbs_agent(tmp_path: Path, macro: str, words: list[str]) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    command = ["${env}", "${interpreter}", "-u", "${program}", 3, f"${{{macro}}}", "--last"]
    sweep = sweep_of(tmp_path, {name: {"value": value} for name, value in VALUES.items()}, command=command)
    assert sweep.words(VALUES) == ["/usr/bin/env", sys.executable, "-u", "train.py", "3", *words, "--last"]
    agents = {"args": {name: {"value": VALUES[name]} for name in sorted(VALUES)}}
    assert words == create_sweep_command_args(agents)[macro]


def test_nested_parameters_are_one_argument_as_they_are_at_wandb(tmp_path: Path) -> None:
    lr, beam = {"values": [0.1, 0.2]}, {"value": 3}
    parameters = {"model": {"parameters": {"search": {"parameters": {"beam": beam}}, "lr": lr}}, "name": {"value": "x"}}
    sweep = sweep_of(tmp_path, parameters)
    point = sweep.grid()[1]
    assert point == {"model.lr": 0.2, "model.search.beam": 3, "name": "x"}
    assert sweep.words(point)[3:] == ["--model={'lr': 0.2, 'search': {'beam': 3}}", "--name=x"]


def test_arguments_can_be_json(tmp_path: Path) -> None:
    command = ["run", "${args_json}", "${args_json_file}"]
    sweep = sweep_of(tmp_path, {name: {"value": value} for name, value in VALUES.items()}, command=command)
    _, text, file = sweep.words(VALUES)
    assert json.loads(text) == json.loads(Path(file).read_text(encoding="utf-8")) == VALUES
    assert sweep.words(VALUES)[2] == file  # the same point, the same file


def test_the_environment_fills_in_as_at_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command

    monkeypatch.setenv("ROOT", "/data")
    monkeypatch.delenv("NOWHERE", raising=False)
    command = ["run", "--root=${envvar:ROOT}/x", "${envvar:NOWHERE}", "${args}"]
    sweep = sweep_of(tmp_path, {"a": {"value": 1}}, command=command)
    assert sweep.words({"a": 1}) == ["run", "--root=/data/x", "NOWHERE", "--a=1"]
    assert sweep.words({"a": 1})[:3] == create_sweep_command(list(command))[:3]
    assert sweep.command == command
