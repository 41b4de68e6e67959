"""Evaluation on the shapes world."""
