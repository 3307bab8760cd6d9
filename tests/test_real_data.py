"""That training works: real photographs where they are there, drawn scenes everywhere."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from capbench.data import Shapes
from capbench.model import Model, load
from capbench.pictures import open_image
from capbench.scores import score_captions
from capbench.search import Found, Search, search
from capbench.text import Vocabulary
from tests.plain_search import plain_beam
from tests.support import QUICK, QUIET, REAL_DATA, ROOT, result, rows, run

FLICKR8K, WEIGHTS = REAL_DATA / "flickr8k", REAL_DATA / "weights" / "mobilenetv2_100.imagenet_int8"
needs_real_data = pytest.mark.skipif(
    not (FLICKR8K.is_dir() and WEIGHTS.is_dir()),
    reason="NO REAL DATA: ../shared/data holds no flickr8k or no weights, so training on photographs is NOT tested",
)


def make_subset(root: Path, train: int, val: int, test: int, again: bool = False) -> Path:
    """The first images of each official split; `again` puts the training images, renamed, into the other splits."""
    texts = FLICKR8K / "Flickr8k_text"
    lines: dict[str, list[str]] = {}
    for line in (texts / "Flickr8k.token.txt").read_text(encoding="utf-8").splitlines():
        name, _, caption = line.partition("\t")
        lines.setdefault(name.partition("#")[0], []).append(caption)
    (root / "Images").mkdir(parents=True)
    (root / "Flickr8k_text").mkdir()
    captions = []
    for split, count in (("train", train), ("dev", val), ("test", test)):
        source = "train" if again else split
        names = (texts / f"Flickr_8k.{source}Images.txt").read_text().split()[:count]
        told = [f"{split}-{name}" for name in names]
        for name, new in zip(names, told, strict=True):
            shutil.copyfile(FLICKR8K / "Images" / name, root / "Images" / new)
            captions += [f"{new}#{number}\t{caption}" for number, caption in enumerate(lines[name])]
        (root / "Flickr8k_text" / f"Flickr_8k.{split}Images.txt").write_text("\n".join(told))
    (root / "Flickr8k_text" / "Flickr8k.token.txt").write_text("\n".join(captions), encoding="utf-8")
    return root


@needs_real_data
def test_photographs_from_fit_to_caption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The frozen, pretrained MobileNetV2 encodes each photograph once; everything after reads its features."""
    monkeypatch.chdir(tmp_path)
    data = make_subset(tmp_path / "data", 12, 4, 4)
    options = ["--config", str(ROOT / "configs" / "flickr8k_mobilenetv2_par_inject.yaml"), f"--data.root={data}"]
    options += [f"--model.encoder.name=local-dir:{WEIGHTS}", "--data.min_count=2", "--data.num_workers=0"]
    assert run("fit", *options, *QUICK, "--name=photos") == 0
    facts = result(tmp_path / "runs" / "photos")
    assert facts["encoder"]["shape"] == [1, 1, 1280]
    assert facts["data"]["images"] == {"train": 12, "val": 4, "test": 4}

    stores = {path: path.stat().st_mtime_ns for path in (tmp_path / ".features").rglob("features.npy")}
    assert len(stores) == 2  # train and val
    assert run("fit", *options, *QUICK, "--name=again") == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / ".features").rglob("features.npy")} == stores
    again = result(tmp_path / "runs" / "again")
    for fact in ("encoder", "data", "scores", "vocabulary"):
        assert again[fact] == facts[fact]

    assert run("test", *options, *QUICK, "--name=photos", "--ckpt_path=best") == 0
    told = {row["image_id"]: row["caption"] for row in rows(tmp_path / "runs" / "photos" / "captions.jsonl")}
    assert len(told) == 4
    capsys.readouterr()
    photos = [str(data / "Images" / name) for name in told]
    assert run("caption", "--checkpoint=runs/photos/checkpoints/best.ckpt", "--json", *photos) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["image"] for row in found] == photos
    # The command works on features of full precision, the store's have half of it: a word may differ.
    same = [row["captions"][0]["caption"] == told[Path(row["image"]).name] for row in found]
    assert sum(same) >= 3


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of an Attention model that knows four photographs by heart."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("learnt")
        patch.chdir(folder)
        data = make_subset(folder / "data", 4, 4, 4, again=True)
        options = ["--config", str(ROOT / "configs" / "flickr8k_mobilenetv2_attention.yaml"), f"--data.root={data}"]
        options += [f"--model.encoder.name=local-dir:{WEIGHTS}", "--data.min_count=1", "--data.num_workers=0"]
        options += ["--model.decoder.dropout=0", "--model.decoder.hidden=128", "--model.decoder.project=128"]
        options += ["--model.lr=0.005", "--trainer.max_epochs=80", "--trainer.check_val_every_n_epoch=80"]
        assert run("fit", *options, *QUIET, "--name=learnt") == 0
        assert run("test", *options, *QUIET, "--name=learnt", "--ckpt_path=last") == 0
        return folder / "runs" / "learnt"


@needs_real_data
def test_four_photographs_are_learnt_by_heart(learnt: Path) -> None:
    captions = rows(learnt / "captions.jsonl")
    assert len({row["caption"] for row in captions}) == 4
    assert result(learnt)["scores"]["test"]["bleu4"] > 0.6
    assert result(learnt)["scores"]["val"]["bleu4"] > 0.6  # the same photographs, found greedily


def photos_of(learnt: Path) -> tuple[Model, Tensor]:
    """The learnt captioner, and the features of its four photographs."""
    captioner = load(learnt / "checkpoints" / "last.ckpt", "cpu")
    photos = [open_image(path) for path in sorted((learnt.parents[1] / "data" / "Images").glob("test-*"))]
    images = torch.stack([captioner.encoder.transform(photo) for photo in photos])
    with torch.no_grad():
        return captioner, captioner.encoder(images)


def assert_found_one_by_one(captioner: Model, features: Tensor) -> None:
    """What a batch finds is what a plain search finds for each image."""
    options = Search(beam=4, max_words=12, length_penalty=0.5, captions=4)
    found = search(captioner.decoder, features, options)
    for image, tokens, scores in zip(features, found.tokens, found.scores, strict=True):
        expected = plain_beam(captioner.decoder, image, options.beam, options.max_words, options.length_penalty)
        assert [[i for i in row.tolist() if i != Vocabulary.PAD] for row in tokens] == [words for _, words in expected]
        torch.testing.assert_close(scores, torch.tensor([score for score, _ in expected]), atol=1e-4, rtol=1e-4)
    assert len({tuple(row) for row in found.tokens[:, 0].tolist()}) > 1  # not one caption for all


@needs_real_data
def test_photographs_in_a_batch_get_the_captions_of_a_plain_search(learnt: Path) -> None:
    assert_found_one_by_one(*photos_of(learnt))


def attention_of(learnt: Path) -> tuple[Found, list[int]]:
    captioner, features = photos_of(learnt)
    found = search(captioner.decoder, features, captioner.search, attention=True)
    return found, [len(image[0].split()) for image in found.words(captioner.vocabulary)]


@needs_real_data
def test_attention_is_a_share_of_the_photograph_and_moves(learnt: Path) -> None:
    found, lengths = attention_of(learnt)
    assert found.attention is not None
    assert found.attention.shape[-1] == 49  # 7 x 7 places
    for image, length in zip(found.attention[:, 0], lengths, strict=True):
        words = image[:length]
        assert length > 4
        torch.testing.assert_close(words.sum(-1), torch.ones(length))
        assert (words >= 0).all()
        shares_moved = (words[1:] - words[:-1]).abs().sum(-1) / 2
        assert (shares_moved > 0).all()
        assert shares_moved.max() > 0.1
        assert len(set(words.argmax(-1).tolist())) > 1


SCENES = {"train": 64, "val": 2, "test": 2}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a Merge model that knows 64 drawn scenes by heart."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("scenes"))
        options: list[Any] = ["--data=Shapes", *(f"--data.{split}={count}" for split, count in SCENES.items())]
        options += ["--data.batch_size=16", "--data.num_workers=0", "--data.predict_split=train", "--name=scenes"]
        options += ["--model.encoder.name=test_resnet", "--model.encoder.pretrained=false", "--data.min_count=1"]
        options += [
            "--model.decoder=Merge",
            "--model.decoder.dropout=0",
            "--model.decoder.hidden=128",
            "--model.lr=0.01",
        ]
        options += ["--model.schedule=cosine", "--model.warmup=0.1", "--model.encoder.image_size=64", *QUIET]
        often = ["--trainer.gradient_clip_val=5", "--trainer.max_epochs=60", "--trainer.check_val_every_n_epoch=60"]
        assert run("fit", *options, *often) == 0
        assert run("predict", *options, "--ckpt_path=last") == 0
        return Path("runs", "scenes").resolve()


def test_captions_of_scenes_are_about_the_scene(scenes: Path) -> None:
    """Good captions become bad ones when every image gets its neighbour's: the words alone do not score."""
    captions = {row["image_id"]: row["caption"] for row in rows(scenes / "predictions.jsonl")}
    references = {scene.id: scene.references for scene in Shapes(**SCENES).read().split("train")}
    neighbours = dict(zip(captions, [*list(captions.values())[1:], *list(captions.values())[:1]], strict=True))
    right, wrong = (score_captions(told, references).corpus["bleu4"] for told in (captions, neighbours))
    assert right > 0.5
    assert wrong < 0.25


def test_scenes_in_a_batch_get_the_captions_of_a_plain_search(scenes: Path) -> None:
    captioner = load(scenes / "checkpoints" / "last.ckpt", "cpu")
    images = torch.stack([captioner.encoder.transform(x.open()) for x in Shapes(**SCENES).read().split("train")[:16]])
    with torch.no_grad():
        assert_found_one_by_one(captioner, captioner.encoder(images))
