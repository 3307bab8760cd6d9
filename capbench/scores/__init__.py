"""Scores of captions."""

from capbench.scores.captions import NAMES, CaptionScores, Scorer, columns, score_captions

__all__ = ["NAMES", "CaptionScores", "Scorer", "columns", "score_captions"]
