"""Captions from a decoder: beam search over all images of a batch at once.

Knows no decoder by name, only the contract of `capbench.decoders.base`. A beam of one is greedy search.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from capbench.decoders.base import Decoder, State, select
from capbench.errors import UserError
from capbench.text import Vocabulary


@dataclass(frozen=True)
class Search:
    """How captions are searched.

    Raises UserError for values that make no search.

    Args:
        beam: hypotheses kept for each image; 1 is greedy search.
        max_words: longest caption, in words.
        length_penalty: a finished caption's score is its log-probability over its length (words and `<end>`)
            to this power; 0 compares plain log-probabilities, which favours short captions, 1 means a word.
    """

    beam: int = 3
    max_words: int = 20
    length_penalty: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be searched."""
        if not (self.beam >= 1 and self.max_words >= 1 and self.length_penalty >= 0):
            raise UserError(
                f"A search needs beam and max_words of at least 1 and a length_penalty of at least 0, not {self}."
            )


@dataclass(slots=True)
class Found:
    """The captions of N images, K each, best first.

    Attributes:
        tokens: (N, K, max_words), without `<start>` and `<end>`, `<pad>` behind the last word.
        log_probs: (N, K) natural log-probability of words and `<end>`; -inf where fewer than K were found.
        scores: (N, K) by which they are ordered.
        attention: (N, K, max_words, L) weights for each word, where the decoder attends.
    """

    tokens: Tensor
    log_probs: Tensor
    scores: Tensor
    attention: Tensor | None


@torch.no_grad()
def search(decoder: Decoder, features: Tensor, options: Search) -> Found:
    """Captions for features (N, L, C).

    Of all extensions of an image's hypotheses the best are kept; one that ends takes its place with it, so that
    the beam shrinks (as in Xu et al. 2015's code). Hypotheses still alive after `max_words` words count as they
    stand. `<unk>`, `<pad>` and `<start>` are never produced. The result of an image does not depend on the
    others in its batch.
    """
    width, device, count = options.beam, features.device, len(features)
    owner = torch.arange(count, device=device).repeat_interleave(width)  # (N K,) the image of each hypothesis
    context = select(decoder.context(features), owner)
    state = decoder.start(context)
    history = {"tokens": torch.full((count * width, options.max_words), Vocabulary.PAD, device=device)}
    if "attention" in state:
        history["attention"] = torch.zeros(*history["tokens"].shape, features.shape[1], device=device)
    last = torch.full((count * width,), Vocabulary.START, device=device)
    alive = torch.full((count, width), -torch.inf, device=device)
    alive[:, 0] = 0.0
    done = _found(history, torch.full_like(alive, -torch.inf), 1, options)

    for word in range(options.max_words):
        logits, state = decoder.step(last, state, context)
        log_probs = logits.float().log_softmax(-1)  # (N K, V)
        log_probs[:, [Vocabulary.PAD, Vocabulary.START, Vocabulary.UNK]] = -torch.inf
        total = (alive.view(-1, 1) + log_probs).view(count, -1)  # (N, K V)
        best, place = total.topk(width)  # (N, K)
        parent, token = place // log_probs.shape[1], place % log_probs.shape[1]
        free = width - (done.scores > -torch.inf).sum(1, keepdim=True)
        best = best.masked_fill(torch.arange(width, device=device) >= free, -torch.inf)

        rows = (parent + owner.view(count, width) * width).flatten()  # (N K,)
        state, history = select(state, rows), select(history, rows)
        ended = token == Vocabulary.END
        done = _keep_best(done, _found(history, best.masked_fill(~ended, -torch.inf), word + 1, options))
        alive = best.masked_fill(ended, -torch.inf)
        if not (alive > -torch.inf).any():
            return done
        last = token.flatten()
        history["tokens"][:, word] = last
        if "attention" in state:
            history["attention"][:, word] = state["attention"].float()
    return _keep_best(done, _found(history, alive, options.max_words, options))


def _found(history: State, log_probs: Tensor, length: int, options: Search) -> Found:
    count, width = log_probs.shape
    images = {name: tensor.unflatten(0, (count, width)) for name, tensor in history.items()}
    return Found(images["tokens"], log_probs, log_probs / length**options.length_penalty, images.get("attention"))


def _keep_best(done: Found, new: Found) -> Found:
    """The K best of two sets of hypotheses, in new tensors."""
    scores, order = torch.cat([done.scores, new.scores], 1).topk(done.scores.shape[1])  # (N, K)

    def pick(first: Tensor, second: Tensor) -> Tensor:
        both = torch.cat([first, second], 1)
        return both[torch.arange(len(both), device=both.device).unsqueeze(1), order]

    attention = None
    if done.attention is not None and new.attention is not None:
        attention = pick(done.attention, new.attention)
    tokens = pick(done.tokens, new.tokens).masked_fill((scores == -torch.inf).unsqueeze(-1), Vocabulary.PAD)
    return Found(tokens, pick(done.log_probs, new.log_probs), scores, attention)
