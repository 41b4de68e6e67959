"""The shapes world: scenes, pictures, ids and boxes are consistent, and splits share no held-out pairs."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from trajseg.shapes.world.command import data as command
from trajseg.shapes.world.render import boxes, render, write_clip
from trajseg.shapes.world.scenes import COLOURS, HELD_OUT, MOTIONS, SHAPES, Scene, bin_centres, sample_scene
from trajseg.video import open_clip


def scenes(count: int, split: str = "train") -> list[Scene]:
    return [sample_scene(seed, split) for seed in range(count)]  # type: ignore[arg-type]


def test_a_scene_is_the_same_every_time_and_another_in_every_split() -> None:
    one, again = sample_scene(7, "val"), sample_scene(7, "val")
    assert [(o.colour, o.shape, o.motion, o.radius) for o in one.objects] == [
        (o.colour, o.shape, o.motion, o.radius) for o in again.objects
    ]
    np.testing.assert_array_equal(render(one, 64, [3])[0], render(again, 64, [3])[0])
    other = sample_scene(7, "train")
    assert [o.radius for o in one.objects] != [o.radius for o in other.objects]


def test_objects_of_a_scene_differ_and_are_of_clearly_different_sizes() -> None:
    for scene in scenes(200):
        assert 2 <= len(scene.objects) <= 5
        assert len({(o.colour, o.shape, o.size) for o in scene.objects}) == len(scene.objects)
        assert sorted(o.depth for o in scene.objects) == list(range(len(scene.objects)))
        for o in scene.objects:
            assert (0.07 <= o.radius <= 0.1) if o.size == "small" else (0.14 <= o.radius <= 0.19)
            assert o.centres.shape == (scene.frame_count, 2)
            assert o.centres.dtype == np.float32
        assert 12 <= scene.frame_count <= 64


def test_pairs_held_out_of_training_are_in_test_only_and_their_parts_are_common() -> None:
    train = Counter((o.colour, o.shape) for split in ("train", "val") for s in scenes(400, split) for o in s.objects)
    test = Counter((o.colour, o.shape) for s in scenes(400, "test") for o in s.objects)
    assert not HELD_OUT & set(train)
    assert set(test) >= HELD_OUT
    assert len(train) == len(COLOURS) * len(SHAPES) - len(HELD_OUT)
    total = sum(train.values())
    for names, part in ((COLOURS, 0), (SHAPES, 1)):
        for name in names:
            assert sum(n for pair, n in train.items() if pair[part] == name) > 0.6 * total / len(names)


def test_motions_are_far_apart() -> None:
    ways: dict[str, list[float]] = {m: [] for m in MOTIONS}
    paths: dict[str, list[float]] = {"slow": [], "fast": []}
    for scene in scenes(300):
        for o in scene.objects:
            start, end = o.centres[0], o.centres[-1]
            path = float(np.linalg.norm(np.diff(o.centres, axis=0), axis=1).sum())
            ways[o.motion].append(path)
            if o.motion == "still":
                assert path == 0
                continue
            paths[o.speed].append(path)
            if o.motion in ("left", "right", "up", "down"):
                axis, sign = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}[o.motion]
                assert sign * (end - start)[axis] >= 0.35
                assert abs((end - start)[1 - axis]) < 1e-6
            elif o.motion == "circling":
                spread = o.centres.max(axis=0) - o.centres.min(axis=0)
                assert (spread > 0.16).all()
    assert all(len(found) > 40 for found in ways.values())
    assert min(paths["slow"]) >= 0.34
    assert max(paths["slow"]) <= 0.7
    assert min(paths["fast"]) >= 0.7


def test_every_object_is_to_be_seen_and_late_ones_and_leaving_ones_are_common() -> None:
    seen_in: list[int] = []
    edge: Counter[str] = Counter()
    for scene in scenes(200):
        visible = boxes(scene, bin_centres(scene.frame_count))[1]
        seen = visible >= 0.25
        seen_in += seen.sum(axis=1).tolist()
        edge["late"] += int((~seen[:, :2].any(axis=1)).sum())
        edge["gone"] += int((~seen[:, -2:].any(axis=1)).sum())
    assert min(seen_in) >= 2
    assert np.mean(np.array(seen_in) >= 3) > 0.98
    assert edge["late"] > 60
    assert edge["gone"] > 50


def test_ids_and_boxes_tell_the_same_story() -> None:
    height = 192
    for scene in scenes(25, "test"):
        index = bin_centres(scene.frame_count)
        frames, ids = render(scene, height, index.tolist())
        width = round(scene.aspect * height)
        assert frames.shape == (8, height, width, 3)
        assert ids.shape == (8, height, width)
        assert frames.dtype == ids.dtype == np.uint8
        xyxy, visible = boxes(scene, index)
        for k in range(len(scene.objects)):
            for i in range(8):
                ys, xs = np.nonzero(ids[i] == k + 1)
                if not len(ys):
                    assert visible[k, i] < 0.05
                    continue
                found = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
                box = xyxy[k, i] * height
                assert (found[:2] >= box[:2] - 1.01).all()
                assert (found[2:] <= box[2:] + 1.01).all()
                if visible[k, i] > 0.99:
                    np.testing.assert_allclose(found, box, atol=4)


def test_ids_are_what_is_in_front_and_have_the_objects_colour() -> None:
    checked = 0
    for scene in scenes(20):
        if scene.look.jpeg is not None:
            continue
        frames, ids = render(scene, 200, [scene.frame_count // 2])
        for k, o in enumerate(scene.objects):
            mask = ids[0] == k + 1
            if mask.sum() > 300 and not o.textured:
                checked += 1
                np.testing.assert_allclose(np.median(frames[0][mask], axis=0), o.rgb, atol=7)
    assert checked > 8


def test_a_scene_looks_the_same_at_every_height() -> None:
    scene = sample_scene(11, "test")
    small, large = (render(scene, h, [5])[1][0] for h in (120, 360))
    coarse = large[1::3, 1::3][: small.shape[0], : small.shape[1]]
    assert np.mean(coarse == small[: coarse.shape[0], : coarse.shape[1]]) > 0.98


def test_sampling_and_drawing_are_quick() -> None:
    def best_of(repeats: int, work: object) -> float:
        times = []
        for _ in range(repeats):
            start = time.process_time()
            work()  # type: ignore[operator]
            times.append(time.process_time() - start)
        return min(times)

    many = [sample_scene(seed, aspect=4 / 3) for seed in range(20)]
    assert best_of(3, lambda: [sample_scene(seed) for seed in range(20)]) / 20 < 0.01
    assert best_of(3, lambda: [boxes(s, bin_centres(s.frame_count)) for s in many]) / 20 < 0.02
    assert best_of(2, lambda: [render(s, 192, bin_centres(s.frame_count).tolist()) for s in many]) / 160 < 0.02


def test_a_written_clip_reads_back_with_every_frame(tmp_path: Path) -> None:
    scene = sample_scene(2, "test", frame_count=14, aspect=4 / 3)
    clip = open_clip(write_clip(scene, tmp_path / "clip.mp4", 120))
    assert (len(clip), clip.width, clip.height) == (14, 160, 120)
    assert clip.frame_map.fps == pytest.approx(scene.fps, rel=0.01)
    drawn = render(scene, 120, [6])[0][0].astype(float)
    read = dict(clip.frames([6]))[6].astype(float)
    assert np.abs(drawn - read).mean() < 10


def test_the_command_draws_a_sheet_and_writes_clips_with_their_instructions(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        command,
        [
            "shapes",
            "--sheet",
            str(tmp_path / "s.png"),
            "--write",
            str(tmp_path / "clips"),
            "--count",
            "2",
            "--height",
            "64",
        ],
    )
    assert done.exit_code == 0, done.output
    assert Image.open(tmp_path / "s.png").width > 600
    assert len(list((tmp_path / "clips").glob("*.mp4"))) == 2
    assert len((tmp_path / "clips" / "clips.jsonl").read_text().splitlines()) == 2
    assert CliRunner().invoke(command, ["shapes"]).exit_code == 2
