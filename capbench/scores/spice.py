"""SPICE, by the program that its authors wrote: an extra score, there where its parser's files are."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from capbench.scores.java import JavaFailed, failure, java_command, java_environment

PATIENCE = 600  # seconds, and one more for each sentence
LONGEST = 100  # words: the parser's memory grows with the square of a sentence's length, its time with the cube
_NEEDS = "a JDK (not only a JRE) of version 11 or later and 8 GB of memory"
_HEAP = "-Xmx8G"  # coco-caption's


def is_there() -> bool:
    """Whether Stanford CoreNLP 3.6.0 and its models are, which `pycocoevalcap.spice.get_stanford_models` fetches."""
    from pycocoevalcap.spice.get_stanford_models import JAR, SPICELIB

    library = _jar().with_name(SPICELIB)
    return all((library / f"{JAR}{part}.jar").is_file() for part in ("", "-models"))


def scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """The mean over images, and each image's F: of the objects, attributes and relations that its sentences tell of.

    All of an image's references make one graph. Of a sentence the first `LONGEST` words count. An image whose caption
    or references tell of nothing has 0, as in coco-caption; a caption without words is not parsed for it.

    Source: Anderson et al. 2016, "SPICE: semantic propositional image caption evaluation"; the jar of
    `pycocoevalcap.spice`, by `Spice.java` beside this file, since the jar's own `-out` ends in an error from Java 15
    on; without its cache of parses, which ends in an error too (tried with 17).

    Args:
        captions: for each image its caption: words separated by spaces, without line breaks or tabs.
        references: for each image its references, at least one.

    Raises:
        JavaFailed: there is no JDK, or it did not answer.
    """
    asked = [image for image, caption in enumerate(captions) if caption]
    sentences = [[captions[image], *references[image]] for image in asked]
    per_image = [0.0] * len(captions)
    if asked:
        for image, score in zip(asked, _answers(sentences), strict=True):
            per_image[image] = score
    return sum(per_image) / len(per_image), per_image


def _answers(images: list[list[str]]) -> list[float]:
    """The F of each image's first sentence against its others."""
    count = sum(map(len, images))
    program = str(Path(__file__).with_name("Spice.java"))
    command = java_command(_HEAP, "-cp", str(_jar()), program)
    patience = PATIENCE + count
    print(
        f"capbench: SPICE parses {count:,} sentences, which takes minutes for thousands.", file=sys.stderr, flush=True
    )
    try:
        done = subprocess.run(
            command,
            input="".join("\t".join(map(_shortened, image)) + "\n" for image in images).encode(),
            capture_output=True,
            timeout=patience,
            env=java_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise failure("SPICE", f"was ended after {patience} seconds without an answer", needs=_NEEDS) from None
    except OSError as error:
        raise JavaFailed(f"SPICE could not be started: {error}.") from None
    if done.returncode:
        errors = done.stderr.decode(errors="replace")
        raise failure("SPICE", f"ended with status {done.returncode}", errors, _NEEDS)
    lines = done.stdout.decode(errors="replace").splitlines()
    answers = [line for line in lines if not line.startswith("[")]  # [: a log of Java's own
    try:
        found = [float(answer) for answer in answers]
    except ValueError:
        found = []
    if len(found) != len(images) or not all(0 <= score <= 1 for score in found):
        raise failure("SPICE", f"answered {len(images)} images with {' '.join(answers)[:100]!r}", needs=_NEEDS)
    return found


def _jar() -> Path:
    from pycocoevalcap.spice import spice

    return Path(spice.__file__).with_name(spice.SPICE_JAR)


def _shortened(sentence: str) -> str:
    return " ".join(sentence.split(" ", LONGEST)[:LONGEST])
