"""The two Java programs: what may be in a caption, what may be in the environment, and how Java may fail and end."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pycocoevalcap.meteor.meteor
import pytest

import capbench.scores.captions
import capbench.scores.meteor
import capbench.scores.ptb
from capbench.scores import CaptionScores, score_captions
from capbench.scores.java import JavaFailed
from capbench.scores.meteor import Meteor
from capbench.scores.ptb import ptb_tokenise
from capbench.text import tokenise

FakeJava = Callable[[str], Meteor]
WORD_COUNTS = {f"{i:03d}": " ".join(["dog"] * (i % 7)) for i in range(100)}
ORDINARY = [
    ("a dog runs through the grass", ["A dog runs in the grass .", "the brown dog is running", "a dog outside"]),
    ("a man rides a red bike", ["A man rides his bike .", "someone is riding a bicycle"]),
    ("two birds in the blue sky", ["Birds fly in the sky .", "the sky is blue", "two birds"]),
    ("children play", ["kids are playing", "Three children play in a park"]),
]
TRAPS = [
    "",
    " \u2028 ",
    "a\u2028dog\u2029runs",
    "a dog\nruns\r\nfast\rnow\x0b\x0c\x1c\x1d\x1e\x85there",
    "a ||| dog ||| runs",
    "|||",
    "SCORE ||| a dog ||| a dog",
    "EVAL ||| 1 2 3",
    "<start> a <unk> dog <pad> <end>",
    "un café très élégant über Straße İstanbul ½ x² Ωμέγα",
    "一只狗在草地上跑 собака бежит",
    "\U0001d400 \U0001f415 \ud800 a\u200bb \u00ad",
    "ԩ ꅫ",  # letters that PTB does not know
    "call 555 1234 567 8901 now",  # PTB makes one word of them
    "[0.1s][info] a dog",
    "a " * 10_000,
    "a dog " * 5_000,
    " ".join(f"word{i} dog" for i in range(5_000)),
]


def scored(pairs: list[tuple[str, list[str]]], java: bool = True) -> CaptionScores:
    """Scores of pairs of a caption and its references; the ids keep their order."""
    captions = {f"{i:03d}": caption for i, (caption, _) in enumerate(pairs)}
    return score_captions(captions, {f"{i:03d}": references for i, (_, references) in enumerate(pairs)}, java)


def fake_scores(captions: dict[str, str] = WORD_COUNTS) -> CaptionScores:
    return score_captions(captions, {image: ["a dog"] for image in captions}, java=True)


def is_word_count(scores: CaptionScores, captions: dict[str, str] = WORD_COUNTS) -> bool:
    """Whether each image has its own caption's score by the fake METEOR."""
    counts = {image: float(len(tokenise(caption))) for image, caption in captions.items()}
    rows = {image: row["meteor"] for image, row in scores.per_image.items()}
    return rows == counts and scores.corpus["meteor"] == sum(counts.values())


# What may be in a caption


def test_no_caption_moves_a_score_to_another_image(java: str) -> None:
    """Ordinary captions keep their METEOR, to the last digit, with traps before, between and behind them."""
    truth = [row["meteor"] for row in scored(ORDINARY).per_image.values()]
    assert len(set(truth)) == len(ORDINARY)
    assert min(truth) > 0
    pairs, places = [], []
    for i, trap in enumerate(TRAPS):
        pairs += [(trap, ORDINARY[i % 3][1]), ORDINARY[i % len(ORDINARY)]]
        places.append(len(pairs) - 1)
    scores = scored([*pairs, ("", ["a dog"])])
    assert scores.missing == {}
    rows = [row["meteor"] for row in scores.per_image.values()]
    assert [rows[place] for place in places] == [truth[i % len(truth)] for i in range(len(TRAPS))]
    assert all(0 <= row < 1 for row in rows)
    assert [rows[0], rows[2], rows[-1]] == [0, 0, 0]


def test_ptb_answers_each_caption_in_its_place(java: str) -> None:
    captions = [" ".join(tokenise(f"start{i} {trap} end{i}")) for i, trap in enumerate([*TRAPS, *TRAPS])]
    captions[5] = captions[-1] = ""
    for i, (before, after) in enumerate(zip(captions, ptb_tokenise(captions), strict=True)):
        assert (before == "") == (after == "")
        assert not before or (after.split()[0], after.split()[-1]) == (f"start{i}", f"end{i}")


def test_references_in_letters_that_ptb_does_not_know_stay(java: str) -> None:
    assert ptb_tokenise(["ԩ ԩ", "a"]) == ["", "a"]
    scores = scored([("ԩ", ["ԩ", "ԩ ԩ"]), *ORDINARY])
    assert scores.missing == {}
    assert scores.per_image["000"]["rouge_l"] == 0  # of the caption nothing stays


def test_meteor_is_told_of_the_first_thousand_words(fake_java: FakeJava) -> None:
    fake_java("")
    assert fake_scores({"x": "dog " * 10_000}).corpus["meteor"] == 1000


# What may be in the environment


def test_neither_locale_nor_options_nor_path_reach_java(
    java: str, own_meteor: Meteor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A decimal comma stops METEOR, a log of Java's own would be an answer, and METEOR finds no data beyond a space."""
    expected = scored(ORDINARY)
    own_meteor.close()
    for name in ("LANG", "LC_ALL", "LC_NUMERIC"):
        monkeypatch.setenv(name, "de_DE.UTF-8")
    for name in ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"):
        monkeypatch.setenv(name, "-Duser.language=de -Duser.country=DE -Xlog:gc")
    folder = Path(pycocoevalcap.meteor.meteor.__file__).parent
    odd = tmp_path / "a b+c%20d"
    odd.mkdir()
    (odd / "data").symlink_to(folder / "data")
    shutil.copy(folder / "meteor-1.5.jar", odd)  # Java would follow a link
    monkeypatch.setattr(pycocoevalcap.meteor.meteor, "__file__", str(odd / "meteor.py"))
    assert scored(ORDINARY) == expected


@pytest.mark.parametrize(
    "trick",
    [
        "print('[0.008s][warning][os,container] Duplicate cpuset controllers', flush=True)",
        "sys.stderr.write('complaint ' * 20_000)",  # more than a pipe holds
    ],
)
def test_what_java_says_of_itself_is_no_answer(trick: str, fake_java: FakeJava) -> None:
    fake_java(trick)
    assert is_word_count(fake_scores())


def test_meteor_starts_once(fake_java: FakeJava) -> None:
    meteor = fake_java("")
    processes = set()
    for _ in range(3):
        assert is_word_count(fake_scores())
        assert meteor._java is not None
        processes.add(meteor._java.process.pid)
    assert len(processes) == 1


# How Java may fail


@pytest.fixture
def no_java(own_meteor: Meteor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def test_without_java_meteor_is_missing_and_all_else_is_there(no_java: None) -> None:
    with pytest.warns(UserWarning, match="METEOR needs Java 8 or later and there is none on PATH") as caught:
        scores = scored(ORDINARY)
    assert scores.missing == {"meteor": str(caught[0].message)}
    without = scored(ORDINARY, java=False)
    assert (scores.corpus, scores.per_image) == (without.corpus, without.per_image)
    assert "meteor" not in scores.corpus


def test_a_process_is_warned_once(no_java: None) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reasons = [scored(ORDINARY).missing["meteor"] for _ in range(3)]
    assert len(caught) == 1
    assert len(set(reasons)) == 1


def test_nobody_is_warned_who_does_not_ask_for_java(no_java: None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert scored(ORDINARY, java=False).missing == {}


@pytest.mark.filterwarnings("ignore:METEOR")
@pytest.mark.parametrize(
    ("trick", "reason"),
    [
        ("if number == 50: os._exit(3)", "METEOR ended with status 3: "),
        ("if number == 50: os.kill(os.getpid(), 9)", "METEOR ended with status -9: "),
        ("if number == 50: print('12.0 3', end='', flush=True); os._exit(1)", "METEOR ended with status 1: "),
        ("if number == 100: os._exit(3)", "METEOR ended with status 3: "),  # at EVAL
        ("if number == 50: print('Error: specify hypothesis', flush=True)", "METEOR answered 'Error: specify hyp"),
        ("if number == 50: time.sleep(60)", "METEOR was ended because it took too long: "),
        ("if number == 0: sys.exit('Exception: java.lang.OutOfMemoryError: Java heap')", "OutOfMemoryError: Java heap"),
    ],
)
def test_where_java_ends_midway_meteor_is_missing_and_all_else_is_there(
    trick: str, reason: str, fake_java: FakeJava, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capbench.scores.meteor, "PATIENCE", -99)  # one second, with the 100 captions
    fake_java(trick)
    scores = fake_scores()
    assert reason in scores.missing["meteor"]
    assert scores.corpus == score_captions(WORD_COUNTS, {image: ["a dog"] for image in WORD_COUNTS}).corpus
    fake_java("")
    assert is_word_count(fake_scores())  # by another process


@pytest.mark.filterwarnings("ignore:.*PTB", "ignore:.*could not be started")
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (
            "#!/bin/sh\necho Error: UnsupportedClassVersionError: Meteor >&2; exit 1",
            "1 (Error: UnsupportedClassVersion",
        ),
        ("#!/bin/sh\nread line; echo one; echo two", "PTB tokeniser answered 4 captions with 3 lines"),
        ("#!/bin/sh\nsleep 60", "PTB tokeniser was ended after 1 seconds"),
        ("#!/nowhere/java", "METEOR could not be started"),
    ],
)
def test_a_java_that_does_not_work_is_none(
    program: str, reason: str, own_meteor: Meteor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capbench.scores.ptb, "PATIENCE", 1)
    (tmp_path / "java").write_text(program)
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    scores = scored(ORDINARY)
    assert reason in scores.missing["meteor"]
    assert scores.corpus == scored(ORDINARY, java=False).corpus


@pytest.mark.filterwarnings("ignore:PTB gave up")
def test_captions_never_meet_references_of_the_other_tokenisation(
    fake_java: FakeJava, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PTB changes the captions, and then gives up before the references."""
    fake_java("")
    answers = iter([["changed"] * len(ORDINARY)])

    def ptb(captions: list[str]) -> list[str]:
        answer = next(answers, None)
        if answer is None:
            raise JavaFailed("PTB gave up.")
        return answer

    monkeypatch.setattr(capbench.scores.captions, "ptb_tokenise", ptb)
    scores = scored(ORDINARY)
    assert scores.missing == {"meteor": "PTB gave up."}
    assert scores.corpus == scored(ORDINARY, java=False).corpus


def test_a_java_that_died_idle_is_started_again(fake_java: FakeJava) -> None:
    meteor = fake_java("")
    fake_scores()
    assert meteor._java is not None
    meteor._java.process.kill()
    assert is_word_count(fake_scores())


def test_an_interrupt_leaves_no_answer_for_the_next_call(fake_java: FakeJava, monkeypatch: pytest.MonkeyPatch) -> None:
    meteor = fake_java("")
    meteor.start()
    answer, answers = capbench.scores.meteor._Java.answer, iter(range(50))

    def interrupted(self: Any, length: int) -> list[str]:
        if next(answers, None) is None:
            raise KeyboardInterrupt
        return answer(self, length)

    with monkeypatch.context() as patch:
        patch.setattr(capbench.scores.meteor._Java, "answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fake_scores()
    assert is_word_count(fake_scores())


def test_threads_take_turns(fake_java: FakeJava) -> None:
    fake_java("time.sleep(0.0005)")
    sets = [{image: f"{caption} {'cat ' * i}" for image, caption in WORD_COUNTS.items()} for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for captions, scores in zip(sets, pool.map(fake_scores, sets), strict=True):
            assert is_word_count(scores, captions)


# How Java ends


SCORE_AND = """
import os, sys, time
from capbench.scores import score_captions
from capbench.scores.meteor import METEOR

def score():
    scores = score_captions({"x": "a dog runs"}, {"x": ["a dog runs"]}, java=True)
    print(METEOR._java.process.pid, scores.corpus["meteor"], flush=True)

score()
"""
on_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")


def runs(process_id: int) -> bool:
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def python(then: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", SCORE_AND + then], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@on_proc
@pytest.mark.parametrize("then", ["", "raise RuntimeError", "sys.exit(3)", "os._exit(3)"])
def test_java_ends_with_python(then: str, fake_java: FakeJava) -> None:
    fake_java("")
    with python(then) as process:
        output, _ = process.communicate()
    assert wait_until(lambda: not runs(int(output.split()[0])))


@on_proc
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_java_ends_where_python_is_stopped(stop: signal.Signals, fake_java: FakeJava) -> None:
    fake_java("")
    with python("time.sleep(60)") as process:
        assert process.stdout is not None
        java_id = int(process.stdout.readline().split()[0])
        assert runs(java_id)
        process.send_signal(stop)
    assert wait_until(lambda: not runs(java_id))


@on_proc
def test_the_real_java_ends_where_python_is_killed(java: str) -> None:
    """While METEOR still loads, which it first ends."""
    script = "METEOR.close(); METEOR.start(); print(METEOR._java.process.pid, flush=True); time.sleep(60)"
    start = SCORE_AND.replace("\nscore()", f"\n{script}")
    with subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        java_id = int(process.stdout.readline())
        time.sleep(0.5)
        assert runs(java_id)
        process.kill()
    assert wait_until(lambda: not runs(java_id), seconds=120)


@on_proc
def test_a_forked_process_has_a_java_of_its_own(fake_java: FakeJava) -> None:
    fake_java("")
    then = "child = os.fork()\nscore()\nif not child: sys.exit()\nos.waitpid(child, 0)\nscore()"
    with python(then) as process:
        output, errors = process.communicate()
    assert errors == ""
    lines = [line.split() for line in output.splitlines()]
    assert [score for _, score in lines] == ["3.0"] * 4
    ids = [java_id for java_id, _ in lines]
    assert sorted(map(ids.count, set(ids))) == [1, 3]
    assert ids[0] == ids[-1]  # the parent's outlived the child
    assert wait_until(lambda: not any(runs(int(java_id)) for java_id in ids))


@on_proc
def test_a_forked_process_does_not_keep_java_alive(fake_java: FakeJava) -> None:
    fake_java("")
    with python("child = os.fork()\nif child: print(child, flush=True)\ntime.sleep(60)") as process:
        assert process.stdout is not None
        java_id, child_id = (int(process.stdout.readline().split()[0]) for _ in range(2))
        process.kill()
    try:
        assert wait_until(lambda: not runs(java_id))
        assert runs(child_id)
    finally:
        os.kill(child_id, signal.SIGKILL)


def test_closing_twice_or_never_started_is_nothing(fake_java: FakeJava) -> None:
    meteor = fake_java("")
    meteor.close()
    fake_scores()
    meteor.close()
    meteor.close()
    assert threading.active_count() < 20
