import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from capbench.encoder import Encoder, Saved, TimmEncoder
from capbench.errors import UserError
from capbench.features import FeatureKind, FeatureShape

make = partial(TimmEncoder, "grid", None, pretrained=False)


@pytest.fixture(autouse=True)
def the_same_random_numbers() -> None:
    torch.manual_seed(0)


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
    ("efficientnet_b0", {"image_size": 64}, (2, 2, 1280), 1280),
    ("mobilenetv3_small_050", {"image_size": 64}, (2, 2, 288), 1024),
    ("convnext_atto", {"image_size": 64}, (2, 2, 320), 320),
    ("regnetx_002", {"image_size": 64}, (2, 2, 368), 368),
    ("densenet121", {"image_size": 64}, (2, 2, 1024), 1024),
    ("inception_resnet_v2", {"image_size": 128}, (2, 2, 1536), 1536),
    ("vit_tiny_patch16_224", {"image_size": 64}, (4, 4, 192), 192),
    ("deit_tiny_distilled_patch16_224", {"image_size": 64}, (4, 4, 192), 192),  # class and distillation tokens
    ("maxvit_pico_rw_256", {"image_size": 64}, (2, 2, 256), 256),
    ("mobilevit_xxs", {"image_size": 64}, (2, 2, 320), 320),
    ("edgenext_xx_small", {"image_size": 64}, (2, 2, 168), 168),
    ("levit_128s", {"image_size": 128}, (2, 2, 384), 384),  # tokens behind convolutions
    ("coat_lite_tiny", {"image_size": 64}, (2, 2, 320), 320),  # a class token that it does not declare
    ("mixer_s32_224", {"image_size": 64}, (2, 2, 512), 512),
]


@pytest.mark.parametrize(("name", "options", "grid", "pre_logits"), SHAPES)
def test_features_have_the_shape_that_is_promised(
    name: str, options: dict[str, Any], grid: tuple[int, int, int], pre_logits: int
) -> None:
    expected: dict[FeatureKind, Any] = {"grid": grid, "pooled": (1, 1, grid[-1]), "pre_logits": (1, 1, pre_logits)}
    for kind, shape in expected.items():
        encoder = make(name=name, features=kind, **options)
        assert (encoder.kind, encoder.shape) == (kind, shape)
        assert encoder(some_images(encoder)).shape == (2, shape[0] * shape[1], shape[2])


def finetuned(encoder: Encoder) -> set[str]:
    return {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}


def without_batch_norm(encoder: TimmEncoder, *parts: str) -> set[str]:
    """Names of the parameters of these parts of the model, or of all, but for those of BatchNorm."""
    prefixes = tuple(f"model.{part}." for part in parts) or "model."
    return {
        f"{module_name}.{name}"
        for module_name, module in encoder.named_modules()
        if not isinstance(module, nn.BatchNorm2d)
        for name, _ in module.named_parameters(recurse=False)
        if f"{module_name}.{name}".startswith(prefixes)
    }


@pytest.mark.parametrize(
    ("name", "size", "grid", "pre_logits", "last_stage"),
    [
        ("vgg16.tv_in1k", 224, (7, 7, 512), 4096, ("features.24", "features.26", "features.28")),
        ("resnet50.a1_in1k", None, (7, 7, 2048), 2048, ("layer4",)),
        ("legacy_xception.tf_in1k", 299, (10, 10, 2048), 2048, ("block12", "conv3", "conv4")),
    ],
)
def test_the_encoders_of_the_literature(
    name: str, size: int | None, grid: tuple[int, int, int], pre_logits: int, last_stage: tuple[str, ...]
) -> None:
    encoder = make(name=name, features="grid")
    assert encoder.shape == grid
    assert size is None or encoder.data_config["input_size"] == (3, size, size)
    assert encoder.transform(picture()).shape == encoder.data_config["input_size"]
    encoder.prepare_finetuning(1)
    assert finetuned(encoder) == without_batch_norm(encoder, *last_stage)
    assert make(name=name, features="pre_logits").shape == (1, 1, pre_logits)


def test_auto_gives_what_the_decoder_works_on() -> None:
    assert TimmEncoder("pooled", None, "test_resnet", pretrained=False).kind == "pooled"
    assert TimmEncoder("grid", None, "test_resnet", pretrained=False).kind == "grid"
    assert TimmEncoder("grid", None, "test_resnet", pretrained=False, features="pre_logits").kind == "pre_logits"


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_mambaout", "coat_lite_tiny", "levit_128s"])
def test_places_are_read_line_by_line(name: str) -> None:
    encoder = make(name=name, features="grid")
    images = some_images(encoder, 1)
    grid = encoder(images).unflatten(1, encoder.shape[:2])  # (1, h, w, C)
    expected = encoder.model.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)[0]
    torch.testing.assert_close(grid, expected.permute(0, 2, 3, 1))


def test_places_of_oblong_pictures_are_read_line_by_line(tmp_path: Path) -> None:
    model = timm.create_model("test_vit", img_size=(160, 80))
    config = {"pretrained_cfg": {"input_size": (3, 160, 80)}, "model_args": {"img_size": (160, 80)}}
    timm.models.save_for_hf(model, str(tmp_path), config, safe_serialization=True)
    encoder = TimmEncoder("grid", None, f"local-dir:{tmp_path}")
    assert encoder.shape == (10, 5, 64)
    images = some_images(encoder)
    expected = encoder.model.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)[0]
    torch.testing.assert_close(encoder(images), expected.flatten(2).mT)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_pooled_features_are_the_mean_of_the_grid(name: str) -> None:
    grid, pooled = make(name=name, features="grid"), make(name=name, features="pooled")
    pooled.load_state_dict(grid.state_dict())
    images = some_images(grid)
    torch.testing.assert_close(pooled(images), grid(images).mean(1, keepdim=True))


@pytest.mark.parametrize("name", ["pit_xs_224", "crossvit_tiny_240"])  # ends in a class token, in two grids
def test_a_model_without_a_last_grid_says_how_to_get_one(name: str) -> None:
    with pytest.raises(UserError, match=rf"{name} does not end in one grid.*stages=\[-1\].*pre_logits"):
        make(name=name)
    assert make(name=name, stages=[-1]).shape[:2] == (14, 14) if name == "crossvit_tiny_240" else (7, 7)
    assert make(name=name, features="pre_logits").shape[:2] == (1, 1)


def hypercolumns(model: Any, images: Tensor, stages: list[int]) -> Tensor:
    """(N, C, h, w) of the whole model, step by step."""
    parts = []
    with torch.no_grad():
        maps = model.forward_intermediates(images, indices=stages, intermediates_only=True)
    for grid in maps:
        mean, variance = grid.mean(1, keepdim=True), grid.var(1, keepdim=True, unbiased=False)
        parts.append(nn.Upsample(size=maps[0].shape[2:], mode="bilinear")((grid - mean) / (variance + 1e-5).sqrt()))
    return torch.cat(parts, 1)


@pytest.mark.parametrize(
    ("name", "stages", "shape"),
    [
        ("test_resnet", [1, 3], (40, 40, 32 + 192)),
        ("test_mambaout", [0, 2], (40, 40, 16 + 48)),  # NHWC
        ("test_vit", [2, 4], (10, 10, 64 + 64)),  # class token
    ],
)
def test_stages_are_brought_to_one_scale_and_size_and_joined(
    name: str, stages: list[int], shape: tuple[int, int, int]
) -> None:
    encoder = make(name=name, features="grid", stages=stages)
    whole = timm.create_model(name, num_classes=0).eval()
    assert not encoder.model.load_state_dict(whole.state_dict(), strict=False).missing_keys
    images = some_images(encoder)
    expected = hypercolumns(whole, images, stages)
    assert encoder.shape == shape
    torch.testing.assert_close(encoder(images), expected.flatten(2).mT, atol=1e-4, rtol=1e-4)
    pooled = make(name=name, features="pooled", stages=stages)
    pooled.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(pooled(images).squeeze(1), expected.mean((2, 3)), atol=1e-4, rtol=1e-4)


def test_stages_are_named_from_either_end_in_any_order() -> None:
    stages = [make(name="test_resnet", stages=stages).saved()["stages"] for stages in ([1, 4], [-1, 1], [4, -4, 4])]
    assert stages == [[1, 4]] * 3
    assert make(name="test_resnet").saved()["stages"] is None


def test_layers_behind_the_last_stage_are_left_out() -> None:
    encoder = make(name="test_resnet", stages=[1, 3])
    layers = {name.split(".")[1] for name in encoder.state_dict()}
    assert {"layer1", "layer2", "layer3"} <= layers
    assert "layer4" not in layers


@pytest.mark.parametrize("stages", [[5], [0, -6], []])
def test_stages_that_a_model_does_not_have_are_a_user_error(stages: list[int]) -> None:
    with pytest.raises(UserError, match=r"test_resnet has 5 feature stages.*0 to 4, or of -5 to -1.*but it is \["):
        make(name="test_resnet", stages=stages)


def test_stages_and_pre_logits_exclude_each_other() -> None:
    with pytest.raises(UserError, match=r"pre_logits.*stages to null, or features to grid or pooled"):
        make(name="test_resnet", stages=[1], features="pre_logits")


def test_a_model_that_gives_only_its_last_grid_has_no_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("timm.models.resnet.ResNet.forward_intermediates")
    with pytest.raises(UserError, match=r"test_resnet gives only its last grid.*stages to null"):
        make(name="test_resnet", stages=[1])
    assert make(name="test_resnet").shape == (5, 5, 96)


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


@pytest.mark.parametrize(
    ("name", "last", "parts"),
    [
        ("mobilenetv2_050", 1, ("blocks.5", "blocks.6", "conv_head")),
        ("efficientnet_b0", 2, ("blocks.3", "blocks.4", "blocks.5", "blocks.6", "conv_head")),
        ("convnext_atto", 1, ("stages.3", "head")),
        ("vit_tiny_patch16_224", 2, ("blocks.10", "blocks.11", "norm")),
        ("swinv2_cr_tiny_224", 1, ("stages.3",)),
        ("maxvit_pico_rw_256", 1, ("stages.3", "norm")),
        ("twins_svt_small", 1, ("patch_embeds.3", "pos_block.3", "blocks.3", "norm")),  # defined kind by kind
    ],
)
def test_the_last_stages_are_found_in_any_model(name: str, last: int, parts: tuple[str, ...]) -> None:
    encoder = make(name=name, image_size=64)
    encoder.prepare_finetuning(last)
    assert finetuned(encoder) == without_batch_norm(encoder, *parts)
    encoder.prepare_finetuning()
    assert finetuned(encoder) == without_batch_norm(encoder)


def test_the_last_stage_is_the_last_one_in_use() -> None:
    encoder = make(name="test_resnet", stages=[1, 3])
    encoder.prepare_finetuning(1)
    assert finetuned(encoder) == without_batch_norm(encoder, "layer3")


@pytest.mark.parametrize("last", [0, -1, 6])
def test_stages_that_cannot_be_finetuned_are_a_user_error(last: int) -> None:
    with pytest.raises(UserError, match=rf"has 5 stages.*the last {last} cannot.*1 to 5, or null"):
        make(name="test_resnet").prepare_finetuning(last)


def test_finetuning_begins_and_ends_when_it_is_told_to() -> None:
    encoder = make(name="test_resnet", image_size=64)
    encoder.prepare_finetuning(1)
    for layer in encoder.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)  # timm starts some at zero, through which no gradient would pass
    before, images = statistics(encoder), some_images(encoder, 4)
    captioner = nn.ModuleDict({"encoder": encoder, "rest": nn.Linear(96, 3)})
    optimizer = torch.optim.SGD([parameter for parameter in captioner.parameters() if parameter.requires_grad], 1e-3)
    maps: dict[str, Tensor] = {}
    for name in ("layer3", "layer4"):
        layer = getattr(encoder.model, name)
        layer.register_forward_hook(lambda _, __, output, name=name: maps.update({name: output}))

    def learn() -> set[str]:
        """Three steps; the names of what they moved."""
        captioner.train()
        for _ in range(3):
            optimizer.zero_grad()
            captioner["rest"](encoder(images)).square().mean().backward()
            optimizer.step()
        moved = {name for name, tensor in encoder.state_dict().items() if not tensor.equal(before[name])}
        before.update(statistics(encoder))
        return moved

    assert learn() == set()
    assert not any(module.training for module in encoder.modules())
    assert not maps["layer4"].requires_grad

    encoder.frozen = False
    in_training = {type(module) for module in encoder.modules() if module.training}
    assert nn.Conv2d in in_training
    assert not [kind for kind in in_training if issubclass(kind, nn.BatchNorm2d)]
    assert learn() == without_batch_norm(encoder, "layer4")
    assert (maps["layer3"].requires_grad, maps["layer4"].requires_grad) == (False, True)

    encoder.frozen = True
    assert not any(module.training for module in encoder.modules())
    assert learn() == set()


def test_batch_norm_stays_as_it_is_from_the_first_batch() -> None:
    encoder = make(name="test_resnet", image_size=64, frozen=False)
    encoder.prepare_finetuning()
    before = statistics(encoder)
    assert encoder(some_images(encoder)).requires_grad
    assert all(tensor.equal(before[name]) for name, tensor in encoder.state_dict().items())


class Colours(Encoder):
    """A user's encoder: the mean colour, weighted."""

    def __init__(self) -> None:
        super().__init__()
        self.shape, self.kind, self.transform = FeatureShape(1, 1, 3), "pooled", lambda image: torch.zeros(3, 2, 2)
        self.norm, self.weights = nn.BatchNorm2d(3), nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.weights(self.norm(images).mean((2, 3))).unsqueeze(1)

    def saved(self) -> Saved:
        return {}


def test_an_encoder_of_ones_own_is_finetuned_as_a_whole() -> None:
    encoder = Colours()
    encoder.prepare_finetuning()
    assert finetuned(encoder) == {"weights.weight", "weights.bias"}
    encoder.frozen = False
    assert (encoder.weights.training, encoder.norm.training) == (True, False)
    with pytest.raises(UserError, match=r"Colours does not say which stages it has"):
        encoder.prepare_finetuning(1)


def test_an_encoder_of_ones_own_learns_from_pictures_as_they_are() -> None:
    encoder = Colours()
    assert encoder.train_transform is encoder.transform


augmented = partial(make, name="test_resnet", image_size=64)


def test_training_pictures_are_those_of_validation_unless_they_are_augmented() -> None:
    encoder = augmented()
    assert encoder.train_transform(picture()).equal(encoder.transform(picture()))


def test_flipped_pictures_are_mirrored() -> None:
    encoder, image = augmented(flip=1.0), picture()
    image.paste((255, 0, 0), (0, 0, 10, 10))
    assert encoder.train_transform(image).equal(encoder.transform(image).flip(-1))
    assert not encoder.train_transform(image).equal(encoder.transform(image))
    sometimes = augmented(flip=0.5).train_transform
    assert {sometimes(image).equal(encoder.transform(image)) for _ in range(20)} == {True, False}


def test_crops_keep_their_share_of_the_picture_and_its_colours() -> None:
    encoder = augmented(crop_scale=0.4)
    ramp = torch.arange(256, dtype=torch.uint8).expand(256, 256)
    image = Image.fromarray(torch.stack([ramp, ramp.T, torch.full_like(ramp, 99)], -1).numpy())  # red x, green y
    mean, std = (torch.tensor(encoder.data_config[name]).view(3, 1, 1) for name in ("mean", "std"))
    shares, lefts = [], []
    for _ in range(50):
        red, green, blue = (encoder.train_transform(image) * std + mean) * 255
        width, height = red[0, -1] - red[0, 0], green[-1, 0] - green[0, 0]
        shares.append(float(width * height) / 255**2)
        lefts.append(float(red[0, 0]))
        assert ((blue - 99).abs() < 0.01).all()
    assert 0.4 * 0.95 < min(shares) < 0.5 < 0.7 < max(shares) <= 1
    assert min(lefts) < 10 < 60 < max(lefts)


def test_color_jitter_changes_brightness_within_its_range() -> None:
    encoder = augmented(color_jitter=0.2)
    mean, std = (torch.tensor(encoder.data_config[name]).view(3, 1, 1) for name in ("mean", "std"))
    grey = Image.new("RGB", (64, 64), (100, 100, 100))
    pictures = torch.stack([(encoder.train_transform(grey) * std + mean) * 255 for _ in range(50)])
    levels = pictures[:, 0, 0, 0]
    assert ((pictures - levels.view(-1, 1, 1, 1)).abs() < 0.01).all()  # no place is unlike another
    assert 79 <= levels.min() < 90 < 110 < levels.max() <= 121


def test_augmentation_follows_torchs_seed_and_can_be_sent_to_workers() -> None:
    encoder = augmented(crop_scale=0.3, flip=0.5, color_jitter=0.3)
    sent = pickle.loads(pickle.dumps(encoder.train_transform))
    torch.manual_seed(0)
    here = torch.stack([encoder.train_transform(picture()) for _ in range(5)])
    torch.manual_seed(0)
    assert torch.stack([sent(picture()) for _ in range(5)]).equal(here)
    assert not torch.stack([sent(picture()) for _ in range(5)]).equal(here)


@pytest.mark.parametrize(
    "option", [{"crop_scale": 0.0}, {"crop_scale": 1.1}, {"flip": -0.1}, {"flip": 2.0}, {"color_jitter": 1.5}]
)
def test_an_augmentation_out_of_range_is_a_user_error(option: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"crop_scale must be above 0 and at most 1, flip and color_jitter from 0 to 1"):
        augmented(**option)


def test_squash_keeps_the_edges_that_crop_cuts_off() -> None:
    wide = picture(128, 32)
    squashed = make(name="test_resnet", image_size=64, resize="squash").transform(wide)
    cropped = make(name="test_resnet", image_size=64).transform(wide)
    assert squashed.shape == cropped.shape == (3, 64, 64)
    assert (squashed[:, :, [0, -1]] > squashed[:, :, 32:33] + 1).all()
    torch.testing.assert_close(cropped, cropped[:, :1, :1].expand(3, 64, 64))


@pytest.mark.parametrize(
    "options",
    [{"features": kind} for kind in ("grid", "pooled", "pre_logits")] + [{"features": "grid", "stages": [1, -2]}],
)
@pytest.mark.parametrize("name", ["test_resnet", "test_vit3"])
def test_a_checkpoint_rebuilds_the_encoder(name: str, options: dict[str, Any]) -> None:
    encoder = make(name=name, image_size=64, resize="squash", **options)
    saved = json.loads(json.dumps(encoder.saved()))
    again = TimmEncoder("pooled", saved, name="resnet50.not_to_be_downloaded", **options)
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
    with pytest.raises(UserError, match=r"nest_tiny cannot take images of 100 x 100"):
        make(name="nest_tiny", image_size=100)


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
