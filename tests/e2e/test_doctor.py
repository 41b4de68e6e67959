"""`trajseg doctor` with real servers: no fault if there is none, otherwise the right one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.serving import JOB_SECONDS, Question, Trajseg
from tests.e2e.studio import LabelStudio, copy_data, free_port, running_label_studio, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def guarded(studio: LabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    """A Label Studio with its two guards against private addresses on, the default."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "media").mkdir()
    data = copy_data(studio.data_dir, folder / "data")
    with running_label_studio(data, folder / "media", guarded=True) as running:
        yield running


def test_all_is_well_with_the_settings_that_the_readme_asks_for(tiny: Trajseg, pictures: Path) -> None:
    # `trajseg serve` answers while its worker still loads the model.
    wait_until("a worker", lambda: tiny.client.get("/health").json().get("workers"), JOB_SECONDS)
    done = tiny.cli("doctor")
    (pictures / "doctor-well.txt").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_names_the_two_settings_that_keep_a_private_backend_out(
    tiny: Trajseg, guarded: LabelStudio, pictures: Path
) -> None:
    done = tiny.cli("doctor", LABEL_STUDIO_URL=guarded.url)
    (pictures / "doctor-guarded.txt").write_text(done.stdout + done.stderr)
    assert done.returncode != 0
    assert "ML_BLOCK_LOCAL_IP=false" in done.stdout + done.stderr
    assert "SSRF_PROTECTION_ENABLED=false" in done.stdout + done.stderr


def test_creating_a_project_there_says_the_same_and_leaves_nothing_behind(
    tiny: Trajseg, guarded: LabelStudio, questions: list[Question]
) -> None:
    before = guarded.call("GET", "/api/projects")["count"]
    done = tiny.cli(
        "project", "create", "--title", "Guarded", "--config", "mask",
        "--instruction", questions[0].instruction, questions[0].video, LABEL_STUDIO_URL=guarded.url,
    )  # fmt: skip
    assert done.returncode != 0
    assert "SSRF_PROTECTION_ENABLED=false" in done.stderr
    assert guarded.call("GET", "/api/projects")["count"] == before


def test_it_says_that_a_token_is_wrong(tiny: Trajseg) -> None:
    done = tiny.cli("doctor", LABEL_STUDIO_API_KEY="0" * 40)
    assert done.returncode != 0
    assert "token" in (done.stdout + done.stderr).lower()


def test_it_says_that_label_studio_is_not_there(tiny: Trajseg) -> None:
    done = tiny.cli("doctor", LABEL_STUDIO_URL=f"http://127.0.0.1:{free_port()}")
    assert done.returncode != 0
    assert "does not answer" in done.stdout + done.stderr
