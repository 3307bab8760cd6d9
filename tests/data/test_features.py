import errno
import json
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torchvision.transforms.functional import to_tensor

from capbench.data.captions import CaptionedImage
from capbench.data.features import (
    BATCH,
    FeatureStore,
    OpenedImages,
    clear_unfinished,
    encode,
    encode_in_threads,
    unfinished_stores,
)
from capbench.data.scenes import describe, draw, make_scene
from capbench.encoder import Encoder
from capbench.errors import UserError
from capbench.features import FeatureKind, FeatureShape
from capbench.pictures import open_image


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


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0.0), ("float16", 1e-3)])
def test_the_store_gives_what_the_encoder_gives(
    tmp_path: Path, dtype: Literal["float16", "float32"], tolerance: float
) -> None:
    encoder, images = Patches(), some_pictures()
    store = FeatureStore(tmp_path / "new" / "folder", encoder, images, dtype)
    assert not store.exists()
    store.build(encoder, 0)
    assert store.exists()
    store.open()
    pictures = torch.stack([picture for _, picture in OpenedImages(images, encoder.transform)])
    expected = torch.cat([encoder(batch) for batch in pictures.split(BATCH)])
    for image, features in zip(images, expected, strict=True):
        [stored] = store.features([image])
        assert stored.dtype == getattr(torch, dtype)
        torch.testing.assert_close(stored.float(), features, atol=tolerance, rtol=tolerance)


def test_a_store_that_is_there_needs_no_encoder(tmp_path: Path) -> None:
    first, again, images = Patches(), Patches(), some_pictures(5)
    FeatureStore(tmp_path, first, images, "float32").build(first, 0)
    store = FeatureStore(tmp_path, again, images, "float32")
    assert store.exists()
    assert store.open().features(images[3:4]).equal(again(to_tensor(images[3].open()).unsqueeze(0)))
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
    assert store.open().features(images[:1]).isfinite().all()


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
    assert full.open().features(images[1:2]).abs().max() > 65504


def test_a_full_disk_is_known_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, images = Patches(), some_pictures(3)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=3 * 4 * 4 * 2 - 1))
    with pytest.raises(UserError, match=r"3 images, 0.0 GB, cannot be written .*No space left.*feature_store"):
        FeatureStore(tmp_path, encoder, images, "float16").build(encoder, 0)
    assert encoder.calls == 0


def test_a_disk_that_fills_up_meanwhile_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    encoder, images = Patches(), some_pictures(3)
    with pytest.raises(UserError, match=r"3 images.*No space left on device.*feature_store"):
        FeatureStore(tmp_path, encoder, images, "float16").build(encoder, 0)
    assert not list(tmp_path.iterdir())


def test_processes_that_open_images_change_nothing() -> None:
    encoder, images = Patches(), OpenedImages(some_pictures(), to_tensor)
    alone, helped = (list(encode(encoder, images, workers)) for workers in (0, 2))
    assert [len(features) for features in alone] == [BATCH, 3]
    assert torch.cat(alone).equal(torch.cat(helped))


@pytest.mark.parametrize("threads", [1, 2, 3, 64])
def test_threads_give_what_the_plain_way_gives(threads: int) -> None:
    encoder, images = Patches(), OpenedImages(some_pictures(), to_tensor)
    expected, before = torch.cat(list(encode(encoder, images, 0))), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        features = torch.cat(list(encode_in_threads(encoder, images)))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(features, expected, atol=1e-6, rtol=1e-6)


def test_a_device_that_holds_the_features_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capbench.data.features.COPIED", 10)
    encoder, images = Patches(), some_pictures()
    store = FeatureStore(tmp_path, encoder, images, "float16")
    store.build(encoder, 0)
    some = [images[index] for index in (30, 2, 2, 17)]
    expected = store.open().features(some)
    store.hold(torch.device("cpu"))
    monkeypatch.setattr(store, "rows", None)
    assert store.features(some).equal(expected)


def in_group(rank: int, folder: Path) -> None:
    """Build stores as one of two processes, of more images than processes, of fewer, and of one that is broken."""
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    broken = [*some_pictures(4), replace(some_pictures(1)[0], open=partial(open_image, folder / "none.jpg"))]
    endings = []
    for name, images in (("many", some_pictures()), ("one", some_pictures(1)), ("broken", broken)):
        try:
            encoder = Patches()
            FeatureStore(folder / name, encoder, images, "float32").build(encoder, 0)
            endings.append("built")
        except UserError as error:
            endings.append(f"{type(error).__name__}: {error}")
    (folder / f"{rank}.json").write_text(json.dumps(endings))
    dist.destroy_process_group()


def test_processes_share_the_images_and_the_failure_of_one_ends_all(tmp_path: Path) -> None:
    mp.spawn(in_group, (tmp_path,), nprocs=2)  # type: ignore[no-untyped-call]
    for name, images in (("many", some_pictures()), ("one", some_pictures(1))):
        encoder = Patches()
        store = FeatureStore(tmp_path / name, encoder, images, "float32")
        assert [folder.name for folder in (tmp_path / name).iterdir()] == [store.folder.name]
        expected = torch.cat(list(encode(encoder, OpenedImages(images, to_tensor), 0)))
        torch.testing.assert_close(store.open().features(images), expected)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert second[:2] == ["built", "built"]
    assert second[2].startswith("UserError: ")
    assert "none.jpg cannot be read as an image" in second[2]
    assert not list((tmp_path / "broken").iterdir())


class Slow(Patches):
    """Says when it begins, and waits until it may end."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def forward(self, images: Tensor) -> Tensor:
        (self.folder / f"begun-{os.getpid()}").touch()
        while not (self.folder / "end").exists():
            time.sleep(0.01)
        return super().forward(images)


def alone(folder: Path) -> None:
    encoder = Slow(folder)
    FeatureStore(folder / "stores", encoder, some_pictures(3), "float32").build(encoder, 0)


def begin(folder: Path, count: int) -> list[Any]:
    """Processes that each have begun to build the same store."""
    builders = [mp.get_context("spawn").Process(target=alone, args=(folder,)) for _ in range(count)]
    for builder in builders:
        builder.start()
    while len(list(folder.glob("begun-*"))) < count and all(builder.is_alive() for builder in builders):
        time.sleep(0.01)
    return builders


def test_commands_that_build_the_same_store_at_once_all_succeed(tmp_path: Path) -> None:
    builders = begin(tmp_path, 2)
    assert list(unfinished_stores(tmp_path / "stores").values()) == [True, True]
    (tmp_path / "end").touch()
    for builder in builders:
        builder.join()
    assert [builder.exitcode for builder in builders] == [0, 0]
    store = FeatureStore(tmp_path / "stores", Patches(), some_pictures(3), "float32")
    assert [folder.name for folder in (tmp_path / "stores").iterdir()] == [store.folder.name]
    assert store.open().features(store.images).isfinite().all()


def test_what_a_killed_build_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    [builder] = begin(tmp_path, 1)
    assert clear_unfinished(tmp_path / "stores") == 0
    builder.kill()
    builder.join()
    assert list(unfinished_stores(tmp_path / "stores").values()) == [False]
    encoder = Patches()
    store = FeatureStore(tmp_path / "stores", encoder, some_pictures(3), "float32")
    assert not store.exists()
    store.build(encoder, 0)
    assert [folder.name for folder in (tmp_path / "stores").iterdir()] == [store.folder.name]
