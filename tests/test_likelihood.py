from functools import partial
from itertools import permutations
from math import log
from statistics import mean, median

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from capbench.captioner import Batch, Captioner
from capbench.decoders import Attention, Decoder, ParInject, State
from capbench.encoder import TimmEncoder
from capbench.errors import UserError
from capbench.likelihood import (
    NAMES,
    Likelihood,
    likelihood_scores,
    log_likelihoods,
    own_log_likelihoods,
    perplexity,
    retrieval,
)
from capbench.text import Vocabulary
from tests.decoders.test_contract import DECODERS, SHAPE, WORDS, build, some_features

START, END, PAD, UNK = Vocabulary.START, Vocabulary.END, Vocabulary.PAD, Vocabulary.UNK
CAPTIONS = [[5, 6, 7], [5, 6], [UNK, 5], [5, 6, 7, 8, 9, 9], [], [5, 6, 7], [5, UNK, 7], [6]]  # beginnings in common
ids = st.integers(UNK, 6)


def padded(captions: list[list[int]]) -> Tensor:
    rows = [torch.tensor([START, *caption, END]) for caption in captions]
    return pad_sequence(rows, batch_first=True, padding_value=PAD)


def lively(name: str) -> Decoder:
    """A decoder with large weights, so that images and words matter."""
    decoder = build(name)
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.8)
    return decoder


@torch.no_grad()
def plain(decoder: Decoder, image: Tensor, caption: list[int]) -> float:
    """One caption, one image (L, C), one word after the other."""
    logits = decoder(image.unsqueeze(0), torch.tensor([[START, *caption]]))[0]
    return sum(
        float(word_logits[word] - word_logits.logsumexp(0))
        for word_logits, word in zip(logits.double(), [*caption, END], strict=True)
    )


@pytest.mark.parametrize("chunk", [1, 2, 256])
@pytest.mark.parametrize("name", DECODERS)
def test_likelihoods_are_those_of_one_pair_after_the_other(name: str, chunk: int) -> None:
    decoder, features = lively(name), some_features(3)
    expected = torch.tensor([[plain(decoder, image, caption) for image in features] for caption in CAPTIONS])
    assert (expected.std(1) > 1e-3).all()
    found = log_likelihoods(decoder, features, padded(CAPTIONS), chunk)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_a_captions_own_likelihood_is_one_of_them(name: str) -> None:
    decoder, features, tokens = lively(name), some_features(3), padded(CAPTIONS)
    owners = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2])
    expected = log_likelihoods(decoder, features, tokens)[torch.arange(8), owners]
    torch.testing.assert_close(own_log_likelihoods(decoder, features, tokens, owners), expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=30)
@given(st.lists(st.lists(ids, max_size=4), min_size=1, max_size=6), st.integers(1, 4), st.integers(1, 5))
def test_likelihoods_of_any_captions(captions: list[list[int]], images: int, chunk: int) -> None:
    decoder, features = lively("ParInject"), some_features(images)
    expected = torch.tensor([[plain(decoder, image, caption) for image in features] for caption in captions])
    found = log_likelihoods(decoder, features, padded(captions), chunk)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_each_beginning_is_computed_once_for_at_most_a_chunk_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, rows = lively("Merge, add"), []
    step = decoder.step

    def count(tokens: Tensor, *rest: State) -> tuple[Tensor, State]:
        rows.append(len(tokens))
        return step(tokens, *rest)

    monkeypatch.setattr(decoder, "step", count)
    log_likelihoods(decoder, some_features(5), padded(CAPTIONS), chunk=2)
    beginnings = {tuple(caption[:length]) for caption in CAPTIONS for length in range(len(caption) + 1)}
    assert sorted(rows) == sorted(len(beginnings) * [2, 2, 1])


def test_bfloat16_stays_near() -> None:
    decoder, features, tokens = build("Merge, concat"), some_features(), padded(CAPTIONS)
    with torch.autocast("cpu", torch.bfloat16):
        found = log_likelihoods(decoder, features, tokens)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, log_likelihoods(decoder, features, tokens), atol=0.2, rtol=0)


def test_perplexity_is_exp_of_the_cross_entropy() -> None:
    decoder, features, tokens = lively("Attention"), some_features(3), padded(CAPTIONS)
    owners = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2])
    logits, targets = decoder(features, tokens[:, :-1], owners).detach(), tokens[:, 1:]
    found = perplexity(own_log_likelihoods(decoder, features, tokens, owners), tokens)
    loss = nn.CrossEntropyLoss(ignore_index=PAD)
    each = [float(loss(row, target)) for row, target in zip(logits, targets, strict=True)]
    assert found["perplexity"] == pytest.approx(float(loss(logits.flatten(0, 1), targets.flatten()).exp()))
    assert found["perplexity_geometric"] == pytest.approx(float(torch.tensor(each).mean().exp()))
    assert found["unknown_words"] == pytest.approx(2 / 20)


def test_hand_computed_perplexities() -> None:
    """Two words of probability 1/2, four of 1/8, `<end>` among them."""
    log_likelihoods = -torch.tensor([2.0, 12.0]) * log(2)
    found = perplexity(log_likelihoods, padded([[5], [6, UNK, 5]]))
    assert found["perplexity"] == pytest.approx(2 ** (14 / 6))
    assert found["perplexity_geometric"] == pytest.approx((2 * 8) ** 0.5)
    assert found["unknown_words"] == pytest.approx(1 / 4)


def test_whoever_knows_nothing_is_as_perplexed_as_there_are_words() -> None:
    decoder, features, tokens = build("ParInject"), some_features(8), padded(CAPTIONS)
    for parameter in decoder.output.parameters():
        nn.init.zeros_(parameter)
    found = perplexity(own_log_likelihoods(decoder, features, tokens, torch.arange(8)), tokens)
    assert found["perplexity"] == pytest.approx(WORDS, rel=1e-5)
    assert found["perplexity_geometric"] == pytest.approx(WORDS, rel=1e-5)


def test_hand_computed_ranks() -> None:
    """Two captions of image 0, and one of image 2 that image 1 suits as well: ranks 1, 3 and 1.5."""
    found = retrieval(torch.tensor([[-1.0, -2, -3], [-3, -2, -1], [-9, -4, -4]]), torch.tensor([0, 0, 2]))
    assert found == pytest.approx({"recall1": (1 + 0 + 0.5) / 3, "recall5": 1, "recall10": 1, "median_rank": 1.5})


@given(st.lists(st.lists(st.integers(-3, 0), min_size=4, max_size=4), min_size=1, max_size=5), st.data())
def test_equal_likelihoods_count_as_in_random_order(table: list[list[int]], data: st.DataObject) -> None:
    owners = data.draw(st.lists(st.integers(0, 3), min_size=len(table), max_size=len(table)))
    found = retrieval(torch.tensor(table).float(), torch.tensor(owners))
    ranks = []
    for row, owner in zip(table, owners, strict=True):
        orders = [sorted(order, key=lambda image: -row[image]) for order in permutations(range(4))]
        ranks.append([order.index(owner) + 1 for order in orders])
    assert found["recall1"] == pytest.approx(mean(mean(rank == 1 for rank in caption) for caption in ranks))
    assert found["median_rank"] == pytest.approx(median(mean(caption) for caption in ranks))


def test_who_does_not_look_finds_by_chance() -> None:
    found = retrieval(torch.zeros(7, 20), torch.arange(7))
    assert found == pytest.approx({"recall1": 1 / 20, "recall5": 5 / 20, "recall10": 10 / 20, "median_rank": 10.5})


def test_a_captioner_that_does_not_look_finds_by_chance() -> None:
    """Rounding may order images that are equal to it, but not by what the captions are."""
    decoder = ParInject(SHAPE, WORDS, embedding=6, hidden=7).eval()
    tokens = torch.randint(4, WORDS, (100, 8), generator=torch.Generator().manual_seed(0))
    tokens[:, 0], tokens[:, -1] = START, END
    blind = log_likelihoods(decoder, some_features(1).expand(20, -1, -1), tokens)
    found = retrieval(blind, torch.arange(100) % 20)
    assert found["recall10"] == pytest.approx(0.5, abs=0.2)
    assert found["median_rank"] == pytest.approx(10.5, abs=4)


def test_a_captioner_that_knows_the_captions_by_heart_finds_every_image() -> None:
    torch.manual_seed(0)
    decoder, features = ParInject(SHAPE, WORDS, embedding=16, hidden=32, dropout=0.0), some_features(12)
    tokens = torch.randint(4, WORDS, (12, 7))
    tokens[:, 0], tokens[:, -1] = START, END
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.01)
    for _ in range(150):
        loss = nn.functional.cross_entropy(decoder(features, tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = log_likelihoods(decoder, features, tokens)
    assert retrieval(found, torch.arange(12)) == {"recall1": 1, "recall5": 1, "recall10": 1, "median_rank": 1}
    assert perplexity(found.diagonal(), tokens)["perplexity"] < 1.1


def test_likelihoods_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(UserError, match=r"NaN.* train it again"):
        retrieval(torch.tensor([[0.0, float("nan")]]), torch.tensor([0]))


OF_ALL = {"perplexity", "perplexity_geometric", "unknown_words", "likelihood_references"}
NUMBERS = [1, 3, 2, 1, 2]  # captions of each of five images


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    torch.manual_seed(0)
    encoder = partial(TimmEncoder, name="test_resnet", pretrained=False, image_size=64)
    captioner = Captioner(encoder, partial(Attention, embedding=6, hidden=7, attention=4))
    captioner.build(Vocabulary([f"word{i}" for i in range(7)]))
    return captioner.eval()


def batches(captioner: Captioner, size: int, encoded: bool = True) -> list[Batch]:
    """Five images and their captions, so many images a batch."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(5, 3, 64, 64, generator=generator)
    inputs = captioner.encoder(pictures) if encoded else pictures
    captions = torch.randint(UNK, 11, (9, 3), generator=generator).tolist()
    captions = [caption[: 1 + i % 3] for i, caption in enumerate(captions)]
    found = []
    for first in range(0, 5, size):
        numbers = NUMBERS[first : first + size]
        before = sum(NUMBERS[:first])
        found.append(
            Batch(
                ids=[str(first + i) for i in range(len(numbers))],
                inputs=inputs[first : first + size],
                encoded=encoded,
                references=[("",) * number for number in numbers],
                tokens=padded(captions[before : before + sum(numbers)]),
                owners=torch.arange(len(numbers)).repeat_interleave(torch.tensor(numbers)),
            )
        )
    return found


@pytest.mark.parametrize("references", [1, 2, None])
def test_the_figures_of_a_captioner(captioner: Captioner, references: int | None) -> None:
    [everything] = batches(captioner, 5)
    keep = [place < (references or 9) for number in NUMBERS for place in range(number)]
    tokens, owners = everything.tokens[keep], everything.owners[keep]
    table = log_likelihoods(captioner.decoder, captioner.features(everything), tokens)
    expected = perplexity(table.gather(1, owners.unsqueeze(1)).squeeze(1), tokens) | retrieval(table, owners)
    expected |= {"likelihood_references": sum(keep), "retrieval_images": 5}
    found = likelihood_scores(captioner, [everything], references, 5)
    assert list(found) == list(NAMES)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("encoded", [True, False])
def test_batches_do_not_matter(captioner: Captioner, encoded: bool) -> None:
    expected = likelihood_scores(captioner, batches(captioner, 5), None, 5)
    assert likelihood_scores(captioner, batches(captioner, 2, encoded), None, 9) == pytest.approx(expected, rel=1e-4)


def test_retrieval_is_among_the_first_images_and_perplexity_of_all(captioner: Captioner) -> None:
    everything, few = likelihood_scores(captioner, batches(captioner, 2), images=5), batches(captioner, 3)[:1]
    found = likelihood_scores(captioner, batches(captioner, 2), images=3)
    expected = likelihood_scores(captioner, few, images=3)
    for name in NAMES:
        other = everything if name in OF_ALL else expected
        assert found[name] == pytest.approx(other[name], rel=1e-4), name
    assert set(likelihood_scores(captioner, few)) == OF_ALL
    assert (found["likelihood_references"], found["retrieval_images"]) == (5, 3)
    assert likelihood_scores(captioner, batches(captioner, 2), images=9)["retrieval_images"] == 5


@pytest.mark.parametrize("bars", [True, False])
def test_progress_is_shown_or_not(captioner: Captioner, bars: bool, capsys: pytest.CaptureFixture[str]) -> None:
    likelihood_scores(captioner, batches(captioner, 2), images=5, bars=bars)
    assert bool(capsys.readouterr().err) == bars


@pytest.mark.parametrize("options", [{"references": 0}, {"images": -1}])
def test_numbers_that_are_none_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"--likelihood.references must be at least 1"):
        Likelihood(**options)


def test_no_images_are_refused(captioner: Captioner) -> None:
    with pytest.raises(UserError, match=r"no images .* give at least one batch"):
        likelihood_scores(captioner, [])
