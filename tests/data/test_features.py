from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import to_tensor

from capbench.data.captions import CaptionedImage
from capbench.data.features import BATCH, FeatureStore, OpenedImages
from capbench.data.scenes import describe, draw, make_scene
from capbench.encoder import Encoder
from capbench.errors import UserError
from capbench.features import FeatureKind, FeatureShape


class Patches(Encoder):
    """A frozen encoder of one layer that counts its calls."""

    def __init__(
        self, kind: FeatureKind = "grid", seed: int = 0, preprocessing: str = "none", fail_at: int = -1
    ) -> None:
        super().__init__()
        self.kind, self.frozen, self.transform, self.shape = kind, True, to_tensor, FeatureShape(2, 2, 4)
        self.preprocessing, self.fail_at, self.calls = preprocessing, fail_at, 0
        torch.manual_seed(seed)
        self.layer = nn.Conv2d(3, 4, 16, stride=16).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        features: Tensor = self.layer(images).flatten(2).transpose(1, 2)
        return features

    def saved(self) -> dict[str, Any]:
        return {"preprocessing": self.preprocessing}


def some_pictures(count: int = BATCH + 3) -> list[CaptionedImage]:
    scenes = [make_scene(0, index) for index in range(count)]
    return [
        CaptionedImage(f"scene-{index}", describe(scene), "train", partial(draw, scene, 32), f"0-{index}")
        for index, scene in enumerate(scenes)
    ]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0.0), ("float16", 1e-3)])
def test_the_store_gives_what_the_encoder_gives(
    tmp_path: Path, dtype: Literal["float16", "float32"], tolerance: float, num_workers: int
) -> None:
    encoder, images = Patches(), some_pictures()
    store = FeatureStore(tmp_path / "new" / "folder", encoder, images, dtype)
    assert not store.exists()
    store.build(encoder, num_workers)
    assert store.exists()
    store.open()
    pictures = torch.stack([picture for _, picture in OpenedImages(images, encoder.transform)])
    expected = torch.cat([encoder(batch) for batch in pictures.split(BATCH)])
    for image, features in zip(images, expected, strict=True):
        assert store[image.id].dtype == getattr(torch, dtype)
        torch.testing.assert_close(store[image.id].float(), features, atol=tolerance, rtol=tolerance)


def test_a_store_that_is_there_needs_no_encoder(tmp_path: Path) -> None:
    first, again, images = Patches(), Patches(), some_pictures(5)
    FeatureStore(tmp_path, first, images, "float32").build(first, 0)
    store = FeatureStore(tmp_path, again, images, "float32")
    assert store.exists()
    assert store.open()["scene-3"].equal(again(to_tensor(images[3].open()).unsqueeze(0))[0])
    assert again.calls == 1  # the line above


def test_whatever_changes_the_features_changes_the_folder(tmp_path: Path) -> None:
    images = some_pictures(4)
    retouched = [*images[:2], replace(images[2], stamp="another"), images[3]]
    renamed = [*images[:2], replace(images[2], id="another"), images[3]]
    stores = [
        FeatureStore(tmp_path, Patches(), images, "float32"),
        FeatureStore(tmp_path, Patches(), images, "float16"),
        FeatureStore(tmp_path, Patches(seed=1), images, "float32"),
        FeatureStore(tmp_path, Patches("pooled"), images, "float32"),
        FeatureStore(tmp_path, Patches(preprocessing="squash"), images, "float32"),
        *(
            FeatureStore(tmp_path, Patches(), some, "float32")
            for some in (images[:3], images[::-1], retouched, renamed)
        ),
    ]
    assert len({store.folder for store in stores}) == len(stores)


def test_captions_do_not_change_the_folder(tmp_path: Path) -> None:
    images = some_pictures(4)
    recaptioned = [replace(image, references=("a",), split="test") for image in images]
    folders = {FeatureStore(tmp_path, Patches(), some, "float32").folder for some in (images, recaptioned)}
    assert len(folders) == 1


def test_a_build_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    images, encoder = some_pictures(), Patches(fail_at=2)
    store = FeatureStore(tmp_path, encoder, images, "float32")
    with pytest.raises(KeyboardInterrupt):
        store.build(encoder, 0)
    assert encoder.calls == 2  # one batch was written
    assert not store.exists()
    assert not list(tmp_path.iterdir())
    store.build(encoder, 0)
    assert store.open()["scene-0"].isfinite().all()


def test_a_build_that_comes_second_keeps_the_first(tmp_path: Path) -> None:
    encoder, images = Patches(), some_pictures(3)
    store = FeatureStore(tmp_path, encoder, images, "float32")
    store.build(encoder, 0)
    changed = store.file.stat().st_mtime_ns
    store.build(encoder, 0)
    assert store.file.stat().st_mtime_ns == changed
    assert [entry.name for entry in tmp_path.iterdir()] == [store.folder.name]


def test_features_too_large_for_half_precision_are_refused(tmp_path: Path) -> None:
    encoder, images = Patches(), some_pictures(3)
    encoder.layer.weight.mul_(1e7)
    half = FeatureStore(tmp_path, encoder, images, "float16")
    with pytest.raises(UserError, match="feature_dtype=float32"):
        half.build(encoder, 0)
    assert not list(tmp_path.iterdir())
    full = FeatureStore(tmp_path, encoder, images, "float32")
    full.build(encoder, 0)
    assert full.open()["scene-1"].abs().max() > 65504


def test_a_full_disk_is_known_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, images = Patches(), some_pictures(3)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=3 * 4 * 4 * 2 - 1))
    with pytest.raises(UserError, match=r"3 images need .*feature_store"):
        FeatureStore(tmp_path, encoder, images, "float16").build(encoder, 0)
    assert encoder.calls == 0
