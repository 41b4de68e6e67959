"""Scores of mask tracks against ground truth: any engine on any data set."""

from __future__ import annotations

from trajseg.evaluation.evaluation import Evaluation, Evaluator, evaluate

__all__ = ["Evaluation", "Evaluator", "evaluate"]
