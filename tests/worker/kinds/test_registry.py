"""The backend's declarations of job kinds match the worker's modules."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import worker.kinds
from backend.store.kinds import KINDS, QUEUES, JobKind, job_kind, title_of
from backend.store.params import JobParams
from trajseg.errors import InputError, TrajSegError
from worker.kinds.base import JobContext, JobOutcome
from worker.kinds.registry import work_of


@pytest.mark.parametrize("name", KINDS)
def test_every_declared_kind_has_a_do_that_takes_its_params(name: str) -> None:
    work = work_of(name)
    hints = get_type_hints(work)
    assert hints["return"] is JobOutcome
    assert hints["context"].__origin__ is JobContext
    assert get_args(hints["context"]) == (KINDS[name].params,)


def test_every_module_with_a_do_is_declared() -> None:
    folder = Path(worker.kinds.__file__).parent
    modules = {path.stem for path in folder.glob("*.py") if "\ndef do(" in path.read_text()}
    assert modules == set(KINDS)


@pytest.mark.parametrize("name", ["os", "base", "../run", ""])
def test_only_declared_kinds_are_imported(name: str) -> None:
    with pytest.raises(TrajSegError, match="same version") as caught:
        work_of(name)
    assert caught.value.remedy


def test_the_contract_is_short() -> None:
    assert len(Path(inspect.getfile(JobContext)).read_text().splitlines()) <= 125


@pytest.mark.parametrize("wrong", [{"name": "fine tune"}, {"name": "x" * 21}, {"queue": "nowhere"}])
def test_a_bad_declaration_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        JobKind(**{"name": "finetune", "title": "Finetune", "queue": "finetune", "params": JobParams, **wrong})
    assert caught.value.remedy


def test_an_unknown_kind_is_named_with_those_there_are() -> None:
    with pytest.raises(InputError, match="somersault") as caught:
        job_kind("somersault")
    assert all(name in caught.value.remedy for name in KINDS)
    assert title_of("somersault") == "somersault"
    assert {kind.queue for kind in KINDS.values()} <= set(QUEUES)
