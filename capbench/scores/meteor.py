"""METEOR 1.5, by the program that its authors wrote, in one Java process."""

import atexit
import os
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from capbench.scores.java import JavaFailed, failure, java_command, java_environment

PATIENCE = 600  # seconds, and one more for each image; loading takes 10, an image a thousandth of one
LONGEST = 1000  # words: the memory of METEOR's search grows with the square of a caption's length
_OPTIONS = ("-stdio", "-l", "en", "-norm")  # coco-caption's
_STATISTICS = 23  # numbers that METEOR keeps of an image


class Meteor:
    """METEOR in a Java process that is started when first needed, answers one call at a time, and ends with Python.

    Only this process holds the pipe that it reads from: where Python is killed, the pipe ends and so does Java. A
    forked process starts its own.

    Source: Denkowski and Lavie 2014, "Meteor universal: language specific translation evaluation for any target
    language"; the jar and the options of `pycocoevalcap.meteor`, whose wrapper never reads what Java complains of,
    takes the locale as it comes, and fails in a path with a space.
    """

    def __init__(self) -> None:
        self._java: _Java | None = None
        self._lock = threading.Lock()
        atexit.register(self.close)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._leave_to_parent)

    def start(self) -> None:
        """Start Java unless it runs, without waiting for it to load its tables.

        Raises JavaFailed if there is none.
        """
        with self._lock:
            self._running()

    def scores(
        self, captions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> tuple[float, list[float], list[list[int]]]:
        """The score of all captions together, which is not the mean, and of each; 0 to 1. And each one's statistics.

        Of a caption, and of a reference, the first `LONGEST` words count. The statistics are METEOR's own 23 counts, of
        caption and reference in turns: words; function words; for each way to match (equal, stem, synonym, paraphrase)
        content words and function words that match so; then chunks; and all words that match.

        Args:
            captions: for each image its caption: words separated by spaces, without line breaks or `|||`.
            references: for each image its references. Of equally good ones METEOR takes the first.

        Raises:
            JavaFailed: there is no Java, or it did not answer.
        """
        with self._lock:
            java = self._running()
            watchdog = threading.Timer(PATIENCE + len(captions), java.end_late)
            watchdog.daemon = True
            watchdog.start()
            try:
                answers = []
                for caption, others in zip(captions, references, strict=True):
                    java.send("SCORE", *map(_shortened, [*others, caption]))
                    answers.append(java.answer(_STATISTICS))
                java.send("EVAL", *map(" ".join, answers))
                *per_image, corpus = [float(java.answer(1)[0]) for _ in range(len(captions) + 1)]
            except BaseException:
                self.close()  # an answer that nobody waits for would be taken for the next caption's
                raise
            finally:
                watchdog.cancel()
        return corpus, per_image, [[int(float(count)) for count in answer] for answer in answers]

    def close(self) -> None:
        """End Java, if it runs."""
        java, self._java = self._java, None
        if java is not None:
            java.end()

    def _running(self) -> "_Java":
        if self._java is None or self._java.process.poll() is not None:
            self.close()
            self._java = _Java()
        return self._java

    def _leave_to_parent(self) -> None:
        java, self._java, self._lock = self._java, None, threading.Lock()
        if java is not None:
            java.stdin.close()
            java.process.returncode = 0  # this process has no such child to wait for


METEOR = Meteor()
"""The one of this process."""


class _Java:
    """A running METEOR, and its protocol: a line for a line, fields between `|||`."""

    def __init__(self) -> None:
        from pycocoevalcap.meteor import meteor

        jar = Path(meteor.__file__).with_name(meteor.METEOR_JAR)
        paraphrases = jar.parent / "data" / "paraphrase-en.gz"
        command = java_command("-jar", str(jar), "-", "-", *_OPTIONS, "-a", str(paraphrases))
        self.late = False
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - a file: a pipe that nobody reads fills up
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                env=java_environment(),
                start_new_session=True,  # Ctrl-C is for Python, which ends Java
            )
        except OSError as error:
            raise JavaFailed(f"METEOR could not be started: {error}.") from None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def send(self, *fields: str) -> None:
        rest = (" ||| ".join(fields) + "\n").encode()
        with suppress(OSError):  # Java has ended, which the answer shows
            while rest:
                rest = rest[os.write(self.stdin.fileno(), rest) :]

    def answer(self, length: int) -> list[str]:
        line = self.stdout.readline()
        while line.startswith(b"["):  # a log of Java's own
            line = self.stdout.readline()
        words = line.decode(errors="replace").split()
        if not line.endswith(b"\n"):
            status = self.process.wait()
            self.errors.seek(0)
            how = "was ended because it took too long" if self.late else f"ended with status {status}"
            raise failure("METEOR", how, self.errors.read().decode(errors="replace"))
        if len(words) != length:
            raise failure("METEOR", f"answered {' '.join(words)[:100]!r}")
        return words

    def end_late(self) -> None:
        self.late = True
        self.process.kill()

    def end(self) -> None:
        with self.process, self.errors:
            self.process.kill()


def _shortened(caption: str) -> str:
    words = caption.split(" ", LONGEST)
    return " ".join(words[:LONGEST])
