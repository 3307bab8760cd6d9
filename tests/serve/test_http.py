"""`python -m capbench serve` as programs meet it: a process, asked over sockets."""

import io
import json
import re
import signal
import socket
import struct
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

import capbench
from tests.serve.conftest import serving
from tests.support import make_picture, run

pytest.importorskip("gradio", reason="the serve extra is not installed")

from capbench.serve.service import PLACES
from capbench.serve.uploads import FORMATS, MAX_BYTES

PICTURE = make_picture(1, (60, 48))[0]


def encoded(picture: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form)
    return buffer.getvalue()


def ask(url: str, data: bytes | None = None, **headers: str) -> tuple[int, Any]:
    """Status and JSON."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=120) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header promises so many pixels, and which holds one row of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 + 3 * min(width, 10**6)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def form_of(data: bytes, name: str = "a.jpg") -> tuple[bytes, str]:
    head = f'--x\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
    return head.encode() + data + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"


@pytest.fixture(autouse=True)
def goes_on(url: str) -> Iterator[None]:
    """Whatever a test does to the server, it serves the next client."""
    yield
    assert ask(f"{url}/caption", encoded(PICTURE))[0] == 200


def test_captions_are_those_of_python(url: str, checkpoints: list[Path]) -> None:
    for name, checkpoint in zip(("looks", "blind"), checkpoints, strict=True):
        expected = capbench.load(checkpoint, "cpu").caption(PICTURE, num_captions=3)
        status, answer = ask(f"{url}/caption?checkpoint={name}&num_captions=3", encoded(PICTURE))
        assert (status, answer["checkpoint"]) == (200, name)
        assert [row["caption"] for row in answer["captions"]] == [each.text for each in expected]
        assert [row["log_prob"] for row in answer["captions"]] == pytest.approx(
            [each.log_prob for each in expected], abs=1e-4
        )


def test_the_first_checkpoint_answers_where_none_is_named(url: str) -> None:
    assert ask(f"{url}/caption", encoded(PICTURE))[1]["checkpoint"] == "looks"


def test_a_form_is_taken_as_well(url: str) -> None:
    data, kind = form_of(encoded(PICTURE))
    assert ask(f"{url}/caption", data, **{"Content-Type": kind}) == ask(f"{url}/caption", encoded(PICTURE))


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_read(url: str, form: str) -> None:
    assert ask(f"{url}/caption", encoded(PICTURE, form))[0] == 200


def test_attention_has_a_map_for_each_word(url: str) -> None:
    _, answer = ask(f"{url}/caption?attention=true", encoded(PICTURE))
    for row in answer["captions"]:
        assert len(row["attention"]) == len(row["caption"].split()) >= 3
        assert all(sum(map(sum, weights)) == pytest.approx(1, abs=1e-4) for weights in row["attention"])


def test_health_names_the_checkpoints(url: str) -> None:
    status, answer = ask(f"{url}/health")
    assert (status, answer["status"], answer["in_hand"]) == (200, "ok", 0)
    assert answer["checkpoints"] == [{"name": "looks", "attention": True}, {"name": "blind", "attention": False}]


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("checkpoint=other", 404, "no checkpoint 'other' here, but looks, blind"),
        ("beam=0", 400, "beam is from 1 to 20 here, not 0"),
        ("beam=1000", 400, "beam is from 1 to 20"),
        ("num_captions=many", 400, "num_captions: .* integer"),
        ("length_penalty=nan", 400, "length_penalty is from 0 to 10"),
        ("sample=true&temperature=0", 400, "temperature is from 0.05"),
        ("temperature=2", 400, "set sample=true"),
        ("min_words=9", 400, "min_words from 0 to max_words"),
        ("checkpoint=blind&attention=true", 400, "without attention"),
    ],
)
def test_wrong_options_are_refused_in_a_sentence(url: str, query: str, status: int, words: str) -> None:
    found, answer = ask(f"{url}/caption?{query}", encoded(PICTURE))
    assert found == status
    assert re.search(words, answer["error"])


@pytest.mark.parametrize("as_form", [False, True])
@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        pytest.param(b"", 400, "no picture in this request", id="nothing"),
        pytest.param(b"Just a text.\n" * 50, 415, "no picture that can be read", id="text"),
        pytest.param(encoded(PICTURE)[:90], 415, "no picture that can be read", id="cut off"),
        pytest.param(encoded(PICTURE, "JPEG")[:30] + b"\xff" * 300, 415, "no picture that can be read", id="broken"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415, "no picture", id="PostScript"),
        pytest.param(png_of(9000, 9000), 413, "more than 50 million pixels", id="too many pixels"),
        pytest.param(png_of(60000, 60000), 413, "more than 50 million pixels", id="bomb"),
        pytest.param(bytes(MAX_BYTES + 2**13), 413, "may have 10 MB", id="too many bytes"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_sentence(
    url: str, data: bytes, status: int, words: str, as_form: bool
) -> None:
    body, kind = form_of(data) if as_form else (data, "image/jpeg")
    found, answer = ask(f"{url}/caption", body, **{"Content-Type": kind})
    assert found == status
    assert words in answer["error"]


def test_an_upload_of_unknown_length_is_refused(url: str) -> None:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port)) as client:
        client.sendall(b"POST /caption HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n")
        assert b" 411 " in client.recv(2**16)


def test_fifty_at_once_are_all_captioned(url: str) -> None:
    pictures = [encoded(make_picture(seed, (60, 48))[0]) for seed in range(5)]
    expected = [ask(f"{url}/caption", data) for data in pictures]
    with ThreadPoolExecutor(50) as clients:
        found = list(clients.map(lambda place: ask(f"{url}/caption", pictures[place % 5]), range(50)))
    for place, (status, answer) in enumerate(found):
        assert status == 200
        assert [row["caption"] for row in answer["captions"]] == [
            row["caption"] for row in expected[place % 5][1]["captions"]
        ]


def test_more_than_it_has_places_for_are_told_to_come_again(url: str) -> None:
    """Clients that begin to send and stop take all places; they are given back when those clients hang up."""
    address = urlsplit(url)
    slow = [socket.create_connection((address.hostname, address.port)) for _ in range(PLACES)]
    for client in slow:
        client.sendall(b"POST /caption HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nbeginning")
    while ask(f"{url}/health")[1]["in_hand"] < PLACES:
        pass
    status, answer = ask(f"{url}/caption", encoded(PICTURE))
    assert (status, "try again in a moment" in answer["error"]) == (503, True)
    for client in slow:
        client.close()
    while ask(f"{url}/health")[1]["in_hand"]:
        pass


def test_a_client_that_hangs_up_harms_nobody(url: str) -> None:
    address, data = urlsplit(url), encoded(PICTURE)
    for _ in range(20):
        with socket.create_connection((address.hostname, address.port)) as client:
            client.sendall(b"POST /caption HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    while ask(f"{url}/health")[1]["in_hand"]:
        pass


@pytest.mark.parametrize(("by", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_ends_cleanly_and_leaves_nothing(
    checkpoints: list[Path], tmp_path: Path, by: signal.Signals, status: int
) -> None:
    with serving(checkpoints[:1], tmp_path) as (url, process):
        assert ask(f"{url}/caption", encoded(PICTURE))[0] == 200
        assert [path for path in tmp_path.glob("capbench-*/uploads/**/*") if path.is_file()] == []
        process.send_signal(by)
        left, _ = process.communicate(timeout=60)
        assert (process.returncode, left) == (status, "")
    assert list(tmp_path.glob("capbench-*/")) == []


@pytest.mark.parametrize("slot", range(2))
@pytest.mark.parametrize("path", ["http://127.0.0.1:9/a.png", "https://example.com/a.png", "FILE", "LINKED"])
def test_the_page_takes_no_file_but_uploads_and_no_address(
    url: str, temp: Path, tmp_path: Path, path: str, slot: int
) -> None:
    """What a browser says of an upload may be anything, in place of a picture or of a number."""
    file = tmp_path / "secret.png"
    PICTURE.save(file)
    named = {"FILE": str(file), "LINKED": f"{next(temp.glob('capbench-*/examples'))}/../../../{file}"}.get(path, path)
    data: list[Any] = [None, 3, 3, 0, False, 1]
    data[slot] = {"path": named, "url": named, "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
    event = {"data": data, "fn_index": page_event(url), "session_hash": "s" + str(hash((path, slot)))}
    answer = talk(url, event)
    refused = "Addresses are not fetched" if "://" in named else "not uploaded by a user|no uploaded picture"
    assert re.search(refused, str(answer["output"]))
    assert list(temp.rglob("secret.png")) == []


def page_event(url: str) -> int:
    """The number of the page's event that captions."""
    _, config = ask(f"{url}/config")
    return next(each["id"] for each in config["dependencies"] if len(each["inputs"]) == 6)


def talk(url: str, event: dict[str, Any]) -> dict[str, Any]:
    """What the page's own way of asking answers."""
    status, _ = ask(f"{url}/gradio_api/queue/join", json.dumps(event).encode(), **{"Content-Type": "application/json"})
    assert status == 200
    with urllib.request.urlopen(
        f"{url}/gradio_api/queue/data?session_hash={event['session_hash']}", timeout=60
    ) as lines:
        for line in lines:
            message = json.loads(line.removeprefix(b"data: ")) if line.startswith(b"data: ") else {}
            if message.get("msg") == "process_completed":
                return dict(message)
    raise AssertionError("no answer")


def test_a_port_that_is_taken_is_said_in_a_sentence(
    checkpoints: list[Path], url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    port = urlsplit(url).port
    assert run("serve", "--checkpoint", checkpoints[0], "--port", port) == 2
    assert f"127.0.0.1:{port} cannot be listened at (something else listens there)" in capsys.readouterr().err
