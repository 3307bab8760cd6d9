"""Scores of captions."""

from capbench.scores.captions import NAMES, CaptionScores, Scorer, score_captions
from capbench.scores.generated import GeneratedCaptions

__all__ = ["NAMES", "CaptionScores", "GeneratedCaptions", "Scorer", "score_captions"]
