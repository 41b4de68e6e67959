"""A project whose labels have their own instructions: one job per task covers all of them."""

from __future__ import annotations

import pytest

from backend.engines import ChosenEngine
from backend.label_studio.incoming.payloads import Task
from backend.service.requests import prelabel_request
from backend.store import Store
from backend.store.models import Project
from backend.store.params import PrelabelParams
from backend.store.request import JobRequest
from label_config import View, fill, parse
from trajseg.errors import InstructionError, TaskError

XML = fill("mask", ["car", "dog", "other"], {"car": "the red car", "dog": "the dog that runs"})


@pytest.fixture
def project(store: Store) -> Project:
    return store.projects.upsert(1, "http://ls", XML)


def request(project: Project, instruction: object, xml: str = XML) -> JobRequest:
    task = Task(id=5, data={"video": "a.mp4", "instruction": instruction})
    return prelabel_request(project, ChosenEngine("", "m"), parse(xml), task, instruction)


def instructions_of(request: JobRequest) -> tuple[tuple[str, str], ...]:
    assert isinstance(request.params, PrelabelParams)
    return request.params.instructions


@pytest.mark.parametrize("instruction", [None, "", "  "])
def test_a_task_without_an_instruction_uses_every_labels(project: Project, instruction: str | None) -> None:
    asked = request(project, instruction)
    assert asked.instruction == "car: the red car; dog: the dog that runs"
    assert instructions_of(asked) == (("car", "the red car"), ("dog", "the dog that runs"))


def test_a_tasks_own_instruction_goes_first(project: Project) -> None:
    asked = request(project, "the blue bus")
    assert (asked.instruction, instructions_of(asked)) == ("the blue bus", ())


def test_without_either_it_says_where_one_may_be_given(project: Project) -> None:
    with pytest.raises(TaskError) as caught:
        request(project, "", fill("mask", ["car"]))
    assert 'instruction="the red car"' in caught.value.remedy


def test_an_instruction_that_is_too_long_is_named_by_its_label(project: Project) -> None:
    with pytest.raises(InstructionError, match="label 'car' has 1001 characters"):
        request(project, "", fill("mask", ["car"], {"car": "x" * 1001}))


@pytest.mark.parametrize("view", ["mask", "box"])
def test_both_views_keep_the_labels_instructions(view: View) -> None:
    config = parse(fill(view, ["car", "dog"], {"dog": 'the "big" dog & cat'}))
    assert config.instructions == (("dog", 'the "big" dog & cat'),)
    assert config.labels == ("car", "dog")
