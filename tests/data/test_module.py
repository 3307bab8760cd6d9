import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from torch import Tensor

from capbench.captioner import Batch, Captioner
from capbench.data import CaptionData, Shapes
from capbench.data.captions import CaptionedImage, CaptionSet
from capbench.data.module import has_room
from capbench.data.scenes import draw, make_scene
from capbench.decoders import Attention, Merge
from capbench.encoder import TimmEncoder
from capbench.errors import UserError
from capbench.text import Vocabulary, detokenise, tokenise

encoder = partial(TimmEncoder, name="test_resnet", pretrained=False, image_size=32)


class Few(CaptionData):
    """Images with one to four captions each, and words that one split alone has."""

    reads = 0

    def read(self) -> CaptionSet:
        self.reads += 1
        images = []
        for index in range(20):
            split = ("train", "train", "val", "test")[index % 4]
            references = tuple(f"A {split} dog , number {index} of {n} , runs !" for n in range(1 + index % 5 % 4))
            opener = partial(draw, make_scene(0, index), 32)
            images.append(CaptionedImage(f"{index}.jpg", references, split, opener, f"{index}"))
        return CaptionSet(images)


def attached(data: CaptionData, command: str = "fit", rank: int = 0, processes: int = 1, **options: Any) -> CaptionData:
    """The data as a trainer would find it, its captioner built for it."""
    data.setup(command)
    captioner = Captioner(encoder=partial(encoder, **options))
    captioner.build(data.vocabulary())
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        lightning_module=captioner,
        state=SimpleNamespace(fn=command),
        current_epoch=0,
        global_rank=rank,
        world_size=processes,
        strategy=SimpleNamespace(broadcast=lambda seed: seed),
    )
    return data


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Few]:
    return partial(Few, batch_size=3, eval_batch_size=4, min_count=1, num_workers=0, feature_store=tmp_path)


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(("split", "size"), [("train", 3), ("val", 4), ("test", 4), ("predict", 4)])
def test_batches_go_image_by_image(make: Callable[..., Few], split: str, size: int, stored: bool) -> None:
    data = attached(make(**{} if stored else {"feature_store": None}))
    captioner = data.trainer.lightning_module  # type: ignore[union-attr]
    images = {image.id: image for image in data.captions.split("test" if split == "predict" else split)}
    batches: list[Batch] = list(getattr(data, f"{split}_dataloader")())
    assert sorted(name for batch in batches for name in batch.ids) == sorted(images)
    assert [len(batch.ids) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    for batch in batches:
        assert batch.references == [images[name].references for name in batch.ids]
        owners = [i for i, name in enumerate(batch.ids) for _ in images[name].references]
        assert batch.owners.tolist() == owners
        captions = [caption for references in batch.references for caption in references]
        assert batch.tokens.shape[0] == len(captions)
        for row, caption in zip(batch.tokens.tolist(), captions, strict=True):
            words = captioner.vocabulary.encode(caption)
            assert row == words + [Vocabulary.PAD] * (len(row) - len(words))
            if split == "train":
                assert captioner.vocabulary.decode(row) == detokenise(tokenise(caption))
        assert batch.tokens[:, -1].any()  # no wider than its longest caption
        assert batch.encoded is stored
        pictures = torch.stack([captioner.encoder.transform(images[name].open()) for name in batch.ids])
        expected = captioner.encoder(pictures) if stored else pictures
        torch.testing.assert_close(batch.inputs.float(), expected, atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(captioner.features(batch), captioner.encoder(pictures), atol=2e-3, rtol=2e-3)


def ids(loader: Any, epoch: int = 0) -> list[list[str]]:
    """The images of the batches of an epoch, but for those to spare."""
    loader.sampler.set_epoch(epoch)
    return [[] if batch.spare else batch.ids for batch in loader]


def test_training_comes_in_a_new_order_and_evaluation_in_the_old_one(make: Callable[..., Few]) -> None:
    data = attached(make())
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0)):
        torch.manual_seed(seed)
        loader = data.train_dataloader()
        torch.rand(1)  # what else is drawn changes nothing
        orders.append([name for batch in ids(loader, epoch) for name in batch])
    assert orders[0] == orders[3]
    assert orders[0] not in orders[1:3]
    assert orders[1] != orders[2]
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    names = [image.id for image in data.captions.split("val")]
    assert [name for batch in data.val_dataloader() for name in batch.ids] == names


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_batches_of_one(make: Callable[..., Few], processes: int) -> None:
    """Ten images in batches of three: the last batch has one, which the second process takes only to keep step."""
    torch.manual_seed(0)
    alone = ids(attached(make()).train_dataloader(), 5)
    shares = [ids(attached(make(), "fit", rank, processes).train_dataloader(), 5) for rank in range(processes)]
    assert [sorted(name for share in batch for name in share) for batch in zip(*shares, strict=True)] == [
        sorted(batch) for batch in alone
    ]
    assert [share[-1] for share in shares[1:]] == [[]] * (processes - 1)


@pytest.mark.parametrize("processes", [2, 3, 8])
@pytest.mark.parametrize(("split", "command"), [("val", "validate"), ("test", "test"), ("predict", "predict")])
def test_processes_share_the_images_of_an_evaluation(
    make: Callable[..., Few], split: str, command: str, processes: int
) -> None:
    """Five images, two at once in each process: none is left out or comes twice, and all take as many batches."""
    shares, sizes = [], set()
    for rank in range(processes):
        data = attached(make(eval_batch_size=2), command, rank, processes)
        loader = getattr(data, f"{split}_dataloader")()
        shares += [name for batch in ids(loader) for name in batch]
        sizes.add(len(list(loader)))
        if split != "predict":
            assert [name for batch in data.whole(split) for name in batch.ids] == [
                image.id for image in data.captions.split(split)
            ]
    assert sorted(shares) == sorted(image.id for image in data.captions.split("test" if split == "predict" else split))
    assert sizes == {math.ceil(5 / (2 * processes))}


def test_a_batch_must_have_an_image_for_each_process(make: Callable[..., Few]) -> None:
    with pytest.raises(UserError, match=r"batch_size=3 images are those of all processes together.*4 or more"):
        attached(make(), "fit", 3, 4).train_dataloader()


def test_the_vocabulary_is_the_training_splits(make: Callable[..., Few]) -> None:
    data = make(min_count=2)
    data.setup("fit")
    data.setup("test")
    assert data.reads == 1  # type: ignore[attr-defined]
    captions = [caption for image in data.captions.split("train") for caption in image.references]
    assert data.vocabulary().words == Vocabulary.from_captions(captions, min_count=2).words
    assert "train" in data.vocabulary().words
    assert not {"val", "test"} & set(data.vocabulary().words)


def test_long_captions_are_cut(make: Callable[..., Few]) -> None:
    batch = next(iter(attached(make(max_words=3)).train_dataloader()))
    assert batch.tokens.shape[1] == 5
    assert (batch.tokens[:, -1] == Vocabulary.END).all()


def test_validation_while_training_takes_a_fixed_sample(make: Callable[..., Few]) -> None:
    def names(command: str, limit: int | None) -> list[str]:
        loader = attached(make(fit_val_images=limit), command).val_dataloader()
        return [name for batch in loader for name in batch.ids]

    everything = names("validate", 2)
    assert len(everything) == 5
    assert names("fit", None) == names("fit", 5) == names("fit", 99) == everything
    sample = names("fit", 2)
    assert len(set(sample)) == 2
    assert set(sample) < set(everything)
    assert names("fit", 2) == sample


def test_predict_takes_the_split_it_is_given(make: Callable[..., Few]) -> None:
    data = attached(make(predict_split="val"), "predict")
    names = [name for batch in data.predict_dataloader() for name in batch.ids]
    assert names == [image.id for image in data.captions.split("val")]
    with pytest.raises(UserError, match="Few has no image in the split 'holiday'"):
        attached(make(predict_split="holiday"), "predict").predict_dataloader()


def test_an_encoder_that_learns_gets_pictures(make: Callable[..., Few], tmp_path: Path) -> None:
    batch = next(iter(attached(make(), frozen=False).train_dataloader()))
    assert not batch.encoded
    assert batch.inputs.shape == (3, 3, 32, 32)
    assert not list(tmp_path.iterdir())


def test_the_store_of_an_earlier_run_is_read(make: Callable[..., Few], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = attached(make()), make()
    expected = next(iter(first.val_dataloader()))

    def refuse(*_: object) -> None:
        raise AssertionError("the encoder was run again")

    monkeypatch.setattr(TimmEncoder, "forward", refuse)
    second.setup("fit")
    second.trainer = first.trainer
    assert next(iter(second.val_dataloader())).inputs.equal(expected.inputs)


def test_a_device_with_room_holds_the_features(make: Callable[..., Few], monkeypatch: pytest.MonkeyPatch) -> None:
    first, data = attached(make()), make()
    plain = [batch.inputs for batch in first.val_dataloader()]
    monkeypatch.setattr("capbench.data.module.has_room", lambda device, size: True)
    data.setup("fit")
    data.trainer = first.trainer
    held = [batch.inputs for batch in data.val_dataloader()]
    [store] = data.stores.values()
    assert store.held is not None
    assert all(one.equal(other) for one, other in zip(held, plain, strict=True))
    data.val_dataloader()
    assert list(data.stores.values()) == [store]  # neither read nor held twice


def test_only_a_gpu_with_twice_the_room_holds_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (100, 1000))
    assert has_room(torch.device("cuda"), 50)
    assert not has_room(torch.device("cuda"), 51)
    assert not has_room(torch.device("cpu"), 1)


def test_a_batch_is_what_its_images_are_one_by_one(make: Callable[..., Few]) -> None:
    for data in (attached(make()), attached(make(feature_store=None))):
        dataset: Any = data.train_dataloader().dataset.samples  # type: ignore[attr-defined]
        images, inputs = dataset.__getitems__([5, 0, 3])
        for index, image, features in zip([5, 0, 3], images, inputs, strict=True):
            assert dataset[index][0] is image
            assert dataset[index][1].equal(features)


def test_workers_give_what_the_main_process_gives(make: Callable[..., Few]) -> None:
    alone, helped = (attached(make(num_workers=n, feature_store=None)).test_dataloader() for n in (0, 2))
    for batch, expected in zip(helped, alone, strict=True):
        assert batch.ids == expected.ids
        assert batch.inputs.equal(expected.inputs)
        assert batch.tokens.equal(expected.tokens)


class Counting(TimmEncoder):
    """Counts the images that it sees."""

    seen = 0

    def forward(self, images: Tensor) -> Tensor:
        type(self).seen += len(images)
        return super().forward(images)


class Recording(Captioner):
    """Keeps the ids of every training epoch."""

    def on_train_epoch_start(self) -> None:
        self.epochs: list[list[str]] = [*getattr(self, "epochs", []), []]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.epochs[-1] += batch.ids
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(("store", "seen"), [(True, 8 + 4), (False, 2 * (8 + 2))])
def test_a_fit_encodes_an_image_once_or_once_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: bool, seen: int
) -> None:
    data = Shapes(
        train=8,
        val=4,
        test=4,
        size=32,
        batch_size=3,
        fit_val_images=2,
        min_count=1,
        num_workers=0,
        feature_store=tmp_path / "features" if store else None,
    )
    captioner = Recording(
        encoder=partial(Counting, name="test_resnet", pretrained=False, image_size=64),
        decoder=partial(Attention if store else Merge, hidden=8, embedding=8),
    )
    captioner.build(attached(data).vocabulary())  # so that counting begins behind the blank image
    monkeypatch.setattr(Counting, "seen", 0)
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )
    trainer.fit(captioner, data)
    assert [len(ids) for ids in captioner.epochs] == [8, 8]
    assert all(set(ids) == {image.id for image in data.captions.split("train")} for ids in captioner.epochs)
    assert len(captioner.captions["val"]) == 2
    assert Counting.seen == seen
