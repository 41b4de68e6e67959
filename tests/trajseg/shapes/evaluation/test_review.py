"""The simulated annotator and the box tool that is its baseline are counted fairly."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
from click.testing import CliRunner

from trajseg.commands.evaluate import command
from trajseg.correction import FlowPropagator
from trajseg.engines.base import PLAIN, EngineSpec, FrameMasks, ObjectMask, RunContext, TrackedObject
from trajseg.engines.segmentation import Segmentation
from trajseg.evaluation.metrics import score
from trajseg.shapes.evaluation.review import evenly, interpolated, review, summary, uniform_boxes_needed
from trajseg.shapes.world.language import instructions
from trajseg.shapes.world.render import render
from trajseg.shapes.world.scenes import sample_scene
from trajseg.tracks.region_similarity import region_similarity
from trajseg.video import Clip

HEIGHT = 64


class HalfRight:
    """Answers with the target in the first half of the clip, and with nothing after that."""

    spec = EngineSpec(name="half-right", model_version="half-right")

    def segment(self, clip: Clip, instruction: str, context: RunContext = PLAIN) -> Segmentation:
        split, seed = clip.path.stem.rsplit("-", 1)
        scene = sample_scene(int(seed), split)  # type: ignore[arg-type]
        [asked] = [i for i in instructions(scene, random.Random(scene.seed), limit_per_kind=1) if i.text == instruction]
        ids = render(scene, HEIGHT)[1] == asked.targets[0] + 1
        ids = np.pad(ids, ((0, 0), (0, clip.height - ids.shape[1]), (0, clip.width - ids.shape[2])), mode="edge")
        masks = [mask if i < len(clip) // 2 else None for i, mask in enumerate(ids)]
        frames = [FrameMasks(index, {"t1": ObjectMask.of(mask, 0.9)}) for index, mask in enumerate(masks)]
        objects = TrackedObject.numbered([""])
        return Segmentation(spec=self.spec, clip=clip, instruction=instruction, objects=objects, frames=frames)


def moving_diamond(frames: int, bend: float = 0.0) -> np.ndarray:
    """A growing shape other than a box, on a straight or curved path: bool [N, 60, 160]."""
    y, x = np.mgrid[:60, :160]
    out = []
    for i in range(frames):
        cx, cy, r = 20 + 4 * i, 30 + bend * np.sin(i / 2), 10 + 0.2 * i
        out.append(np.abs(x - cx) + np.abs(y - cy) < r)
    return np.stack(out)


def test_interpolated_boxes_carry_the_outline_along_a_straight_course() -> None:
    truth = moving_diamond(30)
    boxed = interpolated(truth, [0, 29])
    assert min(region_similarity(b, t) for b, t in zip(boxed, truth, strict=True)) > 0.8
    assert np.array_equal(boxed[0], truth[0])
    assert uniform_boxes_needed(truth, 0.95) <= 3


def test_a_bent_course_needs_more_boxes() -> None:
    assert uniform_boxes_needed(moving_diamond(30, bend=12.0), 0.95) > 2 * uniform_boxes_needed(
        moving_diamond(30), 0.95
    )


def test_a_box_is_off_where_the_nearest_key_frame_says_so() -> None:
    truth = moving_diamond(20)
    truth[12:] = False
    boxed = interpolated(truth, [2, 8, 15])
    assert boxed[11].any()
    assert not boxed[12:].any()
    assert score(interpolated(truth, list(range(20))), truth).jf == 1.0


def test_even_frames_lie_at_the_centres_of_equal_parts() -> None:
    assert evenly(3, 30) == [5, 15, 25]
    assert evenly(1, 30) == [15]
    assert evenly(50, 4) == [0, 1, 2, 3]


def test_a_corrected_track_gets_better_until_it_is_good_enough() -> None:
    steps: list[tuple[int, int]] = []
    found = list(
        review(
            HalfRight(),
            [FlowPropagator()],
            split="val",
            count=2,
            seed=7,
            height=HEIGHT,
            goal=0.9,
            most=3,
            progress=lambda done, total: steps.append((done, total)),
        )
    )
    assert steps == [(1, 2), (2, 2)]
    for one in found:
        assert one.course[0] == one.start
        assert one.course[-1] >= 0.9
        assert one.frames_needed == len(one.painted) == len(one.chosen) <= 3
        assert one.suggested > one.start
        assert one.uniform_boxes is not None
    assert found[0].course[-1] > found[0].start + 0.3
    assert summary(found)["gain_suggested"] > 0.15
    assert json.loads(json.dumps(found[0].to_json()))["frames_needed"] == found[0].frames_needed


def test_the_command_ends_with_the_gains() -> None:
    arguments = ["--review", "--data", "shapes:val", "--count", "1", "--seed", "7", "--height", str(HEIGHT)]
    loader: Any = lambda model, device: HalfRight()  # noqa: E731
    done = CliRunner().invoke(command, arguments, obj=loader)
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.stdout.splitlines()[-1])) == {"tracks", "start_jf", "gain_suggested", "gain_uniform"}
