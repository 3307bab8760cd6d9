"""A trial's command line, made of a sweep's `command` as W&B's agent makes it."""

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

Given = dict[str, Any]

COMMANDS = ("fit", "validate", "test", "predict")
"""Of capbench's: those that make a run."""

DEFAULT = ("${env}", "${interpreter}", "${program}", "${args}")
"""W&B's command, where a file names none."""

VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
"""The one macro that may be part of a word."""


def _in_a_file(given: Given) -> list[str]:
    text = json.dumps(given)
    file = Path(tempfile.gettempdir(), f"capbench-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json")
    file.write_text(text, encoding="utf-8")
    return [str(file)]


ARGUMENTS: dict[str, Callable[[Given], list[str]]] = {
    "args": lambda given: [f"--{key}={value}" for key, value in given.items()],
    "args_no_equals": lambda given: [word for key, value in given.items() for word in (f"--{key}", str(value))],
    "args_no_hyphens": lambda given: [f"{key}={value}" for key, value in given.items()],
    "args_no_boolean_flags": lambda given: [
        f"--{key}" if value is True else f"--{key}={value}" for key, value in given.items() if value is not False
    ],
    "args_append_hydra": lambda given: [f"+{key}={value}" for key, value in given.items()],
    "args_override_hydra": lambda given: [f"++{key}={value}" for key, value in given.items()],
    "args_json": lambda given: [json.dumps(given)],
    "args_json_file": _in_a_file,
}
"""The macros that stand for a trial's parameters."""

MACROS = ("env", "interpreter", "program", *ARGUMENTS)


def macro_of(word: str) -> str | None:
    """The macro that a word is."""
    return word[2:-1] if word.startswith("${") and word[2:-1] in MACROS else None


def expand(command: list[str], program: str, given: Given) -> list[str]:
    """The words of a command line; `${interpreter}` is the Python that runs here, where an agent takes `python`."""
    fixed = {"env": [] if os.name == "nt" else ["/usr/bin/env"], "interpreter": [sys.executable], "program": [program]}
    words: list[str] = []
    for word in command:
        macro = macro_of(word)
        if macro is None:
            words.append(VARIABLE.sub(lambda match: os.environ.get(match[1], match[1]), word))
        else:
            words += fixed[macro] if macro in fixed else ARGUMENTS[macro](given)
    return words


def own_arguments(words: list[str]) -> list[str] | None:
    """The arguments of a command line, from `fit` on, where it runs one of capbench's commands that make a run."""
    for place, (program, command) in enumerate(pairwise(words), 1):
        ours = Path(program).name == "capbench" or program.endswith("capbench/__main__.py")
        if ours and command in COMMANDS:
            return words[place:]
    return None
