"""Checkpoints: what ships, what is published, and what it costs."""
