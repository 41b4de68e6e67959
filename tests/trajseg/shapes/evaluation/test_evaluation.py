"""The evaluation distinguishes an engine that is right, one that is wrong, and one that finds nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from trajseg.commands.evaluate import command
from trajseg.data.dataset import Expression
from trajseg.engines.base import PLAIN, EngineSpec, FrameMasks, ObjectMask, RunContext, TrackedObject
from trajseg.engines.segmentation import Segmentation
from trajseg.errors import InputError
from trajseg.evaluation.metrics import Presence, Score, Steadiness
from trajseg.model.agreement import CONTRADICTION
from trajseg.progress import Progress
from trajseg.shapes.evaluation.captions import caption_figures
from trajseg.shapes.evaluation.contradictions import contradiction_figures
from trajseg.shapes.evaluation.evaluation import Evaluation, ShapesAnswer, evaluate
from trajseg.shapes.world.facts import Facts
from trajseg.shapes.world.language import Instruction, instructions, short_caption
from trajseg.shapes.world.render import render
from trajseg.shapes.world.scenes import Scene, SceneObject, sample_scene
from trajseg.tracks import MaskTrack, Result
from trajseg.video import Clip

Choice = Callable[[Scene, Instruction], tuple[int, ...]]


class KnowingEngine:
    """Knows the scene of each clip from its file name; `choose` returns the objects in its answer."""

    spec = EngineSpec(name="knowing", model_version="knowing")

    def __init__(self, choose: Choice, height: int = 64, speak: bool = True) -> None:
        self.choose, self.height, self.speak = choose, height, speak
        self.frames_read = 0

    def segment(self, clip: Clip, instruction: str, context: RunContext = PLAIN) -> Segmentation:
        split, seed = clip.path.stem.rsplit("-", 1)
        scene = sample_scene(int(seed), split)  # type: ignore[arg-type]
        asked = next(
            i for i in instructions(scene, random.Random(scene.seed), limit_per_kind=1) if i.text == instruction
        )
        self.frames_read += sum(1 for _ in clip.frames())
        ids = render(scene, self.height)[1]
        ids = np.pad(ids, ((0, 0), (0, clip.height - ids.shape[1]), (0, clip.width - ids.shape[2])), mode="edge")
        chosen = self.choose(scene, asked)
        words = {k: short_caption(scene.objects[k]) if self.speak else "a thing" for k in chosen}
        return Segmentation(
            spec=self.spec,
            clip=clip,
            instruction=instruction,
            objects=[TrackedObject(f"t{k}", f"t{k}", words[k]) for k in chosen],
            frames=[
                FrameMasks(index, {f"t{k}": ObjectMask.of(frame == k + 1, 1.0) for k in chosen})
                for index, frame in enumerate(ids)
            ],
        )


class DescribingEngine(KnowingEngine):
    """Also captions true tracks; `describe` returns an object's caption."""

    spec = EngineSpec(name="knowing", model_version="knowing", captions=True)

    def __init__(self, describe: Callable[[SceneObject], str]) -> None:
        super().__init__(right)
        self.describe = describe

    def caption(self, clip: Clip, tracks: Sequence[MaskTrack], progress: Progress | None = None) -> list[str]:
        split, seed = clip.path.stem.rsplit("-", 1)
        scene = sample_scene(int(seed), split)  # type: ignore[arg-type]
        return [self.describe(scene.objects[int(track.uid[1:])]) for track in tracks]


def right(scene: Scene, asked: Instruction) -> tuple[int, ...]:
    return asked.targets


def wrong(scene: Scene, asked: Instruction) -> tuple[int, ...]:
    return tuple(k for k in range(len(scene.objects)) if k not in asked.targets)[:1]


def nothing(scene: Scene, asked: Instruction) -> tuple[int, ...]:
    return ()


def test_an_engine_that_is_always_right_has_full_marks() -> None:
    engine = DescribingEngine(short_caption)
    steps: list[tuple[int, int]] = []
    found = evaluate(engine, count=2, height=64, progress=lambda done, total: steps.append((done, total)))
    headline = found.headline()
    assert steps == [(1, 2), (2, 2)]
    for name in (
        "referring_jf",
        "reasoning_jf",
        "none_accuracy",
        "several_jf",
        "caption_accuracy",
        "right_object",
        "named_right",
    ):
        assert headline[name] == pytest.approx(1.0), name
    assert headline["avg_iou"] == pytest.approx(headline["avg_iou_truth"])
    assert headline["ghosts"] == headline["missed"] == 0
    assert engine.frames_read == sum(a.result.frame_count for a in found.answers)
    assert {row["category"] for row in found.table()} == {"referring", "reasoning", "several", "none"}
    assert all(row["j_of_right"] == pytest.approx(1.0) for row in found.table() if row["right_object"] is not None)


def test_the_wrong_object_drawn_well_is_not_taken_for_a_bad_mask() -> None:
    found = evaluate(KnowingEngine(wrong, speak=False), count=2, height=64)
    headline = found.headline()
    assert headline["right_object"] == 0
    assert headline["named_right"] == 0
    assert headline["none_accuracy"] == 0
    assert headline["referring_jf"] is not None
    assert headline["referring_jf"] < 0.4
    assert all(row["j_of_right"] is None for row in found.table())


def test_captions_are_scored_by_part_and_only_where_the_motion_shows() -> None:
    found = evaluate(DescribingEngine(lambda o: f"a small {o.colour} {o.shape}"), count=2, height=64)
    figures = caption_figures(found.described)
    assert figures is not None
    small = [d for d in found.described if d.truth["size"] == "small"]
    assert figures["colour"] == figures["shape"] == 1.0
    assert figures["size"] == pytest.approx(len(small) / len(found.described))
    assert figures["motion"] == figures["right"] == found.headline()["caption_accuracy"] == 0.0
    shown = [
        (seed, k) for seed in (0, 1) for k, shows in enumerate(Facts(sample_scene(seed, "test")).moves_visibly) if shows
    ]
    assert [(d.seed, d.target) for d in found.described] == shown


def test_an_engine_that_cannot_describe_has_no_caption_accuracy() -> None:
    headline = evaluate(KnowingEngine(right), count=1, height=64).headline()
    assert headline["caption_accuracy"] is None
    assert headline["referring_jf"] == pytest.approx(1.0)
    assert Evaluation("shapes:test", "silent", 0).headline()["caption_accuracy"] is None


def test_captions_of_others_and_of_other_motions_are_held_against_an_instruction() -> None:
    class Comparing(KnowingEngine):
        """Treats a caption as right if it is that of a target."""

        spec = EngineSpec(name="knowing", model_version="knowing", compares=True)

        def agreement(self, clip: Clip, instruction: str, captions: Sequence[str]) -> list[float]:
            meant = [track.caption for track in self.segment(clip, instruction).result().tracks]
            return [0.0 if caption in meant else CONTRADICTION - 1 for caption in captions]

    found = evaluate(Comparing(right), count=1, height=64, contradictions=True)
    figures = contradiction_figures(found.compared)
    assert figures is not None
    assert figures["warned, meant"] == 0.0
    assert figures["warned, other object"] == figures["warned, other motion"] == 1.0
    assert figures["threshold"] == 0.0
    asked = [a for a in found.answers if a.asked.targets]
    assert {c.text for c in found.compared} == {a.asked.text for a in asked}
    flipped = [c for c in found.compared if c.which == "other motion"]
    assert flipped
    assert all(c.caption not in {m.caption for m in found.compared if m.which == "meant"} for c in flipped)


def test_means_are_over_instructions_and_not_over_clips_first() -> None:
    asked = Expression("the red circle", ("0",), "referring", "attribute")
    result = Result("", 12.0, 8, 8, 1, "", "", "fixed")

    def answer(seed: int, j: float, f: float) -> ShapesAnswer:
        return ShapesAnswer(
            number=seed,
            clip=f"test-{seed:06d}",
            asked=asked,
            result=result,
            score=Score(j, f),
            matched=None,
            overlaps={"0": j},
            steadiness=Steadiness(j, j, 0.0),
            truth_steadiness=Steadiness(1.0, 1.0, 0.0),
            presence=Presence(None, 0.0),
            seconds=2.0,
            seed=seed,
            named=None,
        )

    scores = [(0, 0.9, 0.7), (0, 0.5, 0.1), (0, 0.4, 0.4), (1, 0.2, 0.0)]
    found = Evaluation("shapes:test", "fixed", 2, [answer(*one) for one in scores])
    assert found.headline()["referring_jf"] == pytest.approx((0.8 + 0.3 + 0.4 + 0.1) / 4, abs=1e-6)
    assert found.headline()["avg_iou"] == pytest.approx((0.9 + 0.5 + 0.4 + 0.2) / 4, abs=1e-6)


def test_floating_point_operations_are_counted_for_one_instruction_a_clip() -> None:
    import torch

    class Multiplying(KnowingEngine):
        def segment(self, clip: Clip, instruction: str, context: RunContext = PLAIN) -> Segmentation:
            torch.ones(len(clip), 5) @ torch.ones(5, 7)
            return super().segment(clip, instruction, context)

    found = evaluate(Multiplying(right), count=1, height=64, flops=True)
    [counted] = [a for a in found.answers if a.flops is not None]
    assert counted.flops == found.headline()["flops_per_clip"] == 2 * 5 * 7 * counted.result.frame_count


def test_an_engine_that_never_sees_anything_is_right_about_nothing_only() -> None:
    headline = evaluate(KnowingEngine(nothing), count=2, height=64).headline()
    assert headline["none_accuracy"] == 1.0
    assert headline["right_object"] == 0.0
    assert headline["avg_iou"] == 1.0
    assert headline["several_jf"] is not None
    assert headline["several_jf"] < 0.3


@pytest.mark.slow
def test_one_track_for_several_objects_has_the_union_right_and_the_objects_wrong() -> None:
    found = evaluate(KnowingEngine(lambda s, a: a.targets[:1]), count=3, height=64)
    [row] = [r for r in found.table() if r["category"] == "several"]
    assert 0.2 < row["matched_jf"] < 0.8
    assert 0.1 < row["jf"] < 0.95


def test_the_command_writes_figures_and_a_picture_and_ends_with_one_json_line(tmp_path: Path) -> None:
    engine = DescribingEngine(short_caption)
    done = CliRunner().invoke(
        command,
        [
            *("--count", "2", "--height", "64"),
            *("--json", str(tmp_path / "out.json"), "--picture", str(tmp_path / "out.png")),
        ],
        obj=lambda model, device: engine,
    )
    assert done.exit_code == 0, done.output
    last = json.loads(done.stdout.splitlines()[-1])
    assert tuple(last) == Evaluation.LAST_LINE
    assert last["referring_jf"] == last["caption_accuracy"] == 1.0
    assert "Captions of true tracks" in done.stdout
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["headline"]["none_accuracy"] == 1.0
    assert {"text", "kind", "jf", "answer", "right_object"} <= set(written["answers"][0])
    assert Image.open(tmp_path / "out.png").height > 1000


def test_an_unknown_data_set_is_refused_by_name() -> None:
    done = CliRunner().invoke(command, ["--data", "davis:val"], obj=lambda model, device: KnowingEngine(right))
    assert isinstance(done.exception, InputError)
    assert "davis:val" in str(done.exception)
