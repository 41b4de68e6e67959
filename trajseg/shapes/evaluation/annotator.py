"""A simulated annotator: corrects clips of the shapes world as a person does, into the folder that training reads.

The truth is painted on a few frames of each object, optical flow carries it to the others, and captions are put right.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from trajseg.correction import FlowPropagator
from trajseg.data.corrections import Side, side_of
from trajseg.data.dataset import AnnotatedClip, AnnotatedObject, Dataset
from trajseg.tracks import MaskTrack, rle
from trajseg.tracks.formats.native import Native
from trajseg.tracks.labelled import Expression, LabelledClip, LabelledTrack
from trajseg.tracks.trust import Trust

PAINTED_FRAMES = 5
"""Frames of each object that are painted."""


def identity_of(path: Path) -> str:
    """What tells a video from others, as an export has it."""
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def by_side(dataset: Dataset, wanted: dict[Side, int]) -> list[AnnotatedClip]:
    """The first clips of a data set, as many on each side of the split."""
    left, chosen = dict(wanted), []
    for number in range(len(dataset)):
        if not any(left.values()):
            break
        annotated = dataset[number]
        side = side_of(identity_of(annotated.clip.path))
        if left[side]:
            left[side] -= 1
            chosen.append(annotated)
    return chosen


def correct(
    clips: Iterable[AnnotatedClip],
    out: Path,
    expressions: int = 4,
    shuffled: random.Random | None = None,
    progress: Callable[[str], None] = lambda _name: None,
) -> Path:
    """Writes corrected clips as `corrections:OUT`.

    Args:
        expressions: of a clip, at most, drawn by its name.
        shuffled: mixes up which object an expression means, as a harmful set of corrections does; None leaves them.
    """
    with Native(out) as writer:
        for annotated in clips:
            writer.add(_corrected(annotated, expressions, shuffled))
            progress(annotated.name)
    return out


def _corrected(annotated: AnnotatedClip, expressions: int, shuffled: random.Random | None) -> LabelledClip:
    clip = annotated.clip
    objects = [thing for thing in annotated.objects if thing.masks]
    uids = [thing.uid for thing in objects]
    said = [asked for asked in annotated.expressions if set(asked.targets) <= set(uids)]
    if len(said) > expressions:
        said = random.Random(annotated.name).sample(said, expressions)
    meant = {uid: uid for uid in uids}
    captions = {thing.uid: thing.caption for thing in objects}
    if shuffled is not None:
        turned = shuffled.sample(uids, len(uids))
        while len(uids) > 1 and any(one == other for one, other in zip(uids, turned, strict=True)):
            turned = shuffled.sample(uids, len(uids))
        meant = dict(zip(uids, turned, strict=True))
        captions = {meant[uid]: caption for uid, caption in captions.items()}
    return LabelledClip(
        annotated.name,
        clip.width,
        clip.height,
        clip.fps,
        len(clip),
        tuple(_track(annotated, thing, captions[thing.uid]) for thing in objects),
        tuple(Expression(asked.text, tuple(meant[uid] for uid in asked.targets), Trust.PAINTED) for asked in said),
        str(clip.path),
        identity_of(clip.path),
        clip,
    )


def _track(annotated: AnnotatedClip, thing: AnnotatedObject, caption: str) -> LabelledTrack:
    """An object whose first and last frames in the picture, and some between, are painted."""
    clip = annotated.clip
    shown = sorted(thing.masks)
    chosen = {shown[round(place)] for place in np.linspace(0, len(shown) - 1, min(PAINTED_FRAMES, len(shown)))}
    # Just before it comes and just after it goes a person paints that it is not there.
    chosen |= {index for index in (shown[0] - 1, shown[-1] + 1) if 0 <= index < len(clip)}
    nothing = np.zeros((clip.height, clip.width), bool)
    painted = {index: rle.decode(thing.masks[index]) if index in thing.masks else nothing for index in sorted(chosen)}
    masks = [one.mask for one in FlowPropagator().propagate(clip, painted)]
    trust = tuple(Trust.PAINTED if index in chosen else Trust.PROPAGATED for index in range(len(clip)))
    track = MaskTrack.from_masks(
        thing.uid, masks, clip.frame_map.times, [1.0] * len(clip), label=f"track-{thing.uid}", caption=caption
    )
    return LabelledTrack(track, trust)
