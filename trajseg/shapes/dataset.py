"""The shapes world as a data set: clips in real H.264 files, with the scene behind each."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np

from trajseg.data.dataset import AnnotatedClip, AnnotatedObject, Dataset, Expression
from trajseg.data.registry import DatasetOptions
from trajseg.errors import InputError
from trajseg.shapes.world.conditions import PLAIN, POSTERS, Condition
from trajseg.shapes.world.language import Instruction, instructions, short_caption
from trajseg.shapes.world.render import render
from trajseg.shapes.world.scenes import Scene, Split, sample_scene
from trajseg.tracks import Rle, rle
from trajseg.video import Clip, even_size, open_clip, write_video

SPLITS: tuple[Split, ...] = get_args(Split)
CLIPS, HEIGHT = 50, 240
"""Default number of clips of a split (which is endless), and default rows of their frames."""


@dataclass(frozen=True)
class SceneClip(AnnotatedClip):
    """A clip of the shapes world with its scene. Object k of the scene has the uid str(k)."""

    scene: Scene | None = None
    ids: np.ndarray | None = None
    """uint8 [N, H, W]: 0 background, k + 1 where object k is visible."""

    def drawn_from(self) -> tuple[Scene, np.ndarray]:
        """The scene, and `ids`."""
        assert self.scene is not None
        assert self.ids is not None
        return self.scene, self.ids


def open_shapes(argument: str, options: DatasetOptions) -> Dataset:
    """The data set "shapes:SPLIT", whose clips are rendered, or "shapes:FOLDER", whose clips were written earlier.

    Raises:
        InputError: `argument` is neither.
    """
    if argument in SPLITS:
        return ShapesDataset(
            argument,
            CLIPS if options.count is None else options.count,
            options.seed or 0,
            HEIGHT if options.height is None else options.height,
            options.per_kind or 1,
        )
    if not Path(argument or ".").joinpath("clips.jsonl").is_file() or not argument:
        raise InputError(
            f"There is no data set 'shapes:{argument}'.",
            "Give shapes:test, shapes:val, shapes:train, or a folder written by `trajseg data shapes --write`.",
        )
    options.refuse(f"shapes:{argument}", "seed", "height")
    return WrittenShapes(Path(argument), options.count, options.per_kind or 1)


def open_posters(argument: str, options: DatasetOptions) -> Dataset:
    """The data set "posters:SPLIT": scenes of the shapes world in a style that the base was not trained on.

    Raises:
        InputError: unknown split.
    """
    if argument not in SPLITS:
        raise InputError(
            f"There is no data set 'posters:{argument}'.", f"Give posters: and one of {', '.join(SPLITS)}."
        )
    return ShapesDataset(
        argument,
        CLIPS if options.count is None else options.count,
        options.seed or 0,
        HEIGHT if options.height is None else options.height,
        options.per_kind or 1,
        POSTERS,
    )


class ShapesDataset(Dataset):
    """Clips of a split, each in a temporary file that exists as long as its clip object.

    Args:
        split: of the shapes world.
        count: number of clips; their seeds are `seed`, `seed` + 1, ...
        height: rows of the frames, in pixels.
        per_kind: instructions of each kind per clip, at most.
        condition: how the scenes are rendered and filmed.
    """

    evaluator = "trajseg.shapes.evaluation.evaluation:ShapesEvaluator"
    laboratory = True

    def __init__(
        self,
        split: Split = "test",
        count: int = CLIPS,
        seed: int = 0,
        height: int = HEIGHT,
        per_kind: int = 1,
        condition: Condition = PLAIN,
    ) -> None:
        self.condition = condition
        self.split, self.count, self.seed, self.height, self.per_kind = split, count, seed, height, per_kind

    @property
    def name(self) -> str:
        return f"{'shapes' if self.condition is PLAIN else self.condition.name}:{self.split}"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> SceneClip:
        if not 0 <= number < self.count:
            raise IndexError(f"clip {number} of a data set of {self.count}")
        scene = sample_scene(self.seed + number, self.split)
        folder = Path(tempfile.mkdtemp(prefix="trajseg-"))
        try:
            clip, ids = write_scene(scene, folder / f"{self.split}-{scene.seed:06d}.mp4", self.height, self.condition)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        annotated = annotate(scene, clip, ids, self.per_kind)
        weakref.finalize(annotated, shutil.rmtree, folder, ignore_errors=True)
        return annotated


class WrittenShapes(Dataset):
    """Clips written by `trajseg data shapes --write`, in the order of its list; masks are rendered from their scenes.

    Args:
        folder: has clips.jsonl.
        count: clips, at most; None: all.
        per_kind: as for ShapesDataset.
    """

    evaluator = ShapesDataset.evaluator

    def __init__(self, folder: Path, count: int | None = None, per_kind: int = 1) -> None:
        self.folder, self.count, self.per_kind = folder, count, per_kind

    @property
    def name(self) -> str:
        return f"shapes:{self.folder}"

    @property
    def height(self) -> int | None:
        """None: each file has its own."""
        return None

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, number: int) -> SceneClip:
        if not 0 <= number < len(self):
            raise IndexError(f"clip {number} of a data set of {len(self)}")
        path = self._paths[number]
        split, _, seed = path.stem.rpartition("-")
        if split not in SPLITS or not seed.isdigit():
            raise InputError(f"{path} does not have the name of a shapes clip.", "Write the clips again.")
        scene = sample_scene(int(seed), split)
        clip = open_clip(path)
        _, ids = render(scene, clip.height, range(scene.frame_count))
        # H.264 needs even sides: odd ones are padded by one pixel.
        whole = np.stack([even_size(plane[..., None])[..., 0] for plane in ids])
        return annotate(scene, clip, whole, self.per_kind)

    @cached_property
    def _paths(self) -> list[Path]:
        lines = (self.folder / "clips.jsonl").read_text(encoding="utf-8").splitlines()
        return [self.folder / json.loads(line)["video"] for line in lines][: self.count]


class SceneMasks(dict[int, Rle]):
    """Masks of one object by frame, from `ids`."""

    def __init__(self, ids: np.ndarray, k: int) -> None:
        drawn = ids == k + 1
        super().__init__({int(frame): rle.encode(drawn[frame]) for frame in np.flatnonzero(drawn.any(axis=(1, 2)))})


def annotate(
    scene: Scene, clip: Clip, ids: np.ndarray, per_kind: int = 1, asked: Sequence[Instruction] | None = None
) -> SceneClip:
    """The clip of a scene with its objects and instructions.

    Args:
        ids: uint8 [N, H, W], as from `render`.
        per_kind: instructions of each kind, at most.
        asked: instructions to use instead.
    """
    if asked is None:
        asked = instructions(scene, random.Random(scene.seed), limit_per_kind=per_kind)
    return SceneClip(
        name=f"{scene.split}-{scene.seed:06d}",
        clip=clip,
        objects=tuple(
            AnnotatedObject(str(k), SceneMasks(ids, k), short_caption(thing), thing.shape)
            for k, thing in enumerate(scene.objects)
        ),
        expressions=tuple(expression_of(one) for one in asked),
        scene=scene,
        ids=ids,
    )


def expression_of(asked: Instruction) -> Expression:
    """An instruction as an expression of the data set."""
    return Expression(asked.text, tuple(str(k) for k in asked.targets), asked.category, asked.kind)


def instruction_of(asked: Expression) -> Instruction:
    """The instruction of an expression of the shapes world."""
    targets = tuple(int(uid) for uid in asked.targets)
    return Instruction(asked.kind, asked.category, asked.text, targets)  # type: ignore[arg-type]


def write_scene(scene: Scene, path: Path, height: int, condition: Condition = PLAIN) -> tuple[Clip, np.ndarray]:
    """Writes a clip; returns it with ids uint8 [N, H, W] at its frame size. `scene` is already `condition.changed`."""
    ids: list[np.ndarray] = []

    def frames() -> Iterator[np.ndarray]:
        for frame, visible in condition.frames_and_ids(scene, height):
            ids.append(even_size(visible[..., None])[..., 0])
            yield frame

    write_video(path, frames(), scene.fps, condition.crf, condition.encoder)
    return open_clip(path), np.stack(ids)
