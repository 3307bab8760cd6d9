"""`compare --wandb`: what would be sent to W&B, without a server."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def sent(grid: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        told: list[str] = []
        patch.setattr("builtins.print", lambda *words, **_: told.extend(map(str, words)))
        assert run("compare", grid, "--wandb=us/captions", "--dry-run") == 0
    content: dict[str, Any] = json.loads(told[-1])
    return content


def every(content: Any, key: str) -> list[Any]:
    """All values of a key, at any depth."""
    if isinstance(content, list):
        return [found for part in content for found in every(part, key)]
    if isinstance(content, dict):
        here = [content[key]] if key in content else []
        return here + [found for part in content.values() for found in every(part, key)]
    return []


@pytest.mark.parametrize("part", ["report", "workspace"])
def test_panels_are_those_that_a_comparison_wants(part: str, sent: dict[str, Any]) -> None:
    kinds = every(sent[part], "viewType")
    for kind in ("Run Comparer", "Parallel Coordinates Plot", "Parameter Importance", "Media Browser"):
        assert kinds.count(kind) == 1
    metrics = [metric for panel in every(sent[part], "metrics") for metric in panel]
    scores = ("bleu1", "bleu2", "bleu3", "bleu4", "cider_d")
    assert metrics == [f"summary_metrics.test/{score}.last" for score in scores]
    assert every(sent[part], "mediaKeys") == [["test/samples"]]


def test_run_sets_are_by_encoder_and_decoder(sent: dict[str, Any]) -> None:
    names = [run_set["name"] for run_sets in every(sent["report"], "runSets") for run_set in run_sets]
    assert names[0] == "encoder x decoder"
    assert set(names[1:]) == {
        f"{encoder} + {decoder}"
        for encoder in ("test_resnet", "test_vit")
        for decoder in ("Attention", "InitInject", "Merge")
    }
    text = json.dumps(sent["report"])
    assert "capbench.decoders.Attention" in text
    assert "model.value.encoder.init_args.name" in text


def test_the_report_holds_our_table(sent: dict[str, Any]) -> None:
    (table,) = (text for text in every(sent["report"], "content") if isinstance(text, str) and "CIDEr-D" in text)
    assert "| test_vit + Attention |" in table


def test_mistakes_are_sentences(grid: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for wrong, answer in {
        ("--wandb=captions",): "takes ENTITY/PROJECT",
        ("--wandb=us/captions/again",): "takes ENTITY/PROJECT",
        ("--dry-run",): "add --wandb",
        ("--wandb=us/captions",): "W&B does not take the report",
    }.items():
        assert run("compare", grid, *wrong) == 2
        assert answer in capsys.readouterr().err
