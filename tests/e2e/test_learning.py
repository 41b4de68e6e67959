"""The whole learning loop: predict, correct, Start Training, the gate, a new version's predictions, rollback.

The training is short, so the gate rejects it, as it should; the version is then promoted by hand.
"""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.editor import Editor
from tests.e2e.prelabelled import Prelabelled, prelabelled
from tests.e2e.serving import TRAJSEG, MadeProject, Question, Trajseg, make_project, serving
from tests.e2e.studio import LabelStudio, Process, wait_until
from trajseg.data.sides import side_of
from trajseg.shapes.dataset import write_scene
from trajseg.shapes.evaluation.annotator import identity_of
from trajseg.shapes.world.render import write_clip
from trajseg.shapes.world.scenes import sample_scene
from trajseg.tracks import MaskTrack
from trajseg.tracks.formats import Expression, LabelledClip, LabelledTrack, export
from trajseg.tracks.formats.native import Native
from trajseg.tracks.trust import Trust

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
BASE = "trajseg-tiny"
STEPS = "1"
ROWS, FRAMES = 64, 8
TRAINING_SECONDS = 500
LEFT, LATER = 4, 5
"""The task that nobody annotates, and one that is predicted after the rollback."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    """One clip to train on, three held-out ones, and two more; each with an instruction."""
    folder = tmp_path_factory.mktemp("learning-clips")
    sides: dict[str, list[Question]] = {"train": [], "held-out": []}
    for seed in range(70, 130):
        scene = sample_scene(seed, "val", frame_count=FRAMES, aspect=4 / 3)
        video = write_clip(scene, folder / f"{seed}.mp4", ROWS)
        thing = scene.objects[0]
        sides[side_of(identity_of(video))].append(Question(video, f"the {thing.colour} {thing.shape}"))
        if all(len(found) >= 3 for found in sides.values()):
            break
    train, held_out = sides["train"], sides["held-out"]
    return [train[0], *held_out[:3], *train[1:3]]


def base_set(folder: Path) -> str:
    """Two small clips that the model must not forget, in --data's form."""
    found = []
    for seed in range(300, 400):
        clip, ids = write_scene(sample_scene(seed, "val", frame_count=FRAMES), folder / f"{seed}.mp4", 64)
        if side_of(identity_of(clip.path)) == "train" or not (ids == 1).any():
            continue
        times = clip.frame_map.times
        track = MaskTrack.from_masks("t1", list(ids == 1), times, [1.0] * len(clip))
        labelled = LabelledTrack(track, (Trust.PAINTED,) * len(clip))
        said = (Expression("the first thing", ("t1",), Trust.PAINTED),)
        size = (clip.width, clip.height, clip.fps, len(clip))
        found.append(LabelledClip(str(seed), *size, (labelled,), said, identity=identity_of(clip.path), clip=clip))
        if len(found) == 2:
            break
    export(found, Native, folder / "corrections")
    return f"corrections:{folder / 'corrections'}"


@pytest.fixture(scope="module")
def learner(studio: LabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`trajseg serve` with the shipped model, short trainings, and two small clips as the gate's base set."""
    more = {"TRAJSEG_FINETUNE_STEPS": STEPS, "TRAJSEG_BASE_DATA": base_set(tmp_path_factory.mktemp("base-set"))}
    with serving(studio, tmp_path_factory.mktemp("learner"), BASE, **more) as running:
        yield running


@pytest.fixture(scope="module")
def project(learner: Trajseg, studio: LabelStudio, clips: list[Question]) -> MadeProject:
    """All tasks but the last one predicted by the base."""
    made = make_project(learner, studio, "mask", "Learning", clips)
    studio.retrieve_predictions(made.id, made.tasks[:LATER])
    return made


@pytest.fixture(scope="module")
def corrected(project: MadeProject, learner: Trajseg, studio: LabelStudio, editor: Editor) -> list[Prelabelled]:
    """A person paints in the first task and submits the others unchanged; nobody annotates the last ones."""
    tasks = [prelabelled(studio, learner, project, number) for number in range(LEFT + 1)]
    assert {task.prediction["model_version"] for task in tasks} == {BASE}
    for number, task in enumerate(tasks[:LEFT]):
        editor.open_task(project.id, task.id, regions=len(task.masks()))
        if number == 0:
            editor.show_frame(len(task.frame_index) // 2)
            editor.paint(task.labels[0] if task.labels else "track-1")
            editor.screenshot("learning-1-corrected")
        editor.submit()

    def read() -> bool:
        jobs = [job for task in tasks[:1] for job in learner.jobs(task.id) if job["kind"] == "refine"]
        return bool(jobs) and all(job["state"] == "done" for job in jobs)

    wait_until("refined track", read, 300, every=1)
    wait_until("annotations in the store", lambda: stats(learner, project)["annotated_tasks"] == LEFT, 120, every=1)
    return tasks


def stats(learner: Trajseg, project: MadeProject) -> dict[str, Any]:
    done = learner.cli("stats", "--project", str(project.id), "--json")
    assert done.returncode == 0, done.stderr
    [found] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def trained(
    corrected: list[Prelabelled], project: MadeProject, learner: Trajseg, studio: LabelStudio, editor: Editor
) -> dict[str, Any]:
    """The version created by Start Training in Label Studio, from `trajseg models show`."""
    editor.page.goto(f"{studio.url}/projects/{project.id}/settings/ml")
    editor.page.get_by_role("button", name="Machine learning model options").wait_for()
    editor.screenshot("learning-2-model-settings")
    start_training(editor)
    editor.screenshot("learning-3-training-started")

    def over() -> dict[str, Any] | None:
        done = learner.cli("models", "show", "--project", str(project.id), "1")
        if done.returncode:
            return None
        version: dict[str, Any] = json.loads(done.stdout)
        return version if version["state"] != "candidate" else None

    return wait_until("decision of the gate", over, TRAINING_SECONDS, every=2)


def start_training(editor: Editor) -> None:
    """Settings > Model, the connection's menu, Start Training; waits until Label Studio has sent the request."""
    page = editor.page
    page.get_by_role("button", name="Machine learning model options").click()
    page.get_by_text("Start Training", exact=True).click()
    with page.expect_response(lambda answer: bool(re.search(r"/api/ml/\d+/train", answer.url))) as answer:
        page.get_by_role("button", name="Start Training").click()
    assert answer.value.ok, answer.value.text()


def test_a_short_training_is_refused_by_the_gate_in_words_and_numbers(
    trained: dict[str, Any], learner: Any, project: MadeProject, corrected: list[Prelabelled], editor: Editor
) -> None:
    assert trained["state"] == "refused", trained["reason"]
    decision = trained["decision"]
    assert decision["reason"].startswith("Not promoted: ")
    assert len(decision["project"]) == 3
    gained = decision["gain"]["low"] > 0
    assert len(decision["base"]) == (2 if gained else 0), "measured only where it decides"
    sides = [clip["side"] for clip in trained["data"]["clips"]]
    assert (sides.count("train"), sides.count("held-out")) == (1, 3)
    editor.page.goto(f"{learner.url}/page/models/")
    assert decision["reason"] in editor.page.locator("article").inner_text()
    editor.page.get_by_text("Clips that got better and worse").click()
    picture = editor.page.locator("img.differences")
    picture.scroll_into_view_if_needed()
    editor.page.wait_for_function("() => document.querySelector('img.differences').naturalWidth > 100")
    editor.screenshot("learning-4-refused")


def test_promoted_by_hand_it_labels_again_what_nobody_has_annotated(
    trained: dict[str, Any],
    learner: Any,
    project: MadeProject,
    corrected: list[Prelabelled],
    studio: LabelStudio,
    editor: Editor,
) -> None:
    left = corrected[LEFT]
    done = learner.cli("models", "promote", "--project", str(project.id), "1")
    assert done.returncode == 0, done.stderr
    assert "It relabels 1 unannotated task." in done.stdout
    version = trained["version"]
    assert version == f"{BASE}/project-{project.id}@1"

    def arrived() -> bool:
        return any(one["model_version"] == version for one in studio.predictions(left.id))

    wait_until(f"prediction of {version}", arrived, 300, every=1)
    kept = {one["model_version"] for one in studio.predictions(left.id)}
    assert kept == {BASE, version}, "what the base predicted is kept"
    assert {one["model_version"] for one in studio.predictions(corrected[1].id)} == {BASE}, "annotated tasks stay"
    editor.page.goto(f"{learner.url}/page/models/")
    editor.page.get_by_role("button", name="Roll back to the base").wait_for()
    editor.screenshot("learning-5-promoted")


def test_a_rollback_on_the_page_takes_effect_with_the_next_prediction(
    trained: dict[str, Any],
    learner: Any,
    project: MadeProject,
    corrected: list[Prelabelled],
    studio: LabelStudio,
    editor: Editor,
) -> None:
    editor.page.goto(f"{learner.url}/page/models/")
    editor.page.get_by_role("button", name="Roll back to the base").click()
    editor.page.get_by_text("Rolled back", exact=True).wait_for()
    editor.screenshot("learning-6-rolled-back")
    studio.retrieve_predictions(project.id, [project.tasks[LATER]])
    job = learner.job_of(project.tasks[LATER], project.questions[LATER].instruction)
    assert job["model_version"] == BASE
    [prediction] = studio.predictions(project.tasks[LATER])
    assert prediction["model_version"] == BASE
    assert httpx.get(f"{learner.url}/health", timeout=30).json()["status"] == "UP", "nothing was restarted"


def test_the_report_counts_what_was_corrected(
    trained: dict[str, Any], learner: Any, project: MadeProject, editor: Editor
) -> None:
    found = stats(learner, project)
    [base] = [version for version in found["versions"] if version["model_version"] == BASE]
    assert base["corrected_frames"] >= 1
    assert found["advice"]
    editor.page.goto(f"{learner.url}/page/report")
    editor.page.get_by_text("effort by model version").wait_for()
    editor.page.get_by_text("Until the next training:").scroll_into_view_if_needed()
    editor.screenshot("learning-7-report")


def test_a_round_of_active_learning_is_interrupted_continued_and_reported(
    trained: dict[str, Any],
    learner: Any,
    project: MadeProject,
    corrected: list[Prelabelled],
    studio: LabelStudio,
    editor: Editor,
) -> None:
    """`trajseg active` beside the running server; only the two last tasks are left to choose from."""
    studio.retrieve_predictions(project.id, project.tasks[LATER : LATER + 1])
    learner.job_of(project.tasks[LATER], project.questions[LATER].instruction)
    command = [str(TRAJSEG), "active", "--project", str(project.id), "--budget", "1", "--steps", STEPS]
    first = Process(command, learner.environment, learner.data_dir / "active-1.log")
    try:
        chosen = int(printed(first, r"Round 1: correct these tasks, the most useful first: (\d+)$")[1])
        assert chosen in project.tasks[LEFT : LATER + 1]
        printed(first, rf"Waiting for people to correct 1 of 1 task: {chosen}\.$")
        [task] = [task for task in studio.tasks(project.id) if task["id"] == chosen]
        assert (task["data"]["trajseg_round"], task["data"]["trajseg_rank"]) == (1, 1)
        second = learner.cli(*command[1:])
        assert second.returncode == 2
        assert f"Another `trajseg active` (process {first.process.pid})" in second.stderr
        first.process.send_signal(signal.SIGINT)
        assert first.process.wait(30) == 130
        assert "Run the same command to continue." in first.tail()
    finally:
        first.stop()
    editor.page.goto(f"{studio.url}/projects/{project.id}/data")
    editor.page.get_by_text("trajseg_rank").first.scroll_into_view_if_needed()
    editor.screenshot("learning-8-columns-of-the-round")
    editor.open_task(project.id, chosen)
    editor.submit()
    continued = Process(command, learner.environment, learner.data_dir / "active-2.log")
    try:
        printed(continued, r'^\{"rounds".*\}$', TRAINING_SECONDS)
        assert continued.process.wait(30) == 0, continued.tail()
    finally:
        continued.stop()
    assert "cannot be reached" not in first.log.read_text() + continued.log.read_text()
    lines = continued.log.read_text().splitlines()
    report = json.loads(lines[-1])
    [made] = report["rounds"]
    assert (made["number"], made["tasks"], made["state"], report["left"]) == (1, [chosen], "done", 0)
    assert made["version"] == f"{BASE}/project-{project.id}@2"
    assert f"Round 1: {made['decision']}" in lines
    assert any(line.startswith("Round 1 is done: ") for line in lines)
    listed = learner.cli("models", "list", "--project", str(project.id)).stdout
    assert made["version"] in listed


def printed(process: Process, pattern: str, seconds: float = 120) -> re.Match[str]:
    """The line with this pattern in the log of a process, once it is there; fails if the process ends before."""

    def line() -> re.Match[str] | None:
        ended = process.process.poll() is not None
        found = re.search(pattern, process.log.read_text(), re.MULTILINE)
        assert found or not ended, f"{process.name} ended with {process.process.returncode}:\n{process.tail()}"
        return found

    try:
        return wait_until(f"line {pattern!r}", line, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{process.tail()}") from None
