"""Contradictions under evaluation: does an engine tell captions of what an instruction means from other captions?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from trajseg.model.agreement import CONTRADICTION
from trajseg.shapes.world.facts import Facts
from trajseg.shapes.world.language import Instruction, short_caption
from trajseg.shapes.world.phrases import CAPTION_MOTION
from trajseg.shapes.world.scenes import Scene

if TYPE_CHECKING:
    from trajseg.video import Clip

OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up"}
FALSE_ALARMS = 0.05
"""Share of right captions that a threshold may take for contradictions."""

Caption = Literal["meant", "other motion", "other object"]


@runtime_checkable
class Agreeing(Protocol):
    """An engine that says how well captions agree with an instruction: about 0 or less, see trajseg.model.agreement."""

    def agreement(self, clip: Clip, instruction: str, captions: Sequence[str]) -> list[float]: ...


@dataclass(frozen=True)
class Compared:
    """How well a caption agrees with an instruction, as the engine sees it.

    Args:
        seed: which scene.
        text: the instruction.
        caption: the true caption of an object that is meant, the same with the opposite motion, or the true caption
            of an object that is not meant.
        which: which of these.
        agreement: of the engine; below CONTRADICTION it would be warned of.
    """

    seed: int
    text: str
    caption: str
    which: Caption
    agreement: float


def compare(engine: Agreeing, scene: Scene, clip: Clip, asked: Instruction) -> list[Compared]:
    """Captions of the scene's objects whose motion shows, beside an instruction."""
    shows = Facts(scene).moves_visibly
    captions: list[tuple[str, Caption]] = []
    for k, thing in enumerate(scene.objects):
        if not shows[k]:
            continue
        true = short_caption(thing)
        captions.append((true, "meant" if k in asked.targets else "other object"))
        if k in asked.targets and thing.motion in OPPOSITE:
            words = CAPTION_MOTION[thing.motion], CAPTION_MOTION[OPPOSITE[thing.motion]]
            captions.append((true.replace(*words), "other motion"))
    said = [caption for caption, _ in captions]
    agreements = engine.agreement(clip, asked.text, said) if said else []
    return [
        Compared(scene.seed, asked.text, caption, which, agreement)
        for (caption, which), agreement in zip(captions, agreements, strict=True)
    ]


def contradiction_figures(compared: Sequence[Compared]) -> dict[str, float] | None:
    """Shares of captions below CONTRADICTION, by what they are, and below the threshold that gives FALSE_ALARMS.

    None where nothing was compared, or no caption was right.
    """
    right = sorted(one.agreement for one in compared if one.which == "meant")
    if not right:
        return None
    threshold = right[int(len(right) * FALSE_ALARMS)]
    found: dict[str, float] = {"captions": len(compared), "threshold": threshold}
    for which in ("meant", "other motion", "other object"):
        own = [one for one in compared if one.which == which]
        if own:
            found[f"warned, {which}"] = sum(one.agreement < CONTRADICTION for one in own) / len(own)
            found[f"warned at the threshold, {which}"] = sum(one.agreement < threshold for one in own) / len(own)
    return found
