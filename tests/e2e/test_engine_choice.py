"""A project's engines: chosen when it is created, changed later, and two of them compared on the same task."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.e2e.colour_engine import LATE
from tests.e2e.editor import Editor
from tests.e2e.serving import COLOUR_MODEL, JOB_SECONDS, Question, Trajseg, serving
from tests.e2e.studio import LabelStudio, wait_until

LATE_MODEL = "colour_engine:late"
"""Finds nothing on the first LATE frames."""
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def two(studio: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`trajseg serve` that offers several engines."""
    folder = tmp_path_factory.mktemp("two")
    with serving(studio, folder, COLOUR_MODEL, TRAJSEG_ENGINES=f"trajseg-tiny,{LATE_MODEL}") as running:
        yield running


def test_a_project_changes_its_engine_and_keeps_the_predictions_of_both(two: Any, studio: Any, questions: Any) -> None:
    made = two.cli(
        "project", "create", "--title", "Two engines", "--engine", "trajseg-tiny",
        "--instruction", questions[0].instruction, questions[0].video,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    found = re.search(r"/projects/(\d+)", made.stdout)
    assert found
    project = int(found[1])
    [task] = [task["id"] for task in studio.tasks(project)]
    [backend] = studio.call("GET", "/api/ml", params={"project": project})
    assert backend["extra_params"] == {"engine": "trajseg-tiny"}
    assert studio.project(project)["model_version"] == "trajseg-tiny"

    def versions(count: int) -> set[str]:
        studio.retrieve_predictions(project, [task])
        predictions = wait_until(
            f"{count} predictions",
            lambda: held if len(held := studio.predictions(task)) >= count else None,
            300,
            every=1,
        )
        return {one["model_version"] for one in predictions}

    assert versions(1) == {"trajseg-tiny"}
    changed = two.cli("project", "change", str(project))
    assert changed.returncode == 0, changed.stdout + changed.stderr
    [backend] = studio.call("GET", "/api/ml", params={"project": project})
    assert (backend["state"], backend["extra_params"]) == ("CO", {})
    colour = studio.project(project)["model_version"]
    assert colour not in ("", "trajseg-tiny")
    assert versions(2) == {"trajseg-tiny", colour}
    # An engine that is not offered is refused, and nothing changes.
    refused = two.cli("project", "change", str(project), "--engine", "grounded")
    assert refused.returncode != 0
    assert "TRAJSEG_ENGINES" in refused.stdout + refused.stderr
    assert studio.project(project)["model_version"] == colour


def test_predictions_of_two_compared_engines_are_shown_and_where_they_disagree_comes_first(
    two: Trajseg, studio: LabelStudio, questions: list[Question], editor: Editor
) -> None:
    instruction = questions[0].instruction
    made = two.cli(
        "project", "create", "--title", "Compared", "--config", "mask", "--compare", LATE_MODEL,
        "--instruction", instruction, questions[0].video,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    found = re.search(r"/projects/(\d+)", made.stdout)
    assert found
    project = int(found[1])
    [task] = [task["id"] for task in studio.tasks(project)]
    studio.retrieve_predictions(project, [task])
    two.job_of(task, instruction)
    # Frames on which only one of them has a mask come before whatever else is doubtful.
    columns = studio.tasks(project)[0]["data"]
    assert columns["trajseg_review"].startswith("both engines: picture ")
    first = {
        int(number) - 1
        for number in re.findall(r"\(frame (\d+)\) the engines disagree \(IoU 0\.00\)", columns["trajseg_review"])
    }
    assert len(first) == 3
    assert first <= set(range(LATE))
    assert first <= set(columns["frame_index"]), "the page shows these frames"
    # The second engine alone: its prediction joins the first one's.
    changed = two.cli("project", "change", str(project), "--engine", LATE_MODEL)
    assert changed.returncode == 0, changed.stdout + changed.stderr
    studio.retrieve_predictions(project, [task])
    predictions = wait_until(
        "second prediction", lambda: held if len(held := studio.predictions(task)) == 2 else None, JOB_SECONDS, every=1
    )
    by_version = {one["model_version"]: one["id"] for one in predictions}
    assert by_version.keys() == {"colours", "late"}
    editor.open_task(project, task)
    shown = wait_until(
        "both predictions on the page", lambda: ready if len(ready := editor.predictions()) == 2 else None, 60
    )
    assert [one["version"] for one in shown] == ["late", "colours"], "the newest comes first"
    frames = {}
    for version, prediction in by_version.items():
        editor.show_prediction(prediction)
        index = studio.tasks(project)[0]["data"]["frame_index"]
        frames[version] = {index[region["frame"]] for region in editor.regions()}
        editor.screenshot(f"two-engines-{version}")
    assert first <= frames["colours"]
    assert min(frames["late"]) >= LATE
    assert frames["late"] < frames["colours"]
