"""Trains tiny checkpoints of real detector and chooser classes on the shapes world, for the proof of `grounded`."""
