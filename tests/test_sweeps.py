"""Every file of `sweeps/`: its command takes every value that W&B may hand it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import QUICK, ROOT, TINY_ENCODER, make_flickr8k, result, run

SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))


def extremes(parameter: dict[str, Any]) -> list[Any]:
    """The values of a sweep's parameter, or its bounds."""
    return parameter.get("values") or [parameter["min"], parameter["max"]]


def command(sweep: dict[str, Any], arguments: list[str]) -> list[str]:
    """What a W&B agent runs behind `python -m capbench`, from the repository's root."""
    words = sweep["command"]
    assert words[:4] == ["${env}", "${interpreter}", "-m", "capbench"]
    assert (ROOT / sweep["program"]).is_file()
    words = [str(ROOT / word) if word.endswith(".yaml") else word for word in words[4:]]
    place = words.index("${args}")
    return [*words[:place], *arguments, *words[place + 1 :]]


@pytest.mark.parametrize("file", SWEEPS, ids=[file.stem for file in SWEEPS])
def test_every_value_of_a_sweep_is_one_that_the_command_takes(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = yaml.safe_load(file.read_text())
    root = make_flickr8k(tmp_path / "flickr8k", train=2, val=1, test=1)
    small = [f"--data.root={root}", "--data.num_workers=0", "--data.min_count=1", "--model.decoder.hidden=8"]
    values = {name: extremes(parameter) for name, parameter in sweep["parameters"].items()}
    for trial in range(max(map(len, values.values()))):
        point = {name: options[min(trial, len(options) - 1)] for name, options in values.items()}
        arguments = [f"--{name}={value}" for name, value in point.items()]
        assert run(*command(sweep, arguments), *small, *TINY_ENCODER, *QUICK, f"--name=trial-{trial}") == 0
        folder = tmp_path / "runs" / f"trial-{trial}"
        settings = yaml.safe_load((folder / "config.yaml").read_text())
        for name, value in point.items():
            section, key = name.split(".")
            kept = settings[section]
            assert kept.get("init_args", kept)[key] == value
        assert sweep["metric"]["name"].removeprefix("val/") in result(folder)["scores"]["val"]
