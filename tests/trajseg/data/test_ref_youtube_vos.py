"""A folder in the layout of Ref-YouTube-VOS: reading, evaluation, training, and clear errors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.contracts.dataset import DatasetContract
from trajseg.commands.evaluate import command
from trajseg.data.dataset import Dataset
from trajseg.data.registry import DatasetOptions, open_dataset
from trajseg.engines.base import PLAIN, EngineSpec, FrameMasks, ObjectMask, RunContext, TrackedObject
from trajseg.engines.segmentation import Segmentation
from trajseg.errors import InputError, VideoError
from trajseg.tracks import rle
from trajseg.video import Clip

FRAMES, HEIGHT, WIDTH = 6, 48, 64


def write_split(root: Path, videos: Sequence[str] = ("a", "b"), annotated: Sequence[int] = range(FRAMES)) -> Path:
    """A split with a red and a blue square per video, both moving right; only some frames have masks."""
    listed = {}
    for video in videos:
        pictures, masks = root / "valid" / "JPEGImages" / video, root / "valid" / "Annotations" / video
        pictures.mkdir(parents=True)
        masks.mkdir(parents=True)
        names = [f"{5 * index:05d}" for index in range(FRAMES)]
        for index, name in enumerate(names):
            ids = np.zeros((HEIGHT, WIDTH), np.uint8)
            ids[4:20, 4 + 6 * index : 20 + 6 * index] = 1
            ids[28:44, 2 + 6 * index : 18 + 6 * index] = 2
            colours = np.array([(90, 120, 90), (220, 30, 30), (30, 30, 220)], np.uint8)
            Image.fromarray(colours[ids]).save(pictures / f"{name}.jpg", quality=95)
            if index in annotated:
                picture = Image.fromarray(ids, mode="P")
                picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
                picture.save(masks / f"{name}.png")
        expressions = {"0": ("a red square moving right", "1"), "1": ("the blue square below", "2")}
        listed[video] = {
            "frames": names,
            "expressions": {key: {"exp": text, "obj_id": uid} for key, (text, uid) in expressions.items()},
        }
    meta = root / "meta_expressions" / "valid"
    meta.mkdir(parents=True)
    (meta / "meta_expressions.json").write_text(json.dumps({"videos": listed}))
    categories = {"objects": {"1": {"category": "square"}, "2": {"category": "square"}}}
    (root / "valid" / "meta.json").write_text(json.dumps({"videos": dict.fromkeys(videos, categories)}))
    return root / "valid"


class ColourEngine:
    """A fake: segments all red pixels (or blue ones, if the sentence says so)."""

    spec = EngineSpec(name="colours", model_version="colours")

    def segment(self, clip: Clip, instruction: str, context: RunContext = PLAIN) -> Segmentation:
        channel = 2 if "blue" in instruction else 0

        def frames() -> Iterator[FrameMasks]:
            for index, frame in clip.frames():
                mask = frame[..., channel].astype(int) - frame[..., 2 - channel] > 90
                yield FrameMasks(index, {"t1": ObjectMask(rle.encode(mask) if mask.any() else None, 1.0)})

        return Segmentation(
            spec=self.spec,
            clip=clip,
            instruction=instruction,
            objects=[TrackedObject("t1", "track-1")],
            frames=frames(),
        )


class TestContract(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path: Path) -> Dataset:
        return open_dataset(f"ref-youtube-vos:{write_split(tmp_path)}")


class TestContractWithFewMasks(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path: Path) -> Dataset:
        return open_dataset(f"ref-youtube-vos:{write_split(tmp_path, annotated=(1, 4))}")


def test_published_layout_is_read(tmp_path: Path) -> None:
    annotated = open_dataset(f"ref-youtube-vos:{write_split(tmp_path)}")[1]
    assert (annotated.name, len(annotated.clip), annotated.clip.fps) == ("b", FRAMES, 6.0)
    assert [(e.text, e.targets, e.category) for e in annotated.expressions] == [
        ("a red square moving right", ("1",), "referring"),
        ("the blue square below", ("2",), "referring"),
    ]
    assert [thing.category for thing in annotated.objects] == ["square", "square"]
    masks = annotated.masks(["1", "2"], [0, 5])
    assert masks.sum(axis=(2, 3)).tolist() == [[256, 256], [256, 256]]
    assert masks[0, 1, 4:20, 34:50].all()


def test_frames_without_masks_are_not_scored(tmp_path: Path) -> None:
    annotated = open_dataset(f"ref-youtube-vos:{write_split(tmp_path, annotated=(1, 4))}")[0]
    assert annotated.scored == (1, 4)


def test_command_evaluates_it_and_draws_a_picture(tmp_path: Path) -> None:
    split = write_split(tmp_path)
    done = CliRunner().invoke(
        command,
        [
            *("--data", f"ref-youtube-vos:{split}"),
            *("--json", str(tmp_path / "out.json"), "--picture", str(tmp_path / "out.png")),
        ],
        obj=lambda model, device: ColourEngine(),
    )
    assert done.exit_code == 0, done.output
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["jf"] > 0.95
    assert last["right_object"] == 1.0
    assert last["none_accuracy"] is None
    written = json.loads((tmp_path / "out.json").read_text())
    assert [(a["clip"], a["targets"]) for a in written["answers"]] == [
        ("a", ["1"]),
        ("a", ["2"]),
        ("b", ["1"]),
        ("b", ["2"]),
    ]
    picture = Image.open(tmp_path / "out.png")
    assert picture.height > 3 * 150
    assert picture.width >= 900


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda split: (split / "JPEGImages/a/00010.jpg").unlink(), "'00010'"),
        (lambda split: (split / "JPEGImages/a/00010.jpg").write_bytes(b"\xff\xd8 no"), "00010.jpg"),
        (lambda split: (split / "Annotations/a/00010.png").write_bytes(b"no"), "00010.png"),
        (lambda split: [p.unlink() for p in (split / "Annotations/a").iterdir()], "no masks"),
        (lambda split: (split / "../meta_expressions/valid/meta_expressions.json").unlink(), "meta_expressions.json"),
    ],
)
def test_missing_or_damaged_files_are_named(tmp_path: Path, damage: object, said: str) -> None:
    split = write_split(tmp_path)
    damage(split)  # type: ignore[operator]

    def read() -> None:
        annotated = open_dataset(f"ref-youtube-vos:{split}")[0]
        annotated.masks(["1"], annotated.scored)

    with pytest.raises((InputError, VideoError), match=said):
        read()


def test_video_outside_of_the_data_set_is_rejected(tmp_path: Path) -> None:
    split = write_split(tmp_path)
    listed = tmp_path / "meta_expressions/valid/meta_expressions.json"
    listed.write_text(listed.read_text().replace('"a": {', '"../../elsewhere": {'))
    with pytest.raises(InputError, match="outside"):
        open_dataset(f"ref-youtube-vos:{split}")[0]


def test_options_for_rendered_clips_are_rejected(tmp_path: Path) -> None:
    split = write_split(tmp_path)
    assert len(open_dataset(f"ref-youtube-vos:{split}", DatasetOptions(count=1))) == 1
    with pytest.raises(InputError, match="--height"):
        open_dataset(f"ref-youtube-vos:{split}", DatasetOptions(height=64))
