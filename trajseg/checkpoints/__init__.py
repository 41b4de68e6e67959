"""Checkpoints: the built-in and published ones, and what models cost."""
