"""`python -m capbench compare`: seeds pooled, what cannot be compared apart, and a table in every format."""

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from capbench.errors import UserError
from capbench.report.comparison import Comparison, compare
from capbench.report.read import find_runs, read_run, read_runs
from capbench.report.table import TITLES, WRITERS, lines, read_published
from capbench.runs import RunFolder
from capbench.scores import NAMES
from capbench.scores.uncertainty import differences, holm, intervals
from tests.report.folders import make_run, scenes
from tests.support import result, run

Capture = pytest.CaptureFixture[str]
BASELINE = "test_resnet + Merge"


@pytest.fixture(scope="module")
def comparison(grid: Path) -> Comparison:
    return compare(*read_runs(find_runs([grid]), "test"), BASELINE)


def test_seeds_of_a_configuration_are_one_system(comparison: Comparison) -> None:
    assert [system.name for system in comparison.systems] == [
        f"{encoder} + {decoder}"
        for encoder in ("test_resnet", "test_vit")
        for decoder in ("Attention", "InitInject", "Merge")
    ]
    assert all(system.seeds == [0, 1] for system in comparison.systems)
    assert (comparison.images, comparison.split) == (12, "test")


def test_scores_are_means_of_the_runs_own_with_intervals_over_seeds_and_images(comparison: Comparison) -> None:
    for system in comparison.systems:
        own = [run.scored for run in system.runs]
        statistics = [run.statistics for run in system.runs]
        assert system.scores == intervals(statistics)
        for name, interval in system.scores.items():
            assert interval.value == pytest.approx(sum(scores[name] for scores in own) / 2, abs=1e-12)
            assert interval.low <= interval.value <= interval.high


def test_differences_are_corrected_over_systems(comparison: Comparison) -> None:
    base = next(system for system in comparison.systems if system.name == BASELINE)
    others = [system for system in comparison.systems if system is not base]
    assert not base.differences
    plain = {
        system.name: differences([run.statistics for run in system.runs], [run.statistics for run in base.runs])
        for system in others
    }
    for score in ("bleu4", "cider_d"):
        p = holm({name: found[score].p for name, found in plain.items()})
        for system in others:
            assert system.differences[score] == plain[system.name][score]._replace(p=p[system.name])


def unlike(folder: Path, what: str) -> None:
    """Spoils a run, or makes it another kind of run."""
    facts, rows = result(folder), (folder / "captions.jsonl").read_text().splitlines(keepends=True)
    changed: dict[str, Any] = {}
    match what:
        case "untested":
            (folder / "captions.jsonl").unlink()
        case "truncated captions":
            (folder / "captions.jsonl").write_text("".join(rows)[:-20])
        case "fewer captions":
            (folder / "captions.jsonl").write_text("".join(rows[:-1]))
        case "truncated result":
            (folder / "result.json").write_text((folder / "result.json").read_text()[:-20])
        case "foreign result":
            (folder / "result.json").write_text("[1, 2]")
        case "binary captions":
            (folder / "captions.jsonl").write_bytes(b"\xff\xfe\x00")
        case "no config":
            (folder / "config.yaml").unlink()
        case "other references":
            first = json.loads(rows[0])
            first["references"][0] += " indeed"
            (folder / "captions.jsonl").write_text("".join([json.dumps(first) + "\n", *rows[1:]]))
        case "other data":
            changed = {"data": facts["data"] | {"fingerprint": "0" * 16}}
        case "other normalisation":
            scored = facts["scores"]["test"] | {"normalisation": "NLTK"}
            changed = {"scores": {"test": scored}}
        case _:
            changed = {"status": what}
    if changed:
        (folder / "result.json").write_text(json.dumps(facts | changed))


REASONS = {
    "running": "not finished: its status is 'running'",
    "pruned": "not finished: its status is 'pruned'",
    "failed": "not finished: its status is 'failed'",
    "untested": "no captions of the test split",
    "truncated captions": "captions.jsonl cannot be read",
    "fewer captions": "holds 11 captions of 12",
    "truncated result": "result.json cannot be read",
    "foreign result": "result.json is not one of ours",
    "binary captions": "captions.jsonl cannot be read",
    "no config": "has no config.yaml",
    "other references": "other images or references",
    "other data": "other data than it was trained with",
    "other normalisation": "normalised in another way",
}


@pytest.mark.parametrize("what", REASONS)
def test_what_cannot_be_compared_is_named_and_left_out(what: str, grid: Path, tmp_path: Path, capsys: Capture) -> None:
    runs = tmp_path / "runs"
    for name in ("test_resnet-merge-0", "test_resnet-merge-1", "test_resnet-attention-0"):
        shutil.copytree(grid / name, runs / name)
    odd = runs / "odd"
    make_run(odd, seed=2)
    unlike(odd, what)
    assert run("compare", runs, "--output", tmp_path / "table.json") == 0
    told = capsys.readouterr().out
    (line,) = (line for line in told.splitlines() if line.strip().startswith(f"{odd}: "))
    assert REASONS[what] in line
    table = json.loads((tmp_path / "table.json").read_text())
    assert list(table["not_compared"]) == [str(odd)]
    assert {system["system"]: system["seeds"] for system in table["systems"]} == {
        "test_resnet + Attention": 1,
        "test_resnet + Merge": 2,
    }


def test_settings_part_systems_and_name_them(tmp_path: Path) -> None:
    for name, options in {"a": {}, "b": {"lr": 0.01}, "c": {"options": {"hidden": 16}}, "d": {"seed": 1}}.items():
        make_run(tmp_path / name, **options)
    found = compare(*read_runs(find_runs([tmp_path]), "test"))
    assert {system.name: [run.folder.path.name for run in system.runs] for system in found.systems} == {
        "test_resnet + Merge hidden=8 lr=0.001": ["a", "d"],
        "test_resnet + Merge hidden=8 lr=0.01": ["b"],
        "test_resnet + Merge hidden=16 lr=0.001": ["c"],
    }


def test_the_search_of_the_test_is_a_setting_and_the_place_of_the_data_is_none(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        make_run(tmp_path / name, seed="abc".index(name))
    config = yaml.safe_load((tmp_path / "b" / "config.yaml").read_text())
    config["data"]["init_args"] |= {"root": "/elsewhere", "num_workers": 7, "feature_store": None}
    config["trainer"]["logger"] = {"class_path": "WandbLogger", "init_args": {"project": "mine"}}
    (tmp_path / "b" / "config.yaml").write_text(yaml.safe_dump(config))
    facts = result(tmp_path / "c")
    facts["scores"]["test"]["search"]["beam"] = 5
    (tmp_path / "c" / "result.json").write_text(json.dumps(facts))
    found = compare(*read_runs(find_runs([tmp_path]), "test"))
    assert {system.name: system.seeds for system in found.systems} == {
        "test_resnet + Merge beam=3": [0, 1],
        "test_resnet + Merge beam=5": [2],
    }


def test_of_a_seed_that_ran_twice_the_younger_counts(tmp_path: Path) -> None:
    for name in ("old", "new"):
        make_run(tmp_path / name, quality=0.9 if name == "new" else 0.5)
    os.utime(tmp_path / "old" / "captions.jsonl", (1, 1))
    found = compare(*read_runs(find_runs([tmp_path]), "test"))
    assert [run.folder.path.name for system in found.systems for run in system.runs] == ["new"]
    assert "the same configuration and seed" in found.apart[str(tmp_path / "old")]


@pytest.mark.parametrize("asked", ["Merge", "merge-0", "test_resnet + Merge"])
def test_a_baseline_is_named_by_system_folder_or_decoder(asked: str, tmp_path: Path) -> None:
    make_run(tmp_path / "merge-0")
    make_run(tmp_path / "attention-0", decoder="Attention")
    found = compare(*read_runs(find_runs([tmp_path]), "test"), asked)
    assert found.baseline == "test_resnet + Merge"


@pytest.mark.parametrize(
    ("asked", "answer"), [("Nonesuch", "none of the systems"), ("Merge", "several of the systems")]
)
def test_a_baseline_must_be_one(asked: str, answer: str, grid: Path) -> None:
    with pytest.raises(UserError, match=answer):
        compare(*read_runs(find_runs([grid]), "test"), asked)


def test_a_table_is_the_same_in_every_format(grid: Path, tmp_path: Path, capsys: Capture) -> None:
    files = [tmp_path / "deep" / f"table{ending}" for ending in WRITERS]
    assert run("compare", grid, "--baseline", BASELINE, "--published", "--output", *files) == 0
    told = capsys.readouterr().out
    texts = {file.suffix: file.read_text(encoding="utf-8") for file in files}
    table = json.loads(texts[".json"])
    rows = list(csv.DictReader(texts[".csv"].splitlines()))
    assert [row["system"] for row in rows] == [system["system"] for system in table["systems"]]
    for row, system in zip(rows, table["systems"], strict=True):
        for name in NAMES:
            if name in system:
                assert float(row[name]) == system[name]
                shown = f"{system[name]:.4f}"
                assert all(shown in texts[ending] for ending in (".md", ".tex"))
                assert shown in told
        for name, (low, high) in system["intervals"].items():
            assert [float(row[f"{name}_low"]), float(row[f"{name}_high"])] == [low, high]
    published = [row for row in rows if row["seeds"] == "published"]
    assert len(published) == len(read_published())
    assert all(row["source"] for row in published)
    unshown = [system for system in table["systems"] if any(d["p"] >= 0.05 for d in system["differences"].values())]
    assert unshown
    assert "no difference shown" in texts[".md"]
    assert r"test\_resnet" in texts[".tex"]
    assert texts[".tex"].count("&") == (len(rows) + 1) * (texts[".tex"].splitlines()[3].count("&"))


@pytest.mark.parametrize("column", ["bleu4", "system", "latency_ms", "parameters", "seeds"])
def test_rows_are_sorted_by_any_column_best_first(column: str, comparison: Comparison) -> None:
    values = [row.values[column] for row in lines(comparison, [], column)]
    assert values == sorted(values, reverse=column in ("bleu4", "seeds"))


def test_every_column_has_values(comparison: Comparison) -> None:
    there = set.intersection(*(set(row.values) for row in lines(comparison, [], "cider_d")))
    assert TITLES.keys() - there <= {"meteor", "spice"}


def test_a_validation_is_compared_where_nothing_was_tested(tmp_path: Path, capsys: Capture) -> None:
    for seed in (0, 1):
        folder = make_run(tmp_path / f"run-{seed}", seed=seed)
        facts = result(folder)
        facts["scores"] = {"val": facts["scores"]["test"]}
        (folder / "result.json").write_text(json.dumps(facts))
        (folder / "captions.jsonl").rename(folder / "captions.val.jsonl")
    assert run("compare", tmp_path) == 0
    assert capsys.readouterr().out.startswith("val split, 12 images")


def test_mistakes_are_sentences(grid: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "list.yaml").write_text("- name: A\n  scores: {bleu9: 1}\n")
    (tmp_path / "empty").mkdir()
    make_run(tmp_path / "unfinished" / "run", status="running")
    for wrong, answer in {
        (grid, "--sort=beauty"): "There is no column 'beauty'",
        (grid, "--output", tmp_path / "table.xls"): "names no format of a table",
        (grid, "--published", tmp_path / "list.yaml"): "no list of published scores",
        (grid / "nowhere",): "There is no",
        (tmp_path / "empty",): "There is no run in",
        (tmp_path / "unfinished",): "No run can be compared",
        (grid, "--split=train"): "No run can be compared",
    }.items():
        assert run("compare", *wrong) == 2
        error = capsys.readouterr().err
        assert answer in error
        assert error.count("\n") == 1


def test_a_run_is_read_without_its_captions_being_scored_again(grid: Path) -> None:
    one = read_run(RunFolder(grid / "test_resnet-merge-0"), "test")
    assert one.rows.keys() == {image.id for image in scenes().split("test")}
    assert [row["epoch"] for row in one.metrics] == [0, 1, 2, 3]
    assert (one.encoder, one.decoder) == ("test_resnet", "Merge")
