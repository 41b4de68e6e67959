"""The recipe of trajseg-tiny: which stage learns for how long, from what, how fast."""

from __future__ import annotations

from dataclasses import dataclass

from trajseg.training.run import Schedule


@dataclass(frozen=True)
class Stage:
    """One stage. `batch` is in clips a step, `frames` in pictures a clip; `needs` are the stages that it builds on."""

    name: str
    needs: tuple[str, ...]
    learns: str
    schedule: Schedule
    batch: int
    frames: int


TINY = (
    Stage("vision", (), "colours, shapes, sizes, places", Schedule(lr=1.5e-3, steps=2100, muon=2.5), 8, 4),
    Stage("tower", ("vision",), "the same, for the language side alone", Schedule(lr=1e-3, steps=3600, muon=2.5), 8, 4),
    Stage("language", (), "words, answers and motion, on symbols", Schedule(lr=1.5e-3, steps=1700, muon=2.5), 40, 8),
    Stage("masks", ("vision",), "prompted masks on single frames", Schedule(lr=1e-3, steps=1400, muon=2.5), 6, 1),
    Stage(
        "memory",
        ("vision", "masks"),
        "masks through time, from memory",
        Schedule(lr=4e-4, warmup=60, steps=2400, muon=2.0),
        batch=3,
        frames=4,
    ),
    Stage(
        "tracking",
        ("vision", "masks", "memory"),
        "the same, through longer clips",
        Schedule(lr=4e-4, warmup=60, steps=1000, muon=2.0),
        batch=6,
        frames=8,
    ),
    Stage(
        "pixels",
        ("vision", "tower", "language", "masks"),
        "answers, captions and trajectory tokens, on pictures",
        Schedule(lr=4e-4, clip=2.0, steps=700, muon=2.5),
        batch=6,
        frames=8,
    ),
    Stage(
        "captions",
        ("vision", "tower", "language", "masks", "pixels"),
        "trajectory encoder, on pictures",
        Schedule(lr=1e-3, steps=300, muon=2.5),
        batch=4,
        frames=8,
    ),
    Stage(
        "boxes",
        ("vision", "masks", "memory", "tracking"),
        "boxes and clicks on a frame",
        Schedule(lr=2e-3, warmup=30, steps=400),
        batch=8,
        frames=1,
    ),
)
"""In order; stages that do not build on each other may run at the same time. How long each takes: docs/training.md."""

SIZE = 256
"""Pixels a side of letterboxed pictures, on both sides of the model."""
