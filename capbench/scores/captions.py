"""The one path by which captions are scored, with the literature's own scorers (coco-caption)."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from capbench.errors import UserError
from capbench.text import tokenise


@dataclass(frozen=True, slots=True)
class CaptionScores:
    """Scores under the keys `bleu1` to `bleu4`, `rouge_l` (0 to 1) and `cider_d` (0 to 10).

    Attributes:
        corpus: the scores of all captions together. BLEU's are not the means of its scores per image.
        per_image: image id -> the scores of its caption; CIDEr-D's n-gram weights are those of the whole corpus.
    """

    corpus: dict[str, float]
    per_image: dict[str, dict[str, float]]


def score_captions(captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> CaptionScores:
    """Scores one caption an image against the image's references; all as people or captioners wrote them.

    The result is the same to the last digit in whatever order images and references come. A caption without
    words scores 0; references without words are left out, since ROUGE-L would give such a caption 1 for them.
    CIDEr-D weighs an n-gram by the share of images that have it in their references, so a lone image gets 0.

    Args:
        captions: image id -> caption.
        references: image id -> at least one reference; the same ids.

    Raises:
        UserError: if there are no captions, the ids differ, or an image has no reference with a word in it.

    Source: pycocoevalcap 1.2, scorer by scorer, without its PTB tokeniser, whose absence moves CIDEr-D of
    captions normalised by `tokenise` by less than 1e-5 and BLEU and ROUGE-L not at all (measured on Flickr8k).
    """
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    _refuse_any(references.keys() - captions.keys(), "have references but no caption")
    _refuse_any(captions.keys() - references.keys(), "have a caption but no references")
    if not captions:
        raise UserError("There are no captions to score: give at least one.")
    ids = sorted(captions)
    candidates = {image: [_normalise(captions[image])] for image in ids}
    truths = {image: sorted(filter(None, map(_normalise, references[image]))) for image in ids}
    _refuse_any([image for image in ids if not truths[image]], "have no reference with a word in it")

    bleu, bleu_per_image = Bleu(4).compute_score(truths, candidates, verbose=0)
    rouge, rouge_per_image = Rouge().compute_score(truths, candidates)
    cider, cider_per_image = Cider().compute_score(truths, candidates)

    names = ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider_d")
    rows = zip(*bleu_per_image, rouge_per_image, cider_per_image, strict=True)
    return CaptionScores(
        corpus=_named(names, (*bleu, rouge, cider)),
        per_image={image: _named(names, row) for image, row in zip(ids, rows, strict=True)},
    )


def _normalise(caption: str) -> str:
    return " ".join(tokenise(caption))


def _refuse_any(images: Collection[str], fault: str) -> None:
    if images:
        first = ", ".join(sorted(images)[:3]) + (", ..." if len(images) > 3 else "")
        raise UserError(
            f"{len(images)} of the images to score {fault} ({first}): give each image one caption and its references."
        )


def _named(names: Sequence[str], values: Iterable[float]) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}
