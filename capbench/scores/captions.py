"""The one path by which captions are scored, with the literature's own scorers (coco-caption)."""

import warnings
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice

from capbench.errors import UserError
from capbench.scores import spice
from capbench.scores.cider import CiderD
from capbench.scores.java import JavaFailed
from capbench.scores.meteor import METEOR
from capbench.scores.ptb import ptb_tokenise
from capbench.scores.rouge import RougeL
from capbench.text import tokenise

NAMES = {
    "bleu1": "BLEU-1",
    "bleu2": "BLEU-2",
    "bleu3": "BLEU-3",
    "bleu4": "BLEU-4",
    "meteor": "METEOR",
    "rouge_l": "ROUGE-L",
    "cider_d": "CIDEr-D",
    "spice": "SPICE",
}
"""Score -> what the literature calls it, in the order of its tables. All are 0 to 1, but CIDEr-D 0 to 10."""


def columns(*rows: Container[str]) -> dict[str, str]:
    """Those of `NAMES` that a table of such rows shows: SPICE, an extra, only where a row has it."""
    return {name: heading for name, heading in NAMES.items() if name != "spice" or any(name in row for row in rows)}


NORMALISATION = "capbench.text.tokenise, then PTB's partings"
"""How captions and references become words; scores after another normalisation cannot be compared."""

_PARTED_BY_PTB = {
    "cannot": "can not",
    "gimme": "gim me",
    "gonna": "gon na",
    "gotta": "got ta",
    "lemme": "lem me",
    "wanna": "wan na",
}


@dataclass(frozen=True, slots=True)
class CaptionScores:
    """Scores under the keys of `NAMES`: `meteor` where Java has run, and `spice` where its files are there too.

    Attributes:
        corpus: the scores of all captions together. BLEU's and METEOR's are not the means of their scores per image.
        per_image: image id -> the scores of its caption; CIDEr-D's n-gram weights are those of the whole corpus.
        statistics: image id -> the counts that BLEU and METEOR add up over images before they divide. `bleu`, 10: the
            words of the caption, and of the reference closest in length; the caption's n-grams of 1 to 4 words; how
            many of each a reference has. `meteor`, 23, where Java has run: see `Meteor.scores`.
        missing: name of a score that was asked for and is not there -> the reason, a sentence.
    """

    corpus: dict[str, float]
    per_image: dict[str, dict[str, float]]
    statistics: dict[str, dict[str, list[int]]]
    missing: dict[str, str] = field(default_factory=dict)

    def rows(self, captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> Iterator[dict[str, object]]:
        """Of each image, in the order of ids, what a line of `captions.jsonl` says."""
        for image in sorted(captions):
            yield {
                "image_id": image,
                "caption": captions[image],
                "references": list(references[image]),
                "scores": self.per_image[image],
                "statistics": self.statistics[image],
            }


class Scorer:
    """Scores captions of the same images again and again; what depends on the references alone is computed once.

    Args:
        references: image id -> at least one reference, as people wrote it. Those without words are left out, since
            ROUGE-L would give a caption without words 1 for them.
        java: also run what needs Java: the PTB tokeniser, METEOR, which takes 10 seconds to start, and, where its files
            are there, SPICE, which takes minutes for 1,000 images. Where Java is missing or fails, the other scores
            are there all the same, and in place of what needs it the reason.

    Raises:
        UserError: if there are no images, or one has no reference with a word in it.

    Source: pycocoevalcap 1.2, scorer by scorer; docs/scores.md has the formulas and the traps.
    """

    def __init__(self, references: Mapping[str, Sequence[str]], java: bool = False) -> None:
        if not references:
            raise UserError("There are no captions to score: give at least one image with its references.")
        self.references, self.java = references, java
        self._ids = sorted(references)
        self._words = [sorted(filter(None, map(_normalise, references[image]))) for image in self._ids]
        wordless = [image for image, words in zip(self._ids, self._words, strict=True) if not words]
        refuse_any(wordless, "have no reference with a word in it")

    def __call__(self, captions: Mapping[str, str]) -> CaptionScores:
        """The scores of one caption for each image, as people or captioners wrote them.

        The result is the same to the last digit in whatever order images and references come. A caption without
        words scores 0. CIDEr-D weighs an n-gram by the share of images that have it in their references, so a lone
        image gets 0.

        Raises:
            UserError: if the captions' ids are not those of the references.
        """
        refuse_any(self.references.keys() - captions.keys(), "have references but no caption")
        refuse_any(captions.keys() - self.references.keys(), "have a caption but no references")
        words, references = [_normalise(captions[image]) for image in self._ids], self._as_they_are
        scores: dict[str, _Score] = {}
        statistics: dict[str, list[list[int]]] = {}
        missing: dict[str, str] = {}
        if self.java:
            extra = ["spice"] if spice.is_there() else []
            with _noting_failure(missing, "meteor", *extra):
                METEOR.start()  # it loads while the tokeniser runs
                words, references = ptb_tokenise(words), self._after_ptb
                with _noting_failure(missing, "meteor"):
                    corpus, per_image, statistics["meteor"] = METEOR.scores(words, references.words)
                    scores["meteor"] = corpus, per_image
                if extra:
                    with _noting_failure(missing, "spice"):
                        scores["spice"] = spice.scores(words, references.words)
        found, statistics["bleu"] = references.scores(words)
        scores |= found
        names = [name for name in NAMES if name in scores]
        return CaptionScores(
            corpus={name: scores[name][0] for name in names},
            per_image={image: {name: scores[name][1][i] for name in names} for i, image in enumerate(self._ids)},
            statistics={
                image: {name: statistics[name][i] for name in sorted(statistics)} for i, image in enumerate(self._ids)
            },
            missing=missing,
        )

    @cached_property
    def _as_they_are(self) -> "_References":
        return _References(self._words)

    @cached_property
    def _after_ptb(self) -> "_References":
        lines = iter(ptb_tokenise([caption for image in self._words for caption in image]))
        # PTB drops letters that it does not know: references in such an alphabet stay as they are.
        words = [list(filter(None, islice(lines, len(image)))) or image for image in self._words]
        return self._as_they_are if words == self._words else _References(words)


def score_captions(
    captions: Mapping[str, str], references: Mapping[str, Sequence[str]], java: bool = False
) -> CaptionScores:
    """Scores one caption an image against the image's references, once: a `Scorer` made and called."""
    return Scorer(references, java)(captions)


_Score = tuple[float, list[float]]  # of the corpus, and of each image


class _References:
    """What the scores need of the references, and the scores that need no Java.

    Attributes:
        words: for each image its references, words separated by spaces.
    """

    def __init__(self, words: list[list[str]]) -> None:
        from pycocoevalcap.bleu.bleu_scorer import BleuScorer

        self.words = words
        self._bleu = BleuScorer(n=4)
        for image in words:
            self._bleu.cook_append(None, image)
        self._rouge_l, self._cider_d = RougeL(words), CiderD(words)

    def scores(self, captions: list[str]) -> tuple[dict[str, _Score], list[list[int]]]:
        """The scores, and each image's counts for BLEU."""
        scorer = self._bleu.copy().retest(captions)
        bleu = zip(*scorer.compute_score(option="closest"), strict=True)
        scores = {f"bleu{n}": score for n, score in enumerate(bleu, start=1)} | {
            "rouge_l": _with_mean(self._rouge_l.scores(captions)),
            "cider_d": _with_mean(self._cider_d.scores(captions)),
        }
        counts = []
        for image in scorer.ctest:
            length = image["testlen"]
            closest = scorer._single_reflen(image["reflen"], "closest", length)
            counts.append([length, closest, *image["guess"], *image["correct"]])
        return scores, counts


def _with_mean(per_image: list[float]) -> _Score:
    import numpy as np

    return float(np.mean(per_image)), per_image


def _normalise(caption: str) -> str:
    """The caption's words, parted where PTB would part them, so that its absence changes no score."""
    return " ".join(_PARTED_BY_PTB.get(word, word) for word in tokenise(caption))


def refuse_any(
    images: Collection[str], fault: str, remedy: str = "give each image one caption and its references"
) -> None:
    """Raises a UserError that counts and names the images, unless there are none."""
    if images:
        first = ", ".join(sorted(images)[:3]) + (", ..." if len(images) > 3 else "")
        raise UserError(f"{len(images)} of the images to score {fault} ({first}): {remedy}.")


@contextmanager
def _noting_failure(missing: dict[str, str], *names: str) -> Iterator[None]:
    """Goes on where Java fails: the scores of these names are missing, and why."""
    try:
        yield
    except JavaFailed as failed:
        missing.update(dict.fromkeys(names, str(failed)))
        _warn_once(str(failed))


_warned = False


def _warn_once(reason: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(reason, stacklevel=1)
