"""`capbench.load`: a checkpoint as one uses it from Python."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import capbench
from capbench.errors import UserError
from capbench.model import Caption, Model
from capbench.search import Search
from tests.support import QUICK, TINY_ENCODER, TINY_SHAPES, make_picture, run

DECODERS = {
    "Merge": ["--model.decoder=Merge", "--model.decoder.hidden=8"],
    "Attention": ["--model.decoder=Attention", "--model.decoder.hidden=8"],
    "Transformer": ["--model.decoder=Transformer", "--model.decoder.hidden=8", "--model.decoder.heads=2"],
}
PICTURES = [make_picture(seed, (60, 48))[0] for seed in range(6)]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("run"))
        for name, decoder in DECODERS.items():
            options = [*TINY_SHAPES, *TINY_ENCODER, *QUICK, "--model.search.max_words=6", f"--name={name}"]
            assert run("fit", *options, *decoder, "--model.lr=0.01") == 0
        return {name: Path.cwd() / "runs" / name / "checkpoints" / "best.ckpt" for name in DECODERS}


@pytest.fixture(params=DECODERS)
def model(request: pytest.FixtureRequest, checkpoints: dict[str, Path]) -> Model:
    return capbench.load(checkpoints[request.param], "cpu")


def assert_same(found: list[Caption], expected: list[Caption]) -> None:
    assert [caption.text for caption in found] == [caption.text for caption in expected]
    log_probs = [caption.log_prob for caption in found]
    assert log_probs == pytest.approx([caption.log_prob for caption in expected], abs=1e-5)


def test_a_picture_is_taken_in_every_form(model: Model, tmp_path: Path) -> None:
    picture = PICTURES[0]
    file = tmp_path / "a.png"
    picture.save(file)
    expected = model.caption(picture, num_captions=2)
    assert len(expected) == 2
    transparent = np.dstack([np.asarray(picture), np.full((48, 60), 255, np.uint8)])
    for form in (file, str(file), np.asarray(picture), transparent, model.tensor(picture)):
        assert_same(model.caption(form, num_captions=2), expected)
    grey = picture.convert("L")
    assert_same(model.caption(np.asarray(grey)), model.caption(grey))
    batch = torch.stack([model.tensor(each) for each in PICTURES[:2]])
    assert len(model.caption(batch)) == 2
    assert_same(model.caption(batch)[0], model.caption(picture))


def test_several_are_captioned_in_batches_of_any_size(model: Model) -> None:
    alone = [model.caption(picture) for picture in PICTURES]
    for size in (1, 4, 100):
        for found, expected in zip(model.caption(PICTURES, batch_size=size), alone, strict=True):
            assert_same(found, expected)
    assert model.caption([]) == []


def test_captions_are_as_many_as_asked_for_and_best_first(model: Model) -> None:
    found = model.caption(PICTURES[0], num_captions=5)
    assert len({caption.text for caption in found}) == 5  # though the checkpoint's beam is 3
    assert [caption.log_prob for caption in found] == sorted((caption.log_prob for caption in found), reverse=True)
    (one,) = model.caption(PICTURES[0], search=Search(beam=1, max_words=2))
    assert len(one.text.split()) <= 2
    drawn = model.caption(PICTURES[0], num_captions=4, search=Search(sample=True, max_words=6))
    assert len(drawn) == 4


def test_there_is_a_map_for_each_word_where_the_decoder_attends(model: Model) -> None:
    (caption,) = model.caption(PICTURES[0], attention=True)
    assert model.attends == (type(model.decoder).__name__ != "Merge")
    if not model.attends:
        assert caption.attention is None
        return
    assert caption.attention is not None
    assert caption.attention.shape == (len(caption.text.split()), 2, 2)
    np.testing.assert_allclose(caption.attention.sum((1, 2)), 1, rtol=1e-5)
    assert model.caption(PICTURES[0])[0].attention is None


def test_threads_share_a_model(model: Model) -> None:
    expected = [model.caption(picture, attention=True) for picture in PICTURES]
    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda picture: model.caption(picture, attention=True), PICTURES * 5))
    for each, image in zip(found, expected * 5, strict=True):
        assert_same(each, image)


def test_what_is_no_picture_is_refused(model: Model, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("no picture")
    with pytest.raises(UserError, match=r"a\.jpg cannot be read as an image"):
        model.caption(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="8-bit values in shape"):
        model.caption(np.zeros((4, 4, 3)))
    with pytest.raises(UserError, match="8-bit values in shape"):
        model.caption(np.zeros((4, 4, 2), np.uint8))
    with pytest.raises(UserError, match="captions of at least 1"):
        model.caption(PICTURES[0], num_captions=0)
    with pytest.raises(UserError, match="There is no checkpoint"):
        capbench.load(tmp_path / "none.ckpt")


def test_loading_takes_neither_lightning_nor_a_data_set(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    program = (
        "import capbench, sys\n"
        f"print(capbench.load({str(checkpoints['Merge'])!r}, 'cpu').caption('a.png')[0].text)\n"
        "print([name for name in ('lightning', 'datasets', 'torchmetrics') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
