"""The whole learning loop: predict, correct, Start Training, the gate, a new version's predictions, rollback.

The clips are posters, which the base misreads; two steps of training are enough for the gate to promote a version.
"""

from __future__ import annotations

import json
import re
import signal
from typing import Any

import pytest
from playwright.sync_api import Locator

from backend.label_studio.outgoing.views import to_results
from backend.store.versions import CANDIDATE
from tests import poster_clips
from tests.e2e.editor import Editor
from tests.e2e.prelabelled import Prelabelled, prelabelled
from tests.e2e.serving import TRAJSEG, MadeProject, Question, Trajseg, make_project, serving
from tests.e2e.studio import LabelStudio, Process, wait_until
from tests.poster_clips import BASE_SCENES, Drawn, base_set, draw, posters
from trajseg.shapes.world.conditions import PLAIN
from trajseg.tracks import MaskTrack, Result

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
BASE = "trajseg-tiny"
STEPS = "2"
HELD_OUT, TRAIN = poster_clips.HELD_OUT[:4], poster_clips.TRAIN[:4]
PATIENCE = 900
"""Seconds to wait for what must happen, on busy cores."""
PAINTED, TRAINED = 0, 2
"""The task that a person corrects on the page, and the number of tasks to train on; then come the held-out ones."""
LEFT = TRAINED + len(HELD_OUT)
"""The first of two tasks that nobody annotates before the promotion. The base doubts the second one more."""
LATER = LEFT + 2
"""The task that is predicted last."""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Drawn]:
    """Two clips to train on, the held-out ones, one that the base segments well, and two that it misreads."""
    folder = tmp_path_factory.mktemp("learning-clips")
    held_out, train = posters(folder, HELD_OUT, TRAIN)
    plain = draw(folder, BASE_SCENES[0], PLAIN, "train")
    return [*train[:TRAINED], *held_out, plain, *train[TRAINED:]]


@pytest.fixture(scope="module")
def learner(studio: LabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`trajseg serve` with the shipped model, short trainings, and three small clips as the gate's base set."""
    more = {"TRAJSEG_FINETUNE_STEPS": STEPS, "TRAJSEG_BASE_DATA": base_set(tmp_path_factory.mktemp("base-set"))}
    with serving(studio, tmp_path_factory.mktemp("learner"), BASE, **more) as running:
        yield running


@pytest.fixture(scope="module")
def project(learner: Trajseg, studio: LabelStudio, drawn: list[Drawn]) -> MadeProject:
    """All tasks but the last one predicted by the base."""
    questions = [Question(clip.clip.path, clip.instruction) for clip in drawn]
    made = make_project(learner, studio, "mask", "Learning", questions)
    studio.retrieve_predictions(made.id, made.tasks[:LATER])
    return made


@pytest.fixture(scope="module")
def corrected(
    project: MadeProject, learner: Trajseg, studio: LabelStudio, editor: Editor, drawn: list[Drawn]
) -> list[Prelabelled]:
    """A person paints in the first task on the page; the others but the last two are corrected through the API."""
    tasks = [prelabelled(studio, learner, project, number) for number in range(LATER)]
    assert {task.prediction["model_version"] for task in tasks} == {BASE}
    paint(editor, project, tasks[PAINTED], drawn[PAINTED], "learning-1-corrected")
    for task, clip in zip(tasks[PAINTED + 1 : LEFT], drawn[PAINTED + 1 : LEFT], strict=True):
        form = {"result": truth(task, clip), "parent_prediction": task.prediction["id"], "lead_time": 30}
        studio.call("POST", f"/api/tasks/{task.id}/annotations/", json=form)
    wait_until(
        "annotations in the store", lambda: stats(learner, project)["annotated_tasks"] == LEFT, PATIENCE, every=5
    )
    settled(learner, *project.tasks[:LEFT])
    return tasks


def paint(editor: Editor, project: MadeProject, task: Prelabelled, clip: Drawn, picture: str, regions: int = 0) -> None:
    """A person's stroke on a picture in the middle of the clip, submitted: on the object, or far from it.

    Args:
        regions: on the page when it is open; with any, the stroke is far from the object, which they show already.
    """
    editor.open_task(project.id, task.id, regions)
    place = len(task.frame_index) // 2
    editor.show_frame(place)
    rows, columns = clip.truth[task.frame_index[place]].nonzero()
    x, y = columns.mean() / clip.truth.shape[2], rows.mean() / clip.truth.shape[1]
    if regions:
        x, y = (0.2 if x > 0.5 else 0.8), (0.2 if y > 0.5 else 0.8)
    editor.paint("track-1", at=(x, y), reach=30)
    editor.screenshot(picture)
    editor.submit()


def truth(task: Prelabelled, clip: Drawn) -> list[dict[str, Any]]:
    """The results of an annotation that has the right masks, on all pictures, and a caption."""
    times, question = clip.clip.frame_map.times, clip.instruction
    track = MaskTrack.from_masks("t1", list(clip.truth), times, [1.0] * len(times), label="track-1", caption=question)
    height, width = clip.truth.shape[1:]
    video = str(clip.clip.path)
    result = Result(video, clip.clip.fps, width, height, len(times), question, "", "", [track])
    return to_results(result, "mask", task.config, task.frame_index)


def settled(learner: Trajseg, *tasks: int) -> None:
    """Waits until all jobs of these tasks are done and delivered."""

    def over() -> bool:
        jobs = [job for task in tasks for job in learner.jobs(task)]
        states = {job["state"] for job in jobs}
        assert states <= {"queued", "running", "done"}, states
        return states == {"done"} and all(learner.delivered(job["id"]) for job in jobs)

    wait_until("end of all jobs", over, PATIENCE, every=1)


def stats(learner: Trajseg, project: MadeProject) -> dict[str, Any]:
    done = learner.cli("stats", "--project", str(project.id), "--json")
    assert done.returncode == 0, done.stderr
    [found] = json.loads(done.stdout)
    return found


def offered(studio: LabelStudio, project: MadeProject) -> str:
    """The model version that Label Studio shows for the connection; it asks /setup for it."""
    [connection] = studio.call("GET", "/api/ml", params={"project": project.id})
    return str(connection["model_version"])


def version_of(learner: Trajseg, project: MadeProject, number: int) -> dict[str, Any] | None:
    """From `trajseg models show`, once the gate has decided; repeated, that command would keep a core busy."""
    with learner.store() as store:
        found = [version for version in store.versions.list() if version.number == number]
        states = store.versions.training_states(found)
    assert "failed" not in states.values(), learner.process.tail()
    if not found or found[0].state == CANDIDATE:
        return None
    done = learner.cli("models", "show", "--project", str(project.id), str(number))
    return dict(json.loads(done.stdout))


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
    return wait_until("decision of the gate", lambda: version_of(learner, project, 1), PATIENCE, every=2)


def models_page(editor: Editor, learner: Trajseg, project: MadeProject) -> Locator:
    """Opens trajseg's page of models; returns the project's part of it."""
    editor.page.goto(f"{learner.url}/page/models/")
    return editor.page.locator("section.models", has_text=re.compile(rf"Project {project.id}\b"))


def start_training(editor: Editor) -> None:
    """Settings > Model, the connection's menu, Start Training; waits until Label Studio has sent the request."""
    page = editor.page
    page.get_by_role("button", name="Machine learning model options").click()
    page.get_by_text("Start Training", exact=True).click()
    with page.expect_response(lambda answer: bool(re.search(r"/api/ml/\d+/train", answer.url))) as answer:
        page.get_by_role("button", name="Start Training").click()
    assert answer.value.ok, answer.value.text()


def test_the_gate_promotes_a_better_version_in_words_and_numbers(
    trained: dict[str, Any], learner: Any, project: MadeProject, studio: LabelStudio, editor: Editor
) -> None:
    version = f"{BASE}/project-{project.id}@1"
    assert (trained["version"], trained["state"]) == (version, "promoted"), trained["reason"]
    decision = trained["decision"]
    gain, loss = decision["gain"], decision["base_gain"]
    assert gain["mean"] > gain["low"] > 0
    interval = f"{gain['low']:+.3f} to {gain['high']:+.3f}"
    shown = f"{gain['mean']:+.3f} J&F on {len(HELD_OUT)} held-out videos (95%: {interval})"
    based = f"{loss['mean']:+.3f} on {len(BASE_SCENES)} clips of the base set"
    assert decision["reason"].startswith(f"Promoted: {shown}, {based}.")
    assert (decision["served"], trained["reason"]) == (BASE, decision["reason"])
    assert (len(decision["project"]), len(decision["base"])) == (len(HELD_OUT), len(BASE_SCENES))
    sides = [clip["side"] for clip in trained["data"]["clips"]]
    assert (sides.count("train"), sides.count("held-out")) == (TRAINED, len(HELD_OUT))
    assert offered(studio, project) == version
    shown_versions = models_page(editor, learner, project)
    words = shown_versions.inner_text()
    assert decision["reason"] in words
    assert interval in words
    shown_versions.get_by_role("button", name="Roll back to the base").wait_for()
    editor.screenshot("learning-4-promoted")
    shown_versions.get_by_text("Clips that got better and worse").click()
    picture = shown_versions.locator("img.differences")
    picture.scroll_into_view_if_needed()
    wait_until("picture", lambda: picture.evaluate("img => img.naturalWidth > 100"), 60)
    editor.screenshot("learning-5-differences")


def test_it_labels_again_what_nobody_has_annotated_the_most_doubtful_first(
    trained: dict[str, Any],
    learner: Any,
    project: MadeProject,
    corrected: list[Prelabelled],
    studio: LabelStudio,
) -> None:
    version, left = trained["version"], corrected[LEFT:LATER]
    doubts = [task.task["data"]["trajseg_doubt"] for task in left]
    assert doubts[0] < doubts[1]

    def predicted() -> bool:
        """The base's prediction is kept beside the new one."""
        return all([one["model_version"] for one in studio.predictions(task.id)] == [BASE, version] for task in left)

    wait_until(f"predictions of {version}", predicted, PATIENCE, every=1)
    began = [job["created_at"] for task in left for job in learner.jobs(task.id) if job["model_version"] == version]
    assert began[1] < began[0]
    annotated = [one["model_version"] for one in studio.predictions(corrected[TRAINED].id)]
    assert not [one for one in annotated if one.startswith(version)], "annotated tasks stay"


def test_what_is_corrected_now_counts_for_the_new_version(
    trained: dict[str, Any],
    learner: Any,
    project: MadeProject,
    corrected: list[Prelabelled],
    drawn: list[Drawn],
    studio: LabelStudio,
    editor: Editor,
) -> None:
    [base] = stats(learner, project)["versions"]
    assert (base["model_version"], base["tasks"]) == (BASE, LEFT)
    assert base["corrected_frames"] >= (LEFT - 1) * len(drawn[0].clip)
    paint(editor, project, corrected[LEFT + 1], drawn[LEFT + 1], "learning-6-relabelled", regions=1)
    wait_until("annotation", lambda: stats(learner, project)["annotated_tasks"] == LEFT + 1, PATIENCE, every=5)
    settled(learner, corrected[LEFT + 1].id)
    still, ours = stats(learner, project)["versions"]
    assert still == base
    assert (ours["model_version"], ours["tasks"], ours["corrected_frames"]) == (trained["version"], 1, 1)
    found = stats(learner, project)
    assert found["advice"]
    editor.page.goto(f"{learner.url}/page/report")
    editor.page.get_by_text("effort by model version").wait_for()
    assert trained["version"] in editor.page.locator("main").inner_text()
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
    """`trajseg active` beside the running server. The gate refuses its version: the one that serves is as good."""
    command = [str(TRAJSEG), "active", "--project", str(project.id), "--budget", "1", "--steps", STEPS]
    first = Process(command, learner.environment, learner.data_dir / "active-1.log")
    try:
        chosen = int(printed(first, r"Round 1: correct these tasks, the most useful first: (\d+)$")[1])
        assert chosen == project.tasks[LEFT], "the only predicted task that nobody has annotated"
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
        printed(continued, r'^\{"rounds".*\}$', PATIENCE)
        assert continued.process.wait(30) == 0, continued.tail()
    finally:
        continued.stop()
    assert "cannot be reached" not in first.log.read_text() + continued.log.read_text()
    lines = continued.log.read_text().splitlines()
    report = json.loads(lines[-1])
    [made] = report["rounds"]
    assert (made["number"], made["tasks"], made["state"], report["left"]) == (1, [chosen], "done", 0)
    assert (made["version"], made["promoted"]) == (f"{BASE}/project-{project.id}@2", False)
    assert made["decision"].startswith("Not promoted: ")
    assert f"Round 1: {made['decision']}" in lines
    assert "Round 1 is done: the previous version keeps serving. 0 of 1 tasks are left." in lines
    listed = learner.cli("models", "list", "--project", str(project.id)).stdout
    assert re.search(rf"\*.*{trained['version']}", listed)
    assert made["version"] in listed
    decision = (version_of(learner, project, 2) or {})["decision"]
    assert (decision["served"], decision["reason"]) == (trained["version"], made["decision"])
    assert not decision["base"], "measured only where it decides"
    assert made["decision"] in models_page(editor, learner, project).locator("article").first.inner_text()
    editor.screenshot("learning-9-refused")


def test_a_rollback_on_the_page_takes_effect_with_the_next_prediction(
    trained: dict[str, Any],
    learner: Any,
    project: MadeProject,
    studio: LabelStudio,
    editor: Editor,
) -> None:
    later = project.tasks[LATER]

    def versions() -> list[str]:
        return [one["model_version"] for one in studio.predictions(later)]

    studio.retrieve_predictions(project.id, [later])
    wait_until("prediction", lambda: versions() == [trained["version"]], PATIENCE, every=1)
    models_page(editor, learner, project).get_by_role("button", name="Roll back to the base").click()
    models_page(editor, learner, project).get_by_text("Rolled back", exact=True).wait_for()
    editor.screenshot("learning-10-rolled-back")
    assert offered(studio, project) == BASE
    wait_until("the base's own prediction", lambda: versions() == [trained["version"], BASE], PATIENCE, every=1)
    settled(learner, later)
    assert studio.project(project.id)["model_version"] == BASE, "Label Studio opens the base's predictions"
    [task] = [task for task in studio.tasks(project.id) if task["id"] == later]
    assert task["data"]["trajseg_open"] == f"#{studio.predictions(later)[1]['id']} (prelabel)"
    assert learner.client.get("/health").json()["status"] == "UP", "nothing was restarted"


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
