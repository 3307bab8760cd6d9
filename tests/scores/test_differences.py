"""What common implementations make of the same captions: the table of docs/scores.md, row by row."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from capbench.scores import NAMES, score_captions
from capbench.scores.captions import _normalise

PAGE = Path(__file__).parents[2] / "docs/scores.md"
COLUMNS = ("bleu1", "bleu4", "rouge_l", "cider_d")
References = dict[str, list[str]]
Scores = dict[str, float]
Run = tuple[dict[str, str], References]
Row = Callable[[dict[str, str], References], Scores]

ROWS: dict[str, Row] = {}


def row(name: str) -> Callable[[Row], Row]:
    """Adds a function to the table."""

    def add(function: Row) -> Row:
        ROWS[name] = function
        return function

    return add


@row("capbench")
def ours(captions: dict[str, str], references: References) -> Scores:
    return score_captions(captions, references).corpus


def coco(captions: dict[str, str], references: References) -> Scores:
    """pycocoevalcap's scorers on these very strings."""
    candidates = {image: [caption] for image, caption in captions.items()}
    bleu, _ = Bleu(4).compute_score(references, candidates, verbose=0)
    rouge, _ = Rouge().compute_score(references, candidates)
    cider, _ = Cider().compute_score(references, candidates)
    return {"bleu1": bleu[0], "bleu4": bleu[3], "rouge_l": rouge, "cider_d": cider}


ROWS["pycocoevalcap's scorers, references as written"] = coco


@row("pycocoevalcap after its PTB tokeniser alone")
def ptb_alone(captions: dict[str, str], references: References) -> Scores:
    tokenizer = PTBTokenizer()
    candidates = tokenizer.tokenize({image: [{"caption": caption}] for image, caption in captions.items()})
    truths = tokenizer.tokenize({image: [{"caption": text} for text in texts] for image, texts in references.items()})
    return coco({image: caption for image, (caption,) in candidates.items()}, truths)


def normalised(captions: dict[str, str], references: References, form: str) -> Run:
    """Both sides normalised, and each caption put into `form`."""
    return (
        {image: form.format(_normalise(caption)) for image, caption in captions.items()},
        {image: list(map(_normalise, texts)) for image, texts in references.items()},
    )


@row("`<end>` left in the captions")
def end_left(captions: dict[str, str], references: References) -> Scores:
    return coco(*normalised(captions, references, "{} <end>"))


@row("`<start>` and `<end>` left in captions and references")
def both_left(captions: dict[str, str], references: References) -> Scores:
    marked, truths = normalised(captions, references, "<start> {} <end>")
    return coco(marked, {image: [f"<start> {text} <end>" for text in texts] for image, texts in truths.items()})


def means(scores: list[Scores]) -> Scores:
    return {name: fmean(part[name] for part in scores) for name in scores[0]}


@row("mean of the images' own scores")
def mean_of_images(captions: dict[str, str], references: References) -> Scores:
    return means(list(score_captions(captions, references).per_image.values()))


def mean_of_parts(captions: dict[str, str], references: References, parts: list[list[str]]) -> Scores:
    def score(part: list[str]) -> Scores:
        return score_captions({image: captions[image] for image in part}, {i: references[i] for i in part}).corpus

    return means([score(part) for part in parts])


@row("mean over 2 processes, every other image each")
def mean_of_processes(captions: dict[str, str], references: References) -> Scores:
    ids = sorted(captions)
    return mean_of_parts(captions, references, [ids[::2], ids[1::2]])


@row("mean over batches of 32 images")
def mean_of_batches(captions: dict[str, str], references: References) -> Scores:
    ids = sorted(captions)
    return mean_of_parts(captions, references, [ids[i : i + 32] for i in range(0, len(ids), 32)])


@row("one reference an image, the first")
def first_reference(captions: dict[str, str], references: References) -> Scores:
    return score_captions(captions, {image: texts[:1] for image, texts in references.items()}).corpus


def pairs(captions: dict[str, str], references: References) -> Iterator[tuple[str, list[str]]]:
    marked, truths = normalised(captions, references, "{}")
    return ((marked[image], truths[image]) for image in sorted(captions))


def torch_bleu(captions: list[str], references: list[list[str]]) -> Scores:
    from torchmetrics.text import BLEUScore

    return {f"bleu{n}": BLEUScore(n_gram=n)(captions, references).item() for n in (1, 4)}


@row("torchmetrics BLEUScore")
def torchmetrics_bleu(captions: dict[str, str], references: References) -> Scores:
    candidates, truths = zip(*pairs(captions, references), strict=True)
    return torch_bleu(list(candidates), list(truths))


@row("torchmetrics BLEUScore, longest reference first")
def torchmetrics_bleu_longest_first(captions: dict[str, str], references: References) -> Scores:
    candidates, truths = zip(*pairs(captions, references), strict=True)
    return torch_bleu(list(candidates), [sorted(texts, key=lambda text: -len(text.split())) for texts in truths])


@row("torchmetrics BLEUScore, shortest reference first")
def torchmetrics_bleu_shortest_first(captions: dict[str, str], references: References) -> Scores:
    candidates, truths = zip(*pairs(captions, references), strict=True)
    return torch_bleu(list(candidates), [sorted(texts, key=lambda text: len(text.split())) for texts in truths])


@row("torchmetrics SacreBLEUScore, lowercase, as written")
def torchmetrics_sacrebleu(captions: dict[str, str], references: References) -> Scores:
    from torchmetrics.text import SacreBLEUScore

    ids = sorted(captions)
    candidates, truths = [captions[image] for image in ids], [references[image] for image in ids]
    return {f"bleu{n}": SacreBLEUScore(n_gram=n, lowercase=True)(candidates, truths).item() for n in (1, 4)}


@row("torchmetrics ROUGEScore, rougeL, best reference")
def torchmetrics_rouge(captions: dict[str, str], references: References) -> Scores:
    from torchmetrics.text.rouge import ROUGEScore

    candidates, truths = zip(*pairs(captions, references), strict=True)
    scores = ROUGEScore(rouge_keys="rougeL", accumulate="best")(list(candidates), list(truths))
    return {"rouge_l": scores["rougeL_fmeasure"].item()}


@pytest.fixture(scope="module")
def merge_1(flickr8k: References, published: Callable[[str], tuple[dict[str, str], Scores]]) -> Run:
    captions, _ = published("merge_1")
    return captions, {image: flickr8k[image] for image in captions}


def markdown(name: str, scores: Scores) -> str:
    cells = [f"{scores[column]:.4f}" if column in scores else "" for column in COLUMNS]
    return re.sub(r" +", " ", f"| {' | '.join([name, *cells])} |")


@pytest.mark.parametrize("name", ROWS)
def test_the_table_says_what_comes_out(name: str, merge_1: Run, request: pytest.FixtureRequest) -> None:
    if "PTB" in name:
        request.getfixturevalue("java")
    assert markdown(name, ROWS[name](*merge_1)) in PAGE.read_text(encoding="utf-8").splitlines()


def test_the_table_has_no_other_rows() -> None:
    heading = f"| {' | '.join(['', *(NAMES[column] for column in COLUMNS)])} |".replace("|  |", "| |")
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    first = lines.index(heading) + 2
    names = [line.split(" | ")[0].removeprefix("| ") for line in lines[first : first + len(ROWS)]]
    assert names == list(ROWS)
    assert lines[first + len(ROWS)] == ""


def test_meteor_of_the_corpus_is_not_the_mean_of_the_images(merge_1: Run, java: str) -> None:
    scores = score_captions(*merge_1, java=True)
    corpus, mean = scores.corpus["meteor"], means(list(scores.per_image.values()))["meteor"]
    assert f"{corpus:.4f} for all captions together, {mean:.4f} as the mean of the images" in re.sub(
        r"\s+", " ", PAGE.read_text(encoding="utf-8")
    )
