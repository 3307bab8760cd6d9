"""How likely captions are to a captioner: perplexity, and images found by their captions.

Source: Tanti, Gatt and Camilleri (2018), "Where to put the image in an image caption generator", and their code, whose
`geomean_pplx` is `perplexity_geometric` here.

Shapes: N images, B captions of at most T words (`<end>` among them), L places of C channels in an image's features.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from statistics import fmean, median
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from capbench.captioner import Batch, Captioner
from capbench.decoders import Decoder, select
from capbench.errors import UserError
from capbench.text import Vocabulary

NAMES = {
    "perplexity": "perplexity",
    "perplexity_geometric": "geometric mean",
    "unknown_words": "unknown words",
    "likelihood_references": "references",
    "recall1": "R@1",
    "recall5": "R@5",
    "recall10": "R@10",
    "median_rank": "median rank",
    "retrieval_images": "among images",
}
"""Figure -> the title of its column. `unknown_words` and the three R@K are shares, 0 to 1.

`likelihood_references` and `retrieval_images` say of how many captions the figures before them are, and how many images
were ranked.
"""


class Likelihood(L.Callback):
    """How likely the references are to the captioner, at test and validate: perplexity, and retrieval if asked for.

    Args:
        references: how many of each image's references count, the first ones; null takes all.
        images: image retrieval by the captions' likelihood is among so many images, the first ones; 0 leaves it out,
            since its time grows with their square: 1,000 take minutes on a CPU.
    """

    def __init__(self, references: int | None = 1, images: int = 0) -> None:
        if (references is not None and references < 1) or images < 0:
            raise UserError(
                "--likelihood.references must be at least 1, or null for all, and --likelihood.images at least 0, but "
                f"they are {references} and {images}."
            )
        self.references, self.images = references, images

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Of the validation split, but not during training."""
        if trainer.state.fn != "fit":
            self.measure(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Of the test split."""
        self.measure(trainer, pl_module, "test")

    def measure(self, trainer: Any, captioner: L.LightningModule, split: str) -> None:
        """Add to the captioner's figures, in the first process, which goes through the whole split."""
        assert isinstance(captioner, Captioner)
        loader = trainer.datamodule.whole(split)  # in all processes: it may wait for the others
        if not trainer.is_global_zero:
            return
        batches = islice(loader, int(getattr(trainer, f"num_{split}_batches")[0]) * trainer.world_size)
        precision = trainer.precision_plugin.forward_context
        bars = trainer.progress_bar_callback is not None
        figures = likelihood_scores(captioner, batches, self.references, self.images, precision, bars)
        captioner.keep_figures(split, figures)


@torch.no_grad()
def likelihood_scores(
    captioner: Captioner,
    batches: Iterable[Batch],
    references: int | None = 1,
    images: int = 0,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    bars: bool = True,
) -> dict[str, float]:
    """The figures under the keys of `NAMES`, of references given their images.

    With one reference and all images they are computed as in Tanti, Gatt and Camilleri (2018).

    Args:
        captioner: in eval mode.
        batches: what the data's loaders give; of a split, in one process.
        references: how many of each image's references count, the first ones; null takes all.
        images: the retrieval is among so many images, the first ones; 0 leaves it out, since its time grows with their
            square.
        precision: in which the captioner runs.
        bars: whether progress is shown.

    Raises:
        UserError: there are no batches, or the likelihoods are no numbers.
    """
    features: list[Tensor] = []
    captions: list[Tensor] = []
    owners: list[Tensor] = []
    own: list[Tensor] = []
    seen = 0
    for batch in tqdm(batches, "perplexity", unit="batch", mininterval=1, delay=3, disable=not bars):
        batch = captioner.transfer_batch_to_device(batch, captioner.device, 0)
        whose = batch.owners
        place = torch.arange(len(whose), device=captioner.device) - torch.searchsorted(whose, whose)
        first = place < (references or len(place))  # among its image's captions
        with precision():
            encoded, tokens, whose = captioner.features(batch), batch.tokens[first], whose[first]
            own.append(own_log_likelihoods(captioner.decoder, encoded, tokens, whose))
        captions += tokens
        owners.append(whose + seen)
        if seen < images:
            features.append(encoded)
        seen += len(encoded)
    if not seen:
        raise UserError("There are no images whose captions' likelihood could be measured: give at least one batch.")
    tokens, whose = pad_sequence(captions, batch_first=True, padding_value=Vocabulary.PAD), torch.cat(owners)
    scores = perplexity(torch.cat(own), tokens) | {"likelihood_references": len(tokens)}
    if images:
        among = whose < images
        with precision():
            found = log_likelihoods(captioner.decoder, torch.cat(features)[:images], tokens[among], bars=bars)
        scores |= retrieval(found, whose[among]) | {"retrieval_images": found.shape[1]}
    return scores


@torch.no_grad()
def own_log_likelihoods(decoder: Decoder, features: Tensor, tokens: Tensor, owners: Tensor) -> Tensor:
    """Natural log-probability (B,) of each caption, `<end>` included, given its own image.

    Args:
        decoder: in eval mode.
        features: (N, L, C).
        tokens: (B, T + 1) from `<start>` to `<end>`, `<pad>` behind.
        owners: (B,) which of the N images each caption belongs to.
    """
    hidden, _ = decoder.hidden(select(decoder.context(features), owners), tokens[:, :-1])
    targets = tokens[:, 1:]
    real = targets != Vocabulary.PAD
    losses = F.cross_entropy(decoder.output(hidden[real]).float(), targets[real], reduction="none")
    return -losses.new_zeros(real.shape).masked_scatter(real, losses).sum(1)


def perplexity(log_likelihoods: Tensor, tokens: Tensor) -> dict[str, float]:
    """How many words, all equally likely, would leave the captioner as unsure of the next word as it is.

    A caption's log-likelihood is the sum over its words and `<end>`. `perplexity` is exp of minus the mean over all
    captions' words; `perplexity_geometric` is the geometric mean of the captions' own perplexities, so that a short
    caption weighs as much as a long one. A word that the vocabulary lacks counts as `<unk>`, and the more words it
    lacks the likelier `<unk>` is: perplexities compare captioners of one vocabulary alone. `unknown_words` is the share
    of the words, `<end>` left out, that are `<unk>`.

    Args:
        log_likelihoods: (B,) natural, of each caption given its image.
        tokens: (B, T + 1) from `<start>` to `<end>`, `<pad>` behind, with at least one word among them.
    """
    targets = tokens[:, 1:]
    lengths = (targets != Vocabulary.PAD).sum(1)
    return {
        "perplexity": float((-log_likelihoods.sum() / lengths.sum()).exp()),
        "perplexity_geometric": float((-log_likelihoods / lengths).mean().exp()),
        "unknown_words": float((targets == Vocabulary.UNK).sum() / (lengths - 1).sum()),
    }


def retrieval(log_likelihoods: Tensor, owners: Tensor) -> dict[str, float]:
    """How often a caption finds its image: R@1, R@5 and R@10 as shares, and the median rank, from 1.

    For each caption all images are ranked by the caption's likelihood given the image. Equally likely images come in
    random order, of which these are the expected recalls and ranks: a captioner that does not look at the image gets
    K / N and (N + 1) / 2. Figures for different numbers of images N cannot be compared.

    Args:
        log_likelihoods: (B, N) of at least one caption.
        owners: (B,) which of the N images each caption belongs to.

    Raises:
        UserError: a likelihood is no number.
    """
    if log_likelihoods.isnan().any():
        raise UserError("The captioner's likelihoods are no numbers (NaN): train it again, with a lower learning rate.")
    own = log_likelihoods.gather(1, owners.unsqueeze(1))  # (B, 1)
    better, equal = (log_likelihoods > own).sum(1), (log_likelihoods == own).sum(1)  # (B,), its image among the equal
    recalls = {f"recall{k}": fmean(((k - better) / equal).clamp(0, 1).tolist()) for k in (1, 5, 10)}
    return recalls | {"median_rank": median((better + (equal + 1) / 2).tolist())}


@torch.no_grad()
def log_likelihoods(decoder: Decoder, features: Tensor, tokens: Tensor, chunk: int = 256, bars: bool = True) -> Tensor:
    """Natural log-probability (B, N) of each caption, `<end>` included, given each image.

    What captions begin with in common is computed once for all of them. Beside the result, memory holds `chunk` images'
    logits of one word, and their states for each word of one caption. Under `torch.autocast` the decoder runs in that
    precision.

    Args:
        decoder: in eval mode.
        features: (N, L, C).
        tokens: (B, T + 1) from `<start>` to `<end>`, `<pad>` behind.
        chunk: images for which a word is computed at once.
        bars: whether progress is shown.
    """
    tree = Beginning()
    for row, caption in enumerate(tokens.tolist()):
        tree.add(row, [word for word in caption if word != Vocabulary.PAD])
    result = torch.empty(len(tokens), len(features), device=features.device)
    title = f"likelihoods of {len(tokens)} captions for {len(features)} images"
    with tqdm(total=result.numel(), desc=title, unit="pair", unit_scale=True, mininterval=1, disable=not bars) as bar:
        for first in range(0, len(features), chunk):
            images = slice(first, first + chunk)
            for rows, found in _walk(decoder, features[images], tree):
                result[rows, images] = found
                bar.update(len(rows) * len(found))
    return result


@dataclass
class Beginning:
    """The first words of captions: `rows` are the captions that have no others, `longer` goes on by the next word."""

    rows: list[int] = field(default_factory=list)
    longer: "dict[int, Beginning]" = field(default_factory=dict)

    def add(self, row: int, words: list[int]) -> None:
        """Put a caption's words behind these."""
        place = self
        for word in words:
            place = place.longer.setdefault(word, Beginning())
        place.rows.append(row)


def _walk(decoder: Decoder, features: Tensor, tree: Beginning) -> Iterator[tuple[list[int], Tensor]]:
    """Depth first: the rows of equal captions, and their log-likelihood (N,) given each image."""
    context, count = decoder.context(features), len(features)
    nothing = torch.zeros(count, device=features.device)
    todo = [(start, word, decoder.start(context), nothing) for word, start in tree.longer.items()]
    while todo:
        beginning, word, state, so_far = todo.pop()
        if beginning.rows:
            yield beginning.rows, so_far
        if beginning.longer:
            logits, state = decoder.step(torch.full((count,), word, device=features.device), state, context)
            log_probs = logits.float().log_softmax(-1)  # (N, V)
            todo += [(more, word, state, so_far + log_probs[:, word]) for word, more in beginning.longer.items()]
