"""Under every condition the ground truth is right: an engine that knows it scores 1, one that is wrong scores 0."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from trajseg.commands.evaluate import command
from trajseg.engines import base
from trajseg.engines.base import EngineSpec, FrameMasks, ObjectMask, RunContext, TrackedObject
from trajseg.engines.segmentation import Segmentation
from trajseg.errors import InputError
from trajseg.shapes.dataset import write_scene
from trajseg.shapes.evaluation.conditions import FIGURES, ConditionResult, draw_conditions, evaluate_conditions, named
from trajseg.shapes.world.conditions import CONDITIONS, PLAIN, Condition, retimed, still_true, stretched
from trajseg.shapes.world.facts import Facts
from trajseg.shapes.world.language import instructions
from trajseg.shapes.world.painter import TONES, painted
from trajseg.shapes.world.render import frames_and_ids, render
from trajseg.shapes.world.scenes import RGB, Scene, bin_centres, sample_scene
from trajseg.video import Clip

HEIGHT, SEED = 64, 112
SMALL = [
    replace(c, rows=None if c.rows is None else c.rows // 5, frames=None if c.frames is None else min(c.frames, 40))
    for c in CONDITIONS
]
"""The same conditions at a fifth of their size, 64, 96 and 144 rows, with at most 40 frames."""


class Knowing:
    """Knows scene and condition from the file's name and folder; answers with the targets, or with something else."""

    spec = EngineSpec(name="knowing", model_version="knowing")

    def __init__(self, conditions: Sequence[Condition] = tuple(SMALL), wrong_under: Sequence[str] = ()) -> None:
        self.conditions = {c.name: c for c in conditions}
        self.wrong_under = wrong_under
        self.sizes: dict[str, tuple[int, int, int]] = {}

    def segment(self, clip: Clip, instruction: str, context: RunContext = base.PLAIN) -> Segmentation:
        condition = self.conditions[clip.path.parent.name]
        split, seed = clip.path.stem.rsplit("-", 1)
        scene = sample_scene(int(seed), split)  # type: ignore[arg-type]
        [asked] = [i for i in instructions(scene, random.Random(scene.seed), limit_per_kind=1) if i.text == instruction]
        ids = truth_of(condition, int(seed))
        ids = np.pad(ids, ((0, 0), (0, clip.height - ids.shape[1]), (0, clip.width - ids.shape[2])), mode="edge")
        meant: Sequence[int] = asked.targets
        if condition.name in self.wrong_under:
            meant = [k for k in range(len(scene.objects)) if k not in asked.targets][:1]
        self.sizes[condition.name] = (len(clip), clip.height, clip.width)
        return Segmentation(
            spec=self.spec,
            clip=clip,
            instruction=instruction,
            objects=[TrackedObject(f"t{k}", f"t{k}") for k in meant],
            frames=[
                FrameMasks(index, {f"t{k}": ObjectMask.of(frame == k + 1, 1.0) for k in meant})
                for index, frame in enumerate(ids)
            ],
        )


@lru_cache(maxsize=32)
def truth_of(condition: Condition, seed: int) -> np.ndarray:
    scene = condition.changed(sample_scene(seed, "test"))
    return np.stack([ids for _, ids in condition.frames_and_ids(scene, HEIGHT)])


def under_of(found: Sequence[ConditionResult], name: str) -> ConditionResult:
    [under] = [u for u in found if u.condition.name == name]
    return under


def pixels(condition: Condition, scene: Scene, folder: Path, height: int = HEIGHT) -> np.ndarray:
    clip, _ = write_scene(condition.changed(scene), folder / f"{condition.name}.mp4", height, condition)
    return np.stack([frame for _, frame in clip.frames()])


@pytest.mark.slow
def test_whoever_knows_the_truth_has_full_marks_under_every_condition(tmp_path: Path) -> None:
    engine = Knowing()
    steps: list[tuple[int, int]] = []
    found = evaluate_conditions(
        engine, SMALL, count=1, seed=SEED, height=HEIGHT, progress=lambda done, total: steps.append((done, total))
    )
    assert steps[-1] == (len(SMALL), len(SMALL))
    plain = found.under[0]
    for under in found.under:
        assert len(under.answers) >= 0.6 * len(plain.answers), under.condition.name
        for name, figure in under.figures(plain).items():
            if under is plain or figure["mean"] is not None:
                assert figure["mean"] == pytest.approx(1.0), (under.condition.name, name)
                assert figure["difference"] == pytest.approx(0.0)
        assert under.shown is not None
        assert np.array_equal(under.shown.mask, under.shown.truth)
        assert under.shown.mask.any()
    frames, rows, columns = engine.sizes["plain"]
    assert rows == HEIGHT
    assert engine.sizes["portrait"][1:] == (64, 48)
    assert engine.sizes["480-rows"][1:] == (96, 128)
    assert engine.sizes["720-rows"][1:] == (144, 256)
    assert engine.sizes["12-frames"] == (12, rows, columns)
    assert engine.sizes["120-frames"] == (40, rows, columns)
    assert engine.sizes["half-speed"] == (2 * frames, rows, columns)
    assert engine.sizes["double-speed"][0] == max(8, round(frames / 2))
    assert found.headline()["worst_difference"] == pytest.approx(0.0)
    picture = Image.open(draw_conditions(found, tmp_path / "c.png"))
    assert picture.width > 1000
    assert picture.height > 3 * 240


def test_a_fall_under_one_condition_shows_there_and_only_there() -> None:
    conditions = named("noise,painter")
    found = evaluate_conditions(
        Knowing(conditions, wrong_under=["painter"]), conditions, count=1, seed=SEED, height=HEIGHT
    )
    plain = found.under[0]
    wrong, right = (under_of(found.under, name).figures(plain) for name in ("painter", "noise"))
    assert wrong["right_object"]["mean"] == 0.0
    assert wrong["none_accuracy"]["difference"] == -1.0
    assert wrong["j_of_right"] == {"mean": None, "difference": None, "error": None}
    assert wrong["jf"]["difference"] is not None
    assert wrong["jf"]["difference"] < -0.6
    assert right["jf"]["difference"] == 0.0
    headline = found.headline()
    assert headline["worst"] == "painter"
    assert headline["plain_jf"] == 1.0
    assert headline["mean_difference"] == pytest.approx(wrong["jf"]["difference"] / 2)


def test_differences_are_between_answers_to_the_same_instruction() -> None:
    found = evaluate_conditions(
        Knowing(), [SMALL[0], SMALL[1]], count=1, seed=SEED, height=HEIGHT
    )  # plain and portrait
    plain, portrait = found.under
    hard = portrait.answers.pop(0)
    plain.answers = [
        replace(a, score=replace(a.score, j=0.0, f=0.0)) if a.asked == hard.asked else a for a in plain.answers
    ]
    figures = portrait.figures(plain)["jf"]
    assert plain.figures(plain)["jf"]["mean"] != pytest.approx(1.0)
    assert figures["mean"] == pytest.approx(1.0)
    assert figures["difference"] == pytest.approx(0.0)


def test_the_plain_condition_is_the_renderer_and_every_other_one_shows_in_the_file(tmp_path: Path) -> None:
    scene = retimed(sample_scene(SEED, "test"), 14)
    for (frame, ids), (drawn, truth) in zip(
        PLAIN.frames_and_ids(scene, HEIGHT), frames_and_ids(scene, HEIGHT, range(14)), strict=True
    ):
        assert np.array_equal(frame, drawn)
        assert np.array_equal(ids, truth)
    seen = {c.name: pixels(c, scene, tmp_path) for c in SMALL}
    names = list(seen)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            if seen[a].shape == seen[b].shape:
                assert np.abs(seen[a].astype(int) - seen[b]).mean() > 0.8, (a, b)


def test_a_condition_films_the_same_clip_each_time() -> None:
    [noise] = [c for c in CONDITIONS if c.name == "noise"]
    scene = retimed(sample_scene(SEED, "test"), 8)
    first, second = (np.stack([f for f, _ in noise.frames_and_ids(scene, HEIGHT)]) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first[0], first[1])


def test_odd_sizes_are_padded_and_the_truth_with_them(tmp_path: Path) -> None:
    scene = retimed(sample_scene(SEED, "test", aspect=1.0), 8)
    clip, ids = write_scene(scene, tmp_path / "odd.mp4", 65, named("painter")[1])
    assert ids.shape == (8, clip.height, clip.width) == (8, 66, 66)
    assert np.array_equal(ids[:, 65], ids[:, 64])


def test_h265_is_h265(tmp_path: Path) -> None:
    clip, _ = write_scene(retimed(sample_scene(SEED, "test"), 8), tmp_path / "h.mp4", HEIGHT, named("h265")[1])
    assert clip.codec == "hevc"
    assert len(clip) == 8


def test_both_painters_draw_the_same_objects_in_the_same_places() -> None:
    together, either = 0, 0
    shapes = set()
    for seed in range(8):
        scene = sample_scene(seed, "test")
        index = bin_centres(scene.frame_count, 2).tolist()
        ids = np.stack([ids for _, ids in painted(scene, 240, index)])
        others = render(scene, 240, index)[1]
        for k, o in enumerate(scene.objects):
            one, other = ids == k + 1, others == k + 1
            if other.sum() < 200:
                continue
            shapes.add(o.shape)
            together += (one & other).sum()
            either += (one | other).sum()
            assert (one & other).sum() / (one | other).sum() > 0.95, (seed, k, o.shape, o.size)
    assert len(shapes) == 6
    assert together / either > 0.975


def test_the_other_painters_objects_have_their_colours_where_its_ids_say_and_nowhere_else() -> None:
    checked = 0
    for seed in range(6):
        scene = sample_scene(seed, "test")
        [(frame, ids)] = painted(scene, 160, [scene.frame_count // 2])
        for k, o in enumerate(scene.objects):
            inside = cv2.erode((ids == k + 1).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
            if inside.sum() < 60:
                continue
            tone = np.array(TONES[o.colour][o.texture_seed % 3], float)
            # Light and texture change the brightness of a colour, but hardly its hue.
            bare = frame[inside].astype(float)
            cosine = bare @ tone / (np.linalg.norm(bare, axis=1) * np.linalg.norm(tone))
            assert np.quantile(cosine, 0.05) > 0.985, (seed, k)
            ground = frame[ids == 0].astype(float)
            assert np.abs(np.median(bare, axis=0) - np.median(ground, axis=0)).max() > 30
            checked += 1
    assert checked > 8


def test_tones_are_called_by_their_names_and_are_not_the_renderers() -> None:
    def lab(rgb: Sequence[int]) -> np.ndarray:
        return cv2.cvtColor(np.array([[rgb]], np.float32) / 255, cv2.COLOR_RGB2LAB)[0, 0]

    for name, tones in TONES.items():
        for tone in tones:
            far = {other: float(np.linalg.norm(lab(tone) - lab(rgb))) for other, rgb in RGB.items()}
            assert min(far, key=lambda other: far[other]) == name, tone
            assert np.abs(np.subtract(tone, RGB[name])).max() >= 5


def test_turning_objects_turn_in_picture_and_truth_alike_and_still_ones_do_not() -> None:
    turned = still = 0
    for seed in range(6):
        scene = replace(sample_scene(seed, "test"), drift=np.zeros((64, 2), np.float32))
        index = bin_centres(scene.frame_count, 3).tolist()
        straight = list(painted(scene, 120, index))
        swaying = list(painted(scene, 120, index, turning=True))
        for (frame, ids), (other, truth) in zip(straight, swaying, strict=True):
            if (ids != truth).any():
                assert np.abs(frame[ids != truth].astype(int) - other[ids != truth]).mean() > 5
            for k, o in enumerate(scene.objects):
                same = np.array_equal(ids == k + 1, truth == k + 1)
                if o.motion != "still" and o.shape not in ("circle", "ring") and (ids == k + 1).sum() > 300:
                    turned += not same
                elif o.motion == "still" and not any(p.motion != "still" and p.depth > o.depth for p in scene.objects):
                    assert same
                    still += 1
    assert turned > 5
    assert still > 0


def test_another_number_of_frames_shows_the_same_courses() -> None:
    for seed in range(10):
        scene = sample_scene(seed, "test")
        longer = retimed(scene, 2 * scene.frame_count - 1)
        for o, p in zip(scene.objects, longer.objects, strict=True):
            np.testing.assert_allclose(p.centres[::2], o.centres, atol=1e-5)
            assert p.first / longer.frame_count == pytest.approx(o.first / scene.frame_count, abs=0.05)
            assert p.last / longer.frame_count == pytest.approx(o.last / scene.frame_count, abs=0.05)
        assert retimed(longer, scene.frame_count).objects[0].first == scene.objects[0].first
    scene = sample_scene(0, "test")
    for name, frames in (("12-frames", 12), ("120-frames", 120)):
        changed = named(name)[1].changed(scene)
        assert changed.frame_count == frames
        assert changed.frame_count / changed.fps == pytest.approx(scene.frame_count / scene.fps)


def test_stretching_a_scene_leaves_its_shapes_and_circles_alone() -> None:
    for seed in range(20):
        scene = sample_scene(seed, "test", aspect=4 / 3)
        wide = stretched(scene, 16 / 9)
        for o, p in zip(scene.objects, wide.objects, strict=True):
            assert (o.radius, o.motion) == (p.radius, p.motion)
            spread, stretch = (np.ptp(x.centres[:, 0]) for x in (o, p))
            factor = 1.0 if o.motion in ("circling", "bouncing") else 4 / 3
            assert stretch == pytest.approx(factor * spread, abs=1e-5)
            assert p.centres[:, 0].mean() == pytest.approx(4 / 3 * o.centres[:, 0].mean(), abs=1e-5)


def test_nearly_all_instructions_stay_true_and_false_ones_are_found_out() -> None:
    asked_in_all = kept = 0
    for seed in range(3):
        scene = sample_scene(seed, "test")
        asked = instructions(scene, random.Random(scene.seed), limit_per_kind=1)
        facts = Facts(scene)
        assert all(still_true(one, facts) for one in asked)
        for condition in CONDITIONS:
            changed = condition.changed(scene)
            if changed is not scene:
                later = Facts(changed)
                asked_in_all += len(asked)
                kept += sum(still_true(one, later) for one in asked)
        mirrored = replace(
            scene,
            objects=[
                replace(o, centres=np.array([scene.aspect, 0], np.float32) + np.array([-1, 1], np.float32) * o.centres)
                for o in scene.objects
            ],
            drift=np.zeros_like(scene.drift),
        )
        for one in asked:
            sided = any(
                word in one.text for word in ("leftmost", "rightmost", "furthest", "left of the", "right of the")
            )
            if one.kind == "place" and sided and "below" not in one.text:
                assert not still_true(one, Facts(mirrored)), one.text
    assert kept / asked_in_all > 0.9


def test_the_command_prints_a_line_a_condition_and_ends_with_one_json_line(tmp_path: Path) -> None:
    loader: Any = lambda model, device: Knowing(CONDITIONS)  # noqa: E731
    arguments = ["--count", "1", "--seed", str(SEED), "--height", str(HEIGHT)]
    files = ["--json", str(tmp_path / "c.json"), "--picture", str(tmp_path / "c.png")]
    done = CliRunner().invoke(command, ["--conditions", "haze,12-frames", *arguments, *files], obj=loader)
    assert done.exit_code == 0, done.output
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("│")] == [
        "plain",
        "haze",
        "12-frames",
    ]
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["conditions"], last["plain_jf"], last["worst_difference"]) == (3, 1.0, 0.0)
    written = json.loads((tmp_path / "c.json").read_text())
    assert [c["name"] for c in written["conditions"]] == ["plain", "haze", "12-frames"]
    assert set(written["conditions"][1]["figures"]) == set(FIGURES)
    assert written["conditions"][1]["contrast"] < 1
    assert Image.open(tmp_path / "c.png").height > 250


def test_an_unknown_condition_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="fog") as refused:
        named("noise,fog")
    assert "painter" in refused.value.remedy
    assert named("all") == list(CONDITIONS)
    assert len({c.name for c in CONDITIONS}) == len(CONDITIONS)
