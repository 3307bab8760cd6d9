"""The published captions, and Java: the real one, or one that answers as a test wants."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent, indent

import pytest

import capbench.scores.captions
import capbench.scores.spice
from capbench.scores.meteor import Meteor

DATA = Path(__file__).parents[2] / "../shared/data"
NAMES_IN_FILE = {
    "bleu1": "Bleu_1",
    "bleu2": "Bleu_2",
    "bleu3": "Bleu_3",
    "bleu4": "Bleu_4",
    "meteor": "METEOR",
    "rouge_l": "ROUGE_L",
    "cider_d": "CIDEr",
}

# Stands for all programs: PTB gives back what it gets, METEOR's score of a caption is the number of its words, SPICE's
# the F of the words that caption and references have.
FAKE_JAVA = """\
import os, sys, time
spice = sys.argv[-1].endswith("Spice.java")
if not spice and "-jar" not in sys.argv:
    print("[0.008s][warning][os] a log of Java's own", sys.stdin.read(), sep="\\n", end="")
    sys.exit()
for number, line in enumerate(sys.stdin):
{trick}
    if spice:
        caption, *references = line.rstrip("\\n").split("\\t")
        said, expected = set(caption.split()), set(" ".join(references).split())
        print(2 * len(said & expected) / (len(said) + len(expected)), flush=True)
        continue
    kind, *fields = line.rstrip("\\n").split(" ||| ")
    if kind == "SCORE":
        print(len(fields[-1].split()), *[0] * 22, flush=True)
    else:
        lengths = [float(field.split()[0]) for field in fields]
        print(*lengths, sum(lengths), sep="\\n", flush=True)
"""

FakeJava = Callable[[str], Meteor]


def data_file(path: str) -> Path:
    if not (DATA / path).exists():
        pytest.skip(f"the published scores are NOT checked: there is no {DATA / path}")
    return DATA / path


@pytest.fixture(scope="session")
def flickr8k() -> dict[str, list[str]]:
    """Image name -> its five references, as written."""
    text = data_file("flickr8k/Flickr8k_text/Flickr8k.token.txt").read_text(encoding="utf-8")
    references: dict[str, list[str]] = {}
    for line in text.strip("\n").split("\n"):
        name, caption = line.split("\t")
        references.setdefault(name.partition("#")[0], []).append(caption)
    return references


@pytest.fixture(scope="session")
def published() -> Callable[[str], tuple[dict[str, str], dict[str, float]]]:
    """Run -> its captions, and the scores that its authors published."""

    def read(run: str) -> tuple[dict[str, str], dict[str, float]]:
        file = json.loads(data_file(f"published/{run}.json").read_text(encoding="utf-8"))
        return file["captions"], {key: file["scores"][name] for key, name in NAMES_IN_FILE.items()}

    return read


@pytest.fixture(scope="session")
def java() -> str:
    """The path of a real Java."""
    path = shutil.which("java")
    if path is None:
        pytest.skip("METEOR and the PTB tokeniser are NOT checked: there is no Java on PATH")
    return path


@pytest.fixture(autouse=True, scope="session")
def no_spice() -> Iterator[None]:
    """SPICE takes minutes: it is there only where a test says so, whatever this machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capbench.scores.spice, "_jar", lambda: Path("/nowhere/spice-1.0.jar"))
        yield


@pytest.fixture
def own_meteor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meteor]:
    """A METEOR of this test's own in place of the process's; no warning has been given yet."""
    meteor = Meteor()
    monkeypatch.setattr(capbench.scores.captions, "METEOR", meteor)
    monkeypatch.setattr(capbench.scores.captions, "_warned", False)
    yield meteor
    meteor.close()


@pytest.fixture
def fake_java(own_meteor: Meteor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeJava:
    """Puts a fake Java on PATH that plays a trick for each line `line`, the `number`-th from 0, before it answers."""

    def install(trick: str) -> Meteor:
        program, script = tmp_path / "java", tmp_path / "java.py"
        script.write_text(FAKE_JAVA.format(trick=indent(dedent(trick), "    ")))
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -ES "{script}" "$@"\n')  # a path may have spaces
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        return own_meteor

    return install
