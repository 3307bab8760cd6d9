"""What is cached or rewritten gives what the plain scorers of pycocoevalcap give, which are called here as they are."""

import random
from pathlib import Path

import pycocoevalcap.meteor
import pytest
from hypothesis import example, given
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from capbench.scores import Scorer, score_captions
from capbench.scores.captions import _normalise
from capbench.scores.ptb import ptb_tokenise
from capbench.text import tokenise
from tests.scores.plain import Images, images, named, plain_scores


@given(images, images)
@example([("a dog " * 5000, ["a dog", "a a a a"]), ("", ["b"])], [("a", ["a"])])
def test_scores_are_those_of_pycocoevalcap(pairs: Images, before: Images) -> None:
    captions, references = named(pairs)
    scorer = Scorer(references)
    scorer(dict.fromkeys(references, before[0][0]))
    scores = scorer(captions)
    corpus, per_image = plain_scores({image: _normalise(caption) for image, caption in captions.items()}, references)
    assert scores.corpus == pytest.approx(corpus, rel=0, abs=1e-12)
    for image, row in per_image.items():
        assert scores.per_image[image] == pytest.approx(row, rel=0, abs=1e-12)


def random_captions(references: dict[str, list[str]], count: int) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Captions of other images, cut, repeated and mixed, and their images' references."""
    dice = random.Random(0)
    ids = dice.sample(sorted(references), count)
    vocabulary = [word for image in ids for word in tokenise(references[image][0])]
    captions = {image: " ".join(dice.choices(vocabulary, k=dice.randrange(0, 25))) for image in ids}
    captions |= {image: references[dice.choice(ids)][1] for image in ids[::2]}
    return captions, {image: references[image] for image in ids}


def test_with_java_all_scores_are_those_of_coco_caption(flickr8k: dict[str, list[str]], java: str) -> None:
    """Its tokeniser and its METEOR, run as it runs them, on normalised captions."""
    if " " in str(Path(pycocoevalcap.meteor.__path__[0])):
        pytest.skip("pycocoevalcap's METEOR is NOT compared with: it fails, and hangs, in a path with a space")
    captions, references = random_captions(flickr8k, 100)
    sides: list[dict[str, list[str]]] = []
    for side in ({image: [caption] for image, caption in captions.items()}, references):
        rows = {
            image: [{"caption": " ".join(tokenise(text))} for text in sorted(texts)] for image, texts in side.items()
        }
        sides.append(PTBTokenizer().tokenize(rows))
    candidates, truths = sides
    corpus, per_image = plain_scores({image: caption for image, (caption,) in candidates.items()}, truths)
    meteor, meteor_per_image = Meteor().compute_score(truths, candidates)

    scores = score_captions(captions, references, java=True)
    assert scores.corpus == pytest.approx(corpus | {"meteor": meteor}, rel=0, abs=1e-12)
    for (image, row), value in zip(per_image.items(), meteor_per_image, strict=True):
        assert scores.per_image[image] == pytest.approx(row | {"meteor": value}, rel=0, abs=1e-12)


def test_ptb_changes_no_caption_of_flickr8k(flickr8k: dict[str, list[str]], java: str) -> None:
    """So scores without Java are those with it."""
    captions = [_normalise(caption) for references in flickr8k.values() for caption in references]
    assert len(captions) == 40460
    assert ptb_tokenise(captions) == captions
