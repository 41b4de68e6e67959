"""Evaluation of contradictions: can an engine tell captions of an instruction's targets from other captions?"""

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
"""Fraction of right captions that the threshold may classify as contradictions."""

Caption = Literal["meant", "other motion", "other object"]


@runtime_checkable
class CaptionComparer(Protocol):
    """An engine that scores the agreement of captions with an instruction; see trajseg.model.agreement."""

    def agreement(self, clip: Clip, instruction: str, captions: Sequence[str]) -> list[float]: ...


@dataclass(frozen=True)
class CaptionComparison:
    """An engine's agreement of a caption with an instruction.

    Args:
        seed: of the scene.
        text: the instruction.
        caption: the true caption of a target, the same with the opposite motion, or the true caption of another object.
        which: which of the three.
        agreement: the engine's score; below CONTRADICTION there would be a warning.
    """

    seed: int
    text: str
    caption: str
    which: Caption
    agreement: float


def compare(engine: CaptionComparer, scene: Scene, clip: Clip, asked: Instruction) -> list[CaptionComparison]:
    """Compares an instruction with captions of the scene's objects whose motion is visible."""
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
    sentences = [caption for caption, _ in captions]
    agreements = engine.agreement(clip, asked.text, sentences) if sentences else []
    return [
        CaptionComparison(scene.seed, asked.text, caption, which, agreement)
        for (caption, which), agreement in zip(captions, agreements, strict=True)
    ]


def contradiction_figures(compared: Sequence[CaptionComparison]) -> dict[str, float] | None:
    """Fractions of captions below CONTRADICTION, and below the threshold for FALSE_ALARMS, by kind of caption.

    None if nothing was compared, or no caption was right.
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
