"""`python -m capbench export`: a captioner as programs that run without capbench."""

import argparse
from importlib.util import find_spec
from pathlib import Path

from capbench.errors import UserError
from capbench.runs import require_writable

NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": ()}


def arguments_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m capbench export",
        description="Write a captioner's encoder, start and step as ONNX or torch.export programs, with vocabulary, "
        "preprocessing and an example beside them. They are run and compared before they are there.",
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="a run's checkpoints/best.ckpt, or what else `capbench.load` takes")
    add("--format", choices=list(NEEDED), required=True, help="of the programs")
    add("--output", type=Path, metavar="DIR", help="folder to write (default: ./onnx or ./torch)")
    return parser


def main(arguments: list[str]) -> int:
    """Export.

    Raises:
        UserError: the extra is not installed, no such checkpoint, or what it holds cannot be exported.
    """
    options = arguments_parser().parse_args(arguments)
    missing = [name for name in NEEDED[options.format] if find_spec(name) is None]
    if missing:
        raise UserError(f"--format onnx needs {' and '.join(missing)}: pip install 'capbench[onnx]'.")
    folder = options.output or Path(options.format)
    require_writable(folder / "caption.py")
    from capbench.export import export
    from capbench.model import load

    difference = export(load(options.checkpoint, "cpu"), folder, options.format)
    print(f"{folder}: encoder, start and step; logits as the captioner's to {difference:.1g}. Try {folder}/caption.py.")
    return 0
