"""`python -m capbench sweep`: a sweep file's trials, by W&B's agents or entirely here."""

import argparse
import math
import os
import shlex
from pathlib import Path

import yaml

from capbench.errors import UserError
from capbench.sweeps.file import SweepFile, read_sweep
from capbench.sweeps.words import own_arguments

FILE = Path("sweeps/encoder_x_decoder.yaml")


def arguments_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m capbench sweep",
        description="Run a W&B sweep file: with a W&B key by a sweep and an agent there, else, or with --local, here. "
        "A sweep that was interrupted goes on by the same command.",
    )
    add = parser.add_argument
    add("file", nargs="?", type=Path, default=FILE, metavar="FILE", help=f"the sweep file ({FILE})")
    add("--local", action="store_true", help="run here, also with a W&B key")
    add("--workers", type=int, default=1, metavar="N", help="trials at a time on this machine (1); a GPU for each")
    add("--count", type=int, metavar="N", help="begin at most N trials")
    add("--dry-run", action="store_true", help="print the runs, and start none")
    add("--sweep-id", metavar="ID", help="join this sweep at W&B (entity/project/id, or id) with an agent")
    local = parser.add_argument_group("sweeps that run here")
    add = local.add_argument
    add("--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder of all runs (runs)")
    add("--storage", metavar="URL", help="database of the study, for several machines: postgresql://USER@HOST/DATABASE")
    add("--max-failures", type=int, default=10, metavar="N", help="begin no trial when more than N have failed (10)")
    add("--retry-failed", action="store_true", help="run trials again that have failed")
    add("--seed", type=int, default=0, metavar="N", help="of the methods random and bayes (0)")
    return parser


def main(arguments: list[str]) -> int:
    """Run a sweep, or print its runs.

    Raises:
        UserError: a mistake in the file or the options, or images or weights that cannot be had.
    """
    options = arguments_parser().parse_args(arguments)
    for name in ("workers", "count"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: it must be at least 1.")
    here = options.local or options.storage is not None
    if options.sweep_id and here:
        raise UserError(
            "--sweep-id joins a sweep at W&B, and --local and --storage run one here: leave out one of them."
        )
    if options.sweep_id:
        return _join(options)

    sweep = read_sweep(options.file)
    ours = own_arguments(sweep.command) is not None
    if ours:
        from capbench.sweeps.check import check_inputs, check_sweep

        check_sweep(sweep)
    if options.dry_run:
        dry_run(sweep, options.runs)
        return 0
    if ours:
        check_inputs(sweep)
    if not here and _wandb_answers():
        from capbench.sweeps import hosted

        return hosted.agent(hosted.create(sweep), options.count, options.workers)

    from capbench.sweeps.local import Sweep

    status = Sweep(
        sweep,
        runs=options.runs,
        workers=options.workers,
        count=options.count,
        storage=options.storage,
        max_failures=options.max_failures,
        retry_failed=options.retry_failed,
        seed=options.seed,
    ).run()
    if ours and status in (0, 1):
        _compare(options.runs / sweep.name)
    return status


def _compare(runs: Path) -> None:
    """Print the table of what there is, and write the page beside it."""
    from capbench.commands import compare

    print()
    try:
        compare.main([str(runs), "--html", str(runs / "report.html")])
    except UserError as error:
        print(f"There is nothing to compare: {error}")


def dry_run(sweep: SweepFile, runs: Path) -> None:
    """Print each run's command; where points are drawn only when they run, what they are drawn from."""
    if sweep.method == "grid":
        points = sweep.grid()[: sweep.run_cap]
        for point in points:
            print(shlex.join(sweep.words(point)))
        print(f"{len(points)} runs, each with a folder of its own in {runs / sweep.name}")
        return
    width = max(map(len, sweep.parameters))
    for name in sweep.parameters:
        print(f"{name:{width}}  {_as_written(sweep, name)}")
    print(shlex.join(sweep.command))
    limit = f"{sweep.run_cap} runs" if sweep.run_cap else "runs until you stop it, or as many as --count says"
    print(f"{limit}, drawn by the method {sweep.method}, each with a folder of its own in {runs / sweep.name}")


def _as_written(sweep: SweepFile, parameter: str) -> str:
    """What the file says of a parameter, in one line."""
    section = sweep.content
    for key in sweep.keys[parameter]:
        section = section["parameters"][key]
    return yaml.safe_dump(section, default_flow_style=True, sort_keys=False, width=math.inf).strip()


def _join(options: argparse.Namespace) -> int:
    from capbench.sweeps import hosted

    if not _wandb_answers():
        raise UserError(f"--sweep-id {options.sweep_id} is a sweep at W&B, which needs a key: `wandb login` first.")
    return hosted.agent(options.sweep_id, options.count, options.workers)


def _wandb_answers() -> bool:
    """Whether W&B can be used: there is a key, and W&B is not switched off."""
    from capbench.sweeps import hosted

    return os.environ.get("WANDB_MODE", "online") == "online" and hosted.has_key()
