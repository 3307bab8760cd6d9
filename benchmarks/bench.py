"""`make bench`: everything that capbench claims of its speed, as ratios measured side by side on this machine.

python benchmarks/bench.py [--device cuda] [--only search training] [--output bench]

Prints a Markdown table while it goes, and writes NAME.json and NAME.png (NAME is the device) into the output folder.
Each row is the median of several turns of both sides. "of the limit" is the share of what one large matrix product
reaches here, in multiply-adds a second.
"""

import argparse
import json
import logging
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path

import features
import growth
import search
import torch
import training
from measure import TITLES, Row, line, met, most_multiply_adds, side_by_side, slower

from capbench.recorder import git_commit
from capbench.runs import write_text


def start_up(device: str) -> list[Row]:
    """How long `--help` takes beside importing Lightning alone, each in a process of its own."""

    def run(*arguments: str) -> Callable[[], object]:
        return partial(subprocess.run, [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

    times = side_by_side(run("-m", "capbench", "--help"), run("-c", "import lightning.pytorch"))
    return [slower("start-up, --help", times, 1.3, (1, "starts"), "import lightning.pytorch")]


def searches(device: str) -> list[Row]:
    """In both precisions."""
    return [*search.rows(device), *search.rows(device, bf16=True)]


GROUPS: dict[str, Callable[[str], list[Row]]] = {
    "start_up": start_up,
    "training": training.rows,
    "search": searches,
    "features": features.rows,
    "growth": growth.rows,
}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--output", type=Path, default=Path("bench"))
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    facts = header(options.device)
    limits = {dtype: most_multiply_adds(options.device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    facts["multiply-adds a second"] = {str(dtype): f"{limit / 1e9:,.0f} G" for dtype, limit in limits.items()}
    for name, value in facts.items():
        print(f"- {name}: {value}")
    print(f"\n{TITLES}", flush=True)
    rows: list[Row] = []
    for group in options.only:
        for row in GROUPS[group](options.device):
            rows.append(row)
            print(line(row, limits), flush=True)
    file = options.output / f"{options.device}.json"
    write_text(file, json.dumps({**facts, "rows": [asdict(row) for row in rows]}, indent=2, default=str) + "\n")
    plot(rows, facts, file.with_suffix(".png"))
    print(
        f"\n{sum(map(met, rows))} of {len(rows)} rows meet their targets. Written: {file}, {file.with_suffix('.png')}"
    )


def header(device: str) -> dict[str, object]:
    """What the numbers were measured on."""
    packages = ("torch", "lightning", "timm", "numpy")
    return {
        "command": " ".join(sys.argv),
        "commit": git_commit(),
        "device": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }


def processor() -> str:
    """Its name, as the system gives it."""
    info = Path("/proc/cpuinfo")
    names = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(": ")[2] for line in names if line.startswith("model name")), platform.processor())


def plot(rows: list[Row], facts: dict[str, object], file: Path) -> None:
    """How many times better than its target each row is."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [row for row in reversed(rows) if row.target]
    better = [row.target / row.ratio if row.at_most else row.ratio / row.target for row in shown]
    figure, axes = plt.subplots(figsize=(11, 0.34 * len(shown) + 1.2), layout="constrained")
    colours = ["#2a7f62" if met(row) else "#c0504d" for row in shown]
    axes.barh(range(len(shown)), [value - 1 for value in better], left=1, color=colours, height=0.6)
    for place, (row, value) in enumerate(zip(shown, better, strict=True)):
        text = f"  {row.ratio:.2f} ({'at most' if row.at_most else 'at least'} {row.target})"
        axes.text(max(value, 1), place, text, fontsize=8, va="center")
    axes.axvline(1, color="black", linewidth=1)
    names = [f"{row.name}, over {row.note}" if "beam" in row.name or "bf16" in row.name else row.name for row in shown]
    axes.set_yticks(range(len(shown)), [name.partition(";")[0] for name in names], fontsize=8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.set_xlim(min(better) / 1.2, max(better) * 5)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_title(f"Better than the target, {facts['device']}, {facts['threads']} threads", fontsize=10)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
