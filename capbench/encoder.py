"""Images to features: any timm model, with the preprocessing of timm's own data config."""

import difflib
import hashlib
import json
import math
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from capbench.errors import UserError
from capbench.features import FeatureKind, FeatureShape

Saved = dict[str, Any]
Transform = Callable[[Image.Image], Tensor]


class Encoder(nn.Module, ABC):
    """The contract: `forward` takes images (N, 3, H, W) and gives features (N, L, C).

    A frozen encoder stays in eval mode and takes no gradient, whatever mode the rest is in. One that is not frozen
    learns: all of it, or what `prepare_finetuning` marked.

    Attributes:
        shape: height, width and channels of one image's features.
        transform: makes a (3, H, W) tensor of a PIL image.
        kind: which features it gives.
    """

    shape: FeatureShape
    transform: Transform
    kind: FeatureKind
    _frozen = True
    _fixes_batch_norm = False

    @property
    def train_transform(self) -> Transform:
        """`transform` for pictures to learn from; override it to augment them."""
        return self.transform

    @property
    def frozen(self) -> bool:
        """Whether its weights and statistics stay as they are; setting it sets the training mode that belongs to it."""
        return self._frozen

    @frozen.setter
    def frozen(self, frozen: bool) -> None:
        self._frozen = frozen
        self.train(not frozen)

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) to features (N, L, C)."""

    @abstractmethod
    def saved(self) -> Saved:
        """What a checkpoint must hold, beside the weights, to build this encoder again; plain types."""

    def train(self, mode: bool = True) -> Self:
        """Set training mode, unless frozen; BatchNorm that is not to learn stays in eval mode."""
        super().train(mode and not self.frozen)
        if self._fixes_batch_norm:
            for layer in self._batch_norms():
                layer.eval()
        return self

    def prepare_finetuning(self, last_stages: int | None = None) -> None:
        """Mark the weights that learn as soon as `frozen` is false, by `requires_grad`; the others never do.

        BatchNorm is left out: its weights and statistics stay as they came, whatever the batches are.

        Args:
            last_stages: how many stages learn; `None`: all.

        Raises:
            UserError: stages that the encoder does not have.
        """
        fixed = {parameter for layer in self._batch_norms() for parameter in layer.parameters()}
        learning = set(self.parameters()) - fixed
        if last_stages is not None:
            stages = [stage - fixed for stage in self.parameter_stages() if stage - fixed]
            if not 1 <= last_stages <= len(stages):
                raise UserError(
                    f"The encoder has {len(stages)} stages with weights, of which the last {last_stages} cannot be "
                    f"fine-tuned: choose 1 to {len(stages)}, or null for the whole encoder."
                )
            learning = set().union(*stages[-last_stages:])
        for parameter in self.parameters():
            parameter.requires_grad_(parameter in learning)
        self._fixes_batch_norm = True
        self.train(self.training)

    def parameter_stages(self) -> list[set[nn.Parameter]]:
        """All parameters, stage by stage, from the image to the features.

        Raises:
            UserError: the encoder does not know its stages.
        """
        raise UserError(
            f"{type(self).__name__} does not say which stages it has (parameter_stages), so fine-tune the whole "
            "encoder, with null."
        )

    def _batch_norms(self) -> Iterator[nn.Module]:
        return (layer for layer in self.modules() if isinstance(layer, _BatchNorm))

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
        stages: feature stages of which the grid is made, as timm counts them (0 is the first, -1 the last); null
            takes the model's own last grid. The channels of each are brought to mean 0 and variance 1 at every
            place, since stages differ in scale, and all are brought to the finest one's size and joined: the
            hypercolumns of Hariharan et al. (2015), "Hypercolumns for object segmentation and fine-grained
            localization".
        resize: `crop` as timm's data config says, or `squash` the whole image into the input size.
        image_size: side of the input in pixels; null takes the size the weights were trained at.
        frozen: keep weights and BatchNorm statistics as they are.
        crop_scale: while the encoder learns, its pictures are random crops of at least this share of the area and
            of 3:4 to 4:3, in place of `resize`; 1: none. Of a picture too long for such a crop it is the middle.
        flip: while the encoder learns, the probability of a mirrored picture; captions that say left and right do
            not follow.
        color_jitter: while the encoder learns, brightness, contrast and saturation are changed at random by a factor
            of at most 1 plus or minus this.

    Raises:
        UserError: unknown name, weights that cannot be had, stages that the model does not have, or an option out
            of its range.
    """

    def __init__(
        self,
        needs: Literal["grid", "pooled"],
        saved: Saved | None,
        name: str = "resnet50.a1_in1k",
        pretrained: bool = True,
        features: Literal["auto", "grid", "pooled", "pre_logits"] = "auto",
        stages: list[int] | None = None,
        resize: Literal["crop", "squash"] = "crop",
        image_size: int | None = None,
        frozen: bool = True,
        crop_scale: float = 1.0,
        flip: float = 0.0,
        color_jitter: float = 0.0,
    ) -> None:
        super().__init__()
        from timm.data import create_transform, resolve_model_data_config

        if not (0 < crop_scale <= 1 and 0 <= flip <= 1 and 0 <= color_jitter <= 1):
            raise UserError(
                "--model.encoder.crop_scale must be above 0 and at most 1, flip and color_jitter from 0 to 1, but they "
                f"are {crop_scale}, {flip} and {color_jitter}."
            )
        self.kind = needs if features == "auto" else features
        self.augmentation = {"crop_scale": crop_scale, "flip": flip, "color_jitter": color_jitter}
        if saved:
            self.architecture, self.model_args = saved["architecture"], saved["model_args"]
            self.model = _create(self.architecture, pretrained=False, **self.model_args)
            self.data_config = saved["data_config"]
        else:
            self.model = _create(name, pretrained)
            self.architecture, self.model_args = _origin(name)
            if image_size and self.model.pretrained_cfg.get("fixed_input_size"):  # transformers know their places
                self.model_args = self.model_args | {"img_size": image_size}
                try:
                    self.model = _create(name, pretrained, img_size=image_size)
                except UserError as error:
                    raise _wrong_size(name, image_size, error.__cause__) from error
            self.data_config = resolve_model_data_config(self.model)
            if image_size:
                self.data_config["input_size"] = (3, image_size, image_size)
            if resize == "squash":
                self.data_config |= {"crop_mode": "squash", "crop_pct": 1.0}
        self.stages = None if stages is None else self._stages(stages)
        if self.kind != "pre_logits":
            _drop_head(self.model, self.stages)
        self.model.to(memory_format=torch.channels_last)  # twice as fast as NCHW on a CPU, measured on MobileNetV2
        if frozen:
            self.requires_grad_(False)
        self.frozen = frozen
        self.transform = create_transform(**self.data_config, is_training=False)
        try:
            self.shape = self._measure()
        except (AssertionError, IndexError, RuntimeError) as error:
            if not image_size:
                raise
            raise _wrong_size(name, image_size, error) from error

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) to features (N, L, C); L = 1 unless `kind` is `grid`."""
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if self.kind == "pre_logits":
                vectors: Tensor = self.model.forward_head(self.model.forward_features(images), pre_logits=True)
                return vectors.unsqueeze(1)  # (N, 1, C)
            grid = self._grid(images).flatten(1, 2)  # (N, L, C)
            return grid if self.kind == "grid" else grid.mean(1, keepdim=True)

    @property
    def train_transform(self) -> Transform:
        """`transform` with the augmentation that was asked for, drawn from torch's random numbers."""
        return _augmented(self.transform, self.data_config, **self.augmentation)

    def saved(self) -> Saved:
        """Architecture, its arguments, the preprocessing and the stages."""
        return {
            "architecture": self.architecture,
            "model_args": self.model_args,
            "data_config": self.data_config,
            "stages": self.stages,
        }

    def parameter_stages(self) -> list[set[nn.Parameter]]:
        """A stage is what one of timm's feature maps depends on and no earlier one does; the last has all the rest.

        Sets `requires_grad` on all parameters, to see by autograd what depends on them.
        """
        self.requires_grad_()
        with self._blank_image() as blank, torch.enable_grad():
            maps = self.model.forward_intermediates(
                blank, indices=self.stages and list(range(self.stages[-1] + 1)), intermediates_only=True
            )
        stages: list[set[nn.Parameter]] = []
        rest = set(self.parameters())
        for features in maps:
            stages.append(rest & _leaves(features))
            rest -= stages[-1]
        stages[-1] |= rest
        return stages

    def _stages(self, stages: list[int]) -> list[int]:
        """Indices from the start, in order, each once."""
        if self.kind == "pre_logits":
            raise UserError(
                "--model.encoder.stages name grids, and features=pre_logits come from behind all of them: set stages "
                "to null, or features to grid or pooled."
            )
        if not hasattr(self.model, "forward_intermediates"):
            raise UserError(f"{self.architecture} gives only its last grid: set --model.encoder.stages to null.")
        count = len(self.model.feature_info)
        if not stages or not all(-count <= stage < count for stage in stages):
            raise UserError(
                f"{self.architecture} has {count} feature stages, so --model.encoder.stages must name some of 0 to "
                f"{count - 1}, or of -{count} to -1 from the end, but it is {stages}."
            )
        return sorted({stage % count for stage in stages})

    def _grid(self, images: Tensor) -> Tensor:
        """(N, h, w, C)."""
        if self.stages:
            maps = self.model.forward_intermediates(images, indices=self.stages, intermediates_only=True)
            size = max(grid.shape[2:] for grid in maps)
            scaled = [F.layer_norm(grid.movedim(1, -1), grid.shape[1:2]).movedim(-1, 1) for grid in maps]
            resized = [F.interpolate(grid, size, mode="bilinear") for grid in scaled]  # (N, C of the stage, h, w)
            return torch.cat(resized, 1).movedim(1, -1)
        features = self.model.forward_features(images)
        if isinstance(features, Tensor) and features.ndim == 4:
            channels_last = getattr(self.model, "output_fmt", "NCHW") == "NHWC"
            return features if channels_last else features.movedim(1, -1)
        prefix = getattr(self.model, "num_prefix_tokens", 0)
        places = features.shape[1] - prefix if isinstance(features, Tensor) else 0  # of (N, prefix + L, C)
        height, width = images.shape[2:]
        h, w = math.isqrt(places * height // width), math.isqrt(places * width // height)
        if min(h, w) < 2 or places - h * w not in (0, 1):  # some models have a class token that they do not declare
            raise UserError(
                f"{self.architecture} does not end in one grid of features: make one of its feature stages, with "
                "--model.encoder.stages=[-1], or set features to pre_logits."
            )
        return features[:, -h * w :].unflatten(1, (h, w))

    def _measure(self) -> FeatureShape:
        with self._blank_image() as blank, torch.no_grad():
            if self.kind == "grid":
                return FeatureShape(*self._grid(blank).shape[1:])
            return FeatureShape(1, 1, self(blank).shape[-1])

    @contextmanager
    def _blank_image(self) -> Iterator[Tensor]:
        """(1, 3, H, W), to be run in eval mode so that no statistic moves."""
        mode = self.training
        yield torch.zeros(1, *self.eval().data_config["input_size"])
        self.train(mode)


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


def _drop_head(model: Any, stages: list[int] | None) -> None:
    """Remove the layers behind the grid, which would only fill the checkpoint."""
    if stages:
        model.prune_intermediate_layers(stages, prune_norm=True)
    elif hasattr(model, "pre_logits"):
        model.pre_logits = nn.Identity()


def _leaves(result: Tensor) -> set[Tensor]:
    """The tensors with `requires_grad` that a result was computed from."""
    nodes, ahead = set(), [result.grad_fn]
    while ahead:
        if (node := ahead.pop()) and node not in nodes:
            nodes.add(node)
            ahead += [function for function, _ in node.next_functions]
    return {node.variable for node in nodes if hasattr(node, "variable")}


def _augmented(
    transform: Any, data_config: dict[str, Any], crop_scale: float, flip: float, color_jitter: float
) -> Transform:
    """A transform of timm's, if anything is asked for with a random crop in place of its resizing, flip and colours."""
    from timm.data.transforms import str_to_interp_mode
    from torchvision.transforms import ColorJitter, Compose, RandomHorizontalFlip, RandomResizedCrop

    if (crop_scale, flip, color_jitter) == (1, 0, 0):
        return transform
    *steps, to_tensor, normalize = transform.transforms
    if crop_scale < 1:
        size, interpolation = data_config["input_size"][1:], str_to_interp_mode(data_config["interpolation"])
        steps = [RandomResizedCrop(size, scale=(crop_scale, 1.0), interpolation=interpolation)]
    if flip:
        steps.append(RandomHorizontalFlip(flip))
    if color_jitter:
        steps.append(ColorJitter(color_jitter, color_jitter, color_jitter))
    return Compose([*steps, to_tensor, normalize])


def _wrong_size(name: str, image_size: int, error: BaseException | None) -> UserError:
    return UserError(
        f"{name} cannot take images of {image_size} x {image_size} pixels ({_reason(error)}): choose another "
        "--model.encoder.image_size, or null for the size that its weights were trained at."
    )


def _reason(error: BaseException | None) -> str:
    return textwrap.shorten(str(error), 200, placeholder=" ...").rstrip(".:") or type(error).__name__
