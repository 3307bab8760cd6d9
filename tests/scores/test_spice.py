"""SPICE: silent without its files; its program, but for the parser; how it may fail."""

import json
import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import dedent
from zipfile import ZipFile

import pytest

import capbench.scores.captions
import capbench.scores.spice
from capbench.scores import CaptionScores, columns, score_captions
from capbench.scores.java import JavaFailed, java_command, java_environment
from capbench.scores.meteor import Meteor

FakeJava = Callable[[str], Meteor]
JAR = capbench.scores.spice._jar()
CORENLP = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
CAPTIONS = {"v": "", "w": "a dog", "x": "a dog", "y": "a man rides", "z": "birds"}
REFERENCES = {"v": ["a cat"], "w": ["dog a"], "x": ["A dog runs .", "the dog"], "y": ["a man", "a bike"], "z": ["sky"]}
F = {"v": 0.0, "w": 1.0, "x": 2 / 3, "y": 2 / 3, "z": 0.0}  # of the fake, whose tuples are words

# In place of CoreNLP and of the one class that parses with it: each word is an object.
SOURCES = {
    "edu/anu/spice/SpiceParser": """
        package edu.anu.spice;

        import edu.cmu.meteor.aligner.SynonymDictionary;
        import edu.cmu.meteor.util.Constants;
        import java.io.IOException;
        import java.net.URL;
        import java.util.*;

        public class SpiceParser {
            private final SynonymDictionary synonyms;

            public SpiceParser(String cache, int threads, Boolean merge) throws IOException {
                System.out.println("a library's own word");
                String folder = Constants.DEFAULT_SYN_DIR_URL.toString();
                synonyms = new SynonymDictionary(
                    new URL(folder + "/english.exceptions"),
                    new URL(folder + "/english.synsets"),
                    new URL(folder + "/english.relations"));
            }

            public List<SceneGraph> parseCaptions(List<String> input, List<Integer> counts) {
                List<SceneGraph> graphs = new ArrayList<>();
                Iterator<String> captions = input.iterator();
                for (int count : counts) {
                    SceneGraph graph = new SceneGraph(synonyms, true);
                    for (int i = 0; i < count; i++) {
                        for (String word : captions.next().split(" ")) {
                            graph.addObject(word);
                        }
                    }
                    graphs.add(graph);
                }
                return graphs;
            }

            public List<SceneGraph> parseCaptions(List<String> input) {
                return parseCaptions(input, Collections.nCopies(input.size(), 1));
            }
        }
    """,
    "edu/stanford/nlp/util/MapFactory": """
        package edu.stanford.nlp.util;

        public class MapFactory<K, V> {
            public static <K, V> MapFactory<K, V> hashMapFactory() {
                return null;
            }
        }
    """,
    "edu/stanford/nlp/graph/DirectedMultiGraph": """
        package edu.stanford.nlp.graph;

        import edu.stanford.nlp.util.MapFactory;
        import java.util.*;

        public class DirectedMultiGraph<V, E> {
            private final Set<V> vertices = new LinkedHashSet<>();

            public DirectedMultiGraph(MapFactory<V, Map<V, List<E>>> outer, MapFactory<V, List<E>> inner) {}

            public boolean addVertex(V vertex) {
                return vertices.add(vertex);
            }

            public Set<V> getAllVertices() {
                return vertices;
            }

            public List<E> getAllEdges() {
                return List.of();
            }
        }
    """,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SPICE's folder with all files, which are empty, in a path with a space and other letters than ASCII's."""
    folder = tmp_path / "a b+c%20d é"
    (folder / "lib").mkdir(parents=True)
    for name in CORENLP:
        (folder / "lib" / name).touch()
    monkeypatch.setattr(capbench.scores.spice, "_jar", lambda: folder / "spice-1.0.jar")
    return folder


def fake_scores() -> CaptionScores:
    return score_captions(CAPTIONS, REFERENCES, java=True)


# Without its files


def without_starting(*_: object) -> None:
    pytest.fail("SPICE was started")


def test_the_library_alone_is_not_spice(fake_java: FakeJava, monkeypatch: pytest.MonkeyPatch) -> None:
    assert JAR.is_file()
    if any((JAR.parent / "lib" / name).exists() for name in CORENLP):
        pytest.skip("that SPICE is silent without its files is NOT checked: they are here")
    monkeypatch.setattr(capbench.scores.spice, "_jar", lambda: JAR)
    monkeypatch.setattr(capbench.scores.spice, "scores", without_starting)
    fake_java("")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = fake_scores()
    assert list(scores.corpus) == list(columns())
    assert scores.missing == {}


@pytest.mark.parametrize("name", CORENLP)
def test_one_of_its_files_is_not_enough(
    name: str, folder: Path, fake_java: FakeJava, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert capbench.scores.spice.is_there()
    (folder / "lib" / name).unlink()
    monkeypatch.setattr(capbench.scores.spice, "scores", without_starting)
    fake_java("")
    assert "spice" not in fake_scores().corpus


def test_it_is_not_asked_for_where_java_is_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capbench.scores.spice, "scores", without_starting)
    scores = score_captions(CAPTIONS, REFERENCES)
    assert (list(scores.corpus), scores.missing) == ([name for name in columns() if name != "meteor"], {})


# With them


def test_with_its_files_it_is_the_last_score(
    folder: Path, fake_java: FakeJava, capfd: pytest.CaptureFixture[str]
) -> None:
    fake_java("if spice: print('[0.008s][warning][os] a log of its own', flush=True)")
    scores = fake_scores()
    assert scores.missing == {}
    assert list(scores.corpus) == [*columns(), "spice"]
    assert {image: row["spice"] for image, row in scores.per_image.items()} == pytest.approx(F)
    assert scores.corpus["spice"] == pytest.approx(sum(F.values()) / 5)
    assert capfd.readouterr() == ("", "capbench: SPICE parses 10 sentences, which takes minutes for thousands.\n")


def test_its_words_are_meteors(folder: Path, fake_java: FakeJava, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capbench.scores.captions, "ptb_tokenise", lambda captions: ["changed" for _ in captions])
    fake_java("")
    assert fake_scores().corpus["spice"] == 1


def test_captions_without_words_are_not_parsed(folder: Path, fake_java: FakeJava) -> None:
    fake_java("if spice: os._exit(3)")
    scores = score_captions(dict.fromkeys(CAPTIONS, " . "), REFERENCES, java=True)
    assert scores.corpus["spice"] == 0
    assert scores.missing == {}


def test_it_is_told_of_the_first_hundred_words(folder: Path, fake_java: FakeJava) -> None:
    fake_java("if spice: print(line.count('dog') / 1000); continue")
    assert score_captions({"x": "dog " * 200}, {"x": ["dog", "dog " * 500]}, java=True).corpus["spice"] == 0.201


# How it may fail


@pytest.mark.filterwarnings("ignore:SPICE")
@pytest.mark.parametrize(
    ("trick", "reason"),
    [
        ("if spice: sys.exit('Module Exception: jdk.compiler')", "status 1 (Module Exception: jdk.compiler): it needs"),
        ("if spice and number == 2: os.kill(os.getpid(), 9)", "SPICE ended with status -9: it needs a JDK"),
        ("if spice and number == 2: sys.exit()", "SPICE answered 4 images with '1.0 0.66"),
        ("if spice and number == 2: print('NaN'); continue", "SPICE answered 4 images with '1.0 0.66"),
        ("if spice: print('what?')", "SPICE answered 4 images with 'what? 1.0"),
        ("if spice: time.sleep(60)", "SPICE was ended after 1 seconds without an answer"),
    ],
)
def test_where_it_fails_it_is_missing_and_all_else_is_there(
    trick: str, reason: str, folder: Path, fake_java: FakeJava, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capbench.scores.spice, "PATIENCE", -9)  # one second, with the ten sentences
    fake_java(trick)
    scores = fake_scores()
    assert scores.missing.keys() == {"spice"}
    assert reason in scores.missing["spice"]
    assert list(scores.corpus) == list(columns())


@pytest.mark.filterwarnings("ignore:METEOR")
def test_where_meteor_fails_spice_is_there(folder: Path, fake_java: FakeJava) -> None:
    fake_java("if not spice: os._exit(3)")
    scores = fake_scores()
    assert scores.missing.keys() == {"meteor"}
    assert scores.corpus["spice"] == pytest.approx(sum(F.values()) / 5)


def test_without_java_both_are_missing(
    folder: Path, own_meteor: Meteor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.warns(UserWarning, match="there is none on PATH") as caught:
        scores = fake_scores()
    assert scores.missing == dict.fromkeys(("meteor", "spice"), str(caught[0].message))


def test_the_real_jar_without_its_parser_says_so(java: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if any((JAR.parent / "lib" / name).exists() for name in CORENLP):
        pytest.skip("SPICE without its files is NOT checked: they are here")
    monkeypatch.setattr(capbench.scores.spice, "_jar", lambda: JAR)
    with pytest.raises(JavaFailed, match=r"SPICE ended with status 1 \(.*Error.*\): it needs a JDK .* 8 GB"):
        capbench.scores.spice.scores(["a dog"], [["a dog"]])


# The real program, but for the parser


@pytest.fixture
def wordy_spice(folder: Path, java: str, tmp_path: Path) -> Path:
    """The real jar and its libraries, but for parser and CoreNLP."""
    javac = shutil.which("javac")
    if javac is None:
        pytest.skip("SPICE's program is NOT checked: there is no javac on PATH")
    for library in (JAR.parent / "lib").glob("*.jar"):
        shutil.copy(library, folder / "lib")  # Java would follow a link
    files = [tmp_path / f"{name}.java" for name in SOURCES]
    for file, source in zip(files, SOURCES.values(), strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(source))
    libraries = f"{JAR}{os.pathsep}{JAR.parent / 'lib/Meteor-1.5.jar'}"
    subprocess.run([javac, "-nowarn", "-cp", libraries, "-d", str(tmp_path), *map(str, files)], check=True)
    jar = folder / JAR.name
    with ZipFile(JAR) as whole, ZipFile(jar, "w") as part:
        for name in whole.namelist():
            if "SpiceParser" not in name and not name.startswith("coco"):
                part.writestr(name, whole.read(name))
        part.write(tmp_path / "edu/anu/spice/SpiceParser.class", "edu/anu/spice/SpiceParser.class")
    for name in CORENLP:
        with ZipFile(folder / "lib" / name, "w") as part:
            for file in (tmp_path / "edu/stanford").rglob("*.class"):
                part.write(file, str(file.relative_to(tmp_path)))
    return jar


def own_mean(jar: Path, captions: Sequence[str], references: Sequence[Sequence[str]], file: Path) -> str:
    """The mean that SPICE's own main program prints, to three digits."""
    images = [
        {"image_id": i, "test": caption, "refs": texts}
        for i, (caption, texts) in enumerate(zip(captions, references, strict=True))
    ]
    file.write_text(json.dumps(images))
    command = java_command("-jar", str(jar), str(file))
    told = subprocess.run(command, env=java_environment(), capture_output=True, text=True, check=True).stdout
    found = re.search(r"f-score:\t(\S+) \(SPICE metric\)", told)
    assert found is not None
    return found[1]


def test_the_programs_own_scores_by_hand(
    wordy_spice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever the locale and Java's options. A bike is a bicycle; a word that is said twice is one object."""
    for name in ("LANG", "LC_ALL", "LC_NUMERIC"):
        monkeypatch.setenv(name, "de_DE.UTF-8")
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=de -Duser.country=DE -Xlog:gc")
    captions = ["dog runs", "red bike", "dog dog dog", "café", "birds"]
    references = [["dog runs", "dog fast"], ["bicycle", "small"], ["dog"], ["café"], ["sky", "blue"]]
    expected = [2 * 2 / (2 + 3), 2 * 1 / (2 + 2), 1, 1, 0]
    corpus, per_image = capbench.scores.spice.scores(captions, references)
    assert per_image == pytest.approx(expected, rel=0, abs=1e-15)
    assert corpus == pytest.approx(sum(expected) / 5, rel=0, abs=1e-15)
    assert f"{corpus:.3f}" == own_mean(wordy_spice, captions, references, tmp_path / "input.json")
