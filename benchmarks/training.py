"""Times training steps, each beside what one would compare it with, in turns in one process.

python benchmarks/training.py [--device cpu] [--rounds 5] [--units 256 512]

Captions are drawn words, as long as Flickr8k's; features are drawn numbers, since no time depends on what they are.
"""

import argparse
import logging
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import lightning.pytorch as L
import torch
from lightning.pytorch.loggers import CSVLogger
from measure import Row, faster, multiply_adds, print_rows, side_by_side, slower
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from capbench.captioner import Batch, Captioner
from capbench.data.captions import CaptionedImage, CaptionSet
from capbench.data.module import CaptionData
from capbench.decoders import Attention, Decoder, InitInject, Merge, ParInject
from capbench.encoder import Encoder
from capbench.features import FeatureShape
from capbench.text import Vocabulary

IMAGES, REFERENCES = 32, 5
"""Of a batch: images, and captions of each."""

WORDS = 2539
"""In the vocabulary."""

LENGTHS = (25, 177, 464, 1163, 2634, 3377, 3892, 4422, 4551, 4203, 3702, 3103, 2526, 1796, 1374, 935, 709, 489, 287)
LENGTHS += (192, 136, 102, 66, 48, 26, 15, 13, 14, 6)
"""How many of Flickr8k's captions have 2 words, 3 and so on; mean 10.8, to which `<end>` comes."""

POOLED, GRID = FeatureShape(1, 1, 2048), FeatureShape(7, 7, 2048)
Precision = Literal["32-true", "bf16-mixed"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--units", type=int, nargs="+", default=[256, 512])
    options = parser.parse_args()
    print_rows(rows(options.device, options.rounds, options.units), options.device)


def rows(device: str = "cpu", rounds: int = 5, units: list[int] | None = None) -> list[Row]:
    """All that is measured here."""
    fused = [
        trainer_step(decoder, size, device, rounds)
        for size in units or [256, 512]
        for decoder in (InitInject, ParInject, Merge)
    ]
    return fused + attention_step(device, rounds)


def trainer_step(decoder: Callable[..., Decoder], units: int, device: str, rounds: int) -> Row:
    """A whole training step beside the least that one can do: LSTM, linear layer and cross-entropy on padded words."""
    captioner = Captioner(encoder=partial(Drawn, shape=POOLED), decoder=partial(decoder, embedding=units, hidden=units))
    beside = BesideEachStep(partial(bare_step, *bare_layers(units, device)))
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator=device,
            devices=1,
            max_epochs=1,
            limit_val_batches=0,
            gradient_clip_val=1.0,
            log_every_n_steps=1,
            logger=CSVLogger(folder),
            callbacks=[beside],
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(captioner, DrawnCaptions(4 * rounds + 1, feature_store=Path(folder), batch_size=IMAGES))
    ours, theirs, words = (median(each[1:]) for each in zip(*beside.seconds_and_words, strict=True))
    name = f"Trainer step, {decoder.__name__}, {units} units, batch {IMAGES} x {REFERENCES}"
    return slower(name, (ours, theirs), 1.15, (words, "words"), "bare LSTM + Linear + cross-entropy, padded")


def bare_layers(units: int, device: str) -> tuple[nn.LSTM, nn.Linear]:
    """What no captioner with an LSTM goes without."""
    return nn.LSTM(units, units, batch_first=True).to(device), nn.Linear(units, WORDS).to(device)


def bare_step(lstm: nn.LSTM, output: nn.Linear, targets: Tensor) -> None:
    """Forward and backward on padded shapes (B, T)."""
    lstm.zero_grad()
    output.zero_grad()
    logits = output(lstm(torch.randn(*targets.shape, lstm.input_size, device=targets.device))[0])
    nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=Vocabulary.PAD).backward()


class BesideEachStep(L.Callback):
    """Does something else with the targets (B, T) of each step, after it.

    Attributes:
        seconds_and_words: of each step, from getting its batch to having logged it; of what is done beside it; and how
            many words it has.
    """

    def __init__(self, beside: Callable[[Tensor], None]) -> None:
        self.beside = beside
        self.seconds_and_words: list[tuple[float, float, int]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The first step begins."""
        self.began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """A step has ended; the next one begins when the other thing is done."""
        ours = self.since()
        targets = batch.tokens[:, 1:].contiguous()
        self.beside(targets)
        self.seconds_and_words.append((ours, self.since(), int((targets != Vocabulary.PAD).sum())))
        self.since()

    def since(self) -> float:
        """Seconds since the last time this was asked."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        before, self.began = self.began, time.perf_counter()
        return self.began - before


def attention_step(device: str, rounds: int) -> list[Row]:
    """A training step of `Attention` beside the textbook's, in both precisions."""
    torch.manual_seed(0)
    features = torch.randn(IMAGES, GRID.places, GRID.channels, device=device)
    tokens = drawn_tokens(IMAGES * REFERENCES).to(device)
    owners = torch.arange(IMAGES, device=device).repeat_interleave(REFERENCES)
    batch = Batch([""] * IMAGES, features, True, [("",) * REFERENCES] * IMAGES, tokens, owners)
    captioner = Captioner(decoder=partial(Attention, embedding=512, hidden=512, attention=512, doubly_stochastic=1.0))
    captioner.decoder = captioner.make_decoder(GRID, WORDS).to(device)
    textbook = Textbook(GRID.channels, 512, 512, 512, WORDS).to(device)
    repeated, lengths = features[owners], (tokens != Vocabulary.PAD).sum(1)

    ours = partial(step, captioner.decoder, lambda: captioner.word_loss(batch, captioner.loss)[0])
    theirs = partial(step, textbook, lambda: textbook.loss(repeated, tokens, lengths))
    work, name = (
        (int(lengths.sum()) - len(lengths), "words"),
        f"training step, Attention, 7x7x2048, 512 units, batch {IMAGES} x {REFERENCES}",
    )
    arithmetic = multiply_adds(partial(ours, device, False))
    fp32, bf16 = (
        side_by_side(partial(ours, device, half), partial(theirs, device, half), rounds) for half in (False, True)
    )
    return [
        faster(f"{name}, fp32", fp32, 2.5, work, "the textbook's, fp32", (arithmetic, torch.float32)),
        faster(f"{name}, bf16", bf16, 4.5, work, "the textbook's, bf16", (arithmetic, torch.bfloat16)),
        faster(f"{name}, bf16", (bf16[0], fp32[1]), 4.5, work, "the textbook's, fp32", (arithmetic, torch.bfloat16)),
    ]


def step(model: nn.Module, loss: Callable[[], Tensor], device: str, half: bool) -> None:
    """Forward, backward, clipping, AdamW."""
    if not hasattr(model, "optimizer"):
        model.optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    with torch.autocast(device, torch.bfloat16, enabled=half):
        value = loss()
    model.zero_grad()
    value.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    model.optimizer.step()


class Textbook(nn.Module):
    """Show, Attend and Tell as the best-known tutorial for PyTorch has it, which many copy.

    https://github.com/sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning, models.py and train.py: one caption a row, the
    grid projected at every word, a gate for each channel.

    Args:
        channels: C of the grid.
        attention: size A.
        embedding: size E.
        hidden: size H.
        words: V.
    """

    def __init__(self, channels: int, attention: int, embedding: int, hidden: int, words: int) -> None:
        super().__init__()
        self.encoder_att = nn.Linear(channels, attention)
        self.decoder_att = nn.Linear(hidden, attention)
        self.full_att = nn.Linear(attention, 1)
        self.embedding = nn.Embedding(words, embedding)
        self.dropout = nn.Dropout(0.5)
        self.decode_step = nn.LSTMCell(embedding + channels, hidden)
        self.init_h = nn.Linear(channels, hidden)
        self.init_c = nn.Linear(channels, hidden)
        self.f_beta = nn.Linear(hidden, channels)
        self.fc = nn.Linear(hidden, words)

    def attend(self, grid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Attended vector (B, C) and weights (B, L) for a grid (B, L, C) and a state (B, H)."""
        compared = self.encoder_att(grid) + self.decoder_att(h).unsqueeze(1)
        alpha = self.full_att(compared.relu()).squeeze(2).softmax(1)
        return (grid * alpha.unsqueeze(2)).sum(1), alpha

    def loss(self, grid: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """For tokens (B, T + 1) with so many that are no padding (B,)."""
        lengths, order = lengths.sort(descending=True)
        grid, tokens = grid[order], tokens[order]
        embeddings = self.embedding(tokens)
        h, c = self.init_h(grid.mean(1)), self.init_c(grid.mean(1))
        decode_lengths = (lengths - 1).tolist()
        predictions = grid.new_zeros(len(grid), max(decode_lengths), self.fc.out_features)
        alphas = grid.new_zeros(len(grid), max(decode_lengths), grid.shape[1])
        for t in range(max(decode_lengths)):
            rows = sum(length > t for length in decode_lengths)
            attended, alpha = self.attend(grid[:rows], h[:rows])
            attended = torch.sigmoid(self.f_beta(h[:rows])) * attended
            h, c = self.decode_step(torch.cat([embeddings[:rows, t], attended], 1), (h[:rows], c[:rows]))
            predictions[:rows, t] = self.fc(self.dropout(h))
            alphas[:rows, t] = alpha
        scores = pack_padded_sequence(predictions, decode_lengths, batch_first=True).data
        targets = pack_padded_sequence(tokens[:, 1:], decode_lengths, batch_first=True).data
        return nn.functional.cross_entropy(scores, targets) + ((1 - alphas.sum(1)) ** 2).mean()


def drawn_tokens(captions: int) -> Tensor:
    """Padded captions (captions, T + 1)."""
    drawn = random.Random(0)
    words = [
        torch.tensor([drawn.randrange(4, WORDS) for _ in range(length)]) for length in drawn_lengths(drawn, captions)
    ]
    edges = torch.tensor([Vocabulary.START]), torch.tensor([Vocabulary.END])
    whole = [torch.cat([edges[0], caption, edges[1]]) for caption in words]
    return pad_sequence(whole, batch_first=True, padding_value=Vocabulary.PAD)


def drawn_lengths(drawn: random.Random, captions: int) -> list[int]:
    """Numbers of words."""
    return drawn.choices(range(2, 2 + len(LENGTHS)), LENGTHS, k=captions)


class Drawn(Encoder):
    """Features that look at no picture."""

    kind = "grid"

    def __init__(self, needs: str, saved: Any, shape: FeatureShape) -> None:
        super().__init__()
        self.shape, self.transform = shape, lambda picture: torch.zeros(3, 1, 1)
        self.nothing = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """See `Encoder`."""
        return torch.randn(len(images), self.shape.places, self.shape.channels)

    def saved(self) -> dict[str, Any]:
        """See `Encoder`."""
        return {}


class DrawnCaptions(CaptionData):
    """So many batches of captions of drawn words."""

    def __init__(self, batches: int, **options: Any) -> None:
        super().__init__(min_count=1, num_workers=0, **options)
        self.batches = batches

    def read(self) -> CaptionSet:
        """See `CaptionData`; every word occurs."""
        drawn = random.Random(0)
        words = [f"w{number}" for number in range(4, WORDS)]
        images = []
        for number in range(self.batches * self.batch_size):
            references = tuple(" ".join(drawn.choices(words, k=length)) for length in drawn_lengths(drawn, REFERENCES))
            opened = partial(Image.new, "RGB", (1, 1))
            images.append(CaptionedImage(str(number), references, "train", opened, ""))
        return CaptionSet(images)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    main()
