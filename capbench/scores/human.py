"""People's captions scored like a system's, against as many references."""

from collections.abc import Mapping, Sequence

from capbench.scores.captions import CaptionScores, Scorer, refuse_any
from capbench.text import tokenise


class LeaveOneOut:
    """Scores against all references of an image but one, each left out in its turn.

    The reference left out is a person's caption, scored like a system's; systems are scored against the same sets. An
    image with as many references as any has K turns; where one has fewer, they take second turns. The K scores belong
    together: `Statistics.of(*scores)` has their mean.

    Source: Vinyals et al. 2015, "Show and tell: a neural image caption generator", which scores people so.

    Args:
        references: image id -> its references, as people wrote them. Those without words are left out.
        java: as `Scorer` has it.

    Raises:
        UserError: there are no images, or one has fewer than two references with a word in them.
    """

    def __init__(self, references: Mapping[str, Sequence[str]], java: bool = False) -> None:
        worded = {image: [text for text in texts if tokenise(text)] for image, texts in references.items()}
        refuse_any(
            [image for image, texts in worded.items() if len(texts) < 2],
            "have fewer than two references",
            "people are scored against each other, so leave out these images or the human row",
        )
        self._turns: list[tuple[dict[str, str], Scorer]] = []
        for turn in range(max(map(len, worded.values()), default=1)):
            people = {image: texts[turn % len(texts)] for image, texts in worded.items()}
            others = {
                image: [t for k, t in enumerate(texts) if k != turn % len(texts)] for image, texts in worded.items()
            }
            self._turns.append((people, Scorer(others, java)))

    @property
    def captions(self) -> list[dict[str, str]]:
        """Each turn's references that are left out, by image id."""
        return [people for people, _ in self._turns]

    def people(self) -> list[CaptionScores]:
        """K scores: of each turn's reference against the others."""
        return [scorer(people) for people, scorer in self._turns]

    def system(self, captions: Mapping[str, str]) -> list[CaptionScores]:
        """K scores of one caption for each image, against the references that people are scored against.

        Raises:
            UserError: if the captions' ids are not those of the references.
        """
        return [scorer(captions) for _, scorer in self._turns]
