import json
from functools import partial

import pytest

from capbench.decoders import Attention, Decoder, Merge
from capbench.encoder import Encoder, TimmEncoder
from capbench.errors import UserError
from capbench.features import FeatureShape
from capbench.parts import from_plain, part_class, to_plain

SHAPE = FeatureShape(2, 2, 5)


def test_a_class_and_its_options_survive_as_plain_data() -> None:
    plain = json.loads(json.dumps(to_plain(partial(Merge, join="add", hidden=7))))
    assert plain == {"class_path": "capbench.decoders.merge.Merge", "init_args": {"join": "add", "hidden": 7}}
    decoder = from_plain(plain, Decoder)(SHAPE, 11)
    assert isinstance(decoder, Merge)
    assert (decoder.join, decoder.lstm.hidden_size) == ("add", 7)
    assert to_plain(from_plain(plain, Decoder)) == plain


def test_a_bare_class_keeps_its_defaults() -> None:
    plain = to_plain(Attention)
    assert plain == {"class_path": "capbench.decoders.attention.Attention", "init_args": {}}
    assert part_class(from_plain(plain, Decoder)) is Attention


def test_options_added_to_a_part_are_kept() -> None:
    inner = partial(TimmEncoder, name="test_vit")
    plain = to_plain(partial(inner, pretrained=False))
    assert part_class(partial(inner, pretrained=False)) is TimmEncoder
    assert plain["init_args"] == {"name": "test_vit", "pretrained": False}


def test_plain_data_is_no_window_into_the_part() -> None:
    factory = partial(Merge, hidden=7)
    to_plain(factory)["init_args"]["hidden"] = 8
    assert factory.keywords == {"hidden": 7}


@pytest.mark.parametrize(
    "path", ["capbench.encoder.TimmEncoder", "subprocess.Popen", "os.system", "capbench.decoders.select"]
)
def test_only_parts_of_the_right_kind_are_taken(path: str) -> None:
    with pytest.raises(UserError, match=f"{path} is no Decoder"):
        from_plain({"class_path": path, "init_args": {}}, Decoder)


@pytest.mark.parametrize("path", ["my_own_code.Talker", "capbench.decoders.merge.Gone", "Merge", ""])
def test_a_part_that_is_not_here_is_said_to_be_missing(path: str) -> None:
    with pytest.raises(UserError, match=r"cannot be imported here.*PYTHONPATH"):
        from_plain({"class_path": path, "init_args": {}}, Decoder)


def test_an_encoder_is_no_decoder() -> None:
    assert part_class(from_plain(to_plain(TimmEncoder), Encoder)) is TimmEncoder
    with pytest.raises(UserError, match=r"Merge is no Encoder"):
        from_plain(to_plain(Merge), Encoder)
