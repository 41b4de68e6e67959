"""A project's engine as stored in Label Studio: chosen when the project is created, and changed later."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.e2e.serving import COLOUR_MODEL, serving
from tests.e2e.studio import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def two(studio: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`trajseg serve` that offers two engines."""
    folder = tmp_path_factory.mktemp("two")
    with serving(studio, folder, COLOUR_MODEL, TRAJSEG_ENGINES="trajseg-tiny") as running:
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
