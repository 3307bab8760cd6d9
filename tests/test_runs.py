import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from capbench.errors import UserError
from capbench.runs import RunFolder, read_checkpoint, require_writable, write_jsonl, write_text


def make_runs(root: Path, *names: str) -> None:
    for name in names:
        (root / name / "checkpoints").mkdir(parents=True)


def test_a_new_run_takes_the_first_free_number(tmp_path: Path) -> None:
    assert RunFolder.new(tmp_path / "runs", "demo").path == tmp_path / "runs" / "demo"
    make_runs(tmp_path, "demo", "demo-2", "demo-4", "demo-extra")
    assert RunFolder.new(tmp_path, "demo").path.name == "demo-3"
    assert RunFolder.new(tmp_path, "dem").path.name == "dem"


@pytest.mark.parametrize(
    ("folders", "name", "latest"),
    [
        (["demo"], "demo", "demo"),
        (["demo", "demo-2", "demo-10", "demo-9"], "demo", "demo-10"),
        (["demo", "demo-extra", "demo-extra-7", "demo-2-7", "demography"], "demo", "demo"),
        (["resnet", "resnet50", "resnet101-2"], "resnet", "resnet"),
        (["lr[3e-4]"], "lr[3e-4]", "lr[3e-4]"),
        (["ablations/demo", "ablations/demo-2", "demo-3"], "ablations/demo", "demo-2"),
    ],
)
def test_the_latest_run_has_the_highest_number_of_its_very_name(
    tmp_path: Path, folders: list[str], name: str, latest: str
) -> None:
    make_runs(tmp_path, *folders)
    (tmp_path / f"{name}-99").mkdir()  # no checkpoints
    assert RunFolder.latest(tmp_path, name).path.name == latest


@pytest.mark.parametrize("folders", [[], ["demo-2"], ["dem50"], ["dem-x"]])
def test_a_run_that_is_not_there_is_not_guessed(tmp_path: Path, folders: list[str]) -> None:
    make_runs(tmp_path, *folders)
    with pytest.raises(UserError, match=r"holds no run 'dem' with checkpoints.*--ckpt_path"):
        RunFolder.latest(tmp_path, "dem")


def test_a_checkpoint_that_was_never_written_is_a_user_error(tmp_path: Path) -> None:
    make_runs(tmp_path, "demo")
    run = RunFolder(tmp_path / "demo")
    (run.checkpoints / "last.ckpt").touch()
    assert run.checkpoint("last") == tmp_path / "demo" / "checkpoints" / "last.ckpt"
    with pytest.raises(UserError, match=r"holds no best\.ckpt"):
        run.checkpoint("best")


def test_results_are_merged_and_metrics_appended(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "new" / "demo")
    assert run.result() == {}
    run.update_result(status="running", seed=3)
    run.update_result(status="finished", scores={"bleu4": 0.5})
    assert run.result() == {"status": "finished", "seed": 3, "scores": {"bleu4": 0.5}}
    for epoch in range(2):
        run.append_metrics({"epoch": epoch})
    assert [json.loads(line) for line in run.metrics.read_text().splitlines()] == [{"epoch": 0}, {"epoch": 1}]


def test_each_split_has_its_own_captions(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert [run.captions(split).name for split in ("test", "val")] == ["captions.jsonl", "captions.val.jsonl"]


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "new folder" / "text"
    write_text(file, "é\n")
    assert file.read_bytes() == "é\n".encode()
    assert file.stat().st_mode & 0o444 == 0o444  # others may read it
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "a" * 100_000 + "\ud800")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(file, "new")
    assert list(file.parent.iterdir()) == [file]
    assert file.read_bytes() == "é\n".encode()


def test_an_error_of_writing_is_about_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.json").mkdir()
    for file in (tmp_path / "file" / "a.json", tmp_path / "file" / "b" / "a.json", tmp_path / "folder.json"):
        for write in (require_writable, partial(write_text, text="")):
            with pytest.raises(UserError, match=rf"^{re.escape(str(file))} cannot be written \((a file is|Is a dir)"):
                write(file)
    require_writable(tmp_path / "new" / "a.json")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_row_is_one_line_whatever_is_in_it(tmp_path: Path) -> None:
    rows = [{"caption": "a\u2028b\u2029c\x85d\ne\r\x0b"}, {"caption": "ü"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()] == rows


def test_rows_that_break_off_leave_the_old_file(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield {"id": 1}
        raise KeyboardInterrupt

    write_jsonl(tmp_path / "rows.jsonl", [{"id": 0}])
    with pytest.raises(KeyboardInterrupt):
        write_jsonl(tmp_path / "rows.jsonl", rows())
    assert (tmp_path / "rows.jsonl").read_text() == '{"id": 0}\n'
    assert len(list(tmp_path.iterdir())) == 1


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    torch.save({"capbench": {"vocabulary": ["a"]}, "state_dict": {"w": torch.ones(2)}}, tmp_path / "best.ckpt")
    checkpoint = read_checkpoint(tmp_path / "best.ckpt")
    assert checkpoint["capbench"] == {"vocabulary": ["a"]}
    assert checkpoint["state_dict"]["w"].equal(torch.ones(2))


class Opened:
    """Writes a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_a_checkpoint_is_not_executed(tmp_path: Path) -> None:
    torch.save({"capbench": Opened(tmp_path / "trace")}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        read_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "trace").exists()


def test_what_is_no_checkpoint_of_ours_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no checkpoint .*none\.ckpt"):
        read_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(UserError, match="There is no checkpoint"):
        read_checkpoint(tmp_path)

    whole, damaged = tmp_path / "whole.ckpt", tmp_path / "damaged.ckpt"
    torch.save({"capbench": {}, "state_dict": {"w": torch.ones(1000)}}, whole)
    for content in (whole.read_bytes()[:2000], b"not a checkpoint", b""):
        damaged.write_bytes(content)
        with pytest.raises(UserError, match=r"damaged\.ckpt cannot be read as a checkpoint"):
            read_checkpoint(damaged)

    for foreign in ({"state_dict": {}}, [1, 2], torch.ones(2)):
        torch.save(foreign, whole)
        with pytest.raises(UserError, match="something else than capbench's Captioner"):
            read_checkpoint(whole)
