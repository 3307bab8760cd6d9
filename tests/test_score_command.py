"""`python -m capbench score`, as a user runs it."""

import json
from pathlib import Path
from typing import Any

import pytest

from capbench.scores import score_captions
from tests.support import REAL_DATA, make_flickr8k, rows, run

CAPTIONS = {"1.jpg": "a dog runs", "2.jpg": "two cats", "3.jpg": ""}
REFERENCES = {"1.jpg": ["A dog is running .", "the dog"], "2.jpg": ["Two cats sleep", "cats"], "3.jpg": ["A house"]}
PUBLISHED = REAL_DATA / "published"
needs_published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="PUBLISHED CAPTIONS NOT SCORED: shared/data is absent"
)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, content: Any) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in content) if name.endswith(".jsonl") else json.dumps(content)
    Path(name).write_text(text)
    return Path(name)


def score(captions: Path, *options: object) -> dict[str, Any]:
    assert run("score", f"--captions={captions}", "--no-java", *options) == 0
    content: dict[str, Any] = json.loads(Path(f"{captions.stem}-scores.json").read_text())
    return content


CAPTION_FORMATS = {
    "object.json": CAPTIONS,
    "lists.json": {image: [caption] for image, caption in CAPTIONS.items()},
    "published.json": {"scores": {"CIDEr": 1}, "captions": CAPTIONS},
    "coco.json": [{"image_id": image, "caption": caption} for image, caption in CAPTIONS.items()],
    "stems.json": {image.removesuffix(".jpg"): caption for image, caption in CAPTIONS.items()},
    "predictions.jsonl": [{"image_id": image, "caption": caption} for image, caption in CAPTIONS.items()],
    "lines.json": [{"image_id": image, "caption": caption} for image, caption in CAPTIONS.items()],
}
REFERENCE_FORMATS = {
    "references.json": REFERENCES,
    "under-a-key.json": {"references": REFERENCES},
    "annotations.json": {
        "images": [{"id": number, "file_name": image} for number, image in enumerate(REFERENCES)],
        "annotations": [
            {"id": 0, "image_id": number, "caption": text}
            for number, texts in enumerate(REFERENCES.values())
            for text in texts
        ],
    },
    "long.jsonl": [{"image": image, "caption": text} for image, texts in REFERENCES.items() for text in texts],
    "captions.jsonl": [{"image_id": image, "caption": "?", "references": texts} for image, texts in REFERENCES.items()],
    "karpathy.json": {
        "images": [
            {"filename": image, "split": "test", "sentences": [{"raw": text} for text in texts]}
            for image, texts in REFERENCES.items()
        ]
    },
}


@pytest.mark.parametrize("name", CAPTION_FORMATS)
def test_captions_in_every_format(name: str) -> None:
    found = score(write(name, CAPTION_FORMATS[name]), f"--references={write('r.json', REFERENCES)}")
    assert found["scores"] == score_captions(CAPTIONS, REFERENCES).corpus
    assert found["images"] == 3


@pytest.mark.parametrize("name", REFERENCE_FORMATS)
def test_references_in_every_format(name: str) -> None:
    found = score(write("c.json", CAPTIONS), f"--references={write(name, REFERENCE_FORMATS[name])}")
    assert found["scores"] == score_captions(CAPTIONS, REFERENCES).corpus


def test_references_in_a_table_and_captions_by_cocos_numbers() -> None:
    Path("r.csv").write_text(
        "image,caption\n" + "".join(f'{image},"{text}"\n' for image, texts in REFERENCES.items() for text in texts)
    )
    assert score(write("c.json", CAPTIONS), "--references=r.csv")["images"] == 3
    numbers = [{"image_id": number, "caption": caption} for number, caption in enumerate(CAPTIONS.values())]
    coco = write("annotations.json", REFERENCE_FORMATS["annotations.json"])
    found = score(write("numbers.json", numbers), f"--references={coco}")
    assert found["scores"] == score_captions(CAPTIONS, REFERENCES).corpus


def test_references_of_a_data_folder_and_of_the_captions_own_file(tmp_path: Path) -> None:
    root = make_flickr8k(tmp_path / "flickr8k")
    lines = [line.split("\t") for line in (root / "Flickr8k_text" / "Flickr8k.token.txt").read_text().splitlines()]
    tests = (root / "Flickr8k_text" / "Flickr_8k.testImages.txt").read_text().split()
    references = {name: [text for key, text in lines if key.partition("#")[0] == name] for name in tests}
    captions = dict.fromkeys(tests, "there is a red box")
    expected = score_captions(captions, references).corpus
    file = write("c.json", captions)
    assert score(file, f"--data.root={root}")["scores"] == expected
    assert score(file, f"--references={root / 'Flickr8k_text' / 'Flickr8k.token.txt'}")["scores"] == expected
    own = [{"image_id": name, "caption": captions[name], "references": references[name]} for name in tests]
    assert score(write("own.jsonl", own))["scores"] == expected
    written = {row["image_id"]: row for row in rows(Path("own-scores.jsonl"))}
    per_image = score_captions(captions, references).per_image
    assert {name: row["scores"] for name, row in written.items()} == per_image
    assert score(Path("own-scores.jsonl"))["scores"] == expected


def test_a_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    score(write("c.json", CAPTIONS), f"--references={write('r.json', REFERENCES)}")
    told = capsys.readouterr().out
    names, values, low, high = told.splitlines()[2:6]
    bleu1 = score_captions(CAPTIONS, REFERENCES).corpus["bleu1"]
    assert names.split() == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr-D"]
    assert values.split()[:2] == ["c", f"{bleu1:.4f}"]
    assert values.split()[5] == "-"
    assert low.split()[:2] == ["c,", "from"]
    assert high.split()[:2] == ["c,", "to"]
    assert float(low.split()[2]) <= bleu1 <= float(high.split()[2])
    assert "3 of 3 images" in told


def test_several_systems_and_people(capsys: pytest.CaptureFixture[str]) -> None:
    references = {f"{n}.jpg": [f"a dog runs {n}", f"the dog {n} is running", f"dog number {n}"] for n in range(30)}
    good = write("good.json", {image: texts[0] for image, texts in references.items()})
    bad = write("bad.json", dict.fromkeys(references, "two cats sleep"))
    file = write("r.json", references)
    assert run("score", "--captions", good, bad, f"--references={file}", "--no-java") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    differences = next(line for line in lines if line[:3] == ["bad", "-", "good"])
    assert float(differences[3]) == pytest.approx(-1, abs=1e-3)
    p_values = lines[lines.index(differences) + 1]
    assert p_values[:4] == ["bad", "-", "good,", "p"]
    assert float(p_values[4]) == pytest.approx(1 / 1001, abs=1e-4)
    assert Path("good-scores.jsonl").is_file()
    assert json.loads(Path("bad-scores.json").read_text())["intervals"]["bleu1"][1] < 0.01

    assert run("score", "--captions", good, f"--references={file}", "--no-java", "--human") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    people = next(line for line in lines if line[:1] == ["people"])
    left_out = [
        score_captions(
            {image: texts[k] for image, texts in references.items()},
            {image: texts[:k] + texts[k + 1 :] for image, texts in references.items()},
        ).corpus["bleu1"]
        for k in range(3)
    ]
    assert float(people[1]) == pytest.approx(sum(left_out) / 3, abs=1e-4)
    words = [line for line in lines if line[:1] == ["people"]][-1][
        1
    ]  # a dog runs the is running number, and 30 numbers
    assert float(words) == pytest.approx((33 + 34 + 32) / 3)


def test_p_values_are_corrected_for_the_systems_of_each_score(capsys: pytest.CaptureFixture[str]) -> None:
    references = {f"{n}.jpg": [f"a dog runs {n}", f"dog number {n}"] for n in range(30)}
    files = [write("good.json", {image: texts[0] for image, texts in references.items()})]
    files += [write(f"bad{n}.json", dict.fromkeys(references, "two cats sleep")) for n in range(3)]
    assert run("score", "--captions", *files, f"--references={write('r.json', references)}", "--no-java") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    p_values = [float(line[4]) for line in lines if line[:1] != ["-"] and "p" in line[:4]]
    assert p_values == pytest.approx(3 * [3 / 1001], abs=1e-4)


def test_how_varied_the_captions_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Copied from the training captions only where these are known."""
    table = [f"t{n}.jpg,A dog runs .,train" for n in range(3)] + ["1.jpg,a cat,test", "2.jpg,a dog,test"]
    Path("r.csv").write_text("\n".join(["image,caption,split", *table]))
    file = write("c.json", {"1.jpg": "a dog runs", "2.jpg": "two cats sleep here"})
    figures = score(file, "--references=r.csv")["figures"]
    assert figures["copied"] == 0.5
    assert (figures["distinct_words"], figures["mean_length"], figures["unique"]) == (7, 3.5, 1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].split()[:3] == ["c", "7", f"{figures['unigram_entropy']:.4f}"]
    references = write("r.json", {"1.jpg": ["a cat"], "2.jpg": ["a dog"]})
    assert "copied" not in score(file, f"--references={references}")["figures"]


FAULTS = {
    "missing": ({"1.jpg": "a dog", "2.jpg": "a cat"}, r"1 images have references but no caption (3.jpg)"),
    "extra": (CAPTIONS | {"9.jpg": "x", "8.jpg": "y"}, "2 images have a caption but no references (9.jpg, 8.jpg)"),
    "twice": (
        [{"image_id": image, "caption": caption} for image, caption in [*CAPTIONS.items(), ("2.jpg", "again")]],
        "1 images have more than one caption (2.jpg)",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_ids_that_do_not_fit_are_counted_and_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    captions, sentence = FAULTS[name]
    file, references = write("c.json", captions), write("r.json", REFERENCES)
    assert run("score", f"--captions={file}", f"--references={references}", "--no-java") == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert sentence in told
    assert "--allow-missing" in told
    found = score(file, f"--references={references}", "--allow-missing")
    left = {image: caption for image, caption in CAPTIONS.items() if name != "missing" or image != "3.jpg"}
    left |= {"1.jpg": "a dog", "2.jpg": "a cat"} if name == "missing" else {}
    assert found["scores"] == score_captions(left, {image: REFERENCES[image] for image in left}).corpus


def test_a_key_that_comes_twice_in_an_object_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.json").write_text('{"1.jpg": "a dog", "2.jpg": "a cat", "3.jpg": "", "1.jpg": "a dog again"}')
    assert run("score", "--captions=c.json", f"--references={write('r.json', REFERENCES)}") == 2
    assert "1 images have more than one caption (1.jpg)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "neither JSON nor"),
        ("not json", "neither JSON nor"),
        ("3", "expected rows"),
        ('{"1.jpg": 3}', "image 1.jpg: expected one caption, found '3'"),
        ('{"1.jpg": ["a", "b"]}', "image 1.jpg: expected one caption"),
        ('[{"caption": "a dog"}]', "row 1: there is no image_id"),
        ('[{"image_id": 1}]', "row 1: expected one caption"),
        ('["a dog"]', "row 1: expected an object"),
        ('{"7.jpg": "a dog"}', "--allow-missing"),
    ],
)
def test_files_that_are_none(content: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.json").write_text(content)
    assert run("score", "--captions=c.json", f"--references={write('r.json', REFERENCES)}") == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert sentence in told


def test_files_that_are_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    file = write("c.json", CAPTIONS)
    for options in ([f"--captions={file}"], [f"--captions={file}", "--references=gone.json"], ["--captions=gone.json"]):
        assert run("score", *options) == 2
        assert capsys.readouterr().err.count("\n") == 1
    other = write("other.json", {"7.jpg": "a dog"})
    assert run("score", f"--captions={other}", f"--references={write('r.json', REFERENCES)}", "--allow-missing") == 2
    assert "of other images (7.jpg) than the references (1.jpg, 2.jpg, 3.jpg)" in capsys.readouterr().err


@needs_published
@pytest.mark.parametrize("name", ["merge_1", "init_1", "human_1"])
def test_published_captions_on_the_command_line(name: str) -> None:
    published = json.loads((PUBLISHED / f"{name}.json").read_text())["scores"]
    found = score(PUBLISHED / f"{name}.json", f"--data.root={REAL_DATA / 'flickr8k'}")["scores"]
    theirs = {"bleu1": "Bleu_1", "bleu2": "Bleu_2", "bleu3": "Bleu_3", "bleu4": "Bleu_4", "rouge_l": "ROUGE_L"}
    for ours, its in (theirs | {"cider_d": "CIDEr"}).items():
        assert found[ours] == pytest.approx(published[its], rel=0, abs=1e-5)
