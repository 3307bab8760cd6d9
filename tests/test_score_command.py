"""`python -m capbench score`, as a user runs it."""

import errno
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from capbench.quiet import be_quiet
from capbench.scores import score_captions
from capbench.scores.meteor import Meteor
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
    low, high, p_values = lines[lines.index(differences) + 1 :][:3]
    assert [row[:4] for row in (low, high, p_values)] == [["bad", "-", "good,", end] for end in ("from", "to", "p")]
    assert float(low[4]) <= float(differences[3]) <= float(high[4])
    assert float(p_values[4]) == pytest.approx(1 / 1001, abs=1e-4)
    comparison = json.loads(Path("comparison.json").read_text())
    assert list(comparison["systems"]) == ["good", "bad"]
    assert comparison["systems"]["bad"].items() <= json.loads(Path("bad-scores.json").read_text()).items()
    assert {name: f"{value:.4f}" for name, value in comparison["differences"]["bad - good"]["bleu1"].items()} == {
        "value": differences[3],
        "low": low[4],
        "high": high[4],
        "p": p_values[4],
        "p_holm": p_values[4],
    }
    assert Path("good-scores.jsonl").is_file()
    assert json.loads(Path("bad-scores.json").read_text())["intervals"]["bleu1"][1] < 0.01

    assert run("score", "--captions", good, f"--references={file}", "--no-java", "--human") == 0
    told = capsys.readouterr().out
    assert "Comparison: comparison.json" in told
    lines = [line.split() for line in told.splitlines()]
    people = next(line for line in lines if line[:1] == ["people"])
    left_out = [
        score_captions(
            {image: texts[k] for image, texts in references.items()},
            {image: texts[:k] + texts[k + 1 :] for image, texts in references.items()},
        ).corpus["bleu1"]
        for k in range(3)
    ]
    assert float(people[1]) == pytest.approx(sum(left_out) / 3, abs=1e-4)
    words = [line for line in lines if line[:1] == ["people"]][-1][1]
    assert float(words) == pytest.approx((33 + 34 + 32) / 3)  # a dog runs the is running number, and 30 numbers
    comparison = json.loads(Path("comparison.json").read_text())
    assert comparison["systems"]["people"]["scores"]["bleu1"] == pytest.approx(sum(left_out) / 3)
    assert list(comparison["differences"]) == ["people - good"]
    assert json.loads(Path("good-human-scores.json").read_text())["references_left_out"]
    assert not json.loads(Path("good-scores.json").read_text())["references_left_out"]


def test_p_values_are_corrected_for_the_systems_of_each_score(capsys: pytest.CaptureFixture[str]) -> None:
    references = {f"{n}.jpg": [f"a dog runs {n}", f"dog number {n}"] for n in range(30)}
    files = [write("good.json", {image: texts[0] for image, texts in references.items()})]
    files += [write(f"bad{n}.json", dict.fromkeys(references, "two cats sleep")) for n in range(3)]
    assert run("score", "--captions", *files, f"--references={write('r.json', references)}", "--no-java") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    p_values = [float(line[4]) for line in lines if line[:1] != ["-"] and "p" in line[:4]]
    assert p_values == pytest.approx(3 * [3 / 1001], abs=1e-4)
    differences = json.loads(Path("comparison.json").read_text())["differences"].values()
    assert [each["bleu1"]["p"] for each in differences] == pytest.approx(3 * [1 / 1001])
    assert [each["bleu1"]["p_holm"] for each in differences] == pytest.approx(3 * [3 / 1001])


def test_systems_are_told_apart_by_as_much_of_their_paths_as_it_takes() -> None:
    references = write("r.json", REFERENCES)
    files = ["x.json", "x.jsonl", "b/x.json", "a/run/y.json", "b/run/y.json", "people.json", "b/people.jsonl"]
    for file in files:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        write(file, CAPTIONS if file.endswith(".json") else CAPTION_FORMATS["predictions.jsonl"])
    names = ["x.json", "x.jsonl", "x", "a-run-y", "b-run-y"]
    options = ("--no-java", f"--references={references}", "--output=out")
    assert run("score", "--captions", *files, *options) == 0
    assert list(json.loads(Path("out/comparison.json").read_text())["systems"]) == [
        *names,
        f"{Path.cwd().name}-people",
        "b-people",
    ]
    for name in names:
        assert Path(f"out/{name}-scores.json").is_file()
        assert Path(f"out/{name}-scores.jsonl").is_file()


def test_people_are_told_from_a_file_of_that_name() -> None:
    references = {f"{n}.jpg": [f"a dog {n}", f"dog number {n}"] for n in range(5)}
    file = write("people.json", dict.fromkeys(references, "two dogs"))
    options = ("--no-java", f"--references={write('r.json', references)}")
    assert run("score", f"--captions={file}", *options, "--human") == 0
    own = f"{Path.cwd().name}-people"
    comparison = json.loads(Path("comparison.json").read_text())
    assert list(comparison["systems"]) == [own, "people"]
    assert comparison["systems"][own]["captions"] == "people.json"
    assert Path(f"{own}-human-scores.json").is_file()
    assert run("score", f"--captions={file}", *options) == 0
    assert Path("people-scores.json").is_file()


def test_a_file_that_comes_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    file = write("c.json", CAPTIONS)
    assert run("score", "--captions", file, file.resolve(), f"--references={write('r.json', REFERENCES)}") == 2
    assert "c.json comes twice among --captions" in capsys.readouterr().err


@pytest.mark.parametrize("human", [(), ("--human",)])
def test_what_all_systems_lack_is_left_out_for_all(human: tuple[str], capsys: pytest.CaptureFixture[str]) -> None:
    references = {f"{n}.jpg": [f"a dog {n}", f"dog number {n}"] for n in range(6)} | {"6.jpg": ["", "a dog"], "7": [""]}
    files = [
        write(f"c{n}.json", {image: f"a dog {image}" for image in references if image != f"{n}.jpg"}) for n in (1, 3)
    ]
    options = ("--captions", *files, f"--references={write('r.json', references)}", "--no-java", *human)
    assert run("score", *options) == 2
    lacking = "2 images of r.json have fewer than 2 references with words (6.jpg, 7)"
    lacking = lacking if human else "1 images of r.json have no reference with a word in it (7)"
    assert f"{lacking}: add references, or score the rest with --allow-missing." in capsys.readouterr().err
    assert run("score", *options, "--allow-missing") == 0
    assert f"{4 if human else 5} of 8 images, " in capsys.readouterr().out
    comparison = json.loads(Path("comparison.json").read_text())
    assert comparison["images"] == (4 if human else 5)
    if not human:
        left = {image: f"a dog {image}" for image in references if image not in ("1.jpg", "3.jpg", "7")}
        expected = score_captions(left, {image: references[image] for image in left}).corpus
        assert [each["scores"] for each in comparison["systems"].values()] == [expected, expected]
    write("c3.json", {"1.jpg": "a dog"})
    assert run("score", *options, "--allow-missing") == 2
    assert (
        "No image of r.json (0.jpg, 1.jpg, 2.jpg, ...) has references and a caption in c1.json (0.jpg, 2.jpg, 3.jpg, "
        "...) and in c3.json (1.jpg)." in capsys.readouterr().err
    )


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
    "missing": ({"1.jpg": "a dog", "2.jpg": "a cat"}, "1 images of r.json have no caption in c.json (3.jpg)"),
    "extra": (
        CAPTIONS | {"9.jpg": "x", "8.jpg": "y"},
        "2 images of c.json have no references in r.json (9.jpg, 8.jpg)",
    ),
    "twice": (
        [{"image_id": image, "caption": caption} for image, caption in [*CAPTIONS.items(), ("2.jpg", "again")]],
        "1 images of c.json have more than one caption (2.jpg)",
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
    assert "1 images of c.json have more than one caption (1.jpg)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        '{"1.jpg": ["a dog"], "2.jpg": ["a cat"], "1.jpg": ["the dog"]}',
        '{"references": {"1.jpg": ["a dog"], "1.jpg": ["the dog"]}}',
        '[{"image_id": "1.jpg", "references": ["a dog"]}, {"image_id": "1.jpg", "references": ["a dog"]}]',
    ],
)
def test_references_that_come_twice_are_refused(content: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.json").write_text(content)
    assert run("score", f"--captions={write('c.json', CAPTIONS)}", "--references=r.json") == 2
    assert "r.json: 1 images come with a list of references more than once (1.jpg)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "c.json holds no captions"),
        ("[]", "c.json holds no captions"),
        ("{}", "c.json holds no captions"),
        (10**5 * "[", "neither JSON nor"),
        (f'{{"1.jpg": {400 * "["}{400 * "]"}}}', "image 1.jpg: expected one caption, found a list of 1"),
        ("not json", "neither JSON nor"),
        ("3", "c.json, rows: expected a list of objects with image_id and caption, or an object of captions by image"),
        ('{"1.jpg": 3}', "image 1.jpg: expected one caption, found 3"),
        ('{"1.jpg": ["a", "b"]}', "image 1.jpg: expected one caption, found a list of 2"),
        ('[{"image_id": 1.0, "caption": "a dog"}]', "row 1: expected a text or a whole number as image_id, found 1.0"),
        ('[{"image_id": true, "caption": "a dog"}]', "as image_id, found true"),
        ('{"image_id": null, "caption": "a dog"}', "row 1: expected a text or a whole number as image_id, found null"),
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
    assert (
        "No image of r.json (1.jpg, 2.jpg, 3.jpg) has references and a caption in other.json (7.jpg)."
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "r.json holds no references"),
        ("{}", "r.json holds no references"),
        ('{"references": []}', "r.json: expected {image id: [reference, ...]}, found a list of 0"),
        ('{"annotations": [], "images": []}', "r.json holds no references"),
        ('{"annotations": [], "images": [{"file_name": "1.jpg"}]}', "r.json, image 1: there is no id"),
        ('{"annotations": [{"caption": "a dog"}]}', "r.json, annotation 1: there is no image_id"),
        (
            '{"1.jpg": [], "2.jpg": [" ."]}',
            "2 images of r.json have no reference with a word in it (1.jpg, 2.jpg): add",
        ),
    ],
)
def test_references_that_are_none(content: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("r.json").write_text(content)
    captions = write("c.json", CAPTIONS)
    assert run("score", f"--captions={captions}", "--references=r.json", "--allow-missing") == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert sentence in told


def test_a_lone_row_is_one() -> None:
    file = write("c.json", {"image_id": 1, "caption": "a dog"})
    assert score(file, f"--references={write('r.json', {'image_id': 1, 'caption': 'the dog'})}")["images"] == 1


def test_options_that_would_change_nothing_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    file, references = write("c.json", CAPTIONS), write("r.json", REFERENCES)
    Path("r.csv").write_text("image,caption\n" + "".join(f"{image},a dog\n" for image in CAPTIONS))
    own = write("own.jsonl", [{"image_id": image, "caption": "a dog", "references": ["a"]} for image in CAPTIONS])
    for options, told in {
        (f"--references={references}", "--split=test"): "--split would change nothing, since the references are all",
        (f"--references={references}", "--data.root=."): "--data.root would change nothing, since the references are",
        ("--references=r.csv", "--data.root=."): "--data.root would change nothing, since the references are all those",
        ("--references=r.csv", "--split=val"): "--split would change nothing, since the references are all those in",
        (
            "--split=test",
            f"--captions={own}",
        ): "--split would change nothing, since the references are all those in own",
    }.items():
        assert run("score", f"--captions={file}", *options) == 2
        assert told in capsys.readouterr().err
    assert score(file, "--references=r.csv")["references"] == "table (r.csv)"
    drawn = score(file, "--references=r.csv", "--data.shares=[0.4,0.6]", "--allow-missing")
    assert (drawn["references"], drawn["images"]) == ("the test split of table (r.csv)", 2)
    Path("r.csv").write_text("image,caption,split\n1.jpg,a dog,val\n2.jpg,a cat,test\n")
    assert score(file, "--references=r.csv", "--split=val", "--allow-missing")["references"].startswith("the val split")


@pytest.mark.parametrize(
    ("output", "named"),
    [
        ("occupied", "occupied/c-scores.json cannot be written (a file is where its folder would be): "),
        ("occupied/below", "occupied/below/c-scores.json cannot be written (a file is where its folder would be): "),
        (".", "c-scores.json cannot be written (Is a directory): "),
        (300 * "o", f"{300 * 'o'}/c-scores.json cannot be written (File name too long): "),
    ],
)
def test_a_place_where_nothing_can_be_written_is_named_before_captions_are_scored(
    output: str, named: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("occupied").touch()
    Path("c-scores.json").mkdir()
    monkeypatch.delattr("capbench.commands.score.score_captions")
    options = (f"--captions={write('c.json', CAPTIONS)}", f"--references={write('r.json', REFERENCES)}")
    assert run("score", *options, f"--output={output}") == 2
    told = capsys.readouterr().err
    assert told.startswith(f"capbench: {named}")
    assert told.count("\n") == 1


def test_files_that_cannot_be_read_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("score", f"--captions={300 * 'c'}", "--references=r.json") == 2
    assert "File name too long" in capsys.readouterr().err
    for options in (["--captions=."], [f"--captions={write('c.json', CAPTIONS)}", "--references=."]):
        assert run("score", *options) == 2
        assert capsys.readouterr().err == "capbench: . is a folder: name a file in it.\n"

    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert run("score", "--captions=c.json", "--references=r.json") == 2
    told = capsys.readouterr().err
    assert told.startswith("capbench: c.json cannot be read or written (Permission denied): ")
    assert told.count("\n") == 1


def test_what_is_missing_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("capbench.scores.captions.METEOR", Meteor())
    monkeypatch.setattr("capbench.scores.captions._warned", False)
    monkeypatch.setattr("warnings.formatwarning", warnings.formatwarning)
    be_quiet.cache_clear()
    options = (f"--captions={write('c.json', CAPTIONS)}", f"--references={write('r.json', REFERENCES)}")
    with pytest.warns(UserWarning, match="METEOR needs Java") as seen:
        assert run("score", *options) == 0
    [warning] = seen
    shown = warnings.formatwarning(warning.message, warning.category, warning.filename, warning.lineno)
    assert shown == f"capbench: {warning.message}\n"


@needs_published
@pytest.mark.parametrize("name", ["merge_1", "init_1", "human_1"])
def test_published_captions_on_the_command_line(name: str) -> None:
    published = json.loads((PUBLISHED / f"{name}.json").read_text())["scores"]
    found = score(PUBLISHED / f"{name}.json", f"--data.root={REAL_DATA / 'flickr8k'}")["scores"]
    theirs = {"bleu1": "Bleu_1", "bleu2": "Bleu_2", "bleu3": "Bleu_3", "bleu4": "Bleu_4", "rouge_l": "ROUGE_L"}
    for ours, its in (theirs | {"cider_d": "CIDEr"}).items():
        assert found[ours] == pytest.approx(published[its], rel=0, abs=1e-5)
