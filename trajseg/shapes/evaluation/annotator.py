"""A simulated annotator: corrects the clips of a data set as a person would, and writes a corrections data set.

It paints the ground truth on a few frames of each clip, optical flow propagates it to the others, and captions are
corrected. A project's videos are files, so folders of pictures are written as videos first.
"""

from __future__ import annotations

import operator
import random
import shutil
import tempfile
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from trajseg.correction import FlowPropagator
from trajseg.data.dataset import AnnotatedClip, AnnotatedObject, Dataset
from trajseg.data.sides import Side, side_of
from trajseg.errors import InputError
from trajseg.files import content_hash
from trajseg.tracks import MaskTrack, Rle, rle
from trajseg.tracks.formats.native import Native
from trajseg.tracks.labelled import Expression, LabelledClip, LabelledTrack
from trajseg.tracks.trust import Trust
from trajseg.video import even_size, open_clip, write_video
from trajseg.video.spacing import end_to_end

PAINTED_FRAMES = 5
"""Frames of a clip on which every object is painted, or confirmed as absent."""


def identity_of(path: Path) -> str:
    """A video's identity, as in an export."""
    return f"sha256:{content_hash(path)}"


def by_side(dataset: Dataset, wanted: Mapping[Side, int], taken: Collection[str] = ()) -> list[AnnotatedClip]:
    """The first clips of a data set, as video files, with the wanted number on each side of a growing project.

    Args:
        taken: names of clips to leave out.

    Raises:
        InputError: the data set has too few clips.
    """
    left = dict(wanted)
    chosen: list[AnnotatedClip] = []
    for number in range(len(dataset)):
        if not any(left.values()):
            break
        annotated = dataset[number]
        if annotated.name in taken:
            continue
        annotated = as_video(annotated)
        side = side_of(identity_of(annotated.clip.path), len(chosen))
        if left.get(side):
            left[side] -= 1
            chosen.append(annotated)
    if lacking := ", ".join(f"{count} more {side}" for side, count in left.items() if count):
        raise InputError(
            f"{dataset.name} has too few clips for this project: it lacks {lacking}.",
            "A hash of each video decides its side. Add clips, or ask for fewer.",
        )
    return chosen


def as_video(annotated: AnnotatedClip) -> AnnotatedClip:
    """The clip itself if it is a video file; a folder of pictures as a file that exists as long as the result."""
    source = annotated.clip
    if source.path.is_file():
        return annotated
    folder = Path(tempfile.mkdtemp(prefix="trajseg-"))
    try:
        path = write_video(folder / f"{annotated.name}.mp4", (rgb for _, rgb in source.frames()), source.fps, crf=12)
        clip = open_clip(path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise

    def evened(code: Rle) -> Rle:
        return rle.encode(even_size(rle.decode(code)[..., None])[..., 0])

    objects = tuple(
        replace(thing, masks={index: evened(code) for index, code in thing.masks.items()})
        for thing in annotated.objects
    )
    written = replace(annotated, clip=clip, objects=objects)
    weakref.finalize(written, shutil.rmtree, folder, ignore_errors=True)
    return written


def correct(
    clips: Sequence[AnnotatedClip],
    out: Path,
    expressions: int = 4,
    shuffled: random.Random | None = None,
    progress: Callable[[str], None] = lambda _name: None,
) -> Path:
    """Writes corrected clips as `corrections:OUT`, on the sides of a project to which they came in this order.

    Args:
        expressions: per clip, at most; the clip's name seeds the choice.
        shuffled: swaps the labels between clips, as in a harmful set of corrections; None leaves them.
    """
    labels = list(clips)
    while shuffled is not None and len(labels) > 1 and any(map(operator.is_, labels, clips)):
        shuffled.shuffle(labels)
    with Native(out) as writer:
        for earlier, (annotated, labelled) in enumerate(zip(clips, labels, strict=True)):
            corrected = _corrected(relabelled(annotated, labelled), expressions)
            writer.add(replace(corrected, side=side_of(corrected.identity, earlier)))
            progress(annotated.name)
    return out


def relabelled(annotated: AnnotatedClip, labels: AnnotatedClip) -> AnnotatedClip:
    """A clip with the objects and expressions of another one, resized to its frames; unchanged with its own."""
    if annotated is labels:
        return annotated
    clip = annotated.clip
    times = {index: round(index * (len(labels.clip) - 1) / max(1, len(clip) - 1)) for index in range(len(clip))}

    def fitted(code: Rle) -> Rle:
        mask = rle.decode(code).astype(np.uint8)
        return rle.encode(cv2.resize(mask, (clip.width, clip.height), interpolation=cv2.INTER_NEAREST) > 0)

    objects = tuple(
        AnnotatedObject(
            thing.uid,
            {index: fitted(thing.masks[time]) for index, time in times.items() if time in thing.masks},
            thing.caption,
        )
        for thing in labels.objects
    )
    return AnnotatedClip(annotated.name, clip, objects, labels.expressions)


def _corrected(annotated: AnnotatedClip, expressions: int) -> LabelledClip:
    clip = annotated.clip
    objects = [thing for thing in annotated.objects if thing.masks]
    uids = {thing.uid for thing in objects}
    chosen = [asked for asked in annotated.expressions if set(asked.targets) <= uids]
    if len(chosen) > expressions:
        chosen = random.Random(annotated.name).sample(chosen, expressions)
    return LabelledClip(
        annotated.name,
        clip.width,
        clip.height,
        clip.fps,
        len(clip),
        tuple(_track(annotated, thing) for thing in objects),
        tuple(Expression(asked.text, asked.targets, Trust.PAINTED) for asked in chosen),
        str(clip.path),
        identity_of(clip.path),
        clip,
    )


def _track(annotated: AnnotatedClip, thing: AnnotatedObject) -> LabelledTrack:
    """An object, painted on frames spread over the clip and where it appears and disappears."""
    clip, scored = annotated.clip, annotated.scored
    shown = sorted(thing.masks)
    # Who paints a frame paints or confirms every object in it. So these frames are the same for all objects.
    chosen = {scored[place] for place in end_to_end(len(scored), PAINTED_FRAMES)} | {shown[0], shown[-1]}
    # Just before it appears and just after it disappears, the annotator marks it as absent.
    before, after = [at for at in scored if at < shown[0]], [at for at in scored if at > shown[-1]]
    chosen |= {*before[-1:], *after[:1]}
    nothing = np.zeros((clip.height, clip.width), bool)
    painted = {index: rle.decode(thing.masks[index]) if index in thing.masks else nothing for index in sorted(chosen)}
    masks = [one.mask for one in FlowPropagator().propagate(clip, painted)]
    trust = tuple(Trust.PAINTED if index in chosen else Trust.PROPAGATED for index in range(len(clip)))
    track = MaskTrack.from_masks(
        thing.uid, masks, clip.frame_map.times, [1.0] * len(clip), label=f"track-{thing.uid}", caption=thing.caption
    )
    return LabelledTrack(track, trust, caption_trust=Trust.PAINTED)
