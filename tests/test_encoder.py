import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from capbench.encoder import TimmEncoder
from capbench.errors import UserError

make = partial(TimmEncoder, "grid", None, pretrained=False)


def some_images(encoder: TimmEncoder, count: int = 2) -> Tensor:
    return torch.randn(count, *encoder.data_config["input_size"], generator=torch.Generator().manual_seed(0))


def picture(width: int = 40, height: int = 30) -> Image.Image:
    """Black, with a white bar at the left and at the right edge."""
    image = Image.new("RGB", (width, height))
    for left in (0, width - 4):
        image.paste((255, 255, 255), (left, 0, left + 4, height))
    return image


SHAPES = [
    ("test_resnet", {}, (5, 5, 96), 96),
    ("test_resnet", {"image_size": 64}, (2, 2, 96), 96),
    ("test_vit", {}, (10, 10, 64), 64),  # class token
    ("test_vit3", {"image_size": 64}, (4, 4, 96), 96),  # made for one size, with register tokens
    ("test_mambaout", {"image_size": 64}, (2, 2, 64), 256),  # NHWC; its head is wider than its grid
    ("test_efficientnet", {"image_size": 64}, (2, 2, 256), 256),
    ("swin_tiny_patch4_window7_224", {"image_size": 64}, (2, 2, 768), 768),  # NHWC, made for one size
]


@pytest.mark.parametrize(("name", "options", "grid", "pre_logits"), SHAPES)
def test_features_have_the_shape_that_is_promised(
    name: str, options: dict[str, Any], grid: tuple[int, int, int], pre_logits: int
) -> None:
    expected = {"grid": grid, "pooled": (1, 1, grid[-1]), "pre_logits": (1, 1, pre_logits)}
    for kind, shape in expected.items():
        encoder = make(name=name, features=kind, **options)
        assert (encoder.kind, encoder.shape) == (kind, shape)
        assert encoder(some_images(encoder)).shape == (2, shape[0] * shape[1], shape[2])


@pytest.mark.parametrize(
    ("name", "size", "grid", "pre_logits"),
    [
        ("vgg16.tv_in1k", 224, (7, 7, 512), 4096),
        ("resnet50.a1_in1k", None, (7, 7, 2048), 2048),
        ("legacy_xception.tf_in1k", 299, (10, 10, 2048), 2048),
    ],
)
def test_the_encoders_of_the_literature(
    name: str, size: int | None, grid: tuple[int, int, int], pre_logits: int
) -> None:
    encoder = make(name=name, features="grid")
    assert encoder.shape == grid
    assert size is None or encoder.data_config["input_size"] == (3, size, size)
    assert encoder.transform(picture()).shape == encoder.data_config["input_size"]
    assert make(name=name, features="pre_logits").shape == (1, 1, pre_logits)


def test_auto_gives_what_the_decoder_works_on() -> None:
    assert TimmEncoder("pooled", None, "test_resnet", pretrained=False).kind == "pooled"
    assert TimmEncoder("grid", None, "test_resnet", pretrained=False).kind == "grid"
    assert TimmEncoder("grid", None, "test_resnet", pretrained=False, features="pre_logits").kind == "pre_logits"


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_mambaout"])
def test_places_are_read_line_by_line(name: str) -> None:
    encoder = make(name=name, features="grid")
    images = some_images(encoder, 1)
    grid = encoder(images).unflatten(1, encoder.shape[:2])  # (1, h, w, C)
    expected = encoder.model.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)[0]
    torch.testing.assert_close(grid, expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_pooled_features_are_the_mean_of_the_grid(name: str) -> None:
    grid, pooled = make(name=name, features="grid"), make(name=name, features="pooled")
    pooled.load_state_dict(grid.state_dict())
    images = some_images(grid)
    torch.testing.assert_close(pooled(images), grid(images).mean(1, keepdim=True))


def test_pre_logits_are_what_the_classifier_would_see() -> None:
    encoder = make(name="test_mambaout", features="pre_logits")
    images = some_images(encoder)
    torch.testing.assert_close(encoder(images).squeeze(1), encoder.model(images))  # without its last layer


def statistics(encoder: TimmEncoder) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in encoder.state_dict().items()}


def test_a_frozen_encoder_stays_as_it_is_while_the_rest_trains() -> None:
    encoder = make(name="test_resnet", image_size=64)
    before, images = statistics(encoder), some_images(encoder, 4)
    rest = nn.Linear(96, 3)
    captioner = nn.ModuleDict({"encoder": encoder, "rest": rest}).train()
    assert rest.training
    assert not any(module.training for module in encoder.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())
    for _ in range(3):
        features = encoder(images)
        captioner["rest"](features).sum().backward()
    assert not features.requires_grad
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in encoder.parameters())
    assert all(tensor.equal(before[name]) for name, tensor in encoder.state_dict().items())


def test_an_encoder_that_is_not_frozen_learns() -> None:
    encoder = make(name="test_resnet", image_size=64, frozen=False)
    before, captioner = statistics(encoder), nn.ModuleDict({"encoder": encoder})
    assert all(module.training for module in encoder.modules())
    assert all(tensor.equal(torch.zeros_like(tensor)) for name, tensor in before.items() if "running_mean" in name)
    encoder(some_images(encoder, 4)).square().sum().backward()
    assert not [name for name, value in encoder.named_parameters() if value.grad is None]
    assert encoder.model.conv1[0].weight.grad.any()
    moved = {name for name, tensor in encoder.state_dict().items() if not tensor.equal(before[name])}
    assert moved == {name for name in before if "running" in name or "num_batches" in name}
    captioner.eval()
    assert not any(module.training for module in encoder.modules())


def test_squash_keeps_the_edges_that_crop_cuts_off() -> None:
    wide = picture(128, 32)
    squashed = make(name="test_resnet", image_size=64, resize="squash").transform(wide)
    cropped = make(name="test_resnet", image_size=64).transform(wide)
    assert squashed.shape == cropped.shape == (3, 64, 64)
    assert (squashed[:, :, [0, -1]] > squashed[:, :, 32:33] + 1).all()
    torch.testing.assert_close(cropped, cropped[:, :1, :1].expand(3, 64, 64))


@pytest.mark.parametrize("features", ["grid", "pooled", "pre_logits"])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit3"])
def test_a_checkpoint_rebuilds_the_encoder(name: str, features: str) -> None:
    encoder = make(name=name, features=features, image_size=64, resize="squash")
    saved = json.loads(json.dumps(encoder.saved()))
    again = TimmEncoder("pooled", saved, name="resnet50.not_to_be_downloaded", features=features)
    again.load_state_dict(encoder.state_dict())
    assert (again.shape, again.kind, again.weights_hash()) == (encoder.shape, encoder.kind, encoder.weights_hash())
    pictures = encoder.transform(picture(90, 50)).unsqueeze(0)
    torch.testing.assert_close(again.transform(picture(90, 50)).unsqueeze(0), pictures, atol=0, rtol=0)
    torch.testing.assert_close(again(pictures), encoder(pictures), atol=0, rtol=0)
    assert json.loads(json.dumps(again.saved())) == saved


def test_the_hash_tells_weights_and_statistics_apart() -> None:
    encoder = make(name="test_resnet", image_size=64)
    hashes = [encoder.weights_hash(), encoder.weights_hash()]
    for name, changed in encoder.state_dict().items():
        if name.endswith(("conv1.weight", "running_var", "num_batches_tracked")):
            changed += 1
            hashes.append(encoder.weights_hash())
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == len(hashes) - 1 > 3
    assert all(len(value) == 16 and int(value, 16) >= 0 for value in hashes)


def test_a_wrong_name_is_answered_with_a_near_one() -> None:
    with pytest.raises(UserError, match=r"no model 'resnet_50\.a1_in1k'; nearest: .*resnet50"):
        make(name="resnet_50.a1_in1k")
    with pytest.raises(UserError, match=r"timm\.list_models\(\)"):
        make(name="qqqqqqqqqqqq")


def test_a_download_that_cannot_be_made_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("resnet18.a1_in1k", "hf-hub:timm/resnet18.a1_in1k"):
        with pytest.raises(UserError, match=r"resnet18.*could not be loaded.*internet.*local-dir:.*pretrained=false"):
            TimmEncoder("grid", None, name)


def test_a_size_that_the_model_cannot_take_is_a_user_error() -> None:
    with pytest.raises(UserError, match=r"test_maxvit.*33"):
        make(name="test_maxvit", image_size=33)


def labeller() -> Any:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=7, act_layer="gelu").eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model as timm saves it, with its classifier."""
    timm.models.save_for_hf(
        labeller(),
        str(tmp_path),
        {"pretrained_cfg": {"mean": (0.1, 0.2, 0.3)}, "model_args": {"num_classes": 7, "act_layer": "gelu"}},
        safe_serialization=True,
    )
    return tmp_path


def test_a_local_folder_brings_its_weights_and_preprocessing(folder: Path) -> None:
    torch.manual_seed(1)
    encoder = TimmEncoder("grid", None, f"local-dir:{folder}", image_size=64)
    assert encoder.shape == (2, 2, 96)
    assert list(encoder.data_config["mean"]) == [0.1, 0.2, 0.3]
    images = some_images(encoder)
    with torch.no_grad():
        expected = labeller().forward_features(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder(images), expected)


def test_a_checkpoint_needs_no_local_folder(folder: Path) -> None:
    name = f"local-dir:{folder}"
    encoder = TimmEncoder("grid", None, name)
    for file in folder.iterdir():
        file.unlink()
    again = TimmEncoder("grid", encoder.saved(), name)
    again.load_state_dict(encoder.state_dict())
    images = some_images(encoder)
    assert again(images).equal(encoder(images))


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    for pretrained in (True, False):
        with pytest.raises(UserError, match=r"holds no config\.json"):
            TimmEncoder("grid", None, f"local-dir:{tmp_path}", pretrained)
    for broken in ("{", "{}", '{"architecture": "test_resnet", "pretrained_cfg": {}}'):
        (tmp_path / "config.json").write_text(broken)
        with pytest.raises(UserError, match=r"local-dir:.* could not be loaded \(.*save_for_hf"):
            TimmEncoder("grid", None, f"local-dir:{tmp_path}")


def test_weights_of_another_model_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architecture": "test_vit"}))
    with pytest.raises(UserError, match="could not be loaded"):
        TimmEncoder("grid", None, f"local-dir:{folder}")
