"""Beam search as one would explain it: one image at a time, all words of a caption again for each new one."""

import torch
from torch import Tensor

from capbench.decoders import Decoder
from capbench.text import SPECIALS, Vocabulary


def next_words(decoder: Decoder, image: Tensor, words: list[int]) -> dict[int, float]:
    """Log-probability of every word that may follow, and of `<end>`."""
    log_probs = decoder(image.unsqueeze(0), torch.tensor([[Vocabulary.START, *words]]))[0, -1].log_softmax(-1).tolist()
    return {i: log_prob for i, log_prob in enumerate(log_probs) if i == Vocabulary.END or i >= len(SPECIALS)}


def plain_beam(
    decoder: Decoder, image: Tensor, beam: int, max_words: int, length_penalty: float
) -> list[tuple[float, list[int]]]:
    """Scores and words of an image's (L, C) captions, best first."""
    alive: list[tuple[float, list[int]]] = [(0.0, [])]
    done: list[tuple[float, list[int]]] = []
    for length in range(1, max_words + 1):
        longer = [
            (log_prob + more, [*words, i])
            for log_prob, words in alive
            for i, more in next_words(decoder, image, words).items()
        ]
        best = sorted(longer, reverse=True)[: beam - len(done)]
        alive = [(log_prob, words) for log_prob, words in best if words[-1] != Vocabulary.END]
        done += [
            (log_prob / length**length_penalty, words[:-1]) for log_prob, words in best if words[-1] == Vocabulary.END
        ]
    unended = [(log_prob / max_words**length_penalty, words) for log_prob, words in alive]
    return sorted([*done, *unended], reverse=True)
