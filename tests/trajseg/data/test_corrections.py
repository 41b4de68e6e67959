"""Corrections as a data set: stable sides, weights by trust, rejected tracks as "none"."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.contracts.dataset import DatasetContract
from trajseg.data import corrections
from trajseg.data.corrections import Corrections, open_corrections
from trajseg.data.dataset import Dataset
from trajseg.data.registry import DatasetOptions, open_dataset, open_source
from trajseg.data.sides import side_of
from trajseg.errors import InputError
from trajseg.siblings import SiblingFinder
from trajseg.tracks import MaskTrack
from trajseg.tracks.formats import Expression, LabelledClip, LabelledTrack, export
from trajseg.tracks.formats.native import Native
from trajseg.tracks.trust import Trust
from trajseg.training.round import BASE_OPTIONS
from trajseg.video import open_clip

FRAMES = 12
PAINTED, PROPAGATED, ACCEPTED, PREDICTED = Trust.PAINTED, Trust.PROPAGATED, Trust.ACCEPTED, Trust.PREDICTED


def identities(side: str, count: int) -> list[str]:
    """Identities of videos on this side."""
    found = (f"sha256:{number}" for number in range(1000) if side_of(f"sha256:{number}") == side)
    return [next(found) for _ in range(count)]


def labelled(tiny_clip: Any, name: str, identity: str, red: list[Trust], **others: Any) -> LabelledClip:
    """The tiny clip; its red square has this trust, and `others` override the rest."""
    clip = open_clip(tiny_clip.path)
    made = MaskTrack.from_masks("t1", tiny_clip.red, clip.frame_map.times, [0.9] * FRAMES, caption="a red square")
    return LabelledClip(
        name,
        clip.width,
        clip.height,
        clip.fps,
        FRAMES,
        tracks=(
            LabelledTrack(made, tuple(red), caption_trust=others.get("caption", PAINTED)),
            *others.get("tracks", ()),
        ),
        expressions=(Expression("the red square", ("t1",), PAINTED), *others.get("expressions", ())),
        video=f"https://videos.example/{name}.mp4",
        identity=identity,
        clip=clip,
    )


def blue(tiny_clip: Any, trust: list[Trust], rejected: bool = False) -> LabelledTrack:
    times = open_clip(tiny_clip.path).frame_map.times
    made = MaskTrack.from_masks("t2", tiny_clip.blue, times, [0.9] * FRAMES, caption="a blue square")
    return LabelledTrack(made, tuple(trust), rejected, ACCEPTED)


@pytest.fixture
def folder(tiny_clip: Any, tmp_path: Path) -> Path:
    """Three train videos, one of low weight, and two held-out ones."""
    train, held_out = identities("train", 3), identities("held-out", 2)
    clips = [
        labelled(tiny_clip, "task-1", train[0], [PAINTED] + [PROPAGATED] * 11),
        labelled(tiny_clip, "task-2", train[1], [ACCEPTED, *[PREDICTED] * 10, ACCEPTED]),
        labelled(
            tiny_clip,
            "task-3",
            train[2],
            [PAINTED] * FRAMES,
            tracks=(blue(tiny_clip, [PAINTED] * FRAMES, rejected=True),),
            expressions=(Expression("the blue square", (), PAINTED), Expression("a guess", (), PREDICTED)),
        ),
        labelled(tiny_clip, "task-4", held_out[0], [PAINTED, *[PROPAGATED] * 10, ACCEPTED]),
        labelled(tiny_clip, "task-5", held_out[1], [PAINTED] * FRAMES),
        labelled(tiny_clip, "task-6", train[0], [PREDICTED] * FRAMES),
    ]
    export(clips, Native, tmp_path / "export")
    return tmp_path / "export"


class TestCorrections(DatasetContract):
    @pytest.fixture
    def dataset(self, folder: Path) -> Dataset:
        return Corrections(folder, "train")


def names(dataset: Dataset) -> list[str]:
    return [dataset[number].name for number in range(len(dataset))]


def test_scoring_uses_held_out_videos_and_training_the_others(folder: Path) -> None:
    assert names(open_dataset(f"corrections:{folder}")) == ["task-4", "task-5"]
    assert names(open_dataset(f"corrections:{folder}:train")) == ["task-1", "task-2", "task-3"]
    source = open_source(f"corrections:{folder}")
    assert names(source.dataset) == ["task-1", "task-2", "task-3"]  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="not for training"):
        open_source(f"corrections:{folder}:held-out")


def test_each_video_is_on_one_side_and_stays_there_as_data_grows() -> None:
    videos = [f"sha256:{number:064x}" for number in range(2000)]
    sides = {video: side_of(video) for video in videos}
    assert 0.47 < sum(side == "held-out" for side in sides.values()) / len(videos) < 0.53
    # Pinned: another hash would train on what was held out.
    held_out = [number for number in range(20) if side_of(f"sha256:{number}") == "held-out"]
    assert held_out == [2, 6, 10, 11, 12, 14, 15, 16, 17, 18, 19]


def test_a_video_in_two_tasks_is_on_one_side(tiny_clip: Any, tmp_path: Path) -> None:
    same = identities("held-out", 1)[0]
    clips = [labelled(tiny_clip, name, same, [PAINTED] * FRAMES) for name in ("task-1", "task-9")]
    other = labelled(tiny_clip, "task-2", identities("train", 1)[0], [PAINTED] * FRAMES)
    export([*clips, other], Native, tmp_path / "export")
    assert names(Corrections(tmp_path / "export", "held-out")) == ["task-1", "task-9"]
    assert names(Corrections(tmp_path / "export", "train")) == ["task-2"]


def with_sides(folder: Path, **sides: str) -> Path:
    """The export with these sides in its manifest, by the task's name without its dash."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["clips"]:
        name = entry["name"].replace("-", "")
        if name in sides:
            entry["side"] = sides[name]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_the_side_in_the_manifest_wins_over_the_hash(folder: Path) -> None:
    """As of a video that came after the twentieth. Those that it does not name are split by the hash."""
    with_sides(folder, task4="train", task5="held-out")
    assert names(Corrections(folder, "train")) == ["task-1", "task-2", "task-3", "task-4"]
    assert names(Corrections(folder, "held-out")) == ["task-5"]
    with_sides(folder, task1="held-out")
    assert names(Corrections(folder, "held-out")) == ["task-1", "task-5"], "and so task-6, which has no weight"
    with_sides(folder, task6="train")
    assert "task-1" in names(Corrections(folder, "train")), "a video has one side; of two, it is trained on"


def test_a_copy_of_a_held_out_video_that_is_for_training_takes_it_along(folder: Path) -> None:
    held_out = identities("held-out", 2)
    with_sides(with_copies(folder, [held_out]), task4="train", task5="held-out")
    assert names(Corrections(folder, "train")) == ["task-1", "task-2", "task-3", "task-4", "task-5"]


@pytest.mark.parametrize("side", ["test", 7, "", ["train"]])
def test_another_side_is_rejected(folder: Path, side: Any) -> None:
    with pytest.raises(InputError, match='has the "side"'):
        Corrections(with_sides(folder, task4=side), "train")


def test_an_export_names_sides_that_are_decided(tiny_clip: Any, tmp_path: Path) -> None:
    one, two = (labelled(tiny_clip, f"task-{n}", f"sha256:{n}", [PAINTED] * FRAMES) for n in (1, 2))
    export([replace(one, side="held-out"), two], Native, tmp_path / "export")
    clips = json.loads((tmp_path / "export" / "manifest.json").read_text())["clips"]
    assert [clip.get("side") for clip in clips] == ["held-out", None]


def with_copies(folder: Path, copies: Any) -> Path:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "copies": copies}))
    return folder


def test_a_copy_of_a_held_out_video_is_not_trained_on(folder: Path) -> None:
    """And what was trained on before a copy came in is never held out afterwards."""
    train, (first, second) = identities("train", 3), identities("held-out", 2)
    with_copies(folder, [[first, second]])
    assert names(Corrections(folder, "held-out")) == ["task-4", "task-5"]
    held_out = Corrections(folder, "held-out")
    assert held_out.corrected(0).identity == held_out.corrected(1).identity, "they count as one video"
    with_copies(folder, [[second, train[1]]])
    assert names(Corrections(folder, "held-out")) == ["task-4"]
    assert names(Corrections(folder, "train")) == ["task-1", "task-2", "task-3", "task-5"]
    with_copies(folder, [[first, second], [second, train[1]]])
    assert names(Corrections(folder, "train")) == ["task-1", "task-2", "task-3", "task-4", "task-5"]
    with pytest.raises(InputError, match="no held-out video"):
        Corrections(folder, "held-out")


@pytest.mark.parametrize("copies", [None, 7, [["sha256:0"]], [["sha256:0", "sha256:nowhere"]], [[["x"], 7]]])
def test_malformed_copies_are_rejected(folder: Path, copies: Any) -> None:
    with pytest.raises(InputError, match="not two identities"):
        Corrections(with_copies(folder, copies), "train")


def test_frames_are_weighted_by_trust_and_held_out_ones_need_a_person(folder: Path) -> None:
    train, held_out = Corrections(folder, "train"), Corrections(folder, "held-out")
    assert train[0].annotated is None
    assert train[1].annotated == (0, 11)
    assert [train[number].objects[0].weights[0] for number in range(3)] == [1.0, 0.4, 1.0]
    assert train[0].objects[0].weights[5] == 0.6
    assert held_out[0].annotated == (0, 11)
    assert held_out[1].annotated is None
    sample = open_source(f"corrections:{folder}").video(random.Random(4), 4, "grounding")
    assert sample.mask_weights is not None
    assert sample.mask_weights.max() <= 1.0


def test_a_rejected_track_is_a_sentence_without_an_object(folder: Path) -> None:
    clip = Corrections(folder, "train")[2]
    assert [thing.uid for thing in clip.objects] == ["t1"]
    said = {each.text: (each.targets, each.category) for each in clip.expressions}
    # Nobody vouched for the guess; the caption of the remaining track is an instruction as well.
    assert said == {
        "the red square": (("t1",), "referring"),
        "the blue square": ((), "none"),
        "a red square": (("t1",), "referring"),
    }


def test_unique_caption_is_an_instruction_if_a_person_vouched_for_it(tiny_clip: Any, tmp_path: Path) -> None:
    def asked(name: str, caption: Trust, blue_caption: str, side: str = "train") -> list[tuple[str, float]]:
        other = blue(tiny_clip, [PAINTED] * FRAMES)
        other = replace(other, track=replace(other.track, caption=blue_caption))
        clip = labelled(
            tiny_clip, "task-1", identities(side, 1)[0], [PAINTED] * FRAMES, caption=caption, tracks=(other,)
        )
        export([clip], Native, tmp_path / name)
        return [(each.text, each.weight) for each in Corrections(tmp_path / name, side)[0].expressions]  # type: ignore[arg-type]

    own = [("the red square", 1.0)]
    assert asked("both", PAINTED, "a blue square") == [*own, ("a red square", 1.0), ("a blue square", 0.4)]
    assert asked("held out", PAINTED, "a blue square", "held-out")[1:] == [
        ("a red square", 1.0),
        ("a blue square", 0.4),
    ]
    assert asked("guessed", PREDICTED, "a blue square") == [*own, ("a blue square", 0.4)]
    assert asked("alike", PAINTED, "A red square.") == own, "ambiguous"
    assert asked("asked", PREDICTED, "The red square.") == own, "already an instruction"


def test_masks_and_captions_match_the_export(folder: Path, tiny_clip: Any) -> None:
    clip = Corrections(folder, "train")[0]
    np.testing.assert_array_equal(clip.masks(["t1"], range(FRAMES))[0], np.array(tiny_clip.red))
    assert clip.objects[0].caption == "a red square"


def test_predicted_frame_of_a_track_has_no_weight(tiny_clip: Any, tmp_path: Path) -> None:
    for side in ("train", "held-out"):
        doubtful = blue(tiny_clip, [PAINTED] * 3 + [PREDICTED] * 9)
        clip = labelled(tiny_clip, "task-1", identities(side, 1)[0], [PAINTED] * FRAMES, tracks=(doubtful,))
        clip = replace(clip, expressions=(*clip.expressions, Expression("both", ("t1", "t2"), ACCEPTED)))
        export([clip], Native, tmp_path / side)
    train, held_out = Corrections(tmp_path / "train", "train")[0], Corrections(tmp_path / "held-out", "held-out")[0]
    assert train.annotated is None
    assert [train.objects[1].weights[index] for index in (2, 3)] == [1.0, 0.0]
    assert held_out.annotated == (0, 1, 2)
    (both,) = (each for each in train.expressions if each.text == "both")
    assert (both.text, both.category, both.weight) == ("both", "several", 0.4)


def spoiled(folder: Path, **changes: Any) -> Path:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["clips"][0] |= changes
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"video": None}, "no video of task-1"),
        ({"video": "../../secret.mp4"}, "outside"),
        ({"tracks": "/etc/passwd"}, "outside"),
        ({"identity": ""}, "identity"),
        ({"frame_count": 11}, "does not have 11 frames"),
        ({"width": "wide"}, "cannot be read"),
        ({"tracks": "tracks/none.json"}, "cannot be read"),
    ],
)
def test_malformed_export_is_rejected(folder: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Corrections(spoiled(folder, **changes), "train")


def test_caption_is_weighted_by_trust(tiny_clip: Any, tmp_path: Path) -> None:
    """A model must not learn from its own output, so a caption that nobody saw is dropped."""
    weights = {}
    for trust in (PAINTED, ACCEPTED, PREDICTED):
        clip = labelled(tiny_clip, "task-1", identities("train", 1)[0], [PAINTED] * FRAMES, caption=trust)
        export([clip], Native, tmp_path / trust.word)
        (thing,) = Corrections(tmp_path / trust.word, "train")[0].objects
        weights[trust] = (thing.caption, thing.caption_weight)
    assert weights == {PAINTED: ("a red square", 1.0), ACCEPTED: ("a red square", 0.4), PREDICTED: ("", 0.0)}
    source = open_source(f"corrections:{tmp_path / 'accepted'}")
    sample = source.video(random.Random(0), 4, "captioning")
    assert (sample.answer, sample.weight) == ("a red square [SEG] .", 0.4)
    with pytest.raises(InputError, match="nothing for captioning"):
        open_source(f"corrections:{tmp_path / 'predicted'}").video(random.Random(0), 4, "captioning")


def test_project_number_is_resolved_by_the_entry_point(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Point:
        def load(self) -> Any:
            return lambda number: asked.append(number) or folder  # type: ignore[func-returns-value]

    monkeypatch.setattr(corrections, "entry_points", lambda group: [Point()] if group == corrections.GROUP else [])
    assert len(open_dataset("corrections:12")) == len(open_dataset(f"corrections:{folder}"))
    assert open_dataset("corrections:12:train").name.endswith(":train")
    assert asked == [12, 12]
    monkeypatch.setattr(corrections, "entry_points", lambda group: [])
    with pytest.raises(InputError, match=r"corrections:\./12"):
        open_dataset("corrections:12")


def test_another_package_with_the_backend_s_name_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        value = "backend.project_corrections:corrections_folder"

        def load(self) -> Any:
            raise ModuleNotFoundError("No module named 'backend.project_corrections'")

    (tmp_path / "backend").mkdir()
    (tmp_path / "backend" / "__init__.py").write_text("")
    monkeypatch.setattr(corrections, "entry_points", lambda group: [Point()])
    monkeypatch.setattr(sys, "meta_path", [one for one in sys.meta_path if not isinstance(one, SiblingFinder)])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "backend", raising=False)
    with pytest.raises(InputError, match=f"another package named backend was imported from {tmp_path}") as caught:
        open_dataset("corrections:12")
    assert "trajseg export" in caught.value.remedy


def test_missing_folder_other_version_and_empty_side_are_errors_with_a_remedy(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no export of corrections"):
        open_dataset(f"corrections:{tmp_path}/nowhere")
    with pytest.raises(InputError, match="needs a project's number or the folder"):
        open_dataset("corrections")
    with pytest.raises(InputError, match="--seed"):
        open_corrections(str(folder), DatasetOptions(seed=1))
    (tmp_path / "empty").mkdir()
    export([], Native, tmp_path / "empty")
    with pytest.raises(InputError, match="no held-out video") as told:
        open_dataset(f"corrections:{tmp_path / 'empty'}")
    assert "correct and submit" in told.value.remedy
    (tmp_path / "empty" / "manifest.json").write_text('{"version": 9}')
    with pytest.raises(InputError, match="version 1"):
        open_dataset(f"corrections:{tmp_path / 'empty'}")


def test_options_for_rendered_clips_can_be_ignored_instead_of_rejected(folder: Path) -> None:
    """The gate opens its base set like this, whatever data set it is."""
    options = DatasetOptions(count=1, seed=9000, height=160)
    with pytest.raises(InputError, match="no --seed"):
        open_dataset(f"corrections:{folder}", options)
    assert len(open_dataset(f"corrections:{folder}", replace(options, if_drawn=True))) == 1
    assert BASE_OPTIONS.if_drawn
