"""The recipe of trajseg-tiny: the stages, what each depends on, and their schedules."""

from __future__ import annotations

from dataclasses import dataclass

from trajseg.training.run import Schedule


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        needs: stages whose weights it starts from.
        learns: a description for people.
        batch: clips per step.
        frames: pictures per clip.
    """

    name: str
    needs: tuple[str, ...]
    learns: str
    schedule: Schedule
    batch: int
    frames: int


TINY = (
    Stage(
        name="vision",
        needs=(),
        learns="colours, shapes, sizes, places",
        schedule=Schedule(lr=1.5e-3, steps=2100, muon=2.5),
        batch=8,
        frames=4,
    ),
    Stage(
        name="tower",
        needs=("vision",),
        learns="the same, for the language side alone",
        schedule=Schedule(lr=1e-3, steps=3600, muon=2.5),
        batch=8,
        frames=4,
    ),
    Stage(
        name="language",
        needs=(),
        learns="words, answers and motion, on symbols",
        schedule=Schedule(lr=1.5e-3, steps=1700, muon=2.5),
        batch=40,
        frames=8,
    ),
    Stage(
        name="masks",
        needs=("vision",),
        learns="prompted masks on single frames",
        schedule=Schedule(lr=1e-3, steps=1400, muon=2.5),
        batch=6,
        frames=1,
    ),
    Stage(
        name="memory",
        needs=("vision", "masks"),
        learns="masks through time, from memory",
        schedule=Schedule(lr=4e-4, warmup=60, steps=2400, muon=2.0),
        batch=3,
        frames=4,
    ),
    Stage(
        name="tracking",
        needs=("vision", "masks", "memory"),
        learns="the same, through longer clips",
        schedule=Schedule(lr=4e-4, warmup=60, steps=1000, muon=2.0),
        batch=6,
        frames=8,
    ),
    Stage(
        name="pixels",
        needs=("vision", "tower", "language", "masks"),
        learns="answers, captions and trajectory tokens, on pictures",
        schedule=Schedule(lr=4e-4, clip=2.0, steps=700, muon=2.5),
        batch=6,
        frames=8,
    ),
    Stage(
        name="captions",
        needs=("vision", "tower", "language", "masks", "pixels"),
        learns="trajectory encoder, on pictures",
        schedule=Schedule(lr=1e-3, steps=300, muon=2.5),
        batch=4,
        frames=8,
    ),
    Stage(
        name="boxes",
        needs=("vision", "masks", "memory", "tracking"),
        learns="boxes and clicks on a frame",
        schedule=Schedule(lr=2e-3, warmup=30, steps=400),
        batch=8,
        frames=1,
    ),
)
"""In order; independent stages can run in parallel. For times see docs/training.md."""

SIZE = 256
"""Side of letterboxed pictures in pixels, for the language side and the mask side."""
