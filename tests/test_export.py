"""`export`: programs that say the same as the captioner, where capbench is not."""

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from capbench import decoders
from capbench.commands import export as command
from capbench.decoders import Decoder
from capbench.encoder import Encoder, Saved
from capbench.errors import UserError
from capbench.export import Format, export, preprocessing
from capbench.features import FeatureShape
from capbench.model import Model
from capbench.parts import part_class
from capbench.pictures import open_image
from capbench.search import Search
from capbench.text import Vocabulary
from tests.decoders.test_contract import DECODERS
from tests.support import QUICK, TINY_ENCODER, TINY_SHAPES, make_picture, run

BY_CLASS = {part_class(make): make for make in DECODERS.values()}  # one of each
WORDS = ["dog", "do", "n't", "ca", *(f"w{i}" for i in range(30))]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
PARTS = ("encoder", "start", "step")


class Patches(Encoder):
    """A user's own encoder: one convolution, 2 x 3 places."""

    def __init__(self, resize: int | tuple[int, int] = 40) -> None:
        super().__init__()
        self.shape, self.kind = FeatureShape(2, 3, 5), "grid"
        self.convolution = nn.Conv2d(3, 5, 16, 16)
        self.transform = transforms.Compose(
            [
                transforms.Resize(resize, transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop((32, 48)),
                transforms.ToTensor(),
                transforms.Normalize([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]),
            ]
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.convolution(images).flatten(2).mT

    def saved(self) -> Saved:
        return {}


def make_model(make: Callable[..., Decoder], encoder: Encoder | None = None, scale: float = 2.5) -> Model:
    torch.manual_seed(0)
    vocabulary, encoder = Vocabulary(WORDS), encoder or Patches()
    model = Model(encoder, make(encoder.shape, len(vocabulary)), vocabulary, Search(beam=1, max_words=8))
    with torch.no_grad():  # so that words follow one another, and captions end
        for weights in model.decoder.parameters():
            weights.mul_(scale)
    return model


def pictures(folder: Path, count: int = 8) -> list[Path]:
    """Wide, tall and square ones, one of them turned by its EXIF data."""
    files = []
    for seed in range(count):
        picture, _ = make_picture(seed, ((90, 60), (61, 90), (64, 64), (200, 70))[seed % 4])
        noise = np.random.default_rng(seed).integers(0, 60, (picture.height, picture.width, 3))
        picture = Image.fromarray((np.asarray(picture) * 0.7 + noise).astype(np.uint8))
        exif = picture.getexif()
        exif[0x0112] = 6 if seed == 1 else 1
        files.append(folder / f"{seed}.png")
        picture.save(files[-1], exif=exif)
    return files


def test_every_decoder_is_exported_here() -> None:
    exported = {getattr(decoders, name) for name in decoders.__all__}
    assert set(BY_CLASS) == {cls for cls in exported if isinstance(cls, type) and issubclass(cls, Decoder)} - {Decoder}


@pytest.mark.parametrize("form", SUFFIXES)
@pytest.mark.parametrize("decoder", BY_CLASS, ids=lambda cls: cls.__name__)
def test_programs_give_the_captioners_logits_and_captions(decoder: type[Decoder], form: Format, tmp_path: Path) -> None:
    model = make_model(BY_CLASS[decoder])
    assert export(model, tmp_path / "there", form) <= 1e-4
    written = {"caption.py", "preprocessing.json", "vocabulary.json", *(f"{part}{SUFFIXES[form]}" for part in PARTS)}
    assert {file.name for file in (tmp_path / "there").iterdir()} == written

    example = runpy.run_path(str(tmp_path / "there" / "caption.py"))
    files = pictures(tmp_path)
    expected = [model.caption(file)[0].text for file in files]
    assert [example["caption"](file) for file in files] == expected
    assert len(set(expected)) > 1
    assert max(len(text.split()) for text in expected) > 1


def test_an_onnx_step_takes_any_batch_and_states_of_any_length(tmp_path: Path) -> None:
    import onnxruntime

    model = make_model(BY_CLASS[decoders.Transformer], scale=1)
    export(model, tmp_path, "onnx")
    programs = [onnxruntime.InferenceSession(tmp_path / f"{part}.onnx") for part in PARTS]

    def output(place: int, **known: Any) -> dict[str, Any]:
        program = programs[place]
        found = program.run(None, {each.name: known[each.name] for each in program.get_inputs()})
        return dict(zip((each.name for each in program.get_outputs()), found, strict=True))

    for images in (1, 2, 7):
        pixels = torch.randn(images, 3, 32, 48)
        known = output(1, **output(0, images=pixels.numpy()))
        tokens = torch.randint(4, 20, (images, 12))
        tokens[:, 0] = Vocabulary.START
        expected = model.decoder(model.encoder(pixels), tokens)
        for word in range(12):
            found = output(2, tokens=tokens[:, word].numpy(), **known)
            np.testing.assert_allclose(found["logits"], expected[:, word].numpy(), atol=1e-4)
            known |= {name.replace("next_", "state_"): tensor for name, tensor in found.items()}
        assert known["state_words"].shape[-2] == 12


def test_the_example_prepares_pictures_as_the_encoder_does(tmp_path: Path) -> None:
    export(make_model(BY_CLASS[decoders.ParInject]), tmp_path, "torch")
    for resize in (40, (50, 60), (32, 48)):
        encoder = Patches(resize)
        (tmp_path / "preprocessing.json").write_text(json.dumps(preprocessing(encoder)))
        pixels = runpy.run_path(str(tmp_path / "caption.py"))["pixels"]
        for picture in map(open_image, pictures(tmp_path)):
            torch.testing.assert_close(pixels(picture)[0], encoder.transform(picture), atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", SUFFIXES)
def test_examples_are_short_and_need_nothing_of_capbench(form: str) -> None:
    text = (Path(command.__file__).parents[1] / "export" / f"caption_{form}.py").read_text()
    assert len(text.splitlines()) <= 42
    assert "capbench" not in text


def test_what_cannot_be_exported_is_named_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Patches()
    encoder.transform = transforms.Compose([transforms.Resize(40), transforms.ToTensor()])
    with pytest.raises(UserError, match=r"no words for \(Resize, ToTensor\)"):
        preprocessing(encoder)

    class Guessing(decoders.ParInject):
        def step(self, tokens: Tensor, state: Any, context: Any) -> Any:
            logits, state = super().step(tokens, state, context)
            return logits + torch.rand_like(logits), state

    with pytest.raises(UserError, match="other logits than the captioner"):
        export(make_model(Guessing), tmp_path / "out", "torch")
    assert list((tmp_path / "out").iterdir()) == []

    class Data(decoders.ParInject):
        def step(self, tokens: Tensor, state: Any, context: Any) -> Any:
            return super().step(tokens if tokens.sum().item() > 3 else tokens + 1, state, context)

    with pytest.raises(UserError, match="step of Data cannot be exported"):
        export(make_model(Data), tmp_path / "out", "torch")
    assert list((tmp_path / "out").iterdir()) == []


def test_the_command_exports_what_runs_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--model.decoder=Attention", "--model.decoder.hidden=8", "--model.search.beam=1"]
    assert run("fit", *TINY_SHAPES, *TINY_ENCODER, *QUICK, *options, "--model.lr=0.03", "--name=tiny") == 0
    assert run("export", "--checkpoint", "runs/tiny/checkpoints/best.ckpt", "--format", "onnx") == 0
    assert "onnx: encoder, start and step; logits as the captioner's" in capsys.readouterr().out
    files = [str(file) for file in pictures(tmp_path, 4)]
    assert run("caption", "--checkpoint", "runs/tiny/checkpoints/best.ckpt", *files) == 0
    expected = capsys.readouterr().out
    alone = "import sys; sys.modules['capbench'] = sys.modules['torch'] = None; sys.argv = ['', *sys.argv[1:]]; "
    program = f"{alone}import runpy; runpy.run_path('onnx/caption.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True, check=True)
    assert done.stdout == expected
    assert json.loads(Path("onnx/vocabulary.json").read_text())["max_words"] == 20

    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "onnxscript" else True)
    assert run("export", "--checkpoint", "runs/tiny/checkpoints/best.ckpt", "--format", "onnx") == 2
    assert capsys.readouterr().err == "capbench: --format onnx needs onnxscript: pip install 'capbench[onnx]'.\n"
    assert run("export", "--checkpoint", "none.ckpt", "--format", "torch") == 2
    assert capsys.readouterr().err == "capbench: There is no checkpoint none.ckpt.\n"
