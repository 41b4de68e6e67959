"""Engines: turn a clip and an instruction into mask tracks."""
