"""`trajseg export`: a project from the store, videos through the fetcher, and a single result file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from click.testing import CliRunner
from click.testing import Result as Run
from pycocotools import mask as coco

from backend import exporting
from backend.exporting import export_corrections
from backend.settings import Settings
from backend.store import Change, ReadAnnotation, Store
from backend.store.notes import JobNotes
from trajseg.cli import main
from trajseg.data import corrections
from trajseg.data.corrections import Corrections
from trajseg.data.registry import open_dataset
from trajseg.data.sides import FIRST_VIDEOS, Side, side_of
from trajseg.errors import InputError, ServiceError
from trajseg.files import content_hash
from trajseg.tracks import MaskTrack, Result, rle
from trajseg.video import open_clip, write_video

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def run(*words: str | Path) -> Run:
    return CliRunner().invoke(main, ["export", *map(str, words)])


def result_of(tiny_clip: Any, video: str) -> Result:
    times = [index / 12 for index in range(12)]
    red = MaskTrack.from_masks("t1", tiny_clip.red, times, [0.9] * 12, label="track-1", caption="a red square")
    return Result(video, 12.0, 96, 64, 12, "the red square", "[SEG]", "tiny", [red])


class Project:
    """Label Studio's project 7 in a store: task 1 was corrected, task 2 predicted, task 3's video is gone."""

    def __init__(self, store: Store, tiny_clip: Any) -> None:
        self.store = store
        self.id = store.projects.upsert(7, "http://studio", "<View/>").id
        jobs: dict[int, str] = {}
        self.jobs = jobs
        for task, video in ((1, str(tiny_clip.path)), (2, str(tiny_clip.path)), (3, str(tiny_clip.path) + ".gone")):
            job, _ = store.jobs.add("prelabel", self.id, task, video, "the red square", "prelabel")
            store.runs.finish(job.id, store.runs.start(job.id) or "", result_of(tiny_clip, video))
            jobs[task] = job.id
        painted = Change("track-1", 0, "edited", "t1", jobs[1], "tiny", rle.encode(tiny_clip.blue[0]))
        store.corrections.record(ReadAnnotation(self.id, 1, 11, "v1", NOON, "ada@b.org", jobs[1]), [painted])


@pytest.fixture
def project(tiny_clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.setenv("TRAJSEG_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TRAJSEG_MEDIA_DIRS", str(tiny_clip.path.parent))
    (tmp_path / "data").mkdir()
    store = Store(Settings().store_url)
    store.migrate()
    yield Project(store, tiny_clip)
    store.close()


def test_a_projects_standing_tracks_are_written_and_skipped_ones_are_named(
    project: Project, tiny_clip: Any, tmp_path: Path
) -> None:
    done = run("--project", "7", "--format", "youtube-vis", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "2 clips" in done.output
    assert "1 corrected, 1 predicted" in done.output
    assert "left out: task 3" in done.output
    assert ".gone" in done.output
    data = json.loads((tmp_path / "out" / "instances.json").read_text())
    assert [video["file_names"][0] for video in data["videos"]] == ["task-1/00000.jpg", "task-2/00000.jpg"]
    assert [held["caption"] for held in data["annotations"]] == ["a red square"] * 2
    assert [video["expressions"][0]["text"] for video in data["videos"]] == ["the red square"] * 2
    painted, predicted = (coco.decode(held["segmentations"][0]).astype(bool) for held in data["annotations"])
    assert (painted == tiny_clip.blue[0]).all()
    assert (predicted == tiny_clip.red[0]).all()


def test_masks_alone_need_no_video(project: Project, tmp_path: Path) -> None:
    done = run("--project", "7", "--format", "mevis", "--out", tmp_path / "out", "--no-pictures")
    assert done.exit_code == 0, done.output
    assert len(json.loads((tmp_path / "out" / "meta_expressions.json").read_text())["videos"]) == 3


def test_training_gets_annotated_tasks_with_the_hash_of_their_videos(
    project: Project, tiny_clip: Any, tmp_path: Path
) -> None:
    done = run("--project", "7", "--format", "trajseg", "--out", tmp_path / "out", "--annotated-only")
    assert done.exit_code == 0, done.output
    (clip,) = json.loads((tmp_path / "out" / "manifest.json").read_text())["clips"]
    assert clip["name"] == "task-1"
    assert clip["identity"] == f"sha256:{content_hash(tiny_clip.path)}"
    (track,) = json.loads((tmp_path / "out" / clip["tracks"]).read_text())["tracks"]
    assert track["trust"] == ["painted", *["predicted"] * 11]


def test_one_results_file_is_exported_without_a_store(
    tiny_clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = result_of(tiny_clip, str(tiny_clip.path)).save(tmp_path / "tracks.json")
    done = run(result, "--format", "davis", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out/ImageSets/2017/train.txt").read_text() == "tiny\n"
    assert len([*(tmp_path / "out/JPEGImages/Full-Resolution/tiny").iterdir()]) == 12
    moved = result_of(tiny_clip, "/gone/tiny.mp4").save(tmp_path / "moved.json")
    assert run(moved, "--format", "png", "--out", tmp_path / "no").exit_code == 2
    done = run(moved, "--format", "png", "--out", tmp_path / "yes", "--video", tiny_clip.path)
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--adapter", "folder", "--out", "x"], "trajseg model merge"),
        (["--checkpoint", "trajseg-tiny"], "trajseg model merge"),
        ([], "either RESULT"),
        (["tracks.json", "--project", "7"], "either RESULT"),
        (["--project", "7"], "--format and --out"),
        (["--project", "7", "--format", "vhs", "--out", "x"], "no export format 'vhs'"),
        (["--project", "99", "--format", "png", "--out", "x"], "99"),
    ],
)
def test_bad_words_say_what_to_write(project: Project, words: list[str], said: str) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert said in done.output


def test_the_formats_are_listed() -> None:
    done = run("--list")
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.output.splitlines()] == sorted(
        ["coco-vid", "davis", "mevis", "mots", "png", "trajseg", "youtube-vis"]
    )


def test_a_training_gets_a_data_set_of_corrections(project: Project, tiny_clip: Any, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    report = export_corrections(
        project.store, Settings(), project.id, tmp_path / "set", lambda done, total: steps.append((done, total))
    )
    assert (report.clips, report.skipped, steps) == (1, [], [(1, 3), (2, 3), (3, 3)])
    clip = Corrections(tmp_path / "set", side_of(f"sha256:{content_hash(tiny_clip.path)}"))[0]
    assert clip.annotated == (0,)
    assert (clip.masks(["t1"], [0])[0, 0] == tiny_clip.blue[0]).all()
    assert [said.text for said in clip.expressions] == ["the red square", "a red square"], "the caption, too"


def test_a_video_that_cannot_be_had_now_is_distinguished_from_one_that_never_can(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise ServiceError("Label Studio does not answer.")

    monkeypatch.setattr(exporting, "fetched", away)
    report = export_corrections(project.store, Settings(), project.id, tmp_path / "set")
    assert report.clips == 0
    assert str(report.unavailable) == "Label Studio does not answer."


def test_a_copy_that_was_encoded_again_is_recognised(project: Project, tiny_clip: Any, tmp_path: Path) -> None:
    """As when people upload the same video in two qualities: one of them must not be trained on, the other scored."""
    frames = [frame for _, frame in open_clip(tiny_clip.path).frames()]
    copy, turned = (tiny_clip.path.with_name(f"{tmp_path.name}-{name}.mp4") for name in ("copy", "turned"))
    write_video(copy, frames, 12.0, crf=30)
    write_video(turned, [frame[::-1] for frame in frames], 12.0)
    for task, video in ((4, copy), (5, turned)):
        job, _ = project.store.jobs.add("prelabel", project.id, task, str(video), "the red square", "prelabel")
        project.store.runs.finish(job.id, project.store.runs.start(job.id) or "", result_of(tiny_clip, str(video)))
        seen = Change("track-1", 0, "unchanged", "t1", job.id, "tiny", rle.encode(tiny_clip.red[0]))
        project.store.corrections.record(ReadAnnotation(project.id, task, 10 + task, "v1", NOON, "", job.id), [seen])
    report = export_corrections(project.store, Settings(), project.id, tmp_path / "set")
    assert report.clips == 3
    pairs = json.loads((tmp_path / "set" / "manifest.json").read_text())["copies"]
    assert pairs == [[f"sha256:{content_hash(path)}" for path in (tiny_clip.path, copy)]]


def corrected(project: Project, tiny_clip: Any, task: int, video: Path) -> str:
    """A task that was predicted on this file as it is now, and corrected; returns the id of its job."""
    job, _ = project.store.jobs.add("prelabel", project.id, task, str(video), "the red square", "prelabel")
    token, result = project.store.runs.start(job.id) or "", result_of(tiny_clip, str(video))
    project.store.runs.finish(job.id, token, result, JobNotes(video_hash=content_hash(video)))
    seen = Change("track-1", 0, "unchanged", "t1", job.id, "tiny", rle.encode(tiny_clip.red[0]))
    project.store.corrections.record(ReadAnnotation(project.id, task, 10 + task, "v1", NOON, "", job.id), [seen])
    return job.id


def test_corrections_of_a_video_that_was_replaced_are_left_out(
    project: Project, tiny_clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their masks are about other pictures, also where the new file has the same size and length."""
    monkeypatch.setenv("TRAJSEG_MEDIA_DIRS", f"{tiny_clip.path.parent},{tmp_path}")
    video, frames = tmp_path / "clip.mp4", [frame for _, frame in open_clip(tiny_clip.path).frames()]
    write_video(video, frames, 12.0)
    corrected(project, tiny_clip, 4, video)
    assert export_corrections(project.store, Settings(), project.id, tmp_path / "before").skipped == []
    write_video(video, [255 - frame for frame in frames], 12.0)
    report = export_corrections(project.store, Settings(), project.id, tmp_path / "after")
    ((name, reason),) = report.skipped
    assert name == "task 4"
    assert "clip.mp4 is another file than the one that was labelled" in reason
    corrected(project, tiny_clip, 5, video)
    ((name, _),) = export_corrections(project.store, Settings(), project.id, tmp_path / "again").skipped
    assert name == "task 4", "the new task is exported"


def sides_in(folder: Path) -> dict[str, str | None]:
    """The sides in the manifest of an export, by clip."""
    return {clip["name"]: clip.get("side") for clip in json.loads((folder / "manifest.json").read_text())["clips"]}


def filled(project: Project, count: int) -> None:
    """As if the project had had so many other corrected videos."""
    for number in range(count):
        project.store.sides.decide(project.id, f"sha256:{number:064x}")


def test_the_side_of_a_video_is_decided_with_its_first_corrections_and_stays(
    project: Project, tiny_clip: Any, tmp_path: Path
) -> None:
    """On the way to a training and by the command; the API's export is tested in http/test_exports.py."""
    identity = f"sha256:{content_hash(tiny_clip.path)}"
    export_corrections(project.store, Settings(), project.id, tmp_path / "first")
    side = side_of(identity)
    assert sides_in(tmp_path / "first") == {"task-1": side}
    assert project.store.sides.of(project.id, identity) == side
    filled(project, 40)
    done = run("--project", "7", "--format", "trajseg", "--out", tmp_path / "all")
    assert done.exit_code == 1, "the video of task 3 is gone"
    assert sides_in(tmp_path / "all") == {"task-1": side, "task-2": side}, "the same video"
    # The corrections are deleted, and come back.
    project.store.corrections.withdraw(project.id, 11)
    export_corrections(project.store, Settings(), project.id, tmp_path / "none")
    assert sides_in(tmp_path / "none") == {}
    corrected(project, tiny_clip, 9, tiny_clip.path)
    export_corrections(project.store, Settings(), project.id, tmp_path / "back")
    assert sides_in(tmp_path / "back") == {"task-9": side}


def test_a_video_that_nobody_has_corrected_takes_no_place(project: Project, tmp_path: Path) -> None:
    """Else an export of a hundred predictions would leave the share of later videos to all that are corrected."""
    project.store.corrections.withdraw(project.id, 11)
    run("--project", "7", "--format", "trajseg", "--out", tmp_path / "all")
    assert sides_in(tmp_path / "all") == {"task-1": None, "task-2": None}
    run("--project", "7", "--format", "trajseg", "--no-pictures", "--out", tmp_path / "masks")
    assert set(sides_in(tmp_path / "masks").values()) == {None}, "whose bytes are unknown"


@pytest.mark.slow
def test_no_held_out_video_is_trained_on_while_a_project_grows(
    project: Project, tiny_clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Videos of both sides come at the twentieth place and after it."""
    monkeypatch.setenv("TRAJSEG_MEDIA_DIRS", f"{tiny_clip.path.parent},{tmp_path}")
    filled(project, FIRST_VIDEOS - 3)
    trained: set[str] = set()
    held_out: set[str] = set()
    frame = next(iter(open_clip(tiny_clip.path).frames()))[1]
    for task in range(4, 12):
        # Unlike each other, so that none is a copy.
        pictures = [np.random.default_rng(100 * task + index).permuted(frame, axis=0) for index in range(12)]
        video = write_video(tmp_path / f"{task}.mp4", pictures, 12.0)
        corrected(project, tiny_clip, task, video)
        folder = tmp_path / f"set-{task}"
        export_corrections(project.store, Settings(), project.id, folder)
        for side, found in (("train", trained), ("held-out", held_out)):
            with suppress(InputError):
                dataset = Corrections(folder, cast("Side", side))
                found |= {dataset.corrected(number).identity for number in range(len(dataset))}
        assert not trained & held_out
    assert len(trained | held_out) == 9
    assert trained
    assert held_out


@pytest.fixture
def by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry point as pyproject.toml has it, also where another version is installed."""
    point = EntryPoint("backend", "backend.project_corrections:corrections_folder", corrections.GROUP)
    assert f'backend = "{point.value}"' in (Path(__file__).parents[2] / "pyproject.toml").read_text()
    monkeypatch.setattr(corrections, "entry_points", lambda group: [point])


@pytest.mark.usefixtures("by_number")
def test_a_project_is_a_data_set_by_its_number_and_is_exported_again_when_it_has_changed(
    project: Project, tiny_clip: Any, tmp_path: Path
) -> None:
    side = side_of(f"sha256:{content_hash(tiny_clip.path)}")
    first = open_dataset(f"corrections:7:{side}")
    (thing,) = first[0].objects
    assert first[0].name == "task-1", "nobody has annotated the others"
    assert (rle.decode(thing.masks[0]) == tiny_clip.blue[0]).all()
    assert open_dataset(f"corrections:7:{side}").name == first.name, "nothing has changed"
    again = ReadAnnotation(project.id, 1, 11, "v2", NOON, "ada@b.org", project.jobs[1], captions={"track-1": "a tile"})
    change = Change("track-1", 0, "edited", "t1", project.jobs[1], "tiny", rle.encode(tiny_clip.red[0]))
    project.store.corrections.record(again, [change])
    second = open_dataset(f"corrections:7:{side}")
    assert second.name != first.name
    assert (second[0].objects[0].caption, second[0].objects[0].caption_weight) == ("a tile", 1.0)
    assert first[0].objects[0].uid == "t1", "what is open stays"
    video, params = str(tiny_clip.path), {"job_id": project.jobs[1]}
    job, _ = project.store.jobs.add("caption", project.id, 1, video, "the red square", "interactive", params)
    project.store.runs.finish(job.id, project.store.runs.start(job.id) or "", result_of(tiny_clip, job.video))
    assert open_dataset(f"corrections:7:{side}").name != second.name, "captions may have been added"


@pytest.mark.usefixtures("by_number")
def test_a_project_without_corrections_and_an_unknown_one_say_so(project: Project) -> None:
    project.store.projects.upsert(8, "http://studio", "<View/>")
    with pytest.raises(InputError, match="No task of project 8 has been annotated"):
        open_dataset("corrections:8")
    with pytest.raises(InputError, match="9"):
        open_dataset("corrections:9")


@pytest.mark.usefixtures("by_number")
def test_a_video_that_was_overwritten_in_place_is_noticed(
    project: Project,
    tiny_clip: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An exported video may be a hard link to the project's own file."""
    monkeypatch.setenv("TRAJSEG_MEDIA_DIRS", f"{tiny_clip.path.parent},{tmp_path}")
    video, other = (tmp_path / f"{name}.mp4" for name in ("clip", "other"))
    frames = [frame for _, frame in open_clip(tiny_clip.path).frames()]
    write_video(video, frames, 12.0)
    write_video(other, [255 - frame for frame in frames], 12.0)
    corrected(project, tiny_clip, 4, video)
    # It is a copy of the other task's video, so they are on the same side.
    sides = {side_of(f"sha256:{content_hash(one)}") for one in (video, tiny_clip.path)}
    side: Side = "train" if "train" in sides else "held-out"
    first = open_dataset(f"corrections:7:{side}")
    assert isinstance(first, Corrections)
    assert open_dataset(f"corrections:7:{side}").name == first.name
    video.write_bytes(other.read_bytes())
    stale = Corrections(first.folder, side)
    (place,) = (number for number in range(len(stale)) if stale.corrected(number).name == "task-4")
    with pytest.raises(InputError, match="is no longer the video that was corrected"):
        stale[place]
    with suppress(InputError):  # nothing else may be on this side
        open_dataset(f"corrections:7:{side}")
    assert "left out: task 4: The video" in capsys.readouterr().err
