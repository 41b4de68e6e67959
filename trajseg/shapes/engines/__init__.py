"""Teaches tiny checkpoints of real detector and chooser classes the shapes world, for the proof of `grounded`."""
