import hashlib
import itertools
import pickle
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu

from capbench.data.scenes import COLOURS, OUTLINES, SIZES, Group, Scene, describe, draw, make_scene
from capbench.text import tokenise

SCENES = st.builds(make_scene, st.integers(-(2**70), 2**70), st.integers(0, 10**9))
SAMPLE = [make_scene(0, index) for index in range(1000)]

NUMBERS = {"a": 1, "two": 2, "three": 3}
GROUP = re.compile(rf"({'|'.join(NUMBERS)}) ({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(OUTLINES)})(es|s)?")
# The sentences around two groups: does the first group (left, top) come first, and are they side by side?
SENTENCES = {
    "X left of X": (True, True),
    "X right of X": (False, True),
    "there is X with X to the right": (True, True),
    "there are X with X to the right": (True, True),
    "X sits to the right of X": (False, True),
    "X sit to the right of X": (False, True),
    "to the left of X is X": (False, True),
    "to the left of X are X": (False, True),
    "X above X": (True, False),
    "X below X": (False, False),
    "there is X with X underneath": (True, False),
    "there are X with X underneath": (True, False),
    "X sits below X": (False, False),
    "X sit below X": (False, False),
    "above X is X": (False, False),
    "above X are X": (False, False),
}
Meaning = tuple[tuple[int, str, str, str], tuple[int, str, str, str], bool]


def read(sentence: str) -> Meaning:
    """What a sentence says: number, size, colour and outline of the first and second group, and `across`."""
    frame = GROUP.sub("X", sentence)
    first_comes_first, across = SENTENCES[frame]
    groups = []
    for number, size, colour, outline, ending in GROUP.findall(sentence):
        assert ending == ("" if number == "a" else "es" if outline == "cross" else "s")
        groups.append((NUMBERS[number], size, colour, outline))
    verb = re.search(r"\b(is|are|sits?)\b", frame)
    if verb:
        subject = groups[1] if re.search("(is|are) X$", frame) else groups[0]
        assert (verb[0] in ("is", "sits")) == (subject[0] == 1)
    first, second = groups if first_comes_first else groups[::-1]
    return first, second, across


def see(scene: Scene) -> Meaning:
    """What the picture shows, by its pixels alone: patches of one colour, their width, outline and place."""
    pixels = np.asarray(draw(scene, 256)).astype(int)
    groups = []
    for colour, rgb in COLOURS.items():
        patches = connected(abs(pixels - rgb).max(axis=2) <= 16)
        if patches:
            (size,) = {"small" if np.ptp(patch[:, 1]) < 0.2 * len(pixels) else "large" for patch in patches}
            (outline,) = {outline_of(patch) for patch in patches}
            place = np.mean([patch.mean(axis=0) for patch in patches], axis=0)
            groups.append((place, (len(patches), size, colour, outline)))
    (place, group), (other_place, other) = groups
    down, right = place - other_place
    across = bool(abs(right) > abs(down))
    first, second = (group, other) if (right if across else down) < 0 else (other, group)
    return first, second, across


def connected(mask: np.ndarray) -> list[np.ndarray]:
    """The connected patches of a mask as arrays (pixels, 2) of row and column, without specks at edges."""
    left = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    patches = []
    while left:
        patch = [left.pop()]
        for row, column in patch:
            near = {(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)} & left
            left -= near
            patch.extend(near)
        if len(patch) > 60:
            patches.append(np.array(patch))
    return patches


def outline_of(patch: np.ndarray) -> str:
    """Of its bounding box a square fills all, a circle 0.79, a cross 0.56, a triangle 0.5."""
    filled = len(patch) / np.prod(np.ptp(patch, axis=0) + 1)
    if filled > 0.7:
        return "square" if filled > 0.9 else "circle"
    rows = patch[:, 0]
    in_upper_half = np.mean(rows < (rows.min() + rows.max()) / 2)
    return "triangle" if in_upper_half < 0.35 else "cross"


def bleu4(references: list[tuple[str, ...]], captions: list[str]) -> float:
    by_id = {i: list(sentences) for i, sentences in enumerate(references)}
    scores, _ = Bleu(4).compute_score(by_id, {i: [c] for i, c in enumerate(captions)}, verbose=0)
    return float(scores[3])


@given(st.integers(), st.integers(0))
@settings(deadline=None)
def test_a_scene_depends_on_seed_and_index_alone(seed: int, index: int) -> None:
    scene = make_scene(seed, index)
    random.seed(1)
    state = random.getstate()
    again = make_scene(seed, index)
    assert random.getstate() == state
    assert again == scene
    assert describe(again) == describe(scene)
    assert draw(again).tobytes() == draw(scene).tobytes()
    assert make_scene(seed, index + 1) != scene != make_scene(seed + 1, index)


def test_scenes_are_the_same_on_every_machine() -> None:
    assert hashlib.sha256(repr(SAMPLE).encode()).hexdigest()[:16] == "87f6550d2f2fa394"


def test_scenes_survive_pickling_and_are_small() -> None:
    for scene in SAMPLE[:50]:
        assert pickle.loads(pickle.dumps(scene)) == scene
        assert len(pickle.dumps(scene)) < 1000


def test_sentences_of_a_scene_across_and_of_one_from_top_to_bottom() -> None:
    assert describe(make_scene(0, 5)) == (
        "a small green circle left of three large red crosses",
        "three large red crosses right of a small green circle",
        "there is a small green circle with three large red crosses to the right",
        "three large red crosses sit to the right of a small green circle",
        "to the left of three large red crosses is a small green circle",
    )
    assert describe(make_scene(0, 1)) == (
        "three small blue crosses above a small yellow circle",
        "a small yellow circle below three small blue crosses",
        "there are three small blue crosses with a small yellow circle underneath",
        "a small yellow circle sits below three small blue crosses",
        "above a small yellow circle are three small blue crosses",
    )


@given(SCENES)
@settings(deadline=None, max_examples=40)
def test_all_sentences_are_grammatical_and_say_what_the_picture_shows(scene: Scene) -> None:
    assert {read(sentence) for sentence in describe(scene)} == {see(scene)}


@given(SCENES)
@settings(deadline=None)
def test_sentences_are_five_and_in_the_words_of_the_tokeniser(scene: Scene) -> None:
    sentences = describe(scene)
    assert len(set(sentences)) == len(sentences) == 5
    for sentence in sentences:
        assert tokenise(sentence) == sentence.split()
        assert 9 <= len(sentence.split()) <= 14


@given(SCENES)
@settings(deadline=None)
def test_shapes_stay_inside_and_apart_and_the_groups_in_order(scene: Scene) -> None:
    shapes = scene.first.shapes + scene.second.shapes
    for shape in shapes:
        assert shape.radius < min(shape.x, shape.y)
        assert max(shape.x, shape.y) < 1 - shape.radius
    for one, other in itertools.combinations(shapes, 2):
        assert max(abs(one.x - other.x), abs(one.y - other.y)) > one.radius + other.radius
    for one, other in itertools.product(scene.first.shapes, scene.second.shapes):
        assert one.x < other.x if scene.across else one.y < other.y


@given(SCENES, st.sampled_from([32, 64, 224]))
@settings(deadline=None)
def test_the_colour_at_a_centre_is_nearest_to_its_name(scene: Scene, size: int) -> None:
    picture = draw(scene, size)
    assert picture.size == (size, size)
    assert picture.mode == "RGB"
    pixels = np.asarray(picture).astype(int)
    for group in (scene.first, scene.second):
        for shape in group.shapes:
            here = pixels[int(shape.y * size), int(shape.x * size)]
            assert min(COLOURS, key=lambda name: np.square(here - COLOURS[name]).sum()) == group.colour


def test_every_number_size_colour_outline_and_place_is_common() -> None:
    groups: list[Group] = [group for scene in SAMPLE for group in (scene.first, scene.second)]
    for options in (
        [scene.across for scene in SAMPLE],
        [len(group.shapes) for group in groups],
        [group.size for group in groups],
        [group.colour for group in groups],
        [group.outline for group in groups],
    ):
        counts = [options.count(option) for option in set(options)]
        assert min(counts) > 0.8 * len(options) / len(counts)
    assert {group.colour for group in groups} == set(COLOURS)
    assert {group.outline for group in groups} == set(OUTLINES)


def test_scenes_with_the_same_sentences_differ_in_pixels() -> None:
    by_sentences: dict[tuple[str, ...], list[bytes]] = {}
    for scene in SAMPLE:
        by_sentences.setdefault(describe(scene), []).append(draw(scene).tobytes())
    twins = [pictures for pictures in by_sentences.values() if len(pictures) > 1]
    assert twins
    assert all(len(set(pictures)) == len(pictures) for pictures in twins)


@pytest.mark.parametrize("template", range(5))
def test_only_who_looks_at_the_picture_scores(template: int) -> None:
    references = [describe(scene) for scene in SAMPLE]
    captions = [sentences[template] for sentences in references]
    assert bleu4(references, captions) == pytest.approx(1)
    assert bleu4(references, captions[1:] + captions[:1]) < 0.25
    assert max(bleu4(references, [caption] * len(captions)) for caption in captions[:3]) < 0.35
