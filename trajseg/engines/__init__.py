"""Engines: what turns a clip and an instruction into mask tracks."""
