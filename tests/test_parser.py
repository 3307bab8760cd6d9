"""Words as a sweep's agent gives them: `None`, 3.0 for 3, a part's options before its class or of another one."""

from pathlib import Path
from typing import Any

import pytest

from capbench.cli import CapbenchCLI
from capbench.errors import UserError
from tests.support import ROOT

ATTENTION = f"--config={ROOT / 'configs' / 'resnet50_attention.yaml'}"


class Parsed(Exception):
    """All is read, and nothing made yet."""


def settings(*arguments: str) -> Any:
    """What a command line comes to."""

    class Reader(CapbenchCLI):
        def _parse_ckpt_path(self) -> None:
            raise Parsed(self.config["fit"])

    with pytest.raises(Parsed) as parsed:
        Reader(["fit", *arguments])
    return parsed.value.args[0]


def value(options: Any, name: str) -> Any:
    for key in name.split("."):
        options = options.get("init_args", options)[key]
    return options


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--model.glove=None", None),
        ("--model.encoder_lr=None", None),
        ("--model.finetune_from=None", None),
        ("--data.feature_store=None", None),
        ("--model.search.beam=3.0", 3),
        ("--data.batch_size=16.0", 16),
        ("--model.finetune_from=2.0", 2),
        ("--model.decoder.hidden=64.0", 64),
        ("--trainer.max_epochs=3.0", 3),
        ("--seed_everything=7.0", 7),
        ("--early_stopping.patience=4.0", 4),
        ("--trainer.limit_train_batches=1.0", 1.0),
        ("--trainer.limit_train_batches=1", 1),
        ("--model.lr=1e-05", 1e-5),
        ("--model.lr=3.0", 3.0),
        ("--model.tune_embedding=False", False),
    ],
)
def test_values_as_python_writes_them(argument: str, expected: Any) -> None:
    got = value(settings(argument), argument[2:].partition("=")[0])
    assert got == expected
    assert type(got) is type(expected)


def test_whole_numbers_change_only_where_a_whole_number_is_asked_for() -> None:
    options = settings("--trainer.limit_train_batches=1.0", "--data.batch_size=16.0", "--trainer.limit_val_batches=1.0")
    assert type(options.trainer.limit_train_batches) is type(options.trainer.limit_val_batches) is float
    assert value(options, "data.batch_size") == 16


@pytest.mark.parametrize("argument", ["--data.batch_size=16.5", "--trainer.max_epochs=3.5"])
def test_other_numbers_are_refused(argument: str) -> None:
    with pytest.raises(UserError, match="Expected a <class 'int'>"):
        settings(argument)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model.decoder.attention=8", "--model.decoder=Attention"],
        ["--model.decoder=Attention", "--model.decoder.attention=8"],
        ["--model.decoder=Merge", "--model.decoder.attention=8.0", "--model.lr=0.1", "--model.decoder=Attention"],
        ["--model.decoder={'class_path': 'Attention', 'init_args': {'attention': 8, 'project': None}}"],
        ["--model={'lr': 0.1, 'glove': None, 'decoder': {'class_path': 'Attention', 'init_args': {'attention': 8}}}"],
        [ATTENTION, "--model.decoder.attention=8"],
    ],
)
def test_a_parts_options_may_come_in_any_order(arguments: list[str]) -> None:
    options = settings(*arguments)
    assert options.model.decoder.class_path.endswith(".Attention")
    assert options.model.decoder.init_args.attention == 8


def test_data_and_encoder_may_come_after_their_options() -> None:
    options = settings("--data.train=8", "--model.encoder.name=test_resnet", "--data=Shapes")
    assert value(options, "data.train") == 8
    assert value(options, "model.encoder.name") == "test_resnet"


def test_a_config_of_another_decoder_leaves_nothing_behind() -> None:
    decoder = settings(ATTENTION, "--model.decoder.join=add", "--model.decoder=Merge").model.decoder
    assert decoder.class_path.endswith(".Merge")
    assert decoder.init_args.join == "add"
    assert "attention" not in decoder.init_args


@pytest.mark.parametrize(
    "arguments",
    [
        ["--model.decoder=Merge", "--model.decoder.attention=64"],
        ["--model.decoder.attention=64", "--model.decoder=Merge"],
        [ATTENTION, "--model.decoder.attention=64", "--model.decoder=Merge"],
    ],
)
def test_an_option_of_another_decoder_says_whose_it_is(arguments: list[str]) -> None:
    with pytest.raises(UserError) as refused:
        settings(*arguments)
    assert str(refused.value).startswith(
        "Option 'attention' is not accepted: it is an option of AdaptiveAttention and Attention, "
        "so leave it out or choose that class"
    )


def test_an_option_of_another_data_source_says_whose_it_is() -> None:
    with pytest.raises(UserError, match=r"'root' is not accepted: it is an option of Images, so leave it out or"):
        settings("--data=Shapes", "--data.root=somewhere")
