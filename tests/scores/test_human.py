import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest

from capbench.errors import UserError
from capbench.scores import columns, score_captions
from capbench.scores.human import LeaveOneOut
from capbench.scores.statistics import Statistics
from capbench.scores.uncertainty import differences, intervals

PAGE = Path(__file__).parents[2] / "docs/scores.md"
CAPTIONS = {"x": "a dog", "y": "a man rides a red bike"}
REFERENCES = {
    "x": ["A dog runs .", "a brown dog in the grass", "the dog"],
    "y": ["A man rides his bike .", "a man on a red bike", "someone is riding"],
}
WITHOUT_FIRST = {image: texts[1:] for image, texts in REFERENCES.items()}


def test_each_reference_in_its_turn_is_the_caption() -> None:
    turns = LeaveOneOut(REFERENCES).people()
    assert len(turns) == 3
    for turn, found in enumerate(turns):
        captions = {image: texts[turn] for image, texts in REFERENCES.items()}
        others = {image: [*texts[:turn], *texts[turn + 1 :]] for image, texts in REFERENCES.items()}
        assert found == score_captions(captions, others)


def test_a_system_is_scored_against_the_references_that_people_are() -> None:
    loo = LeaveOneOut(REFERENCES)
    turns = loo.system(CAPTIONS)
    assert len(turns) == 3
    assert turns[0] == score_captions(CAPTIONS, WITHOUT_FIRST)
    as_first_person = loo.system({image: texts[0] for image, texts in REFERENCES.items()})
    assert as_first_person[0] == loo.people()[0]
    assert as_first_person[1].corpus["bleu4"] == pytest.approx(1)  # its own reference is among the others


def test_with_java_too(java: str) -> None:
    people = LeaveOneOut(REFERENCES, java=True).people()
    first = {image: texts[0] for image, texts in REFERENCES.items()}
    assert people[0] == score_captions(first, WITHOUT_FIRST, java=True)
    means = {name: fmean(turn.corpus[name] for turn in people) for name in columns()}
    found = intervals([Statistics.of(*people)])
    assert {name: row.value for name, row in found.items()} == pytest.approx(means, rel=0, abs=1e-12)


def test_people_and_systems_stand_in_one_table_and_can_be_compared() -> None:
    loo = LeaveOneOut(REFERENCES)
    people, system = Statistics.of(*loo.people()), Statistics.of(*loo.system(CAPTIONS))
    row = differences([people], [system])["rouge_l"]
    assert row.value == pytest.approx(
        fmean(turn.corpus["rouge_l"] for turn in loo.people())
        - fmean(turn.corpus["rouge_l"] for turn in loo.system(CAPTIONS))
    )
    with pytest.raises(UserError, match="all but one"):
        differences([people], [Statistics.of(score_captions(CAPTIONS, REFERENCES))])


def test_an_image_with_fewer_references_takes_second_turns() -> None:
    turns = LeaveOneOut(REFERENCES | {"x": ["a dog", "the cat", " . "]}).people()
    assert [turn.per_image["x"]["bleu1"] for turn in turns] == pytest.approx([0, 0, 0], abs=1e-4)
    assert turns[0].statistics["x"] == turns[2].statistics["x"]
    assert turns[0].statistics["y"] != turns[2].statistics["y"]


@pytest.mark.parametrize("texts", [["a dog"], ["a dog", "", "..."]])
def test_a_single_reference_is_a_user_error(texts: list[str]) -> None:
    with pytest.raises(UserError, match=r"1 of the images .* fewer than two references \(x\): .* leave out"):
        LeaveOneOut(REFERENCES | {"x": texts})


def test_no_images_are_a_user_error() -> None:
    with pytest.raises(UserError, match="no captions to score"):
        LeaveOneOut({})


def test_the_table_says_what_comes_out(
    flickr8k: dict[str, list[str]], published: Callable[[str], tuple[dict[str, str], dict[str, float]]]
) -> None:
    """METEOR where there is Java. By every score people are better than the systems."""
    captions = {run: published(run)[0] for run in ("merge_1", "init_1")}
    loo = LeaveOneOut({image: flickr8k[image] for image in captions["merge_1"]}, java=shutil.which("java") is not None)
    rows = {"people": loo.people()} | {run: loo.system(of) for run, of in captions.items()}
    found = {name: intervals([Statistics.of(*turns)]) for name, turns in rows.items()}
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for name, scores in found.items():
        (line,) = [line for line in lines if line.startswith(f"| {name} | ")]
        cells = dict(zip(columns(), line.removeprefix(f"| {name} | ").removesuffix(" |").split(" | "), strict=True))
        assert {key: cells[key] for key in scores} == {key: f"{score.value:.4f}" for key, score in scores.items()}
    for key, people in found["people"].items():
        assert all(people.low > found[run][key].high for run in captions)
