"""Captions from a decoder: beam search or sampling, over all images of a batch at once.

Knows no decoder by name, only the contract of `capbench.decoders.base`. A beam of one is greedy search.

Shapes: N images that are still searched, K hypotheses each, V words in the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from capbench.decoders.base import Decoder, State, select
from capbench.errors import UserError
from capbench.text import Vocabulary

NEVER = [Vocabulary.PAD, Vocabulary.START, Vocabulary.UNK]
SHARE_LEFT = 0.75
"""Images that are done leave the batch when no more than this share is left, since leaving copies the others."""


@dataclass(frozen=True)
class Search:
    """How captions are searched.

    Raises UserError for values that make no search.

    Args:
        beam: hypotheses kept for each image; 1 is greedy search.
        max_words: longest caption, in words.
        length_penalty: a finished caption's score is its log-probability over its length (words and `<end>`)
            to this power; 0 compares plain log-probabilities, which favours short captions, 1 means a word.
        captions: how many captions an image gets, best first; of the beam's, or so many samples.
        min_words: shortest caption, in words.
        no_repeat_ngram: no sequence of so many words comes twice in a caption; 0 allows it.
        sample: draw words by their probability instead of searching the most probable caption.
        temperature: what log-probabilities are divided by before a word is drawn; below 1 favours probable words.
        top_k: a word is drawn from so many most probable ones; 0 draws from all.
        top_p: a word is drawn from the most probable ones that have so much probability together (Holtzman et al.
            2020, "The curious case of neural text degeneration"); 1 draws from all.
    """

    beam: int = 3
    max_words: int = 20
    length_penalty: float = 0.0
    captions: int = 1
    min_words: int = 0
    no_repeat_ngram: int = 0
    sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be searched, and what would change nothing."""
        if not (self.beam >= 1 and self.max_words >= 1 and self.length_penalty >= 0 and self.captions >= 1):
            raise UserError(
                "A search needs beam, max_words and captions of at least 1 and a length_penalty of at least 0, not "
                f"{self}."
            )
        if not (0 <= self.min_words <= self.max_words and self.no_repeat_ngram >= 0):
            raise UserError(
                f"A search needs min_words from 0 to max_words and a no_repeat_ngram of at least 0, not {self}."
            )
        if not (self.temperature > 0 and self.top_k >= 0 and 0 < self.top_p <= 1):
            raise UserError(f"Samples need temperature above 0, top_k from 0 and top_p above 0 up to 1, not {self}.")
        if not self.sample and self.captions > self.beam:
            raise UserError(f"A beam of {self.beam} has no {self.captions} captions: widen it, or set sample=true.")
        if not self.sample and (self.temperature, self.top_k, self.top_p) != (1, 0, 1):
            raise UserError("temperature, top_k and top_p would change nothing: set sample=true, or leave them out.")


@dataclass(slots=True)
class Found:
    """The captions of N images, K each, best first.

    Attributes:
        tokens: (N, K, max_words), without `<start>` and `<end>`, `<pad>` behind the last word.
        log_probs: (N, K) natural log-probability of words and `<end>`; -inf where fewer than K were found.
        scores: (N, K) by which they are ordered.
        attention: (N, K, max_words, L) weights for each word, where the decoder attends and they were asked for.
    """

    tokens: Tensor
    log_probs: Tensor
    scores: Tensor
    attention: Tensor | None

    def words(self, vocabulary: Vocabulary) -> list[list[str]]:
        """N lists of K captions."""
        return [[vocabulary.decode(ids) for ids in image] for image in self.tokens.tolist()]


@torch.no_grad()
def search(
    decoder: Decoder,
    features: Tensor,
    options: Search,
    attention: bool = False,
    seeds: Sequence[int] | None = None,
) -> Found:
    """Captions for features (N, L, C).

    A beam keeps the best of all extensions of an image's hypotheses; one that ends takes its place with it, so that
    the beam shrinks (as in Xu et al. 2015's code). An image is done when no hypothesis can become one of its best
    captions any more. Hypotheses still alive after `max_words` words count as they stand. `<unk>`, `<pad>` and
    `<start>` are never produced. The result of an image does not depend on the others in its batch.

    Args:
        decoder: in eval mode.
        features: (N, L, C).
        options: how to search.
        attention: keep the weights of each word.
        seeds: for each image, with which its samples are drawn; drawn from torch's own generator if not given.
    """
    device = features.device
    found = _Captions(len(features), options, device)
    count = options.captions if options.sample else 1  # of an image's hypotheses, K: a beam widens at the first word
    dice = _dice(len(features), (count, options.max_words), seeds).to(device) if options.sample else None
    context = decoder.context(features)
    state = decoder.start(context, count)
    history = {"tokens": torch.empty(len(features) * count, 0, dtype=torch.long, device=device)}
    if attention and "attention" in state:
        history["attention"] = torch.empty(len(history["tokens"]), 0, state["attention"].shape[1], device=device)
    last = torch.full((len(history["tokens"]),), Vocabulary.START, device=device)
    alive = torch.zeros(len(features), count, device=device)  # log-probabilities, -inf of hypotheses that have ended
    for word in range(options.max_words):
        logits, state = decoder.step(last, state, context)
        logits, total = _allowed(logits.float(), history["tokens"], options)
        if dice is None:
            scores, parent, token = _extend(logits, total, alive, options.beam - found.ended)
        else:
            scores, parent, token = _draw(logits, total, alive, dice[found.images, :, word], options)

        first = alive.shape[1] * torch.arange(len(alive), device=device).unsqueeze(1)
        rows, last = (first + parent).flatten(), token.flatten()
        state = select(state, rows)
        new = {"tokens": last} | ({"attention": state["attention"].float()} if "attention" in history else {})
        history = {name: torch.cat([old[rows], new[name].unsqueeze(1)], 1) for name, old in history.items()}
        ended = token == Vocabulary.END
        found.add(history, scores.masked_fill(~ended, -torch.inf), word + 1)
        alive = scores.masked_fill(ended, -torch.inf)

        searched = found.can_improve(alive)
        left = int(searched.sum())
        if not left:
            return found.best
        if left <= SHARE_LEFT * len(alive):
            rows = searched.repeat_interleave(alive.shape[1])
            context, alive = select(context, searched), alive[searched]
            state, history, last = select(state, rows), select(history, rows), last[rows]
            found.keep(searched)
    found.add(history, alive, options.max_words)
    return found.best


def _allowed(logits: Tensor, said: Tensor, options: Search) -> tuple[Tensor, Tensor]:
    """Logits (N K, V) with -inf for what may not follow the words (N K, T), and the log of their sum before."""
    total = logits.logsumexp(-1)
    logits[:, NEVER] = -torch.inf
    words, size = said.shape[1], options.no_repeat_ngram
    if words < options.min_words:
        logits[:, Vocabulary.END] = -torch.inf
    if 0 < size <= words:
        ngrams = said.unfold(1, size, 1)  # (N K, T - size + 1, size)
        again = (ngrams[:, :, :-1] == said[:, None, words - size + 1 :]).all(-1)
        logits.scatter_(1, ngrams[:, :, -1].where(again, Vocabulary.PAD), -torch.inf)
    return logits, total


def _extend(logits: Tensor, total: Tensor, alive: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The W best extensions of each image's hypotheses: log-probability, hypothesis and word, (N, W) each.

    Args:
        logits: (N K, V).
        total: (N K,) the log of their sum.
        alive: (N, K) log-probabilities.
        places: (N, 1) how many of the W are free, the others being -inf; W is the most.
    """
    images, width = len(alive), int(places.max())
    best, word = logits.topk(min(width, logits.shape[1]))  # (N K, W): no hypothesis has more among the best
    scores = (best + (alive.flatten() - total).unsqueeze(1)).view(images, -1)
    scores, place = scores.topk(min(width, scores.shape[1]))
    taken = torch.arange(scores.shape[1], device=scores.device) >= places
    return scores.masked_fill(taken, -torch.inf), place // best.shape[1], word.view(images, -1).gather(1, place)


def _dice(images: int, shape: tuple[int, int], seeds: Sequence[int] | None) -> Tensor:
    """Numbers from 0 to 1 (images, *shape), each image's from its own seed."""
    if seeds is None:
        return torch.rand(images, *shape)
    return torch.stack([torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def _draw(logits: Tensor, total: Tensor, alive: Tensor, dice: Tensor, options: Search) -> tuple[Tensor, Tensor, Tensor]:
    """A word for each hypothesis, where its die (N, K) falls among their probabilities: as `_extend` gives them."""
    ordered, words = (logits / options.temperature).sort(-1, descending=True)  # (N K, V)
    probability = ordered.softmax(-1)
    if options.top_k:
        probability[:, options.top_k :] = 0
    before = probability.cumsum(-1) - probability
    probability[before >= options.top_p * probability.sum(-1, keepdim=True)] = 0
    reached = probability.cumsum(-1)
    place = torch.searchsorted(reached, dice.reshape(-1, 1) * reached[:, -1:], right=True)
    last = (probability > 0).sum(-1, keepdim=True) - 1  # rounding may carry a die past it
    word = words.gather(1, place.minimum(last).clamp(min=0))
    scores = alive + (logits.gather(1, word).squeeze(1) - total).view_as(alive)
    return scores, torch.arange(alive.shape[1], device=alive.device).expand_as(alive), word.view_as(alive)


class _Captions:
    """The best captions of all images, while some of these are still searched.

    Attributes:
        best: of all images.
        images: (N,) which are still searched.
        ended: (N, 1) how many of their hypotheses have ended.
    """

    def __init__(self, images: int, options: Search, device: torch.device) -> None:
        wanted = options.captions
        none = torch.full((images, wanted), -torch.inf, device=device)
        tokens = torch.full((images, wanted, options.max_words), Vocabulary.PAD, device=device)
        self.best = Found(tokens, none, none.clone(), None)
        self.options = options
        self.images = torch.arange(images, device=device)
        self.ended = torch.zeros(images, 1, dtype=torch.long, device=device)

    def add(self, history: State, log_probs: Tensor, length: int) -> None:
        """Keep the best of those so far and of hypotheses whose log-probability (N, K) is not -inf."""
        self.ended += (log_probs > -torch.inf).sum(1, keepdim=True)
        scores = torch.cat([self.best.scores[self.images], log_probs / length**self.options.length_penalty], 1)
        scores, order = scores.topk(self.options.captions)

        def pick(kept: Tensor, new: Tensor) -> Tensor:
            both = torch.cat([kept[self.images], new], 1)
            return both[torch.arange(len(both), device=both.device).unsqueeze(1), order]

        behind = self.options.max_words - history["tokens"].shape[1]
        words = {name: tensor.unflatten(0, log_probs.shape) for name, tensor in history.items()}
        tokens = words["tokens"].masked_fill(words["tokens"] == Vocabulary.END, Vocabulary.PAD)
        tokens = pick(self.best.tokens, F.pad(tokens, (0, behind), value=Vocabulary.PAD))
        self.best.tokens[self.images] = tokens.masked_fill((scores == -torch.inf).unsqueeze(-1), Vocabulary.PAD)
        if "attention" in words:
            attention = F.pad(words["attention"], (0, 0, 0, behind))
            if self.best.attention is None:
                self.best.attention = attention.new_zeros(*self.best.tokens.shape, attention.shape[-1])
            self.best.attention[self.images] = pick(self.best.attention, attention)
        self.best.log_probs[self.images] = pick(self.best.log_probs, log_probs)
        self.best.scores[self.images] = scores

    def can_improve(self, alive: Tensor) -> Tensor:
        """(N,) whether a hypothesis (N, K) can still become one of its image's best: longer, it is no more probable."""
        most = alive.max(1).values / self.options.max_words**self.options.length_penalty
        return most > self.best.scores[self.images, -1]

    def keep(self, searched: Tensor) -> None:
        """Search on for these (N,) alone of the images that are still searched."""
        self.images, self.ended = self.images[searched], self.ended[searched]
