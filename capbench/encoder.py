"""Images to features: any timm model, with the preprocessing of timm's own data config."""

import difflib
import hashlib
import json
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from capbench.errors import UserError
from capbench.features import FeatureKind, FeatureShape

Saved = dict[str, Any]


class Encoder(nn.Module, ABC):
    """The contract: `forward` takes images (N, 3, H, W) and gives features (N, L, C).

    A frozen encoder stays in eval mode and takes no gradient, whatever mode the rest is in.

    Attributes:
        shape: height, width and channels of one image's features.
        transform: makes a (3, H, W) tensor of a PIL image.
        kind: which features it gives.
        frozen: whether its weights and statistics stay as they are.
    """

    shape: FeatureShape
    transform: Callable[[Image.Image], Tensor]
    kind: FeatureKind
    frozen: bool

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) to features (N, L, C)."""

    @abstractmethod
    def saved(self) -> Saved:
        """What a checkpoint must hold, beside the weights, to build this encoder again; plain types."""

    def train(self, mode: bool = True) -> "Encoder":
        """Set training mode, unless frozen."""
        return super().train(mode and not self.frozen)

    def weights_hash(self) -> str:
        """Sixteen hex digits of all weights and statistics."""
        digest = hashlib.sha256()
        for name, tensor in self.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]


class TimmEncoder(Encoder):
    """Any image model of timm.

    Args:
        needs: what the decoder works on, `grid` or `pooled`; decides when `features` is `auto`.
        saved: what `saved()` gave, to build the encoder of a checkpoint without downloading its weights.
        name: timm model name with weights tag (`resnet50.a1_in1k`), `local-dir:FOLDER` or `hf-hub:ID`.
        pretrained: load the pretrained weights; `false` starts from random ones.
        features: `grid` (one vector a place), `pooled` (mean of the grid), `pre_logits` (what the model's
            classifier would see, VGG16's FC2) or `auto` (what the decoder works on).
        resize: `crop` as timm's data config says, or `squash` the whole image into the input size.
        image_size: side of the input in pixels; null takes the size the weights were trained at.
        frozen: keep weights and BatchNorm statistics as they are.

    Raises:
        UserError: unknown name, or weights that cannot be had.
    """

    def __init__(
        self,
        needs: Literal["grid", "pooled"],
        saved: Saved | None,
        name: str = "resnet50.a1_in1k",
        pretrained: bool = True,
        features: Literal["auto", "grid", "pooled", "pre_logits"] = "auto",
        resize: Literal["crop", "squash"] = "crop",
        image_size: int | None = None,
        frozen: bool = True,
    ) -> None:
        super().__init__()
        from timm.data import create_transform, resolve_model_data_config

        self.kind = needs if features == "auto" else features
        self.frozen = frozen
        if saved:
            self.architecture, self.model_args = saved["architecture"], saved["model_args"]
            self.model = _create(self.architecture, pretrained=False, **self.model_args)
            self.data_config = saved["data_config"]
        else:
            self.model = _create(name, pretrained)
            self.architecture, self.model_args = _origin(name)
            if image_size and self.model.pretrained_cfg.get("fixed_input_size"):  # transformers know their places
                self.model_args = self.model_args | {"img_size": image_size}
                self.model = _create(name, pretrained, img_size=image_size)
            self.data_config = resolve_model_data_config(self.model)
            if image_size:
                self.data_config["input_size"] = (3, image_size, image_size)
            if resize == "squash":
                self.data_config |= {"crop_mode": "squash", "crop_pct": 1.0}
        if self.kind != "pre_logits":
            _drop_head(self.model)
        self.model.to(memory_format=torch.channels_last)  # twice as fast as NCHW on a CPU, measured on MobileNetV2
        if frozen:
            self.requires_grad_(False)
        self.train(not frozen)
        self.transform = create_transform(**self.data_config, is_training=False)
        try:
            self.shape = self._measure()
        except (AssertionError, RuntimeError) as error:
            if not image_size:
                raise
            raise UserError(
                f"{name} cannot take images of {image_size} x {image_size} pixels ({_reason(error)}): choose another "
                "--model.encoder.image_size, or null for the size that its weights were trained at."
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) to features (N, L, C); L = 1 unless `kind` is `grid`."""
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if self.kind == "pre_logits":
                vectors: Tensor = self.model.forward_head(self.model.forward_features(images), pre_logits=True)
                return vectors.unsqueeze(1)  # (N, 1, C)
            grid = self._grid(images).flatten(1, 2)  # (N, L, C)
            return grid if self.kind == "grid" else grid.mean(1, keepdim=True)

    def saved(self) -> Saved:
        """Architecture, its arguments and the preprocessing."""
        return {
            "architecture": self.architecture,
            "model_args": self.model_args,
            "data_config": self.data_config,
        }

    def _grid(self, images: Tensor) -> Tensor:
        features: Tensor = self.model.forward_features(images)
        if features.ndim == 3:  # a transformer's (N, prefix + L, C)
            features = features[:, getattr(self.model, "num_prefix_tokens", 0) :]
            side = int(features.shape[1] ** 0.5)
            features = features.reshape(len(features), side, -1, features.shape[-1])
            return features  # (N, h, w, C)
        channels_last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
        return features if channels_last else features.permute(0, 2, 3, 1)  # (N, h, w, C)

    def _measure(self) -> FeatureShape:
        """Run one blank image, in eval mode so that no statistic moves."""
        mode, blank = self.training, torch.zeros(1, *self.data_config["input_size"])
        self.model.eval()
        with torch.no_grad():
            if self.kind == "grid":
                shape = FeatureShape(*self._grid(blank).shape[1:])
            else:
                shape = FeatureShape(1, 1, self(blank).shape[-1])
        self.train(mode)
        return shape


def _create(name: str, pretrained: bool, **model_args: Any) -> Any:
    import timm

    architecture = name.split(".")[0]
    if ":" not in name and not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
        raise UserError(
            f"timm has no model {name!r}; "
            + (f"nearest: {', '.join(near)}" if near else "timm.list_models() lists all")
            + "."
        )
    if name.startswith("local-dir:") and not Path(name.removeprefix("local-dir:"), "config.json").is_file():
        raise UserError(f"{name}: this folder holds no config.json, so it is not a timm model folder.")
    try:
        return timm.create_model(name, pretrained=pretrained, **model_args | {"num_classes": 0})
    except Exception as error:
        if not pretrained:
            raise UserError(f"timm cannot build {name!r}: {_reason(error)}.") from error
        if name.startswith("local-dir:"):
            raise UserError(
                f"{name} could not be loaded ({_reason(error)}): it must hold config.json and the weights that belong "
                "to it, as timm.models.save_for_hf writes them."
            ) from error
        raise UserError(
            f"The pretrained weights of {name!r} could not be loaded ({_reason(error)}). Connect to the "
            "internet once (they are cached from then on), or name a timm folder that you have with "
            "--model.encoder.name=local-dir:FOLDER, or start from random weights with "
            "--model.encoder.pretrained=false."
        ) from error


def _origin(name: str) -> tuple[str, Saved]:
    """Architecture and its arguments by which the model `name` can be built again without its folder."""
    if name.startswith("local-dir:"):
        config = json.loads(Path(name.removeprefix("local-dir:"), "config.json").read_text())
        return config["architecture"], config.get("model_args") or {}
    if name.startswith("hf-hub:"):
        from timm.models import load_model_config_from_hf

        _, architecture, model_args = load_model_config_from_hf(name.removeprefix("hf-hub:"))
        return architecture, model_args or {}
    return name.split(".")[0], {}


def _drop_head(model: Any) -> None:
    """Remove the layers behind the grid, which would only fill the checkpoint."""
    if hasattr(model, "pre_logits"):
        model.pre_logits = nn.Identity()


def _reason(error: Exception) -> str:
    return textwrap.shorten(str(error), 200, placeholder=" ...").rstrip(".:") or type(error).__name__
