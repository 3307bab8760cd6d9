"""What a run leaves behind, written and read here alone.

runs/NAME/config.yaml        the resolved configuration, fit for --config
          checkpoints/       best.ckpt, last.ckpt
          metrics.jsonl      one line a validation
          captions.jsonl     one line a test image: id, caption, references, scores
          captions.val.jsonl the same for the validation split
          predictions.jsonl  one line an image: id, caption
          result.json        status, scores, and everything needed to tell whether two runs can be compared
          output.log         what a sweep's trial printed

A captioner as the Hub keeps it (`Model.save_pretrained`) is a folder too: `config.json`, `model.safetensors`,
`README.md`, and its run's `config.yaml` and `result.json`.
"""

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from capbench.errors import UserError


class RunFolder:
    """One run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.predictions = path / "predictions.jsonl"
        self.result_file = path / "result.json"
        self.output = path / "output.log"

    @classmethod
    def of(cls, checkpoint: Path) -> "RunFolder":
        """Where the configuration and the results that belong to a checkpoint lie: its run's folder, or beside it."""
        if checkpoint.is_dir():
            return cls(checkpoint)
        folder = checkpoint.parent
        return cls(folder.parent if folder.name == "checkpoints" else folder)

    @classmethod
    def new(cls, root: Path, name: str) -> "RunFolder":
        """The first folder free among NAME, NAME-2, NAME-3, ...; one that failed before its first score is free."""
        folders = (cls(root / (name if number == 1 else f"{name}-{number}")) for number in range(1, 10**6))
        return next(folder for folder in folders if not folder.path.exists() or folder.came_to_nothing())

    def came_to_nothing(self) -> bool:
        """Whether the run failed before it left a checkpoint or a score."""
        left = self.checkpoints.exists() or self.metrics.exists()
        return not left and self.result().get("status") == "failed"

    @classmethod
    def latest(cls, root: Path, name: str) -> "RunFolder":
        """The youngest run of this name.

        Raises:
            UserError: there is none.
        """
        first, numbers = root / name, {}
        for folder in first.parent.glob("*"):
            match = re.fullmatch(rf"{re.escape(first.name)}(?:-(\d+))?", folder.name)
            if match and (folder / "checkpoints").is_dir():
                numbers[folder] = int(match[1] or 1)
        if not numbers:
            raise UserError(
                f"{root} holds no run {name!r} with checkpoints: name the checkpoint's file with --ckpt_path, or the "
                "run with --name."
            )
        return cls(max(numbers, key=lambda folder: numbers[folder]))

    def captions(self, split: str) -> Path:
        """The file of a split's captions."""
        return self.path / ("captions.jsonl" if split == "test" else f"captions.{split}.jsonl")

    def checkpoint(self, which: str) -> Path:
        """`best` or `last` checkpoint.

        Raises:
            UserError: there is none.
        """
        file = self.checkpoints / f"{which}.ckpt"
        if not file.is_file():
            other = self.left()
            instead = f" --ckpt_path {other.stem} is there" if other else " the run ended before its first validation"
            raise UserError(f"{self.checkpoints} holds no {which}.ckpt:{instead}.")
        return file

    def left(self) -> Path | None:
        """The best checkpoint, or the last one where nothing was validated."""
        files = (self.checkpoints / f"{which}.ckpt" for which in ("best", "last"))
        return next((file for file in files if file.is_file()), None)

    def result(self) -> dict[str, Any]:
        """What `result.json` says; empty before it is written."""
        if not self.result_file.is_file():
            return {}
        content: dict[str, Any] = json.loads(self.result_file.read_text(encoding="utf-8"))
        return content

    def update_result(self, **changes: Any) -> None:
        """Write `result.json` anew with some entries changed."""
        write_text(self.result_file, json.dumps(self.result() | changes, indent=2) + "\n")

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add a line to `metrics.jsonl`."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    with _unfinished(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.chmod(0o644)
        unfinished.replace(path)


def require_writable(path: Path) -> None:
    """Make the folder of a file that will be written, and see that it can be.

    Raises:
        UserError: it cannot.
    """
    with _unfinished(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """A file that lies beside `path` until it takes its place; mistakes are about `path`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        os.close(handle)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        occupied = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "a file is where its folder would be" if occupied else error.strerror
        raise UserError(f"{path} cannot be written ({reason}): name another folder, or mend this one.") from error


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON, one a line; U+2028 and the like are escaped, so that a line stays one."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


PRETRAINED, WEIGHTS = "config.json", "model.safetensors"
"""The Hub's names of a captioner's files: what it is made of, and with which weights."""

ARTIFACT = re.compile(r"([\w.-]+/)?[\w.-]+/[\w.-]+:[\w.-]+")


def find_checkpoint(reference: str | Path) -> Path:
    """The checkpoint's file, or the folder that `Model.save_pretrained` wrote.

    Args:
        reference: such a file or folder; a run's folder; `hf://user/name`, perhaps with `@revision`, on the Hub;
            `entity/project/name:alias`, an artifact as W&B writes it, which is downloaded to `artifacts/`, as W&B does.

    Raises:
        UserError: there is none, or it cannot be had.
    """
    path, name = Path(reference), str(reference)
    if path.is_dir() and not (path / PRETRAINED).is_file():
        path = RunFolder(path).left() or path
    if path.is_file() or (path / PRETRAINED).is_file():
        return path
    if name.startswith("hf://"):
        return _fetched(_from_hub, name)
    if not path.exists() and ARTIFACT.fullmatch(name):
        return _fetched(_from_wandb, name)
    raise UserError(f"There is no checkpoint {reference}.")


def _fetched(fetch: Callable[[str], Path], name: str) -> Path:
    try:
        return fetch(name)
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(f"There is no checkpoint {name} here, and it cannot be downloaded ({reason}).") from error


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    repository, _, revision = name.removeprefix("hf://").partition("@")
    folder = Path(snapshot_download(repository, revision=revision or None))
    if not (folder / PRETRAINED).is_file():
        raise UserError(f"{name} holds no {PRETRAINED}, so it is no captioner.")
    return folder


def _from_wandb(name: str) -> Path:
    import wandb

    from capbench.tracking import has_key

    if not has_key():
        raise UserError(f"{name} is an artifact of W&B's, which takes a key: run `wandb login`, or name a file.")
    folder = Path(wandb.Api().artifact(name).download())
    files = sorted(folder.glob("*.ckpt"))
    if len(files) != 1:
        raise UserError(f"{name} holds {len(files)} checkpoints (*.ckpt), not one: name another artifact, or a file.")
    return files[0]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of capbench on the CPU, nothing in it executed.

    Args:
        path: its file, or the folder that `Model.save_pretrained` wrote.

    Raises:
        UserError: there is no such file, it is damaged, or it is not one of capbench's.
    """
    import torch
    from safetensors.torch import load_file

    if not (path.is_file() or (path / PRETRAINED).is_file()):
        raise UserError(f"There is no checkpoint {path}.")
    try:
        if path.is_dir():
            checkpoint = json.loads((path / PRETRAINED).read_text(encoding="utf-8"))
            checkpoint["state_dict"] = load_file(path / WEIGHTS)
        else:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path} cannot be read as a checkpoint, so it is damaged or something else ({reason})."
        ) from error
    if not isinstance(checkpoint, dict) or "capbench" not in checkpoint:
        raise UserError(f"{path} is a checkpoint of something else than capbench's Captioner.")
    return checkpoint


def write_pretrained(folder: Path, made_of: dict[str, Any], weights: dict[str, Any], run: RunFolder | None) -> None:
    """A folder for `read_checkpoint`, as the Hub keeps captioners.

    Args:
        folder: where to.
        made_of: a checkpoint's `hyper_parameters` and `capbench`.
        weights: its `state_dict`.
        run: whose configuration and results are copied, where there are any.
    """
    import torch
    from safetensors.torch import save_file

    write_text(folder / PRETRAINED, json.dumps(made_of, indent=2) + "\n")
    alone = {name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in weights.items()}
    save_file(alone, folder / WEIGHTS, {"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)
    for file in (run.config, run.result_file) if run else ():
        if file.is_file() and file.parent.resolve() != folder.resolve():
            shutil.copyfile(file, folder / file.name)
