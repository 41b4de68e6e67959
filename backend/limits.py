"""Limits of a training's steps and seed, for commands, settings and job params.

Imports nothing: `trajseg --help` reads them.
"""

from __future__ import annotations

MOST_STEPS = 1_000_000
LARGEST_SEED = 2**32 - 1
