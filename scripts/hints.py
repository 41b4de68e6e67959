"""How good the masks of hints are: a checkpoint's own, and GrabCut's, on the same boxes and clicks.

    .venv/bin/python scripts/hints.py --model trajseg-tiny --count 40
    .venv/bin/python scripts/hints.py --model trajseg-tiny --real

Nine frames of each shapes clip are kept, and on one of them every visible object is marked as a person would: with a
box whose sides are each off by 4 % of the box (standard deviation), or with a click anywhere on the object. Prints mean
and median J, and the share of J above 0.5, in three settings: the mark alone, with the object's true mask on the
previous frame as memory, and with an instruction that refers to this object only. With --real the objects are those of
tests/data/real_masks, without instructions; the previous frame is the previous hand-checked one (ten frames earlier).
"""

from __future__ import annotations

import json
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from trajseg import VideoSegmenter
from trajseg.correction.grabcut import cut_out
from trajseg.shapes.recipe.marks import jittered
from trajseg.shapes.world.questions import descriptions, meaning
from trajseg.shapes.world.render import render
from trajseg.shapes.world.scenes import Scene, Split, sample_scene
from trajseg.tracks import rle
from trajseg.tracks.mark import FITS, Mark, fit
from trajseg.tracks.region_similarity import region_similarity
from trajseg.video import Clip, even_size, open_clip, write_video
from trajseg.video.spacing import sampled_frames

ROOT = Path(__file__).parent.parent
FRAMES = 9
LEAST = 40
"""Pixels from which an object counts as visible."""


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--model", default="trajseg-tiny", help="A checkpoint that was trained with boxes.")
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="val", help="Of the shapes world.")
@click.option("--count", default=40, help="Clips.")
@click.option("--height", default=240, help="Rows of the clips.")
@click.option("--real", is_flag=True, help="The hand-checked masks of real clips, not shapes.")
def main(model: str, split: Split, count: int, height: int, real: bool) -> None:
    segmenter = VideoSegmenter.from_pretrained(model)
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    if real:
        for path in sorted((ROOT / "tests" / "data" / "real_masks").glob("*.json")):
            for row, kind, j in measured_real(segmenter, path):
                found[f"{path.stem}: {row}", kind].append(j)
        print_table(found)
        return
    with tempfile.TemporaryDirectory(prefix="trajseg-") as folder:
        for seed in range(count):
            scene = sample_scene(seed, split)
            for row, kind, j in measured(segmenter, scene, Path(folder) / f"{seed}.mp4", height):
                found[row, kind].append(j)
    print_table(found)


def measured(segmenter: VideoSegmenter, scene: Scene, path: Path, height: int) -> Iterator[tuple[str, str, float]]:
    """(method, kind of mark, J) for every object in one frame of a scene."""
    frames, ids = render(scene, height, sampled_frames(scene.frame_count, FRAMES))
    clip = open_clip(write_video(path, frames, scene.fps))
    ids = np.stack([even_size(plane[..., None])[..., 0] for plane in ids])
    rng = random.Random(scene.seed)
    index = rng.randrange(1, len(clip))
    for k, _ in enumerate(scene.objects):
        truth = ids[index] == k + 1
        if truth.sum() < LEAST:
            continue
        before = {index - 1: ids[index - 1] == k + 1}
        words = next((words for words in descriptions(scene.objects[k]) if meaning(words, scene.objects) == [k]), "")
        for kind, prompt in marks(truth, index, rng).items():
            for row, draw in ways(segmenter, clip, prompt, f"the {words}" if words else "", before).items():
                yield row, kind, region_similarity(draw(), truth)


def measured_real(segmenter: VideoSegmenter, path: Path) -> Iterator[tuple[str, str, float]]:
    """The same for the hand-checked masks of a real clip."""
    data = json.loads(path.read_text(encoding="utf-8"))
    clip = open_clip(ROOT / "tests" / "clips" / data["clip"])
    masks = {int(index): rle.decode(code) for index, code in data["frames"].items()}
    rng = random.Random(0)
    for earlier, index in pairwise(sorted(masks)):
        for kind, prompt in marks(masks[index], index, rng).items():
            for row, draw in ways(segmenter, clip, prompt, "", {earlier: masks[earlier]}).items():
                yield row, kind, region_similarity(draw(), masks[index])


def marks(truth: np.ndarray, index: int, rng: random.Random) -> dict[str, Mark]:
    """A box and a click on an object, as a person would draw them."""
    rows, columns = np.where(truth)
    tight = torch.tensor([columns.min(), rows.min(), columns.max(), rows.max()], dtype=torch.float32)
    left, top, right, bottom = jittered(tight, rng, max(truth.shape)).tolist()
    place = rng.randrange(len(rows))
    return {
        "box": Mark(index, (left, top, right - left + 1, bottom - top + 1)),
        "click": Mark(index, (float(columns[place]), float(rows[place]), 1.0, 1.0), point=True),
    }


def ways(
    segmenter: VideoSegmenter, clip: Clip, prompt: Mark, words: str, before: dict[int, np.ndarray]
) -> dict[str, Callable[[], np.ndarray]]:
    """Ways to draw a mark's mask; GrabCut steps in where the model is not sure, as in the worker."""

    def drawn(words: str = "", known: dict[int, np.ndarray] | None = None) -> np.ndarray:
        mask = segmenter.mark(clip, prompt, words, known)
        return mask if fit(mask, prompt) >= FITS else cut_out(clip, prompt)

    ways: dict[str, Callable[[], np.ndarray]] = {
        "GrabCut": lambda: cut_out(clip, prompt),
        "mark": drawn,
        "mark, memory": lambda: drawn(known=before),
    }
    if words:
        ways["mark, instruction"] = lambda: drawn(words)
        ways["mark, memory, instruction"] = lambda: drawn(words, before)
    return ways


def print_table(found: dict[tuple[str, str], list[float]]) -> None:
    """One row per method and kind of mark."""
    table = Table("drawn from", "mark", "objects", "mean J", "median J", "J > 0.5")
    for (row, kind), values in sorted(found.items(), key=lambda item: item[0][1]):
        right = fmean(value > 0.5 for value in values)
        table.add_row(row, kind, f"{len(values)}", f"{fmean(values):.3f}", f"{median(values):.3f}", f"{right:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
