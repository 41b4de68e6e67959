"""Scores of mask tracks against the truth."""
