"""Captioners on the Hub, and references to them wherever a checkpoint is taken."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import wandb
import yaml
from huggingface_hub import ModelCard, ModelHubMixin

import capbench
import capbench.tracking
from capbench.errors import UserError
from capbench.model import Model
from capbench.runs import RunFolder, find_checkpoint, read_checkpoint
from tests.support import QUICK, TINY_ENCODER, TINY_SHAPES, make_picture, run

PICTURES = [make_picture(seed, (60, 48))[0] for seed in range(6)]
ARTIFACT = "us/captions/captioner-abc:best"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("run"))
        options = [*TINY_SHAPES, *TINY_ENCODER, *QUICK, "--model.search.max_words=6", "--name=tiny", "--test_best=true"]
        assert run("fit", *options, "--model.decoder=Attention", "--model.decoder.hidden=8", "--model.lr=0.03") == 0
        return RunFolder(Path.cwd() / "runs" / "tiny")


@pytest.fixture(scope="module")
def model(trained: RunFolder) -> Model:
    return capbench.load(trained.checkpoint("best"), "cpu")


@pytest.fixture
def saved(model: Model, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def captions(model: Model) -> list[Any]:
    return [(each.text, each.log_prob) for found in model.caption(PICTURES, num_captions=3) for each in found]


def card(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def test_a_folder_gives_the_same_captioner(model: Model, saved: Path, tmp_path: Path) -> None:
    assert issubclass(Model, ModelHubMixin)
    names = {"config.json", "model.safetensors", "README.md", "config.yaml", "result.json"}
    assert {file.name for file in saved.iterdir()} == names
    expected = captions(model)
    assert len({text for text, _ in expected}) > 2
    again = Model.from_pretrained(saved)
    for loaded in (again, capbench.load(saved, "cpu")):
        assert captions(loaded) == expected
        assert loaded.search == model.search
    again.save_pretrained(tmp_path / "again")  # nothing is lost on the way
    again.save_pretrained(saved)
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes()


def test_its_card_tells_scores_data_configuration_and_licence(trained: RunFolder, model: Model, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, model_card_kwargs={"license": "cc-by-nc-4.0", "name": "Tiny"})
    text, facts = card(tmp_path).text, card(tmp_path).data
    result, config = trained.result(), trained.config.read_text()
    assert (facts.license, facts.library_name, facts.pipeline_tag) == ("cc-by-nc-4.0", "capbench", "image-to-text")
    assert "cc-by-nc-4.0. The encoder began with random weights; images and captions have terms of their own." in text
    assert f"```yaml\n{config.strip()}\n```" in text
    assert yaml.safe_load(config)["model"]["decoder"]["init_args"]["hidden"] == 8
    assert "Shapes: 8 train, 4 val, 3 test images" in text
    assert result["data"]["fingerprint"] in text
    for split, scores in result["scores"].items():
        assert f"| {split} | {scores['bleu1']:.3f} |" in text
        told = {each.metric_name: each.metric_value for each in facts.eval_results if each.dataset_split == split}
        assert told["BLEU-4"] == pytest.approx(scores["bleu4"], abs=1e-4)
    assert set(result["scores"]) == {"val", "test"}
    assert facts.model_name == "Tiny"


@pytest.mark.parametrize(
    ("name", "known", "told"),
    [
        (None, "unknown", "Not stated. The encoder began with random weights"),
        ("resnet50.a1_in1k", "apache-2.0", "The weights of the encoder, resnet50.a1_in1k, come under apache-2.0"),
        ("local-dir:../weights/mine", "unknown", "The terms of the encoder's weights, mine, are not known to timm"),
        ("local-dir:weights/resnet50.a1_in1k", "unknown", "resnet50.a1_in1k, are not known to timm"),
        ("local-dir:weights/resnet50.mine", "unknown", "resnet50.mine, are not known to timm"),
        ("hf-hub:timm/resnet50.mine", "unknown", "hf-hub:timm/resnet50.mine, are not known to timm"),
    ],
)
def test_without_a_word_the_licence_is_the_encoders(model: Model, name: str | None, known: str, told: str) -> None:
    assert model.made_of
    made_of = json.loads(json.dumps(model.made_of))
    if name:
        made_of["hyper_parameters"]["encoder"]["init_args"] |= {"name": name, "pretrained": True}
    written = Model(model.encoder, model.decoder, model.vocabulary, model.search, made_of).generate_model_card()
    assert written.data.license == known
    assert told in written.text
    assert "None were kept" in written.text
    assert "weights/mine" not in written.text.partition("## Configuration")[0]


def test_a_captioner_without_a_checkpoint_is_not_saved(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="came from a checkpoint"):
        Model(model.encoder, model.decoder, model.vocabulary, model.search).save_pretrained(tmp_path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the Hub: what is pushed lies there, and is fetched from there."""
    folder = tmp_path / "hub"

    class Created:
        def __init__(self, repo_id: str) -> None:
            self.repo_id = repo_id

    def create_repo(self: Any, repo_id: str, **options: Any) -> Created:
        return Created(repo_id)

    def upload_folder(self: Any, *, repo_id: str, folder_path: Path, revision: str | None, **options: Any) -> str:
        shutil.copytree(folder_path, folder / f"{repo_id}@{revision or 'main'}")
        return f"https://hub/{repo_id}"

    def snapshot_download(repo_id: str, revision: str | None = None, **options: Any) -> str:
        there = folder / f"{repo_id}@{revision or 'main'}"
        if not there.is_dir():
            raise OSError(f"404: no {repo_id}\nmore of it")
        return str(there)

    def hf_hub_download(repo_id: str, filename: str, revision: str | None = None, **options: Any) -> str:
        return str(Path(snapshot_download(repo_id, revision)) / filename)

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", hf_hub_download)
    return folder


def test_what_is_pushed_is_found_by_its_name(
    model: Model, hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert model.push_to_hub("us/tiny") == "https://hub/us/tiny"
    model.push_to_hub("us/tiny", branch="old", model_card_kwargs={"license": "mit"})
    assert 'capbench.load("hf://us/tiny")' in card(hub / "us/tiny@main").text
    assert card(hub / "us/tiny@main").data.model_name == "tiny"
    assert card(hub / "us/tiny@old").data.license == "mit"
    expected = captions(model)
    for loaded in (
        Model.from_pretrained("us/tiny"),
        Model.from_pretrained("us/tiny", revision="old"),
        capbench.load("hf://us/tiny", "cpu"),
        capbench.load("hf://us/tiny@old", "cpu"),
    ):
        assert captions(loaded) == expected

    PICTURES[0].save(tmp_path / "a.png")
    assert run("caption", "--checkpoint", "hf://us/tiny", tmp_path / "a.png") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a.png'}: {expected[0][0]}\n"
    assert run("caption", "--checkpoint", "hf://us/none", tmp_path / "a.png") == 2
    sentence = "capbench: There is no checkpoint hf://us/none here, and it cannot be downloaded (404: no us/none).\n"
    assert capsys.readouterr().err == sentence
    (hub / "us/tiny@main/config.json").unlink()
    with pytest.raises(UserError, match=r"holds no config\.json, so it is no captioner"):
        find_checkpoint("hf://us/tiny")


def test_a_folder_that_holds_something_else_is_refused(saved: Path) -> None:
    for content in ("{}", "not JSON", "[]"):
        (saved / "config.json").write_text(content)
        with pytest.raises(UserError, match=r"saved (is a checkpoint of something else|cannot be read)"):
            capbench.load(saved)
    shutil.rmtree(saved)
    with pytest.raises(UserError, match=r"There is no checkpoint .*saved\.$"):
        capbench.load(saved)


@pytest.fixture
def artifacts(trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """W&B's API as far as it is asked; gives the folder of an artifact with checkpoints of these names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    folder = tmp_path / "artifacts" / "captioner-abc:v0"

    class Artifact:
        def download(self) -> str:
            return str(folder)

    class Api:
        def artifact(self, name: str) -> Artifact:
            if name != ARTIFACT:
                raise wandb.errors.CommError(f"artifact '{name}' not found in 'us/captions'.")
            return Artifact()

    monkeypatch.setattr(wandb, "Api", Api)

    def make(*names: str) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(trained.checkpoint("best"), folder / name)
        shutil.copyfile(trained.config, folder / "config.yaml")
        return folder

    return make


def test_a_wandb_artifact_is_a_checkpoint_wherever_one_is_taken(
    model: Model, trained: RunFolder, artifacts: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = artifacts("best.ckpt")
    assert captions(capbench.load(ARTIFACT, "cpu")) == captions(model)
    PICTURES[0].save("a.png")
    assert run("caption", "--checkpoint", ARTIFACT, "a.png") == 0
    assert capsys.readouterr().out == f"a.png: {captions(model)[0][0]}\n"
    for arguments in (["--ckpt_path", ARTIFACT], [f"--ckpt_path={ARTIFACT}"]):  # its configuration lies beside it
        assert run("test", *arguments, "--name=again") == 0
    for name in ("again", "again-2"):
        scores = RunFolder(Path("runs") / name).result()["scores"]["test"]
        assert scores["bleu1"] == trained.result()["scores"]["test"]["bleu1"]

    artifacts("last.ckpt")
    with pytest.raises(UserError, match=r"holds 2 checkpoints \(\*\.ckpt\), not one"):
        find_checkpoint(ARTIFACT)
    with pytest.raises(UserError, match=r"none:v0 here, and it cannot be downloaded \(artifact 'us/none:v0' not found"):
        find_checkpoint("us/none:v0")
    Path("us/captions").mkdir(parents=True)
    shutil.copyfile(folder / "best.ckpt", ARTIFACT)  # what is here comes first
    assert find_checkpoint(ARTIFACT) == Path(ARTIFACT)


def test_an_artifact_takes_a_key(artifacts: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capbench.tracking, "has_key", lambda: False)
    with pytest.raises(UserError, match="takes a key: run `wandb login`"):
        find_checkpoint(ARTIFACT)


def test_a_runs_folder_stands_for_its_checkpoint(trained: RunFolder, tmp_path: Path) -> None:
    assert find_checkpoint(trained.path) == trained.checkpoint("best")
    for nothing in (tmp_path, tmp_path / "none.ckpt", "us/name", "hf:us/name", "a b/c:d"):
        with pytest.raises(UserError, match="There is no checkpoint"):
            find_checkpoint(nothing)


def test_weights_are_read_as_they_were(trained: RunFolder, saved: Path) -> None:
    ours, theirs = read_checkpoint(trained.checkpoint("best")), read_checkpoint(saved)
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    assert all(torch.equal(ours["state_dict"][name], theirs["state_dict"][name]) for name in ours["state_dict"])
    assert theirs["capbench"]["vocabulary"] == ours["capbench"]["vocabulary"]
