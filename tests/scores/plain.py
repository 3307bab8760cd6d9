"""Plain, slow scorers, and random captions for them."""

from typing import Any

from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from capbench.scores import NAMES
from capbench.scores.captions import _normalise

# Few words, so that they meet; some that other tokenisers would part or join.
words = st.sampled_from(["a", "b", "c", "d", "dog", "n't", "#", "&", "1", "_", "é", "cannot"])
sentences = st.lists(words, max_size=12).map(" ".join)
images = st.lists(
    st.tuples(sentences, st.lists(sentences.filter(bool), min_size=1, max_size=4)), min_size=1, max_size=6
)
WITHOUT_JAVA = [name for name in NAMES if name not in ("meteor", "spice")]
Images = list[tuple[str, list[str]]]


def plain_scores(captions: dict[str, str], references: dict[str, list[str]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Corpus and per-image scores by the library's own calls; words separated by spaces on both sides."""
    candidates = {image: [caption] for image, caption in captions.items()}
    bleu, bleu_per_image = Bleu(4).compute_score(references, candidates, verbose=0)
    rouge, rouge_per_image = Rouge().compute_score(references, candidates)
    cider, cider_per_image = Cider().compute_score(references, candidates)
    rows = zip(*bleu_per_image, rouge_per_image, cider_per_image, strict=True)
    corpus = dict(zip(WITHOUT_JAVA, (*bleu, rouge, cider), strict=True))
    return corpus, {image: dict(zip(WITHOUT_JAVA, row, strict=True)) for image, row in zip(captions, rows, strict=True)}


def named(pairs: Images) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Captions and references by image id, in the order of their ids, the references in theirs."""
    return (
        {f"{i}": caption for i, (caption, _) in enumerate(pairs)},
        {f"{i}": sorted(map(_normalise, references)) for i, (_, references) in enumerate(pairs)},
    )
