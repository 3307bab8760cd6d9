"""How the Java programs that come with pycocoevalcap are run: the PTB tokeniser, METEOR and SPICE."""

import os
import shutil
from collections.abc import Mapping

_OPTIONS = (
    "-Xmx1G",  # METEOR's tables take 0.4 GB of it
    "-XX:+UseSerialGC",  # no collector's thread for each core of a cluster's node
    *("-Duser.language=en", "-Duser.country=US"),  # METEOR reads its own numbers back as the locale writes them
    "-Dfile.encoding=UTF-8",
)
_READ_BY_JAVA = {"JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"}


class JavaFailed(Exception):
    """Why a Java program gave no answer: one sentence that says what to do."""


def java_command(*arguments: str) -> list[str]:
    """The command line that runs Java on some arguments; of an option that comes twice Java takes the last.

    Raises JavaFailed if there is no Java on PATH.
    """
    java = shutil.which("java")
    if java is None:
        raise JavaFailed("METEOR needs Java 8 or later and there is none on PATH: install one and score again.")
    return [java, *_OPTIONS, *arguments]


def java_environment() -> Mapping[str, str]:
    """Ours, without what would change the options above or let Java write lines of its own.

    In a locale that the machine does not have, Java opens no file in a path with other letters than ASCII's.
    """
    return {name: os.environ[name] for name in os.environ.keys() - _READ_BY_JAVA} | {"LC_ALL": "C.UTF-8"}


def failure(
    program: str, what: str, errors: str = "", needs: str = "Java 8 or later and 1.5 GB of memory"
) -> JavaFailed:
    """The sentence for a program that did not answer; `errors` is what it wrote to its standard error."""
    lines = [line.strip() for line in errors.splitlines()]
    cause = next((line for line in lines if "Error" in line or "Exception" in line), "")
    return JavaFailed(f"{program} {what}{f' ({cause})' if cause else ''}: it needs {needs}; score again.")
