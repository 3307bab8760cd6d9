"""Weights & Biases: where its runs begin, and how they end; `exhibits.py` says what they show beside numbers.

Training waits for nothing of it: wandb's own process sends what is logged, and what was not sent can be synced later.
"""

import os
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from capbench.processes import is_first
from capbench.runs import RunFolder
from capbench.scores.captions import NAMES

LIMITS = {
    "WANDB_INIT_TIMEOUT": "30",
    "WANDB_HTTP_TIMEOUT": "10",
    "WANDB__GRAPHQL_RETRY_MAX": "4",  # of an answer that all else in wandb's queue waits for, so two minutes at most
    "WANDB_FINISH_TIMEOUT": "120",
    "WANDB_FINISH_TIMEOUT_RAISES": "true",
}
"""Seconds that a run waits for W&B's server at its two ends, where the environment says nothing else."""

STOPPED = 255
"""The exit code that W&B shows as `killed`; it is also that of Ctrl-C."""

DATA_DIR = os.environ.get("WANDB_DATA_DIR")


def configure_wandb(options: Namespace, folder: RunFolder, command: str = "fit", tags: tuple[str, ...] = ()) -> None:
    """Put a WandbLogger's files into the run's folder, and name what the run belongs to.

    Without a key it works offline and asks nothing. Runs of a sweep are one group, else those of one name.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    options.save_dir, options.name = str(folder.path), options.name or folder.path.name
    os.environ["WANDB_DATA_DIR"] = DATA_DIR or str(folder.path.resolve() / "wandb")  # where media wait for `wandb sync`
    for name, value in LIMITS.items():
        os.environ.setdefault(name, value)
    sweep = os.environ.get("WANDB_SWEEP_ID")
    asked = [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag]
    options.tags = list(dict.fromkeys(tag[:64] for tag in (*(options.get("tags") or asked), *tags)))
    options.group = options.get("group") or os.environ.get("WANDB_RUN_GROUP") or sweep or options.name
    options.job_type = options.get("job_type") or os.environ.get("WANDB_JOB_TYPE") or ("sweep" if sweep else command)
    if "WANDB_MODE" not in os.environ and (options.offline or not has_key()):
        import wandb

        wandb.setup(settings=wandb.Settings(mode="offline"))  # asking for the key has read the environment already


def has_key() -> bool:
    """Whether W&B would find a key, in the environment or where `wandb login` put it."""
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    host = wandb_setup.singleton().settings.base_url
    return bool(wbauth.authenticate_session(host=host, source="capbench", prompt=False, update_session=False))


def begin_logging(loggers: list[Logger], config: dict[str, Any] | None) -> None:
    """Give loggers the configuration, in the first process; W&B's run begins, offline where its server is not there."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            _prepare(logger)
        if not is_first():
            continue
        shown = config or {}
        if isinstance(logger, WandbLogger):
            run = _begin(logger)
            shown = dict(_beside(run.config.keys(), shown)) if "WANDB_SWEEP_ID" in os.environ else shown
        if shown:
            logger.log_hyperparams(shown)


def _prepare(logger: WandbLogger) -> None:
    import wandb

    logger._wandb_init.pop("anonymous", None)  # Lightning's, of which wandb 0.31 only warns
    if "WANDB_SWEEP_ID" in os.environ:
        logger._wandb_init.pop("project", None)  # the sweep's counts
    # who stops a run on W&B's page sends it the signal that an agent sends
    logger._wandb_init.setdefault("settings", wandb.Settings(stop_fn=_stop_this_process))


def _begin(logger: WandbLogger) -> Any:
    import wandb

    try:
        run = logger.experiment
    except wandb.errors.CommError as error:
        reason = str(error).splitlines()[0]
        warnings.warn(f"W&B does not answer ({reason}), so the run is logged offline: `wandb sync`.", stacklevel=2)
        logger._wandb_init["mode"] = "offline"
        run = logger.experiment
    if isinstance(run, wandb.Run):
        for name in ("loss", *NAMES):
            for split in ("val", "test"):
                best = "min" if name == "loss" else "max"
                run.define_metric(f"{split}/{name}", step_metric="trainer/global_step", summary=f"{best},last")
        _note_first(run)
    return run


def _note_first(run: Any) -> None:
    """Have wandb write down tables and artifacts before it sends them, as it does with all else and in offline runs.

    By itself it first asks the server, and waits, who we are and whether the artifact's name is another type's; and
    what it then sends is not in the run's file, so that `wandb sync` could not send it again.
    """
    if run._interface is None:  # W&B is switched off
        return

    def write_down(run: Any, artifact: Any, aliases: Any, tags: Any, step: int, **options: Any) -> None:
        run._interface.publish_artifact(run, artifact, aliases, tags, **options)

    run._interface.deliver_artifact = write_down
    run._cached_public_api = SimpleNamespace(_set_artifact_save_handle=lambda artifact, handle: None)
    run._assert_can_log_artifact = lambda artifact: None


def _beside(locked: Iterable[str], config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a sweep's own parameters leave of a configuration: W&B keeps to them, and drops all else of their names."""
    for key, value in config.items():
        if key not in locked:
            yield key, value
        elif isinstance(value, dict):
            yield from ((f"{key}.{name}", part) for name, part in value.items() if f"{key}.{name}" not in locked)


@contextmanager
def wandb_run() -> Iterator[None]:
    """Close the run that a WandbLogger began, so that W&B shows how it ended; SIGTERM stops it wherever it is.

    Raises:
        SIGTERMException: it was stopped so.
    """
    usual = signal.signal(signal.SIGTERM, _stop)
    exit_code, reason = 0, ""
    try:
        yield
    except BaseException as error:
        interrupt = error.__context__ if type(error) is SystemExit else error  # Lightning makes the one of the other
        stopped = isinstance(interrupt, KeyboardInterrupt | SIGTERMException)
        exit_code, reason = (STOPPED, "") if stopped else (1, str(error))
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        finish_wandb(exit_code, reason)
        signal.signal(signal.SIGTERM, usual or signal.SIG_DFL)


def _stop(number: int, frame: Any) -> None:
    """Stop at once, but where the Trainer has its own way: it ends the batch first."""
    if signal.getsignal(signal.SIGTERM) is _stop:
        raise SIGTERMException


def _stop_this_process() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def finish_wandb(exit_code: int, reason: str = "") -> None:
    """Close the run, if there is one, within a limited time; `reason` is shown as why it failed."""
    wandb = sys.modules.get("wandb")
    run = wandb and wandb.run
    if run is None:
        return
    if reason:
        run.summary["error"] = reason
    try:
        run.finish(exit_code)
    except TimeoutError:
        folder = os.path.relpath(run.settings.sync_dir)
        warnings.warn(
            f"W&B did not take all of the run in time; it is whole in {folder}, to be uploaded with "
            f"`wandb sync --include-online {folder}`.",
            stacklevel=2,
        )
