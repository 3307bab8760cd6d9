"""What the README promises of files and code is so."""

import re
import sys
from pathlib import Path

import pytest

from tests.support import QUICK, ROOT, TINY_ENCODER, TINY_SHAPES, result, run

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_config_is_in_the_table_and_every_row_has_a_config() -> None:
    rows = re.findall(r"^\| `([\w{},]+)` \|", README, re.M)
    named = {name for row in rows for name in _expanded(row)}
    assert named == {path.stem for path in (ROOT / "configs").glob("*.yaml")}


def test_links_and_pictures_lead_somewhere() -> None:
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if not target.startswith("http")]
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_decoder_of_the_readme_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"`my_decoders.py`:\n\n```python\n(.*?)```", README, re.S)
    assert code
    assert len(code[1].splitlines()) <= 30
    (tmp_path / "my_decoders.py").write_text(code[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_decoders", raising=False)
    options = (*TINY_SHAPES, *TINY_ENCODER, *QUICK, "--model.decoder=my_decoders.GatedMerge", "--name=mine")
    assert run("fit", *options) == 0
    assert result(tmp_path / "runs" / "mine")["decoder"]["class_path"] == "my_decoders.GatedMerge"
    assert run("test", "--ckpt_path=runs/mine/checkpoints/best.ckpt") == 0


def _expanded(name: str) -> list[str]:
    """`a_{b,c}` is `a_b` and `a_c`."""
    choices = re.search(r"\{(.*)\}", name)
    return [name.replace(choices[0], choice) for choice in choices[1].split(",")] if choices else [name]
