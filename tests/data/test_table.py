"""Captions in `.csv`, `.tsv` and `.jsonl`, as people write them."""

import codecs
import csv
import io
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capbench.data import Images
from capbench.data.folder import Folder
from capbench.data.table import Columns, read
from capbench.errors import UserError
from capbench.text import tokenise
from tests.data.layouts import write_pictures
from tests.support import run

FILES = ["a.png", "b.png", "c.png"]
Told = dict[str, tuple[str, ...]]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a table beside three pictures."""

    def write_table(content: str | bytes, name: str = "mine.csv") -> Path:
        write_pictures(tmp_path / "photos", FILES)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path

    return write_table


def told(root: Path, **options: Any) -> Told:
    """All references, whatever is missing."""
    return {image.id: image.references for image in Images(root, **options).find()}


GOOD: dict[str, tuple[str, str | bytes, Told]] = {
    "plain": ("mine.csv", "image,caption\na.png,a dog\nb.png,a cat\n", {"a.png": ("a dog",), "b.png": ("a cat",)}),
    "no line end at the end": ("mine.csv", "image,caption\na.png,a dog", {"a.png": ("a dog",)}),
    "byte order mark": ("mine.csv", codecs.BOM_UTF8 + b"image,caption\na.png,a dog\n", {"a.png": ("a dog",)}),
    "windows": (
        "mine.csv",
        "image,caption\r\na.png,a dog\r\n\r\nb.png,a cat\r\n",
        {"a.png": ("a dog",), "b.png": ("a cat",)},
    ),
    "old macintosh": (
        "mine.csv",
        "image,caption\ra.png,a dog\rb.png,a cat\r",
        {"a.png": ("a dog",), "b.png": ("a cat",)},
    ),
    "all that Excel does": (
        "mine.csv",
        codecs.BOM_UTF8 + 'image;caption;;\r\na.png;"a ""dog""; running";;\r\n;;;\r\nb.png;Käfer;;\r\n'.encode(),
        {"a.png": ('a "dog"; running',), "b.png": ("Käfer",)},
    ),
    "quotes and commas": (
        "mine.csv",
        'image,caption\na.png,"a dog, a cat"\na.png,"the ""sign"""\na.png,it says "dog" there\nb.png,""""\n'
        "b.png,a cat\n",
        {"a.png": ("a dog, a cat", 'the "sign"', 'it says "dog" there'), "b.png": ("a cat",)},
    ),
    "blank lines": ("mine.csv", "\n\nimage,caption\n\n  \na.png,a dog\n,\n\n", {"a.png": ("a dog",)}),
    "a caption over two lines": ("mine.csv", 'image,caption\na.png,"a dog\nruns"\n', {"a.png": ("a dog\nruns",)}),
    "one caption and seven": (
        "mine.csv",
        "image,caption\na.png,a dog\n" + "".join(f"b.png,a cat {number}\n" for number in range(7)),
        {"a.png": ("a dog",), "b.png": tuple(f"a cat {number}" for number in range(7))},
    ),
    "captions that come twice": (
        "mine.csv",
        "image,caption\na.png,a dog\na.png,a dog\nb.png,a dog\n",
        {"a.png": ("a dog", "a dog"), "b.png": ("a dog",)},
    ),
    "an image here and there": (
        "mine.csv",
        "image,caption\na.png,one\nb.png,two\na.png,three\n",
        {"a.png": ("one", "three"), "b.png": ("two",)},
    ),
    "tabs": ("mine.tsv", "image\tcaption\na.png\ta dog, running\n", {"a.png": ("a dog, running",)}),
    "tabs in a csv": ("mine.csv", "image\tcaption\na.png\ta dog, running\n", {"a.png": ("a dog, running",)}),
    "semicolons": ("mine.csv", "image;caption\na.png;a dog, running\n", {"a.png": ("a dog, running",)}),
    "bars": ("mine.csv", "image|caption\na.png|a dog; running, fast\n", {"a.png": ("a dog; running, fast",)}),
    "Flickr30k's results.csv": (
        "results.csv",
        'image_name| comment_number| comment\na.png| 0| Two " guys " , outside .\na.png| 1| A man .\n'
        "b.png| 0| A cat .\n",
        {"a.png": ('Two " guys " , outside .', "A man ."), "b.png": ("A cat .",)},
    ),
    "Kaggle's captions.txt": (
        "captions.txt",
        'image,caption\na.png,A dog .\na.png,"A dog , running ."\n',
        {"a.png": ("A dog .", "A dog , running .")},
    ),
    "wide": (
        "mine.csv",
        "image,caption_0,caption_1,caption_2\na.png,one,two,three\nb.png,four,,five\n",
        {"a.png": ("one", "two", "three"), "b.png": ("four", "five")},
    ),
    "wide with the first one bare": (
        "mine.csv",
        "caption,caption_2,caption_10,image\none,two,three,a.png\n",
        {"a.png": ("one", "two", "three")},
    ),
    "wide in other spellings": (
        "mine.csv",
        "IMAGE,Caption 1,Caption 2\na.png,one,two\n",
        {"a.png": ("one", "two")},
    ),
    "pandas's index, and more columns": (
        "mine.csv",
        ",filename,comment_number,width,Text,likes\n0,a.png,0,24,a dog,7\n1,a.png,1,24,a cat,8\n",
        {"a.png": ("a dog", "a cat")},
    ),
    "a name in upper case": ("MINE.CSV", "image,caption\na.png,a dog\n", {"a.png": ("a dog",)}),
    "spaces around": ("mine.csv", "image , caption\n a.png , a dog \n", {"a.png": ("a dog",)}),
    "no word": ("mine.csv", "image,caption\na.png,nan\na.png,None\na.png,a nan bread\n", {"a.png": ("a nan bread",)}),
    "JSON, one caption a line": (
        "mine.jsonl",
        '{"image": "a.png", "caption": "a dog"}\n{"image": "a.png", "caption": "a \\"cat\\""}\n',
        {"a.png": ("a dog", 'a "cat"')},
    ),
    "JSON with lists": (
        "mine.jsonl",
        '{"file_name": "a.png", "captions": ["one", "two"]}\n{"file_name": "b.png", "captions": ["three"]}',
        {"a.png": ("one", "two"), "b.png": ("three",)},
    ),
    "wide JSON with lines of their own": (
        "mine.jsonl",
        '{"image": "a.png", "caption_0": "one"}\n{"image": "b.png", "caption_0": "two", "caption_1": "three"}\n',
        {"a.png": ("one",), "b.png": ("two", "three")},
    ),
    "JSON on Windows": (
        "mine.JSONL",
        codecs.BOM_UTF8 + '{"image": "a.png", "caption": "Käfer"}\r\n\r\n'.encode(),
        {"a.png": ("Käfer",)},
    ),
    "JSON with null": (
        "mine.jsonl",
        '{"image": "a.png", "caption": null}\n{"image": "a.png", "caption": ["one", null]}\n',
        {"a.png": ("one",)},
    ),
    "JSON with a line separator in the text": (
        "mine.jsonl",
        '{"image": "a.png", "caption": "one\u2028two\x85three"}\n',
        {"a.png": ("one\u2028two\x85three",)},
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_can_be_read(name: str, write: Write) -> None:
    file, content, expected = GOOD[name]
    captions = Images(write(content, file)).find()
    assert {image.id: image.references for image in captions} == expected
    assert not captions.missing


def test_a_number_can_be_an_images_name(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["12.png"])
    (tmp_path / "12.png").rename(tmp_path / "12")
    (tmp_path / "mine.jsonl").write_text('{"image_id": 12, "caption": "a dog"}')
    assert told(tmp_path) == {"12": ("a dog",)}


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("image,caption,split\na.png,one,train\nb.png,two,Dev\nc.png,three,test\na.png,four,restval\n", "mine.csv"),
        (
            "image,caption,fold\na.png,one,train\nb.png,two,validation\nc.png,three, TEST \na.png,four,train\n",
            "mine.csv",
        ),
        (
            '{"image": "a.png", "text": "one", "split": "train"}\n{"image": "b.png", "text": "two", "split": "val"}\n'
            '{"image": "c.png", "text": "three", "split": "test"}\n'
            '{"image": "a.png", "text": "four", "split": "train"}\n',
            "mine.jsonl",
        ),
    ],
)
def test_a_column_says_the_split(content: str, name: str, write: Write) -> None:
    captions = Images(write(content, name)).read()
    found = {image.id: (image.split, image.references) for image in captions}
    assert found == {"a.png": ("train", ("one", "four")), "b.png": ("val", ("two",)), "c.png": ("test", ("three",))}


@pytest.mark.parametrize(
    "content",
    [
        "image,caption,split\na.png,one,train\nb.png,two,\nc.png,three, \n",
        '{"image": "a.png", "caption": "one", "split": "train"}\n{"image": "b.png", "caption": "two"}\n'
        '{"image": "c.png", "caption": "three", "split": null}\n',
        '{"image": "b.png", "caption": "two"}\n{"image": "a.png", "caption": "one", "split": "train"}\n',
    ],
)
def test_images_in_no_split_are_not_used_where_others_are_in_one(content: str, write: Write) -> None:
    captions = Images(write(content, "mine.jsonl" if content.startswith("{") else "mine.csv")).find()
    assert [(image.id, image.split) for image in captions] == [("a.png", "train")]


def test_an_empty_column_of_splits_is_none(write: Write) -> None:
    captions = Images(write("image,caption,split\n" + "".join(f"{name},a dog, \n" for name in FILES))).find()
    assert sorted(image.id for image in captions) == FILES


def test_columns_of_any_name_can_be_named(write: Write) -> None:
    content = "Datei;Titel;Beschreibung 1;Beschreibung 2;Teil;caption\na.png;x;eins;zwei;train;not this\n"
    columns = Columns("Datei", ["Beschreibung 2", "Beschreibung 1"], "Teil")
    captions = Images(write(content), columns=columns).read()
    assert [(image.split, image.references) for image in captions] == [("train", ("zwei", "eins"))]


def test_columns_can_be_named_on_the_command_line(
    write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(write("Datei,Titel,Teil\na.png,ein Hund,train\na.png,ein Tier,train\n"))
    assert run("data", "--root=.") == 2
    assert capsys.readouterr().err == (
        "capbench: mine.csv has no column that is known to hold the image or captions; it has Datei, Titel, Teil: name "
        "them with --columns.image and --columns.captions='[NAME]'.\n"
    )
    options = ("--columns.image=Datei", "--columns.captions=[Titel]", "--columns.split=Teil")
    assert run("data", "--root=.", *options, "--min_count=1") == 0
    assert "train            1         2   2 (x 1)" in capsys.readouterr().out


def test_what_is_left_out_is_named_in_one_warning(write: Write) -> None:
    content = 'image,caption\na.png,a dog\na.png,\na.png,"two\nlines"\nb.png, . \nb.png,a cat\n'
    with pytest.warns(UserWarning, match="left out") as caught:
        captions = Images(write(content)).read()
    assert len(caught) == 1
    table = write(content) / "mine.csv"
    expected = f"2 captions without a word are left out ({table}, line 3, {table}, line 6)."
    assert str(caught[0].message) == expected
    assert {image.id: image.references for image in captions} == {"a.png": ("a dog", "two\nlines"), "b.png": ("a cat",)}


def test_a_long_list_of_what_is_left_out_is_cut(write: Write) -> None:
    with pytest.warns(UserWarning, match=r"9 captions without a word .*line 6, \.\.\.\)\.$") as caught:
        Images(write("image,caption\n" + "a.png,\n" * 9 + "a.png,a dog\n")).read()
    assert str(caught[0].message).count("line ") == 5


NO_COLUMN = "{} has no column that is known to hold "
BAD: dict[str, tuple[str, str | bytes, str]] = {
    "empty": ("mine.csv", "", "{} holds no captions."),
    "blank": ("mine.csv", "\n \r\n\n", "{} holds no captions."),
    "a header alone": ("mine.csv", "image,caption\n\n", "{} holds no captions."),
    "empty JSON": ("mine.jsonl", "\n\n", "{} holds no captions."),
    "no captions at all": ("mine.csv", "image,caption\na.png,\nb.png,nan\n", "table ({}) holds no captions."),
    "no header": ("mine.csv", "a.png,a dog\nb.png,a cat\n", NO_COLUMN + "the image or captions; it has a.png, a dog:"),
    "no captions": ("mine.csv", "image,width\na.png,24\n", NO_COLUMN + "captions; it has image, width:"),
    "no image": ("mine.csv", "caption,width\na dog,24\n", NO_COLUMN + "the image; it has caption, width:"),
    "another delimiter": (
        "mine.csv",
        "image:caption\na.png:a dog\n",
        NO_COLUMN + "the image or captions; it has image:caption:",
    ),
    "a column twice": ("mine.csv", "image,caption,caption\na.png,one,two\n", "{}: the column caption comes twice:"),
    "too few fields": (
        "results.csv",
        "image_name| comment_number| comment\na.png| 0| A dog .\na.png| 4   A dog runs .\n",
        "{}, line 3: 2 fields where the first line names 3 (image_name, comment_number, comment): give each line all",
    ),
    "too many fields": (
        "mine.csv",
        'image,caption\na.png,"a dog\nruns"\n\nb.png,a cat, asleep\n',
        "{}, line 5: 3 fields where the first line names 2 (image, caption): give each line all its fields, and quote",
    ),
    "too many fields over two lines": (
        "mine.csv",
        'image,caption\na.png,a dog\na.png,"a dog\nruns",fast\n',
        "{}, line 3: 3 fields where the first line names 2",
    ),
    "an unclosed quote": (
        "mine.csv",
        'image,caption\na.png,a dog\na.png,"a cat\nb.png,a gnu\nb.png,an emu\n',
        "{}, line 3: this is no well-formed CSV (unexpected end of data): close the quotes",
    ),
    "an unclosed quote and a later one": (
        "mine.csv",
        'image,caption\na.png,"a cat\nb.png,"a gnu"\n',
        "{}, line 2: this is no well-formed CSV",
    ),
    "an unclosed quote in a large file": (
        "mine.csv",
        'image,caption\na.png,a dog\na.png,"a cat\n' + "b.png,a gnu on a meadow\n" * 10000,
        "{}, line 3: this is no well-formed CSV (field larger than field limit",
    ),
    "a quote within quotes": (
        "mine.csv",
        'image,caption\na.png,"the "sign" here"\n',
        "{}, line 2: this is no well-formed CSV",
    ),
    "no name": (
        "mine.csv",
        "image,caption\na.png,a dog\n  ,a cat\n",
        "{}, line 3: there is no image name in the column image.",
    ),
    "Latin-1": (
        "mine.csv",
        "image,caption\na.png,a dog\nb.png,ein Käfer\n".encode("latin-1"),
        "{}, line 3: this is not UTF-8 (invalid continuation byte): save the file as UTF-8.",
    ),
    "UTF-16": ("mine.csv", "image,caption\na.png,a dog\n".encode("utf-16"), "{}, line 1: this is not UTF-8"),
    "Latin-1 in JSON": (
        "mine.jsonl",
        '{"image": "a.png", "caption": "a dog"}\n{"image": "a.png", "caption": "ein Käfer"}\n'.encode("latin-1"),
        "{}, line 2: this is not UTF-8",
    ),
    "two splits": (
        "mine.csv",
        "image,caption,split\na.png,a dog,train\na.png,a dog,test\n",
        "{}, line 3: a.png is in the split test, and in train before: an image belongs to one split.",
    ),
    "an unknown split": (
        "mine.csv",
        "image,caption,split\na.png,a dog,train\nb.png,a dog,holdout\n",
        "{}, line 3: there is no split 'holdout'; there are train, val, test, restval,",
    ),
    "a split of no text": (
        "mine.jsonl",
        '{"image": "a.png", "caption": "a dog", "split": 0}\n',
        "{}, line 1: there is no split '0'",
    ),
    "a list as text, as pandas writes it": (
        "mine.csv",
        "image,captions\na.png,\"['a dog', 'a cat']\"\n",
        "{}, line 2: ['a dog', 'a cat'] is a list written as text: give lists in a .jsonl file.",
    ),
    "a list as text, as JSON": (
        "mine.csv",
        'image,captions\na.png,a gnu\na.png,"[""a dog"", ""a cat""]"\n',
        '{}, line 3: ["a dog", "a cat"] is a list written as text',
    ),
    "no JSON": (
        "mine.jsonl",
        '{"image": "a.png", "caption": "a dog"}\n\n{"image": \n',
        "{}, line 3: this is no JSON (Expecting value at character 11).",
    ),
    "JSON without end": ("mine.jsonl", "[" * 100_000, "{}, line 1: this is nested too deeply to be captions."),
    "a JSON file of one list": (
        "mine.jsonl",
        '[{"image": "a.png", "caption": "a dog"}]',
        "{}, line 1: expected an object in braces in each line, found '[{",
    ),
    "JSON that is no object": (
        "mine.jsonl",
        '{"image": "a.png", "caption": "a dog"}\n"a cat"\n',
        "{}, line 2: expected an object in braces in each line, found '\"a cat\"'.",
    ),
    "a number for a caption": (
        "mine.jsonl",
        '{"image": "a.png", "caption": 7}\n',
        "{}, line 1: a caption must be text, not 7.",
    ),
    "NaN for a caption": (
        "mine.jsonl",
        '{"image": "a.png", "caption": NaN}\n',
        "{}, line 1: a caption must be text, not nan.",
    ),
    "a number among captions": (
        "mine.jsonl",
        '{"image": "a.png", "captions": ["a dog", true]}\n',
        "{}, line 1: a caption must be text, not True.",
    ),
    "a name that is none": (
        "mine.jsonl",
        '{"image": ["a.png"], "caption": "a dog"}\n',
        "{}, line 1: there is no image name in the column image.",
    ),
    "a line of JSON without captions": (
        "mine.jsonl",
        '{"image": "a.png", "caption": "a dog"}\n{"image": "b.png", "title": "a cat"}\n',
        "{}, line 2 has no column that is known to hold captions; it has image, title:",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_one_sentence_with_file_and_line(name: str, write: Write) -> None:
    file, content, complaint = BAD[name]
    root = write(content, file)
    with pytest.raises(UserError) as error:
        Images(root).read()
    assert str(error.value).startswith(complaint.replace("{}", str(root / file), 1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("columns", "lacking"),
    [
        (Columns(image="picture"), "picture"),
        (Columns(captions=["caption", "comment"]), "comment"),
        (Columns(split="part"), "part"),
        (Columns("picture", ["told"], "part"), "picture, told, part"),
    ],
)
def test_a_named_column_that_is_not_there(columns: Columns, lacking: str, write: Write) -> None:
    root = write("image,caption\na.png,a dog\n")
    with pytest.raises(UserError, match=rf"mine\.csv has no column {re.escape(lacking)}; it has image, caption\.$"):
        Images(root, columns=columns).read()


# Any text

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30)
captions = st.lists(
    texts.filter(lambda text: len(tokenise(text)) > 1 and text.strip()[0] != "["), min_size=1, max_size=4
)
names = texts.map(str.strip).filter(lambda name: name.strip("/\\."))
tables = st.dictionaries(names, captions, min_size=1, max_size=5)


def written_as_csv(table: dict[str, list[str]], delimiter: str) -> tuple[str, bytes]:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(["image", "caption"])
    writer.writerows([name, caption] for name, told in table.items() for caption in told)
    return "mine.csv", file.getvalue().encode()


def written_as_json(table: dict[str, list[str]], ascii_only: bool) -> tuple[str, bytes]:
    lines = [json.dumps({"image": name, "captions": told}, ensure_ascii=ascii_only) for name, told in table.items()]
    return "mine.jsonl", "\n".join(lines).encode()


@given(tables, st.sampled_from([",", "\t", ";", "|"]), st.booleans())
def test_any_text_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, table: dict[str, list[str]], delimiter: str, ascii_only: bool
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any text"
    folder.mkdir(exist_ok=True)
    for file, content in (written_as_csv(table, delimiter), written_as_json(table, ascii_only)):
        (folder / file).write_bytes(content)
        found: dict[str, list[str]] = {}
        for row in read(Folder(folder), folder / file, Columns()).rows:
            found.setdefault(row.image, []).extend(caption.strip() for caption in row.captions)
        assert found == {name: [caption.strip() for caption in told] for name, told in table.items()}


file_names = st.text(
    st.characters(codec="utf-8", exclude_characters="/\\\0", exclude_categories=["Cc"]), min_size=1, max_size=30
)


@given(
    st.lists(
        file_names.map(str.strip).filter(lambda name: name and not name.startswith(".")),
        min_size=1,
        max_size=4,
        unique=True,
    )
)
def test_any_image_name_is_found(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    root = tmp_path_factory.mktemp("names")
    for number, name in enumerate(names):
        picture = root / f"{number}.png"
        write_pictures(root, [picture.name])
        picture.rename(root / name)
    (root / "mine.jsonl").write_text(
        "".join(json.dumps({"image": name, "caption": name + " dog"}) + "\n" for name in names)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Images(root, captions=root / "mine.jsonl", shares=[1, 0]).read()
    assert [image.id for image in found] == names
    assert all(image.open().size == (24, 16) for image in found)
