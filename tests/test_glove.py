"""Word vectors from GloVe's text files."""

import math
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from capbench.errors import UserError
from capbench.glove import initialise, read_glove
from capbench.text import Vocabulary
from tests.support import QUIET, REAL_DATA, TINY, make_picture, result, rows, run

Capture = pytest.CaptureFixture[str]
Write = Callable[[str | bytes], Path]

REAL = REAL_DATA / "glove" / "glove.6B.50d.flickr8k.txt"
VOCABULARY = Vocabulary(["dog", "runs", "n't", "käfer", "unheard"])
VECTORS = {"dog": [0.25, -1.5, 3.0], "runs": [1e-3, 2.0, -0.125], "n't": [0.5, 0.5, 0.75], "käfer": [7.0, -7.0, 0.1]}
FILE = "".join(f"{word} {' '.join(map(str, vector))}\n" for word, vector in {"the": [9, 9, 9], **VECTORS}.items())


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_glove(content: str | bytes) -> Path:
        file = tmp_path / "glove.txt"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return write_glove


def as_lists(vectors: dict[str, np.ndarray]) -> dict[str, list[float]]:
    assert all(vector.dtype == np.float32 for vector in vectors.values())
    return {word: vector.tolist() for word, vector in vectors.items()}


def rounded(vectors: dict[str, list[float]]) -> dict[str, list[float]]:
    """To 32 bits."""
    return {word: torch.tensor(vector, dtype=torch.float32).tolist() for word, vector in vectors.items()}


# Files


@pytest.mark.parametrize(
    "content",
    [
        FILE,
        FILE.rstrip("\n"),
        FILE.replace("\n", "\r\n"),
        FILE.replace("\n", " \n"),  # fastText ends its lines like this
        f"5 3\n{FILE}",
        f"400000 3 \r\n{FILE}",
        f"{FILE}\n\n",
        "\n" + FILE,
        FILE + "dog 8 8 8\nrüns 1 2 3\n",
        FILE + "at name@domain.com 1 2 3\n. . . 4 5 6\ndog runs 7 8 9\n",  # words with spaces, as 840B has them
        FILE + "Dog 8 8 8\nun 8 8 8\nunheard-of 8 8 8\n",
        FILE.encode() + b"\xff\xfe\x80 8 8 8\n",
        FILE + "the other one here\n",
    ],
    ids=[
        "plain", "no line end at the end", "windows", "spaces at the end", "header", "header on windows", "blank lines",
        "a blank first line", "a word twice", "words with spaces", "words that are nearly ours", "rubbish among words",
        "no numbers in a line that is not ours",
    ],
)  # fmt: skip
def test_the_vocabularys_vectors_are_read(content: str | bytes, write: Write) -> None:
    vectors = read_glove(write(content), VOCABULARY.words, 3)
    assert as_lists(vectors) == rounded(VECTORS)


WRONG: dict[str, tuple[str | bytes, str]] = {
    "a short line": (FILE.replace("runs 0.001 2.0", "runs 0.001"), "{}, line 3: 2 numbers where 3 are expected"),
    "a short line below a header": (
        "5 3\n" + FILE.replace("runs 0.001 2.0", "runs 0.001"),
        "{}, line 4: 2 numbers where 3 are expected",
    ),
    "cut short": (FILE + "sna", "{}, line 6: 1 numbers where 3 are expected"),
    "no number": (
        FILE.replace("2.0", "two"),
        "{}, line 3: expected a word and its numbers, .*found b'0.001 two -0.125'",
    ),
    "nan": (FILE.replace("2.0", "nan"), "{}, line 3: expected a word and its numbers"),
    "too large a number": (FILE.replace("2.0", "1e99"), "{}, line 3: expected a word and its numbers"),
    "two spaces": (
        FILE.replace("runs ", "runs  ").replace(" -0.125", ""),
        "{}, line 3: expected a word and its numbers",
    ),
    "tabs": (FILE.replace(" ", "\t"), "{}, line 1: expected a word and its numbers, as in GloVe's unzipped text files"),
    "commas": (FILE.replace(" ", ","), "{}, line 1: expected a word and its numbers"),
    "text": ("nothing of the kind\n", "{}, line 1: expected a word and its numbers, .*found b'of the kind'"),
    "a zip file": (
        b"PK\x03\x04\x14\x00\x00\x00\x08\x00 \x9c\x8f glove.6B.50d.txt\xff\xfe\n\x00 \x01",
        "{}, line 1: expected a word and its numbers",
    ),
    "all bytes": (bytes(range(256)) * 40, "{}, line [12]: expected a word and its numbers"),
    "word2vec's binary file": (b"3000000 3\n\x00 \x01 \xff\n", "{}, line 2: expected a word and its numbers"),
    "empty": ("", "no file {} .*, or nothing in it: download one from https://nlp.stanford.edu"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_none_is_one_sentence_with_its_line(name: str, write: Write) -> None:
    content, complaint = WRONG[name]
    file = write(content)
    with pytest.raises(UserError, match=complaint.format(re.escape(str(file)))) as error:
        read_glove(file, VOCABULARY.words, 3)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [1, 2, 4, 300])
@pytest.mark.parametrize("header", ["", "5 3\n"])
def test_another_size_is_named(size: int, header: str, write: Write) -> None:
    complaint = rf"vectors of 3 numbers, and the decoder's word vectors have {size}: set --model\.decoder\.embedding=3,"
    with pytest.raises(UserError, match=complaint):
        read_glove(write(header + FILE), VOCABULARY.words, size)


def test_a_file_must_be_there(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.txt", tmp_path):
        with pytest.raises(UserError, match=rf"There is no file {re.escape(str(path))} \(--model\.glove\).*null"):
            read_glove(path, VOCABULARY.words, 3)


def test_a_home_is_where_the_tilde_says(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(FILE)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert as_lists(read_glove(Path("~/glove.txt"), VOCABULARY.words, 3)) == rounded(VECTORS)


def test_a_file_larger_than_memory_could_be_read(tmp_path: Path) -> None:
    """What is held is the vocabulary's vectors and no more, however long the file."""
    file, values = tmp_path / "glove.txt", " ".join(f"{number / 7:.5f}" for number in range(300))
    with file.open("w") as stream:
        stream.writelines(f"word{number} {values}\n" for number in range(8000))
        stream.write(f"dog {values}\n")
    assert file.stat().st_size > 16e6
    tracemalloc.start()
    try:
        vectors = read_glove(file, ["dog", "word4000"], 300)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert set(vectors) == {"dog", "word4000"}
    assert held < 50e3
    assert peak < 300e3


# The embedding


def embedding(seed: int, words: Vocabulary, size: int, file: Path) -> tuple[nn.Embedding, float]:
    torch.manual_seed(seed)
    made = nn.Embedding(len(words), size)
    return made, initialise(made, words, file)


def test_words_of_the_file_have_its_vectors_and_others_random_ones(write: Write) -> None:
    file = write(FILE)
    made, coverage = embedding(0, VOCABULARY, 3, file)
    assert coverage == 4 / 5
    for word, vector in rounded(VECTORS).items():
        assert made.weight[VOCABULARY.encode(word)[1]].tolist() == vector
    again, _ = embedding(0, VOCABULARY, 3, file)
    other, _ = embedding(1, VOCABULARY, 3, file)
    assert again.weight.equal(made.weight)
    found = [VOCABULARY.encode(word)[1] for word in VECTORS]
    drawn = [number for number in range(len(VOCABULARY)) if number not in found]
    assert len(drawn) == 5  # the four specials, and the word that the file lacks
    assert other.weight[found].equal(made.weight[found])
    assert (other.weight[drawn] != made.weight[drawn]).all()
    assert made.weight.requires_grad


def test_the_other_words_have_the_same_mean_and_spread(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(0.7, 0.2, (200, 50))
    file = tmp_path / "glove.txt"
    lines = [f"w{n} {' '.join(f'{value:.6f}' for value in vector)}\n" for n, vector in enumerate(vectors)]
    file.write_text("".join(lines))
    words = Vocabulary([f"w{n}" for n in range(200)] + [f"x{n}" for n in range(400)])
    made, coverage = embedding(0, words, 50, file)
    assert coverage == pytest.approx(1 / 3)
    drawn = torch.cat([made.weight[:4], made.weight[204:]]).detach()
    assert drawn.mean().item() == pytest.approx(vectors.mean(), abs=0.01)
    assert drawn.std().item() == pytest.approx(vectors.std(), rel=0.02)
    assert drawn.unique().numel() > 0.99 * drawn.numel()


def test_no_word_in_common_is_refused(write: Write) -> None:
    with pytest.raises(UserError, match=r"glove\.txt has a vector for none of the 2 words: is it in this language\?"):
        embedding(0, Vocabulary(["hund", "rennt"]), 3, write(FILE))


@pytest.mark.skipif(not REAL.is_file(), reason="REAL GLOVE NOT TESTED: ../shared/data/glove is absent")
def test_the_real_file() -> None:
    lines = [line.split(" ") for line in REAL.read_text(encoding="utf-8").splitlines()]
    words = Vocabulary([*(word for word, *_ in lines), "zzzunheard"])
    made, coverage = embedding(0, words, 50, REAL)
    assert coverage == 1841 / 1842
    for word, *values in lines:
        assert made.weight[words.encode(word)[1]].tolist() == torch.tensor([float(value) for value in values]).tolist()
    distances = nn.functional.cosine_similarity(
        made.weight[words.encode("dog")[1]], made.weight[[words.encode(word)[1] for word in ("cat", "of")]]
    )
    assert distances[0] > 0.8 > distances[1]


# Runs


@pytest.fixture
def glove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file for some words of the drawn scenes, of the size that `TINY` has; the folder is the current one."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    words = ("a", "red", "blue", "the", "is", "zzzunheard")
    Path("glove.txt").write_text("".join(f"{word} {' '.join(map(str, rng.normal(size=8)))}\n" for word in words))
    return Path("glove.txt")


def trained(folder: Path) -> tuple[list[str], torch.Tensor]:
    """The vocabulary, and the vectors of its words (V, E), after training."""
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint["capbench"]["vocabulary"], checkpoint["state_dict"]["decoder.embedding.weight"][4:]


@pytest.mark.parametrize("tuned", ["true", "false"])
def test_a_run_begins_at_the_files_vectors(tuned: str, glove: Path) -> None:
    options = (f"--model.glove={glove}", f"--model.tune_embedding={tuned}", "--model.lr=0.05", "--name=run")
    assert run("fit", *TINY, *options) == 0
    folder = Path("runs/run")
    words, after = trained(folder)
    before = {word: torch.from_numpy(vector) for word, vector in read_glove(glove, words, 8).items()}
    assert before
    assert result(folder)["glove_coverage"] == len(before) / len(words)
    for word, vector in before.items():
        if tuned == "true":
            assert 0 < (after[words.index(word)] - vector).abs().max() < 1
        else:
            assert after[words.index(word)].equal(vector)


def test_vectors_that_do_not_learn_are_not_trained_parameters(glove: Path) -> None:
    facts = []
    for tuned in ("true", "false"):
        options = (f"--model.glove={glove}", f"--model.tune_embedding={tuned}", f"--name={tuned}")
        assert run("fit", *TINY, *options) == 0
        facts.append(result(Path("runs") / tuned))
    assert facts[0]["trained_parameters"] - facts[1]["trained_parameters"] == 8 * facts[0]["vocabulary"]
    assert facts[0]["decoder"]["parameters"] == facts[1]["decoder"]["parameters"]


def test_the_checkpoint_brings_the_vectors(glove: Path, capsys: Capture) -> None:
    options = (*TINY, f"--model.glove={glove}", "--model.tune_embedding=false", "--name=run")
    assert run("fit", *options) == 0
    folder = Path("runs/run")
    _, before = trained(folder)
    glove.unlink()
    assert run("test", *options, "--ckpt_path=last") == 0
    assert len(rows(folder / "captions.jsonl")) == 3
    assert run("validate", "--ckpt_path=runs/run/checkpoints/last.ckpt", *QUIET) == 0
    make_picture(0, (40, 50))[0].save("photo.jpg")
    capsys.readouterr()
    assert run("caption", "--checkpoint=runs/run/checkpoints/last.ckpt", "photo.jpg") == 0
    assert capsys.readouterr().out.startswith("photo.jpg: ")
    assert run("fit", *options, "--ckpt_path=last", "--trainer.max_epochs=2") == 0
    assert trained(folder)[1].equal(before)
    assert result(folder)["epochs"] == 2


def test_a_run_that_goes_on_keeps_its_coverage(glove: Path) -> None:
    options = (*TINY, f"--model.glove={glove}", "--name=run")
    assert run("fit", *options) == 0
    coverage = result(Path("runs/run"))["glove_coverage"]
    assert run("fit", *options, "--ckpt_path=last", "--trainer.max_epochs=2") == 0
    assert result(Path("runs/run"))["glove_coverage"] == coverage


def test_without_a_file_there_is_no_coverage(glove: Path) -> None:
    assert run("fit", *TINY, "--name=run") == 0
    assert result(Path("runs/run"))["glove_coverage"] is None


def test_the_seed_decides_on_the_words_that_the_file_lacks(glove: Path) -> None:
    found = []
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        options = (f"--model.glove={glove}", "--model.tune_embedding=false", f"--seed_everything={seed}")
        assert run("fit", *TINY, *options, f"--name={name}") == 0
        found.append(trained(Path("runs") / name)[1])
    assert found[0].equal(found[1])
    assert not found[0].equal(found[2])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["There is no file glove.txt (--model.glove)", "unzip it"]),
        (b"a 1 2 3\n", ["glove.txt has vectors of 3 numbers", "word vectors have 8", "--model.decoder.embedding=3"]),
        (b"a 1 2 3 4 5 6 7 8\nred 1 2 3\n", ["glove.txt, line 2: 3 numbers where 8 are expected"]),
        (b"zzz 1 2 3 4 5 6 7 8\n", ["glove.txt has a vector for none of the"]),
        (b"PK\x03\x04 \x00\x01", ["glove.txt, line 1: expected a word and its numbers"]),
    ],
)
def test_a_mistake_is_one_sentence(content: bytes | None, words: list[str], glove: Path, capsys: Capture) -> None:
    if content is None:
        glove.unlink()
    else:
        glove.write_bytes(content)
    assert run("fit", *TINY, f"--model.glove={glove}") == 2
    error = capsys.readouterr().err
    sentence = error.splitlines()[-1]
    assert sentence.startswith("capbench: ")
    assert "Traceback" not in error
    assert all(word in sentence for word in words)


def test_mean_and_spread_of_a_single_number_are_finite(write: Write) -> None:
    made, _ = embedding(0, Vocabulary(["dog", "cat"]), 1, write("dog 0.5\n"))
    assert made.weight[4].item() == 0.5
    assert all(math.isfinite(value) for value in made.weight.flatten().tolist())
