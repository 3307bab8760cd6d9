"""What is not shown of other libraries' messages, and how our own warnings look."""

import logging
import os
import re
import warnings
from functools import cache
from pathlib import Path
from typing import Any


@cache
def be_quiet() -> None:
    """Leave out what Lightning says of things that are as they should be, and show our own warnings as sentences."""
    for message in (
        ".*LeafSpec.*",
        "Found .* in eval mode",  # a frozen encoder
        ".*does not have many workers",  # features come from the store
        "The number of training batches",
        "The ``compute`` method of metric GeneratedCaptions",  # a process without an image
        "It is recommended to use `self.log",  # every process has the scores of all
        ".*ckpt_path='(best|last)'.*",
        "Checkpoint directory .* exists and is not empty",  # training goes on
        "Total length of `list` across ranks is zero",  # no validation split
        ".*could not find the monitored key",  # the same; where there is one, Lightning stops
    ):
        warnings.filterwarnings("ignore", message)
    usual = warnings.formatwarning

    def format_warning(message: Any, category: Any, filename: str, lineno: int, line: str | None = None) -> str:
        ours = Path(filename).is_relative_to(Path(__file__).parent)
        return f"capbench: {message}\n" if ours else usual(message, category, filename, lineno, line)

    warnings.formatwarning = format_warning
    # the Hub tells of each attempt where there is no network; where it is imported later, that sets the level anew
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    unneeded = re.compile(
        r"💡|.PU available|Loading `train_dataloader` to estimate|-{9}|Initializing distributed"
        r"|(\[rank: \d+\] )?(Seed set|Child process with PID \d+ terminated with code \d)"  # which has told why
    )
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.seed",
        "lightning.fabric.utilities.distributed",
        "lightning.fabric.utilities.rank_zero",
        "lightning.fabric.strategies.launchers.subprocess_script",
    ):
        logging.getLogger(name).addFilter(lambda record: not unneeded.match(record.getMessage()))
