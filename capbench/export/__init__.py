"""A captioner as three programs that run where capbench is not: ONNX, or torch.export's.

    encoder   images (N, 3, H, W) -> features (N, L, C)
    start     features -> context, state
    step      tokens (N,), state, context -> logits (N, V) of the next word, state after it

Context and state are the decoder's own dictionaries (`capbench/decoders/base.py`), a row for each hypothesis. ONNX
knows no dictionaries: there they are `context_NAME` and `state_NAME`, and `next_NAME` after the step.

Beside the programs lie `vocabulary.json`, `preprocessing.json` and `caption.py`, which needs nothing of capbench.
"""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from capbench.decoders import Decoder
from capbench.decoders.base import State
from capbench.encoder import Encoder
from capbench.errors import UserError
from capbench.model import Model
from capbench.search import NEVER
from capbench.text import SPECIALS, Vocabulary

Format = Literal["onnx", "torch"]
Run = Callable[..., list[Tensor]]
"""Runs the program of a name on its arguments, and gives all it gives, one after another."""

TOLERANCE = 1e-4
"""How far a logit of an exported program may be from the captioner's."""
BATCH = 3
"""Images of an example; sizes of 0 and 1 would be taken for constants."""


class Start(nn.Module):
    """Features to context and first state."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, features: Tensor) -> tuple[State, State]:
        """(N, L, C) to dictionaries."""
        context = self.decoder.context(features)
        return context, self.decoder.start(context)


class Step(nn.Module):
    """A word."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens: Tensor, state: State, context: State) -> tuple[Tensor, State]:
        """Words (N,) to logits (N, V) of the next, and the state after them, in the order of the one before."""
        logits, after = self.decoder.step(tokens, state, context)
        return logits, {name: after[name] for name in state}


def export(model: Model, folder: Path, form: Format) -> float:
    """Write programs, vocabulary, preprocessing and example; gives the largest difference of a logit found.

    Args:
        model: on the CPU.
        folder: where to; files of the same names are replaced once all are written and have been tried.
        form: of the programs.

    Raises:
        UserError: a part cannot be exported, or its program gives something else, or the pictures are prepared in a
            way that `preprocessing.json` has no words for.
    """
    prepared = preprocessing(model.encoder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"encoder": model.encoder, "start": Start(model.decoder), "step": Step(model.decoder)}
    with TemporaryDirectory(dir=folder, prefix=".unfinished-") as name, torch.no_grad():
        unfinished = Path(name)
        _write_programs(parts, prepared["size"], unfinished, form)
        difference = check(parts, prepared["size"], RUNS[form](unfinished))
        _write_json(unfinished / "preprocessing.json", prepared)
        _write_json(unfinished / "vocabulary.json", vocabulary(model))
        shutil.copyfile(Path(__file__).with_name(f"caption_{form}.py"), unfinished / "caption.py")
        for file in unfinished.iterdir():
            file.replace(folder / file.name)
    return difference


def vocabulary(model: Model) -> dict[str, Any]:
    """All words by their numbers, those of special meaning, and the longest caption."""
    return {
        "words": [*SPECIALS, *model.vocabulary.words],
        "start": Vocabulary.START,
        "end": Vocabulary.END,
        "never": NEVER,
        "max_words": model.search.max_words,
    }


def preprocessing(encoder: Encoder) -> dict[str, Any]:
    """How a picture is resized, its middle cropped, and its values brought to mean and deviation.

    `resize` is the length of the shorter side, or height and width; `size` the height and width of the crop.

    Raises:
        UserError: the encoder's transform is another one.
    """
    from torchvision.transforms import CenterCrop, Normalize, Resize

    steps = {type(step): step for step in getattr(encoder.transform, "transforms", [])}
    if len(steps) != 4 or not {CenterCrop, Normalize, Resize} < set(steps):
        named = ", ".join(step.__name__ for step in steps) or str(encoder.transform)
        raise UserError(f"Pictures are prepared in a way that an export has no words for ({named}).")
    resize, crop, normalize = steps[Resize], steps[CenterCrop], steps[Normalize]
    return {
        "resize": resize.size if isinstance(resize.size, int) else list(resize.size),
        "interpolation": resize.interpolation.value,
        "size": list(crop.size),
        "mean": [float(value) for value in normalize.mean],
        "std": [float(value) for value in normalize.std],
    }


def _write_programs(parts: dict[str, nn.Module], size: list[int], folder: Path, form: Format) -> None:
    images = torch.randn(BATCH, 3, *size)
    features = parts["encoder"](images)
    context, first = parts["start"](features)
    tokens, state = torch.full((BATCH,), Vocabulary.START), first
    for _ in range(BATCH - 1):
        _, state = parts["step"](tokens, state, context)

    batch, words = torch.export.Dim("batch"), torch.export.Dim("words")
    by_batch = {0: batch}
    growing = {
        name: by_batch | {axis: words for axis in range(1, old.ndim) if old.shape[axis] != state[name].shape[axis]}
        for name, old in first.items()
    }
    shapes = (by_batch, growing, dict.fromkeys(context, by_batch))
    contexts, states, after = (_names(*each) for each in (("context", context), ("state", first), ("next", first)))
    _write(parts["encoder"], (images,), (by_batch,), ["images"], ["features"], folder / "encoder", form)
    _write(parts["start"], (features,), (by_batch,), ["features"], [*contexts, *states], folder / "start", form)
    step = (tokens, state, context)
    _write(parts["step"], step, shapes, ["tokens", *states, *contexts], ["logits", *after], folder / "step", form)


def _names(kind: str, tensors: State) -> list[str]:
    return [f"{kind}_{name}" for name in tensors]


def _write(
    part: nn.Module,
    example: tuple[Any, ...],
    dynamic: tuple[Any, ...],
    inputs: list[str],
    outputs: list[str],
    file: Path,
    form: Format,
) -> None:
    """Write a part as FILE.onnx or FILE.pt2, by an example of what it takes and which sizes may be others."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own ways
            strict = not isinstance(part, Encoder)  # else `len` of a batch is a constant
            program = torch.export.export(part, example, dynamic_shapes=dynamic, strict=strict)
            if form == "torch":
                torch.export.save(program, file.with_suffix(".pt2"))
            else:
                onnx = torch.onnx.export(program, input_names=inputs, output_names=outputs, dynamo=True, verbose=False)
                assert onnx is not None
                onnx.save(file.with_suffix(".onnx"))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        whose = type(getattr(part, "decoder", part)).__name__
        raise UserError(f"The {file.name} of {whose} cannot be exported ({reason}).") from error


def check(parts: dict[str, nn.Module], size: list[int], run: Run) -> float:
    """The largest difference of a logit between parts and programs, over words of random pictures.

    Raises:
        UserError: it is larger than `TOLERANCE`.
    """
    largest = 0.0
    for images in (1, BATCH + 1):
        # what the captioner gives, and what the programs make of what programs gave
        ours = theirs = torch.randn(images, 3, *size)
        ours, theirs = _both(parts, run, "encoder", (ours,), (theirs,))
        (context, state), (their_context, their_state) = _both(parts, run, "start", (ours,), (theirs,))
        for word in range(BATCH):
            tokens = torch.arange(word, word + images) % len(SPECIALS)
            given = (tokens, state, context), (tokens, their_state, their_context)
            (logits, state), (their_logits, their_state) = _both(parts, run, "step", *given)
            largest = max(largest, float((logits - their_logits).abs().max()))
    if not largest <= TOLERANCE:
        raise UserError(
            f"The exported programs give other logits than the captioner (by {largest:.2g}), so nothing was written."
        )
    return largest


def _both(parts: dict[str, nn.Module], run: Run, name: str, ours: Any, theirs: Any) -> tuple[Any, Any]:
    expected = parts[name](*ours)
    return expected, pytree.tree_unflatten(run(name, *theirs), pytree.tree_structure(expected))


def _run_torch(folder: Path) -> Run:
    programs = {file.stem: torch.export.load(file).module() for file in folder.glob("*.pt2")}
    return lambda name, *arguments: pytree.tree_leaves(programs[name](*arguments))


def _run_onnx(folder: Path) -> Run:
    import onnxruntime

    programs = {file.stem: onnxruntime.InferenceSession(file) for file in folder.glob("*.onnx")}

    def run(name: str, *arguments: Any) -> list[Tensor]:
        arrays = [tensor.numpy() for tensor in pytree.tree_leaves(arguments)]
        inputs = [each.name for each in programs[name].get_inputs()]
        return [torch.from_numpy(array) for array in programs[name].run(None, dict(zip(inputs, arrays, strict=True)))]

    return run


RUNS: dict[Format, Callable[[Path], Run]] = {"onnx": _run_onnx, "torch": _run_torch}


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n")
