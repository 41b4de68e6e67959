"""`make proof-engines`: `grounded` gives good masks, with tiny weights of the real model classes.

A detector (MM-Grounding-DINO) and a chooser (Qwen3-VL), both trained on the shapes world, and the SAM 2 of trajseg-tiny
answer referring instructions about mp4 files of the test split, including some that match no object. The last line
printed is one JSON object; its four figures show which part fails:

candidate_recall: share of the target objects for which some candidate has a mean J of at least 0.5;
oracle_choice_jf: J&F if the best candidate were always chosen;
grounded_referring_jf, grounded_none_accuracy: end to end, with the chooser's own choice.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import cast

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from trajseg.engines.grounded.candidates import Candidate
from trajseg.engines.grounded.engine import GroundedEngine
from trajseg.engines.grounded.loading import load
from trajseg.engines.grounded.search import CandidateSearch
from trajseg.engines.grounded.settings import GroundedSettings
from trajseg.evaluation.metrics import Score, score
from trajseg.progress import Progress
from trajseg.shapes.world.language import CATEGORY, Instruction, instructions
from trajseg.shapes.world.render import frames_and_ids
from trajseg.shapes.world.scenes import Scene, Split, sample_scene
from trajseg.tracks import rle
from trajseg.video import Clip, even_size, open_clip, write_video

CHECKPOINT = Path(__file__).parent.parent / "trajseg" / "shapes" / "engines" / "grounded-tiny"
FOUND = 0.5
"""Mean J of a candidate from which an object counts as found."""


@dataclass(frozen=True)
class Asked:
    """One instruction and the score of each part. `best` and `chosen` are J&F; None if no object is meant."""

    seed: int
    kind: str
    text: str
    found: bool | None
    best: float | None
    chosen: float | None
    empty: bool
    phrases: tuple[str, ...]
    words: tuple[str, ...]


def main() -> None:
    """Measure, print a table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=12, help="shapes clips (12)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first clip (0)")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="of the shapes world (test)")
    parser.add_argument("--height", type=int, default=160, help="rows of the clips (160)")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="folder with detector and chooser")
    parser.add_argument("--json", type=Path, help="write every instruction's figures here")
    given = parser.parse_args()
    engine = load(GroundedSettings.read({"checkpoint": str(given.checkpoint)}), "cpu")
    if engine.chooser is None:
        print(f"{given.checkpoint} has no chooser: each sentence is used as a noun phrase.")
    engine.search = RememberingSearch(cast(CandidateSearch, engine.search))
    asked: list[Asked] = []
    for one in measure(engine, given.split, range(given.seed, given.seed + given.clips), given.height):
        asked.append(one)
        print(json.dumps(asdict(one)), flush=True)
        if given.json:
            given.json.parent.mkdir(parents=True, exist_ok=True)
            given.json.write_text(json.dumps([asdict(each) for each in asked], indent=1) + "\n", encoding="utf-8")
    print_table(asked)
    print(json.dumps(last_line(asked)))


class RememberingSearch(CandidateSearch):
    """Caches searches: different sentences with the same phrases give the same candidates in a clip."""

    def __init__(self, search: CandidateSearch) -> None:
        super().__init__(search.detector, search.sam2, search.settings)
        self._last: tuple[object, dict[tuple[str, ...], list[Candidate]]] = (None, {})

    def find(self, clip: Clip, phrases: Sequence[str], progress: Progress | None = None) -> list[Candidate]:
        if self._last[0] is not clip:
            self._last = clip, {}
        known = self._last[1]
        if tuple(phrases) not in known:
            known[tuple(phrases)] = super().find(clip, phrases, progress)
        return known[tuple(phrases)]


def measure(engine: GroundedEngine, split: Split, seeds: Sequence[int], height: int) -> Iterator[Asked]:
    """Sends one referring instruction of each kind per clip, and two that match no object."""
    with tempfile.TemporaryDirectory(prefix="trajseg-") as folder:
        for seed in seeds:
            scene = sample_scene(seed, split)
            clip, ids = written(scene, Path(folder) / f"{seed}.mp4", height)
            for one in instructions(scene, random.Random(seed), limit_per_kind=2):
                if CATEGORY[one.kind] in ("referring", "none"):
                    yield ask(engine, seed, clip, ids, one)
            clip.path.unlink()


def written(scene: Scene, path: Path, height: int) -> tuple[Clip, np.ndarray]:
    """A scene as an H.264 file, and ids uint8 [N, H, W] at the size of its frames."""
    ids: list[np.ndarray] = []

    def frames() -> Iterator[np.ndarray]:
        for frame, visible in frames_and_ids(scene, height, range(scene.frame_count)):
            ids.append(even_size(visible[..., None])[..., 0])
            yield frame

    write_video(path, frames(), scene.fps)
    return open_clip(path), np.stack(ids)


def ask(engine: GroundedEngine, seed: int, clip: Clip, ids: np.ndarray, one: Instruction) -> Asked:
    """One instruction, through the engine."""
    found = engine.find(clip, one.text)
    result = engine.segmentation(clip, found).result()
    union = np.zeros(ids.shape, bool)
    for track in result.tracks:
        for index in track.present:
            union[index] |= track.mask(index)
    said = found.phrases, tuple(found.choice.said)
    if not one.targets:
        return Asked(seed, one.kind, one.text, None, None, None, not union.any(), *said)
    truth = np.isin(ids, [k + 1 for k in one.targets])
    scores = [score(masks_of(candidate, ids.shape), truth) for candidate in found.candidates]
    best = max(scores, key=lambda each: each.jf, default=Score(0.0, 0.0))
    located = max((each.j for each in scores), default=0.0) >= FOUND
    return Asked(seed, one.kind, one.text, located, best.jf, score(union, truth).jf, not union.any(), *said)


def masks_of(candidate: Candidate, shape: Sequence[int]) -> np.ndarray:
    """A candidate's masks, bool [N, H, W]."""
    masks = np.zeros(shape, bool)
    for index in candidate.shown:
        code = candidate.frames[index].rle
        if code is not None:
            masks[index] = rle.decode(code)
    return masks


def last_line(asked: Sequence[Asked]) -> dict[str, float]:
    """The summary figures."""
    meant = [one for one in asked if one.found is not None]
    nothing = [one for one in asked if one.found is None]
    return {
        "candidate_recall": round(fmean(bool(one.found) for one in meant), 4),
        "oracle_choice_jf": round(fmean(one.best or 0.0 for one in meant), 4),
        "grounded_referring_jf": round(fmean(one.chosen or 0.0 for one in meant), 4),
        "grounded_none_accuracy": round(fmean(one.empty for one in nothing), 4),
    }


def print_table(asked: Sequence[Asked]) -> None:
    """Means by kind of instruction."""
    table = Table(title="grounded with tiny weights, by kind of instruction")
    for heading in ("kind", "instructions", "found", "best J&F", "chosen J&F", "empty"):
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    for kind in dict.fromkeys(one.kind for one in asked):
        those = [one for one in asked if one.kind == kind]
        figures = [
            f"{fmean(value):.3f}" if (value := [float(v) for v in column if v is not None]) else "-"
            for column in (
                [one.found for one in those],
                [one.best for one in those],
                [one.chosen for one in those],
                [one.empty for one in those],
            )
        ]
        table.add_row(kind, str(len(those)), *figures)
    Console(width=110).print(table)


if __name__ == "__main__":
    # Two numerical libraries with one thread per core each would compete for the cores.
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    main()
