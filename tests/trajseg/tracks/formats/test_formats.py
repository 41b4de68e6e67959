"""Each format, read back by pycocotools, Pillow, or a reader written from the format's specification."""

from __future__ import annotations

import contextlib
import json
from configparser import ConfigParser
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from tests.contracts.track_format import (
    FRAMES,
    HEIGHT,
    WIDTH,
    Masks,
    TrackFormatContract,
    Words,
    labelled,
    masks,
    track,
)
from trajseg.errors import InputError
from trajseg.tracks.formats import Expression, LabelledClip, LabelledTrack, export, format_names, load_format
from trajseg.tracks.formats.coco_vid import CocoVid
from trajseg.tracks.formats.davis import Davis
from trajseg.tracks.formats.mevis import Mevis
from trajseg.tracks.formats.mots import Mots
from trajseg.tracks.formats.native import Native
from trajseg.tracks.formats.png import PngMasks
from trajseg.tracks.formats.registry import FORMATS
from trajseg.tracks.formats.youtube_vis import YouTubeVis
from trajseg.video import open_clip


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def decoded(code: dict[str, Any] | None) -> np.ndarray | None:
    return None if code is None else coco.decode(code).astype(bool)


class TestCocoVid(TrackFormatContract):
    kind = CocoVid

    def loaded(self, out: Path) -> COCO:
        with contextlib.redirect_stdout(StringIO()):
            return COCO(out / "annotations.json")

    def labels(self, data: COCO) -> dict[int, str]:
        return {held["instance_id"]: held["track"] for held in data.anns.values()}

    def masks(self, out: Path) -> Masks:
        data = self.loaded(out)
        found: Masks = {video["name"]: {} for video in data.dataset["videos"]}
        names = {video["id"]: video["name"] for video in data.dataset["videos"]}
        for image_id in data.getImgIds():
            image = data.imgs[image_id]
            assert image["file_name"] == f"frames/{names[image['video_id']]}/{image['frame_id']:05d}.jpg"
            for held in data.loadAnns(data.getAnnIds(imgIds=image_id)):
                mask = data.annToMask(held).astype(bool)
                rows, columns = np.nonzero(mask)
                width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
                assert held["bbox"] == [columns.min(), rows.min(), width, height]
                assert held["area"] == mask.sum()
                tracks = found[names[held["video_id"]]]
                tracks.setdefault(held["track"], [None] * FRAMES)[image["frame_id"]] = mask
        return found

    def words(self, out: Path) -> Words:
        data = self.loaded(out)
        labels = self.labels(data)
        return {
            video["name"]: {
                said["text"]: [labels[number] for number in said["instance_ids"]] for said in video["expressions"]
            }
            for video in data.dataset["videos"]
        }

    def captions(self, out: Path) -> dict[str, dict[str, str]]:
        data = self.loaded(out)
        found: dict[str, dict[str, str]] = {video["name"]: {} for video in data.dataset["videos"]}
        for held in data.anns.values():
            found[data.dataset["videos"][held["video_id"] - 1]["name"]][held["track"]] = held["caption"]
        return found


class TestYouTubeVis(TrackFormatContract):
    kind = YouTubeVis

    def tracks(self, out: Path) -> list[tuple[str, dict[str, Any]]]:
        data = read_json(out / "instances.json")
        names = {video["id"]: video["file_names"][0].split("/")[0] for video in data["videos"]}
        assert [held["id"] for held in data["annotations"]] == list(range(1, len(data["annotations"]) + 1))
        return [(names[held["video_id"]], held) for held in data["annotations"]]

    def masks(self, out: Path) -> Masks:
        data = read_json(out / "instances.json")
        assert [category["id"] for category in data["categories"]] == [1]
        found: Masks = {}
        for name, held in self.tracks(out):
            assert (held["width"], held["height"], held["length"]) == (WIDTH, HEIGHT, FRAMES)
            drawn = [decoded(code) for code in held["segmentations"]]
            for mask, box, area in zip(drawn, held["bboxes"], held["areas"], strict=True):
                assert (mask is None) == (box is None) == (area is None)
                if mask is not None:
                    assert area == mask.sum()
                    assert box == list(coco.toBbox(coco.encode(np.asfortranarray(mask.astype(np.uint8)))))
            found.setdefault(name, {})[held["track"]] = drawn
        return found

    def words(self, out: Path) -> Words:
        labels = {held["id"]: held["track"] for _, held in self.tracks(out)}
        found: Words = {}
        for video in read_json(out / "instances.json")["videos"]:
            name = video["file_names"][0].split("/")[0]
            found[name] = {
                said["text"]: [labels[number] for number in said["annotation_ids"]] for said in video["expressions"]
            }
        return found

    def captions(self, out: Path) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for name, held in self.tracks(out):
            found.setdefault(name, {})[held["track"]] = held["caption"]
        return found

    def test_its_pictures_lie_where_it_says(self, out: Path) -> None:
        for video in read_json(out / "instances.json")["videos"]:
            assert video["length"] == len(video["file_names"]) == FRAMES
            for file in video["file_names"]:
                assert Image.open(out / "JPEGImages" / file).size == (WIDTH, HEIGHT)


class TestDavis(TrackFormatContract):
    kind = Davis
    overlaps = False
    keeps_none = False

    def masks(self, out: Path) -> Masks:
        found: Masks = {}
        for name in (out / "ImageSets/2017/train.txt").read_text().split():
            pictures = []
            for index in range(FRAMES):
                picture = Image.open(out / "Annotations/Full-Resolution" / name / f"{index:05d}.png")
                assert picture.mode == "P"
                palette = picture.getpalette()
                assert palette is not None
                assert palette[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
                pictures.append(np.array(picture))
            numbers = sorted(set(np.unique(pictures)) - {0})
            found[name] = {f"track-{number}": [picture == number for picture in pictures] for number in numbers}
        return found

    def words(self, out: Path) -> Words:
        found: Words = {}
        for name, video in read_json(out / "meta_expressions.json")["videos"].items():
            assert video["frames"] == [f"{index:05d}" for index in range(FRAMES)]
            for said in video["expressions"].values():
                found.setdefault(name, {}).setdefault(said["exp"], []).append(f"track-{said['obj_id']}")
        return found

    def captions(self, out: Path) -> dict[str, dict[str, str]]:
        videos = read_json(out / "meta_expressions.json")["videos"]
        return {
            name: {f"track-{number}": caption for number, caption in video["captions"].items()}
            for name, video in videos.items()
        }

    def test_frames_stand_beside_the_masks(self, out: Path) -> None:
        names = {path.stem for path in (out / "JPEGImages/Full-Resolution/task-1").iterdir()}
        assert names == {path.stem for path in (out / "Annotations/Full-Resolution/task-1").iterdir()}

    def test_more_objects_than_it_has_values_for_are_refused(self, tmp_path: Path) -> None:
        tracks = tuple(LabelledTrack(track(number, masks(2, 4))) for number in range(255))
        crowd = LabelledClip("crowd", WIDTH, HEIGHT, 8.0, FRAMES, tracks)
        with pytest.raises(InputError, match="255 tracks"):
            export([crowd], Davis, tmp_path / "out", pictures=False)


class TestMots(TrackFormatContract):
    kind = Mots
    overlaps = False

    def masks(self, out: Path) -> Masks:
        found: Masks = {}
        for path in sorted(out.glob("*/gt/gt.txt")):
            tracks = found.setdefault(path.parent.parent.name, {})
            painted = np.zeros((FRAMES, HEIGHT, WIDTH), int)
            for line in path.read_text().splitlines():
                frame, number, category, height, width, counts = line.split(" ")
                assert int(category) == int(number) // 1000 == 1
                code = {"size": [int(height), int(width)], "counts": counts.encode()}
                drawn = tracks.setdefault(f"track-{int(number) % 1000}", [None] * FRAMES)
                drawn[int(frame) - 1] = coco.decode(code).astype(bool)
                painted[int(frame) - 1] += coco.decode(code)
            assert painted.max() <= 1, "masks overlap, which MOTS forbids"
        return found

    def words(self, out: Path) -> Words:
        return {
            name: {said["text"]: [f"track-{number - 1000}" for number in said["ids"]] for said in held["expressions"]}
            for name, held in read_json(out / "expressions.json").items()
        }

    def captions(self, out: Path) -> dict[str, dict[str, str]]:
        return {
            name: {f"track-{int(number) - 1000}": caption for number, caption in held["captions"].items()}
            for name, held in read_json(out / "expressions.json").items()
        }

    def test_the_sequence_is_described(self, out: Path) -> None:
        info = ConfigParser()
        info.read(out / "task-1" / "seqinfo.ini")
        assert info["Sequence"]["seqLength"] == str(FRAMES)
        assert info["Sequence"]["frameRate"] == "8"
        names = sorted(path.name for path in (out / "task-1" / "img1").iterdir())
        assert names == [f"{number:06d}.jpg" for number in range(1, FRAMES + 1)]


class TestMevis(TrackFormatContract):
    kind = Mevis

    def videos(self, out: Path) -> dict[str, Any]:
        videos: dict[str, Any] = read_json(out / "meta_expressions.json")["videos"]
        return videos

    def masks(self, out: Path) -> Masks:
        codes = read_json(out / "mask_dict.json")
        found: Masks = {}
        for name, video in self.videos(out).items():
            assert video["frames"] == [f"{index:05d}" for index in range(FRAMES)]
            found[name] = {
                f"track-{place + 1}": [decoded(code) for code in codes[number]]
                for place, number in enumerate(video["captions"])
            }
        assert len(codes) == sum(len(tracks) for tracks in found.values())
        return found

    def words(self, out: Path) -> Words:
        found: Words = {}
        for name, video in self.videos(out).items():
            found[name] = {}
            for said in video["expressions"].values():
                places = [int(number) - int(min(video["captions"], key=int)) for number in said["anno_id"]]
                assert places == said["obj_id"]
                assert said["type_id"] == (0 if places else 2)
                found[name][said["exp"]] = [f"track-{place + 1}" for place in places]
        return found

    def captions(self, out: Path) -> dict[str, dict[str, str]]:
        return {
            name: {f"track-{place}": caption for place, caption in enumerate(video["captions"].values(), 1)}
            for name, video in self.videos(out).items()
        }


class TestPngMasks(TrackFormatContract):
    kind = PngMasks

    def masks(self, out: Path) -> Masks:
        found: Masks = {}
        for folder in sorted(out.glob("*/masks/*")):
            pictures = [np.array(Image.open(folder / f"{index:05d}.png")) for index in range(FRAMES)]
            assert set(np.unique(pictures)) <= {0, 255}
            tracks = found.setdefault(folder.parent.parent.name, {})
            tracks[f"track-{folder.name}"] = [picture == 255 for picture in pictures]
        return found

    def words(self, out: Path) -> Words:
        return {
            path.parent.name: {
                said["text"]: [f"track-{number}" for number in said["tracks"]]
                for said in read_json(path)["expressions"]
            }
            for path in out.glob("*/tracks.json")
        }

    def captions(self, out: Path) -> dict[str, dict[str, str]]:
        return {
            path.parent.name: {held["label"]: held["caption"] for held in read_json(path)["tracks"]}
            for path in out.glob("*/tracks.json")
        }


class TestNative(TrackFormatContract):
    kind = Native

    def held(self, out: Path) -> dict[str, dict[str, Any]]:
        return {clip["name"]: read_json(out / clip["tracks"]) for clip in read_json(out / "manifest.json")["clips"]}

    def masks(self, out: Path) -> Masks:
        return {
            name: {
                track["label"]: [decoded(frame["rle"]) for frame in track["frames"]]
                for track in held["tracks"]
                if not track["rejected"] and any(frame["rle"] for frame in track["frames"])
            }
            for name, held in self.held(out).items()
        }

    def words(self, out: Path) -> Words:
        return {
            name: {said["text"]: [uid.replace("t", "track-") for uid in said["uids"]] for said in held["expressions"]}
            for name, held in self.held(out).items()
        }

    def captions(self, out: Path) -> dict[str, dict[str, str]]:
        return {
            name: {f"track-{number}": held["tracks"][number - 1]["caption"] for number in (1, 2, 3)}
            for name, held in self.held(out).items()
        }

    def test_trust_rejection_and_videos_are_kept(self, out: Path) -> None:
        tracks = self.held(out)["task-2"]["tracks"]
        assert tracks[0]["trust"] == ["painted", "propagated", "accepted", "predicted"]
        assert [track["rejected"] for track in tracks] == [False] * 4 + [True]
        for clip in read_json(out / "manifest.json")["clips"]:
            assert clip["identity"] == f"sha256:{clip['name']}"
            assert len(open_clip(out / clip["video"])) == clip["frame_count"] == FRAMES


def test_every_format_in_the_registry_has_its_contract_held() -> None:
    tested = {kind.kind for kind in TrackFormatContract.__subclasses__()}
    assert {load_format(name) for name in FORMATS} <= tested
    assert [load_format(name).name for name in format_names()] == format_names()


@pytest.mark.parametrize("name", ["vhs", "trajseg.tracks:Result", "no.such:Format", "", ":x", "..a:B"])
def test_an_unknown_format_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"is no export format|is not a TrackFormat"):
        load_format(name)


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "x" * 101, "a\nb", "C:"])
def test_a_clip_cannot_leave_its_folder(name: str) -> None:
    with pytest.raises(InputError, match="cannot be named"):
        labelled(name, None)


def test_parts_that_do_not_fit_together_are_refused() -> None:
    held = LabelledTrack(track(1, masks(2, 4)))
    with pytest.raises(InputError, match="has 4 frames, not 5"):
        LabelledClip("one", WIDTH, HEIGHT, 8.0, 5, (held,))
    with pytest.raises(InputError, match="same uid"):
        LabelledClip("one", WIDTH, HEIGHT, 8.0, FRAMES, (held, held))
    with pytest.raises(InputError, match="t9, which does not exist"):
        LabelledClip("one", WIDTH, HEIGHT, 8.0, FRAMES, (held,), (Expression("x", ("t9",)),))
