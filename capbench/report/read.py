"""Runs as they were left, read from their folders; what cannot be read says why."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from capbench.errors import UserError
from capbench.runs import RunFolder
from capbench.scores.statistics import Statistics

NOT_SETTINGS = {
    "seed_everything",
    *("name", "runs", "config", "ckpt_path", "test_best", "weights_only", "verbose"),
    *("trainer.logger", "trainer.enable_progress_bar", "trainer.default_root_dir", "trainer.callbacks"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy"),  # `devices` says it
    *("checkpoint.dirpath", "data.root", "data.num_workers", "data.feature_store", "data.predict_split"),
    *("model.search", "model.encoder.pretrained", "likelihood", "tracking"),
}
"""Entries of a run's configuration that name the run, or its places, but change nothing in what is learnt."""

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a captioner, with the captions of one split.

    Attributes:
        folder: of the run.
        split: `test` or `val`.
        result: `result.json`.
        settings: dotted name -> value of the configuration, without what names the run or its places.
        statistics: what its captions bring to the scores.
        references: digest of image ids and their references.
    """

    folder: RunFolder
    split: str
    result: dict[str, Any]
    settings: dict[str, Any]
    statistics: Statistics
    references: str

    @property
    def name(self) -> str:
        """The folder's path, as it was given."""
        return str(self.folder.path)

    @property
    def scored(self) -> dict[str, Any]:
        """Scores, figures and search of the split."""
        found: dict[str, Any] = self.result["scores"][self.split]
        return found

    @property
    def encoder(self) -> str:
        """The encoder's name, of a folder of weights its last part."""
        encoder = self.result["encoder"]
        name = str(encoder["init_args"].get("name", encoder["class_path"]))
        return Path(name.partition(":")[2]).name if name.startswith("local-dir:") else name.rpartition("/")[2]

    @property
    def decoder(self) -> str:
        """The decoder's class."""
        return str(self.result["decoder"]["class_path"]).rpartition(".")[2]

    @property
    def data(self) -> str:
        """What it was trained with, without the folder where that lies."""
        source = str(self.result["data"].get("source"))
        return source.partition(" (")[0] if source.endswith(")") else Path(source).name

    @cached_property
    def identity(self) -> tuple[str, int]:
        """All settings as one text, and the seed."""
        return json.dumps(self.settings, sort_keys=True, default=str), self.result["seed"]

    @cached_property
    def rows(self) -> dict[str, Row]:
        """Image id -> caption, references and scores."""
        return {row["image_id"]: row for row in read_rows(self.folder.captions(self.split))}

    @cached_property
    def metrics(self) -> list[Row]:
        """One row a validation."""
        return list(read_rows(self.folder.metrics)) if self.folder.metrics.is_file() else []


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """The folders of runs among these and below them: a folder that has no `result.json` stands for those in it.

    Raises:
        UserError: a path is not there, or there is no run in any.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"There is no {path}: name the folders of runs, such as runs/*.")
        inside = [path] if _is_run(path) else sorted(file.parent for file in path.rglob("result.json"))
        found += inside or [path]
    unique = list({path.resolve(): path for path in found}.values())
    if not any(map(_is_run, unique)):
        raise UserError(f"There is no run in {', '.join(map(str, paths[:3]))}: each has a result.json in its folder.")
    return unique


def _is_run(path: Path) -> bool:
    return (path / "result.json").is_file()


def read_runs(paths: Sequence[Path], split: str) -> tuple[list[Run], dict[str, str]]:
    """The runs that can be read, and of each other folder why it cannot."""
    runs, skipped = [], {}
    for path in paths:
        try:
            runs.append(read_run(RunFolder(path), split))
        except UserError as error:
            skipped[str(path)] = str(error)
    return runs, skipped


def usual_split(paths: Sequence[Path]) -> str:
    """`test` where some run has captions of it, otherwise `val`."""
    tested = any(RunFolder(path).captions("test").is_file() for path in paths)
    return "test" if tested else "val"


def read_run(folder: RunFolder, split: str) -> Run:
    """A run, finished and captioned.

    Raises:
        UserError: why it is not one; a clause, since the table names the folder beside it.
    """
    result, config = _read(folder.result_file, json.loads), _read(folder.config, yaml.load)
    status = result.get("status")
    if status != "finished":
        raise UserError(f"not finished: its status is {status!r}")
    file = folder.captions(split)
    if not file.is_file():
        raise UserError(f"it has no captions of the {split} split: run `{_command(split)} --ckpt_path best` for it")
    digest = hashlib.sha256()
    rows = []
    for row in read_rows(file):
        digest.update(repr((row.get("image_id"), row.get("references"))).encode())
        rows.append(row)
    missing = [part for part in ("encoder", "decoder", "data", "seed") if part not in result]
    scored = result.get("scores", {}).get(split, {})
    if missing or not scored.get("search"):
        raise UserError(f"result.json says nothing of {', '.join(missing) or f'scores of the {split} split'}")
    if scored["images"] != len(rows):
        raise UserError(f"{file.name} holds {len(rows)} captions of {scored['images']}: it is cut short")
    statistics = Statistics.of_rows(rows, file.name)
    settings = {name: value for name, value in _flat(config) if not _is_in(name, NOT_SETTINGS)}
    run = Run(folder, split, result, settings, statistics, digest.hexdigest()[:16])
    run.settings.update(
        {f"search.{name}": value for name, value in run.scored["search"].items()}
        | {"model.encoder.name": run.encoder, "model.encoder.weights": _weights(result["encoder"])}
        | {"data": result["data"].get("fingerprint"), "devices": result.get("devices")}
    )
    return run


def _weights(encoder: Mapping[str, Any]) -> str:
    """What the encoder began with; chance is the seed's."""
    pretrained = encoder["init_args"].get("pretrained", True)
    return str(encoder.get("weights_hash")) if pretrained else "random"


def _command(split: str) -> str:
    return "test" if split == "test" else "validate"


def read_rows(file: Path) -> Iterator[Row]:
    """The rows of a `.jsonl` file.

    Raises:
        UserError: a line is no JSON object.
    """
    try:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError
                yield row
    except (OSError, ValueError):
        raise UserError(f"{file.name} cannot be read: it is cut short or not ours") from None


def _read(file: Path, read: Any) -> dict[str, Any]:
    """A file of ours as a dictionary."""
    try:
        text = file.read_text(encoding="utf-8")
        content = yaml.load(text, yaml.CSafeLoader) if read is yaml.load else read(text)
    except FileNotFoundError:
        raise UserError(f"it has no {file.name}") from None
    except (OSError, ValueError, yaml.YAMLError):
        raise UserError(f"{file.name} cannot be read: it is cut short or not ours") from None
    if not isinstance(content, dict):
        raise UserError(f"{file.name} is not one of ours")
    return content


def _flat(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values; a class's options stand right below it, as on the command line."""
    for name, value in config.items():
        dotted = before if name in ("init_args", "class_path") else f"{before}.{name}".lstrip(".")
        if isinstance(value, dict) and value:
            yield from _flat(value, dotted)
        else:
            yield dotted, value.rpartition(".")[2] if name == "class_path" else value


def _is_in(name: str, names: set[str]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in names)
