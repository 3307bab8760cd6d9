"""A sweep is checked before anything starts, by our own parser; and so is whether its inputs can be had."""

import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from capbench.errors import UserError
from capbench.sweeps.check import CommandLine, check_inputs, check_sweep, probes
from capbench.sweeps.file import SweepFile, read_sweep
from tests.support import TINY_ENCODER, TINY_SHAPES, make_flickr8k

OURS = ["${env}", "${interpreter}", "-m", "capbench", "fit", *TINY_SHAPES, *TINY_ENCODER]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., SweepFile]:
    def write(parameters: dict[str, Any], command: Any = OURS, args: bool = True, **more: Any) -> SweepFile:
        content = {"method": "random", "parameters": parameters, "program": "train.py"} | more
        content["command"] = [*command, "${args}"] if args else command
        file = tmp_path / "sweep.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        return read_sweep(file)

    return write


ATTENTIONS = [{"class_path": "Attention", "init_args": {"attention": size}} for size in (8, 16)]


@pytest.mark.parametrize(
    "parameters",
    [
        {"model.lr": {"min": 0.001, "max": 0.1}, "data.batch_size": {"values": [4, 8.0]}},
        {"model.encoder_lr": {"values": [None]}, "model.encoder.frozen": {"values": [True, False]}},
        {"model.decoder.attention": {"values": [8, 16]}, "model.decoder": {"value": "Attention"}},
        {"model.decoder": {"values": ["Merge", *ATTENTIONS]}, "model.decoder.hidden": {"min": 4, "max": 8}},
        {"model": {"parameters": {"lr": {"value": 0.1}, "search": {"parameters": {"beam": {"values": [1, 2]}}}}}},
        {"seed_everything": {"values": [0, 1]}, "trainer.devices": {"values": [1, 8]}},
        {"data.batch_size": {"distribution": "q_log_uniform_values", "min": 4, "max": 64}},
    ],
)
def test_what_our_command_takes_passes(write: Callable[..., SweepFile], parameters: dict[str, Any]) -> None:
    check_sweep(write(parameters))


# What is tried, the parameter whose line is told, and what is said.
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"model.lr": {"value": 0.1}, "model.lrr": {"value": 0.1}}, "model.lrr", "did you mean model.lr?"),
    ({"model.optimizer": {"values": ["adam", "lion"]}}, "model.optimizer", "model.optimizer=lion is refused"),
    ({"model.lr": {"min": -0.1, "max": 0.1}}, "model.lr", "model.lr=-0.1 is refused: --model.lr"),
    ({"model.search.beam": {"min": 0, "max": 3}}, "model.search.beam", "A search needs beam"),
    ({"model.search.beam": {"min": 1.0, "max": 3.5}}, "model.search.beam", "model.search.beam=3.5 is refused"),
    ({"model.lr": {"values": [0.1, None]}}, "model.lr", "model.lr=None is refused"),
    ({"model.decoder.hidden": {"min": -1, "max": 8}}, "model.decoder.hidden", "model.decoder.hidden=-1 is refused"),
    ({"model.decoder": {"values": ["Merge", "Atention"]}}, "model.decoder", "did you mean Attention?"),
    ({"data.batch_sise": {"value": 3}}, "data.batch_sise", "did you mean"),
    (
        {"model.decoder.attention": {"values": [8]}, "model.decoder": {"values": ["Attention", "Merge"]}},
        "model.decoder.attention",
        "model.decoder.attention=8 with model.decoder=Merge is refused",
    ),
    ({"model": {"parameters": {"lrr": {"value": 0.1}}}}, "model.lrr", "model.lrr=0.1 is refused"),
]


@pytest.mark.parametrize(("parameters", "name", "said"), REFUSED)
def test_what_it_does_not_take_is_told_with_the_line(
    write: Callable[..., SweepFile], parameters: dict[str, Any], name: str, said: str
) -> None:
    sweep = write(parameters)
    with pytest.raises(UserError) as raised:
        check_sweep(sweep)
    message = str(raised.value)
    assert message.startswith(f"{sweep.path}, line {sweep.lines[name]}: ")
    assert said in message
    assert "--help" not in message
    assert "\n" not in message
    line = sweep.path.read_text(encoding="utf-8").splitlines()[sweep.lines[name] - 1]
    assert line.strip() == f"{sweep.keys[name][-1]}:"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["python", "-m", "capbench", "fit", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["python", "-m", "capbench", "fit", "--modle.lr=3"], "--modle.lr"),
        (["python", "-m", "capbench", "test", "--ckpt_path=nowhere.ckpt"], "There is no checkpoint nowhere.ckpt"),
        (
            ["python", "-m", "capbench", "test", "--ckpt_path=${envvar:CHECKPOINT_X}"],
            "${envvar:CHECKPOINT_X} is not set",
        ),
    ],
)
def test_a_wrong_command_is_told_with_its_line(write: Callable[..., SweepFile], command: list[str], said: str) -> None:
    sweep = write({"model.lr": {"value": 0.1}}, command)
    with pytest.raises(UserError) as raised:
        check_sweep(sweep)
    assert str(raised.value).startswith(f"{sweep.path}, line {sweep.lines['command']}: the command")
    assert said in str(raised.value)


def test_commands_that_are_not_ours_are_left_alone(write: Callable[..., SweepFile]) -> None:
    sweep = write({"anything": {"value": 0.1}}, ["python", "train.py"], metric={"name": "val/bleu-4"})
    check_sweep(sweep)
    check_inputs(sweep)


@pytest.mark.parametrize(
    ("command", "metric", "said"),
    [
        ("fit", "val/bleu4", ""),
        ("fit", "train/captions_per_second", ""),
        ("fit", "my_callback/score", ""),
        ("fit", "val/bleu-4", "fit does not log 'val/bleu-4': did you mean val/bleu4?"),
        ("fit", "test/bleu4", "fit does not log 'test/bleu4'"),
        ("fit", "val/meteor", "fit does not log 'val/meteor'"),
        ("fit", "val/cider", "did you mean val/cider_d?"),
    ],
)
def test_a_metric_that_is_never_logged_is_refused(
    write: Callable[..., SweepFile], command: str, metric: str, said: str
) -> None:
    sweep = write({"model.lr": {"value": 0.1}}, metric={"name": metric, "goal": "maximize"})
    if not said:
        return check_sweep(sweep)
    with pytest.raises(UserError) as raised:
        check_sweep(sweep)
    assert said in str(raised.value)
    assert f"line {sweep.lines['metric']}: " in str(raised.value)


def test_every_choice_and_both_ends_are_tried_under_each_class(write: Callable[..., SweepFile]) -> None:
    parameters = {
        "model.decoder": {"values": ["Merge", "Attention"]},
        "model.decoder.hidden": {"values": [8, 16, 32]},
        "model.lr": {"min": 0.1, "max": 0.5},
    }
    tried = [tuple(point.values()) for point in probes(write(parameters))]
    assert len(set(tried)) == len(tried)
    for decoder in ("Merge", "Attention"):
        assert {hidden for name, hidden, _ in tried if name == decoder} == {8, 16, 32}
        assert {lr for name, _, lr in tried if name == decoder} == {0.1, 0.5}


def test_nothing_runs_and_nothing_is_written(
    write: Callable[..., SweepFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    check_sweep(write({"model.lr": {"value": 0.1}}))
    assert list((tmp_path / "here").iterdir()) == []


def test_settings_are_what_the_command_would_take(write: Callable[..., SweepFile]) -> None:
    sweep = write({"model.lr": {"value": 0.25}, "model.decoder": {"value": "Merge"}})
    settings = CommandLine().settings(sweep.words({"model.lr": 0.25, "model.decoder": "Merge"}))
    assert settings is not None
    assert settings.model.lr == 0.25
    assert settings.data.counts == {"train": 8, "val": 4, "test": 3}


PRETRAINED = ["python", "-m", "capbench", "fit", "--model.encoder.name=resnet50.a1_in1k"]


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No network and empty caches; the addresses that were asked."""
    import datasets
    import torch
    from huggingface_hub import constants

    asked: list[str] = []

    def refuse(request: Any, timeout: float) -> Any:
        assert timeout <= 5
        asked.append(request.full_url)
        raise urllib.error.URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    return asked


def test_without_a_network_one_sentence_tells_all_that_is_missing(
    write: Callable[..., SweepFile], alone: list[str]
) -> None:
    names = ["vgg16.tv_in1k", "resnet50.a1_in1k", "legacy_xception.tf_in1k"]
    sweep = write({"model.encoder.name": {"values": names}}, PRETRAINED)
    began = time.monotonic()
    with pytest.raises(UserError) as raised:
        check_inputs(sweep)
    assert time.monotonic() - began < 30
    message = str(raised.value)
    assert message.startswith(
        f"{sweep.path} needs the pretrained weights of {', '.join(names[:2])} and {names[2]} "
        "and the data set jxie/flickr8k, which cannot be had (https://huggingface.co/timm/vgg16.tv_in1k does not"
    )
    assert "Name or service not known" in message
    assert message.endswith("or run sweeps/demo.yaml, which needs neither and ends in under 10 minutes on 2 cores.")
    assert message.count(". ") == 0
    assert len(alone) == 1  # nobody else is asked


def test_shapes_and_random_weights_need_nothing(write: Callable[..., SweepFile], alone: list[str]) -> None:
    check_inputs(write({"model.lr": {"value": 0.1}}))
    assert alone == []


def test_what_lies_here_is_not_asked_for(write: Callable[..., SweepFile], alone: list[str], tmp_path: Path) -> None:
    from huggingface_hub import constants

    root = make_flickr8k(tmp_path / "flickr8k", train=2, val=1, test=1)
    repository = Path(constants.HF_HUB_CACHE, "models--timm--resnet50.a1_in1k")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "snapshots" / "abc" / "model.safetensors").touch()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    check_inputs(write({"model.lr": {"value": 0.1}}, [*PRETRAINED, f"--data.root={root}"]))
    (tmp_path / "torch" / "checkpoints").mkdir(parents=True)
    (tmp_path / "torch" / "checkpoints" / "xception-43020ad28.pth").touch()
    (tmp_path / "datasets" / "jxie___flickr8k").mkdir(parents=True)
    check_inputs(write({"model.encoder.name": {"value": "legacy_xception.tf_in1k"}}, PRETRAINED))
    assert alone == []


def test_who_can_be_asked_is(
    write: Callable[..., SweepFile], alone: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Answer:
        def close(self) -> None:
            pass

    def answer(request: Any, timeout: float) -> Answer:
        alone.append(request.full_url)
        if "datasets" in request.full_url:  # somebody who wants a key, which the Hub's client may have
            raise urllib.error.HTTPError(request.full_url, 401, "Unauthorized", None, None)  # type: ignore[arg-type]
        return Answer()

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    check_inputs(write({"model.lr": {"value": 0.1}}, PRETRAINED))
    assert [address.rpartition("co/")[2] for address in alone] == ["timm/resnet50.a1_in1k", "datasets/jxie/flickr8k"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--data.root=nowhere"], "and the images of nowhere, which cannot be had (--data.root nowhere is no folder"),
        (["--model.encoder.name=local-dir:nowhere"], "of local-dir:nowhere and the data set"),
        (["--model.encoder.name=vgg61.tv_in1k"], "(timm has no such weights)"),
        (["--model.encoder.name=vgg16.tv_in22k"], "(timm has no such weights)"),
    ],
)
def test_what_can_be_had_from_nobody_is_told(
    write: Callable[..., SweepFile], alone: list[str], more: list[str], said: str
) -> None:
    with pytest.raises(UserError) as raised:
        check_inputs(write({"model.lr": {"value": 0.1}}, [*PRETRAINED, *more]))
    assert said in str(raised.value)
    assert "sweeps/demo.yaml" in str(raised.value)
