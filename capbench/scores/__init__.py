"""Scores of captions."""

from capbench.scores.captions import NAMES, CaptionScores, Scorer, score_captions

__all__ = ["NAMES", "CaptionScores", "Scorer", "score_captions"]
