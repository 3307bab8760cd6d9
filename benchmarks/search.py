"""Beam search with Attention over 7x7x2048, against the tutorials' and against itself one image at a time.

python benchmarks/search.py [--images 100] [--device cuda] [--bf16]

The decoder, of 512 units and 2,539 words, has learnt drawn captions of Flickr8k's lengths for as many drawn grids, in
half a minute, so that captions end as they do in use; a second one has random weights and never ends by itself. Both
sides search with a beam of 5, up to 20 words, and their captions are compared.
"""

import argparse

import torch
from measure import Row, faster, multiply_adds, print_rows, side_by_side
from torch import Tensor, nn
from torch.nn import functional as F
from training import REFERENCES, drawn_tokens

from capbench.decoders import Attention
from capbench.features import FeatureShape
from capbench.memory import keep_memory
from capbench.search import Search, search
from capbench.text import Vocabulary

SHAPE, WORDS, UNITS = FeatureShape(7, 7, 2048), 2539, 512
OPTIONS = Search(beam=5, max_words=20)


@torch.no_grad()
def textbook(decoder: Attention, image: Tensor) -> list[int]:
    """One image's (L, C) best caption, as the best-known PyTorch tutorial searches it.

    The grid is repeated for each hypothesis and projected to attention keys again at each word; all of it is in Python,
    and the beam shrinks as captions end.
    """
    width, device = OPTIONS.beam, image.device
    grid = decoder.project(image.unsqueeze(0)).expand(width, *image.shape)
    h, c = torch.tanh(decoder.initial(grid.mean(1))).chunk(2, -1)
    last = torch.full((width,), Vocabulary.START, device=device)
    captions, scores = last.unsqueeze(1), torch.zeros(width, 1, device=device)
    complete: list[tuple[float, list[int]]] = []
    for word in range(1, OPTIONS.max_words + 1):
        words = decoder.embedding(last)
        keys = decoder.attention.key(grid)  # (k, L, A)
        queries = decoder.attention.query(h).unsqueeze(1)
        weights = decoder.attention.energy(torch.tanh(keys + queries)).squeeze(2).softmax(1)
        seen = (grid * weights.unsqueeze(2)).sum(1)
        seen = torch.sigmoid(decoder.beta(h)) * seen if decoder.beta else seen
        h, c = decoder.lstm(torch.cat([words, seen], 1), (h, c))
        hidden = words + decoder.deep_hidden(h) + decoder.deep_attended(seen)
        log_probs = F.log_softmax(decoder.output(hidden).float(), 1)
        log_probs[:, [Vocabulary.PAD, Vocabulary.START, Vocabulary.UNK]] = -torch.inf
        log_probs = scores + log_probs
        scores, place = (log_probs[0] if word == 1 else log_probs.view(-1)).topk(width)
        parent, last = place // WORDS, place % WORDS
        captions = torch.cat([captions[parent], last.unsqueeze(1)], 1)
        going = [i for i, token in enumerate(last.tolist()) if token != Vocabulary.END]
        for i in set(range(len(last))) - set(going):
            complete.append((float(scores[i]), captions[i, 1:-1].tolist()))
        width -= len(last) - len(going)
        if not width:
            break
        captions, scores, last = captions[going], scores[going].unsqueeze(1), last[going]
        h, c, grid = h[parent[going]], c[parent[going]], grid[parent[going]]
    else:
        complete += [(float(score), caption[1:].tolist()) for score, caption in zip(scores, captions, strict=True)]
    return max(complete)[1]


def never_ending(device: str) -> Attention:
    """Random weights."""
    decoder = _decoder()
    nn.init.normal_(decoder.output.weight, std=0.3)
    nn.init.constant_(decoder.output.bias[Vocabulary.END : Vocabulary.END + 1], -1e4)
    return decoder.eval().to(device)


def learnt(grids: Tensor) -> Attention:
    """Knows five captions of each grid (N, L, C), more or less."""
    decoder = _decoder().to(grids.device)
    optimizer = torch.optim.AdamW(decoder.parameters(), fused=True)
    tokens = drawn_tokens(len(grids) * REFERENCES).to(grids.device)
    for _ in range(13):
        for images in torch.randperm(len(grids)).to(grids.device).split(20):
            captions = tokens.unflatten(0, (-1, REFERENCES))[images].flatten(0, 1)
            real = captions[:, 1:] != Vocabulary.PAD
            with torch.autocast(grids.device.type, torch.bfloat16):
                hidden, _ = decoder.hidden(decoder.context(grids[images]), captions[:, :-1], real.sum(1))
                loss = F.cross_entropy(decoder.output(hidden[real]).float(), captions[:, 1:][real])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
            optimizer.step()
    return decoder.eval()


def _decoder() -> Attention:
    torch.manual_seed(0)
    return Attention(SHAPE, WORDS, embedding=UNITS, hidden=UNITS, attention=UNITS, dropout=0.0)


def rows(device: str = "cpu", images: int = 100, bf16: bool = False, rounds: int = 3) -> list[Row]:
    """Captions a second over the textbook's, and over batches of one image."""
    torch.manual_seed(0)
    grids = torch.randn(images, SHAPE.places, SHAPE.channels, device=device)
    of_both = {"captions of 20 words": never_ending(device), "captions that end": learnt(grids)}
    return [row for name, decoder in of_both.items() for row in compared(name, decoder, grids, bf16, rounds)]


def compared(name: str, decoder: Attention, grids: Tensor, bf16: bool, rounds: int) -> list[Row]:
    """One decoder's two rows; the targets are for captions that end."""
    dtype, ends = torch.bfloat16 if bf16 else torch.float32, "end" in name

    def ours() -> list[list[int]]:
        with torch.autocast(grids.device.type, dtype, enabled=bf16):
            tokens = search(decoder, grids, OPTIONS).tokens[:, 0].tolist()
        return [[word for word in caption if word != Vocabulary.PAD] for caption in tokens]

    def alone() -> None:
        keep_memory()  # the same code, and so the same memory
        with torch.autocast(grids.device.type, dtype, enabled=bf16):
            for grid in grids:
                search(decoder, grid.unsqueeze(0), OPTIONS)

    def theirs() -> list[list[int]]:
        with torch.autocast(grids.device.type, dtype, enabled=bf16):
            return [textbook(decoder, grid) for grid in grids]

    same = sum(a == b for a, b in zip(ours(), theirs(), strict=True))
    words = sum(map(len, ours())) / len(grids)
    name = f"beam 5, Attention, {name} ({words:.1f} words), {'bf16' if bf16 else 'fp32'}"
    work, arithmetic = (float(len(grids)), "captions"), (multiply_adds(ours), dtype)
    note = f"the textbook's search, image by image; {same} of {len(grids)} captions the same"
    by_one = "the same code, image by image"
    return [
        faster(name, side_by_side(ours, theirs, rounds), 15 if ends else None, work, note, arithmetic),
        faster(name, side_by_side(ours, alone, rounds), 6 if ends else None, work, by_one, arithmetic),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    options = parser.parse_args()
    print_rows(rows(options.device, options.images, options.bf16), options.device)


if __name__ == "__main__":
    main()
