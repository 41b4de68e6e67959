"""The command `trajseg active` beside Label Studio and `trajseg serve`: columns, lost tasks, the queue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from backend.active.command import _shown_in_label_studio
from backend.active.rounds import Round
from backend.composition import EMBEDDED_QUEUE, compose_beside_serve
from backend.settings import Settings
from backend.store import Project, Store
from tests.backend.label_studio.conftest import LEGACY, FakeLabelStudio, short_pauses
from trajseg.errors import LabelStudioError

__all__ = ["short_pauses"]


@pytest.fixture
def studio() -> Iterator[FakeLabelStudio]:
    running = FakeLabelStudio()
    yield running
    running.stop()


@pytest.fixture
def project(store: Store, studio: FakeLabelStudio) -> Project:
    return store.projects.upsert(studio.add_project(), studio.url, "<View/>")


def connected_to(studio: FakeLabelStudio, settings: Settings) -> Settings:
    return settings.model_copy(update={"label_studio_url": studio.url, "label_studio_api_key": SecretStr(LEGACY)})


def test_the_columns_are_written_and_deleted_and_skipped_tasks_are_returned(
    settings: Settings, project: Project, studio: FakeLabelStudio
) -> None:
    first, skipped, other = (studio.add_task(project.label_studio_id, video="v.mp4") for _ in range(3))
    studio.tasks[skipped]["annotations"] = [{"id": 1, "result": [], "was_cancelled": True}]
    studio.tasks[other]["annotations"] = [
        {"id": 2, "result": [], "was_cancelled": True},
        {"id": 3, "result": [], "was_cancelled": False},
    ]
    show = _shown_in_label_studio(connected_to(studio, settings), project)
    assert show(Round(2, [first, 99, skipped, other])) == [99, skipped]
    assert studio.tasks[first]["data"] == {"video": "v.mp4", "trajseg_round": 2, "trajseg_rank": 1}
    assert studio.tasks[other]["data"]["trajseg_rank"] == 4


def test_while_label_studio_is_down_the_rounds_go_on(
    settings: Settings, project: Project, studio: FakeLabelStudio, capsys: pytest.CaptureFixture[str]
) -> None:
    show = _shown_in_label_studio(connected_to(studio, settings), project)
    task = studio.add_task(project.label_studio_id)
    studio.failures = 8
    assert (show(Round(1, [task])), show(Round(1, [task]))) == ([], [])
    assert capsys.readouterr().err.count("The tasks are not marked in the Data Manager yet: ") == 1
    assert show(Round(1, [task])) == []
    assert studio.tasks[task]["data"]["trajseg_rank"] == 1


def test_a_deleted_project_ends_the_rounds(settings: Settings, project: Project, studio: FakeLabelStudio) -> None:
    studio.projects.clear()
    with pytest.raises(LabelStudioError, match=f"has no project {project.label_studio_id}"):
        _shown_in_label_studio(connected_to(studio, settings), project)(Round(1, [1]))


def test_commands_use_the_queue_of_serve_unless_another_is_named(
    settings: Settings, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAJSEG_DATA_DIR", str(settings.data_dir))
    address: Path = settings.data_dir / EMBEDDED_QUEUE
    address.parent.mkdir()
    address.write_text(settings.redis_url)
    backend = compose_beside_serve()
    assert backend.queue.workers() == 0
    backend.close()
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:9/0")
    backend = compose_beside_serve()
    assert backend.settings.redis_url == "redis://127.0.0.1:9/0"
    backend.close()
