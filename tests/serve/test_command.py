"""What `serve` says before it serves, and its parts alone."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from capbench.commands.serve import names
from capbench.errors import UserError
from capbench.model import Caption
from capbench.search import Search
from capbench.serve.service import Service
from tests.support import make_picture, run


def test_without_the_extra_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run("serve", "--checkpoint", "a.ckpt") == 2
    assert "pip install 'capbench[serve]'" in capsys.readouterr().err


def test_a_host_that_is_none_is_said_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio", reason="the serve extra is not installed")
    assert run("serve", "--checkpoint", "a.ckpt", "--host", "256.1.1.1") == 2
    assert "256.1.1.1:7860 cannot be listened at" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["runs/a/checkpoints/best.ckpt", "runs/b/checkpoints/last.ckpt"], ["a", "b"]),
        (["best.ckpt"], ["best"]),
        (["x/a/checkpoints/best.ckpt", "y/a/checkpoints/best.ckpt"], None),
    ],
)
def test_checkpoints_are_called_by_their_runs(paths: Sequence[str], expected: list[str] | None) -> None:
    assert names([Path(path) for path in paths]) == (expected or list(paths))


def test_a_checkpoint_named_twice_is_refused() -> None:
    with pytest.raises(UserError, match="named twice"):
        names([Path("a/checkpoints/best.ckpt")] * 2)


class Echo:
    """A model whose captions are pixels, and which remembers its batches."""

    attends, search = False, Search()

    def __init__(self) -> None:
        self.batches: list[int] = []

    def options(self, num_captions: int, search: Search) -> Search:
        return search

    def tensor(self, picture: Any) -> Tensor:
        return torch.tensor(float(picture.getpixel((0, 0))[0]))

    def search_images(self, images: Tensor, options: Search, attention: bool) -> Tensor:
        self.batches.append(len(images))
        if options.beam == 9:
            raise RuntimeError("out of memory")
        return images

    def read(self, found: Tensor) -> list[list[Caption]]:
        return [[Caption(str(int(pixel)), 0.0)] for pixel in found]


def png(red: int) -> bytes:
    import io

    picture = make_picture(0, (8, 8))[0]
    picture.putpixel((0, 0), (red, 0, 0))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_what_waits_together_is_captioned_together_and_everyone_gets_his_own() -> None:
    model = Echo()
    service = Service({"echo": model}, batch=4)  # type: ignore[dict-item]
    searches = [{"echo": Search(beam=1 + place % 2)} for place in range(40)]

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(service.caption(png(place), searches[place]) for place in range(40)))

    found = asyncio.run(all_at_once())
    assert [captions["echo"][0].text for _, captions in found] == [str(place) for place in range(40)]
    assert sum(model.batches) == 40
    assert max(model.batches) <= 4


def test_a_batch_that_fails_is_told_to_those_in_it_alone() -> None:
    service = Service({"echo": Echo()})  # type: ignore[dict-item]

    async def both() -> list[Any]:
        searches = [{"echo": Search(beam=9)}, {"echo": Search(beam=1)}]
        return await asyncio.gather(*(service.caption(png(7), each) for each in searches), return_exceptions=True)

    failed, found = asyncio.run(both())
    assert isinstance(failed, RuntimeError)
    assert found[1]["echo"][0].text == "7"
