"""What a run leaves behind, written and read here alone.

runs/NAME/config.yaml        the resolved configuration, fit for --config
          checkpoints/       best.ckpt, last.ckpt
          metrics.jsonl      one line a validation
          captions.jsonl     one line a test image: id, caption, references, scores
          captions.val.jsonl the same for the validation split
          predictions.jsonl  one line an image: id, caption
          result.json        status, scores, and everything needed to tell whether two runs can be compared
          output.log         what a sweep's trial printed
"""

import errno
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
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


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of capbench on the CPU, nothing in it executed.

    Raises:
        UserError: there is no such file, it is damaged, or it is not one of capbench's.
    """
    import torch

    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path} cannot be read as a checkpoint, so it is damaged or something else ({reason})."
        ) from error
    if not isinstance(checkpoint, dict) or "capbench" not in checkpoint:
        raise UserError(f"{path} is a checkpoint of something else than capbench's Captioner.")
    return checkpoint
