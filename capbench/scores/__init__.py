"""Scores of captions."""

from capbench.scores.captions import CaptionScores, score_captions

__all__ = ["CaptionScores", "score_captions"]
