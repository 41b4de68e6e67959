"""A project whose labels have instructions of their own: one job a task asks for all of them."""

from __future__ import annotations

import pytest

from backend.label_studio.incoming.payloads import Task
from backend.service.requests import prelabel_request
from backend.store import Store
from backend.store.models import Project
from backend.store.request import JobRequest
from label_config import fill, parse
from trajseg.errors import InstructionError, TaskError

XML = fill("mask", ["car", "dog", "other"], {"car": "the red car", "dog": "the dog that runs"})


class Engine:
    """Stands for the engine that a project has chosen."""

    params: dict[str, str] = {}  # noqa: RUF012
    model_version = "m"


@pytest.fixture
def project(store: Store) -> Project:
    return store.projects.upsert(1, "http://ls", XML)


def request(project: Project, instruction: object, xml: str = XML) -> JobRequest:
    task = Task(id=5, data={"video": "a.mp4", "instruction": instruction})
    return prelabel_request(project, Engine(), parse(xml), task, instruction)


@pytest.mark.parametrize("instruction", [None, "", "  "])
def test_a_task_without_an_instruction_uses_every_labels(project: Project, instruction: str | None) -> None:
    asked = request(project, instruction)
    assert asked.instruction == "car: the red car; dog: the dog that runs"
    assert asked.params.instructions == (("car", "the red car"), ("dog", "the dog that runs"))


def test_a_tasks_own_instruction_goes_first(project: Project) -> None:
    asked = request(project, "the blue bus")
    assert (asked.instruction, asked.params.instructions) == ("the blue bus", ())


def test_without_either_it_says_where_one_may_be_given(project: Project) -> None:
    with pytest.raises(TaskError) as caught:
        request(project, "", fill("mask", ["car"]))
    assert 'instruction="the red car"' in caught.value.remedy


def test_an_instruction_that_is_too_long_is_named_by_its_label(project: Project) -> None:
    with pytest.raises(InstructionError, match="label 'car' has 1001 characters"):
        request(project, "", fill("mask", ["car"], {"car": "x" * 1001}))


@pytest.mark.parametrize("view", ["mask", "box"])
def test_both_views_keep_the_labels_instructions(view: str) -> None:
    config = parse(fill(view, ["car", "dog"], {"dog": 'the "big" dog & cat'}))
    assert config.instructions == (("dog", 'the "big" dog & cat'),)
    assert config.labels == ("car", "dog")
