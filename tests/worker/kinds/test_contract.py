"""The contract of job kinds, for a shipped kind and the example in docs/extending.md."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

import backend.store.kinds as kinds
import backend.store.params as params
from backend.store import Job, Store
from tests.contracts.job_kind import JobKindContract
from worker.run import run

ROOT = Path(__file__).parents[3]


class TestPrelabel(JobKindContract):
    kind = kinds.KINDS["prelabel"]
    bad_params: ClassVar[dict[str, Any]] = {"answer_until": "never"}

    def prepare(self, store: Store, clip: Path) -> Job:
        project = store.projects.upsert(1, "http://127.0.0.1:9", "<View/>")
        return store.jobs.add("prelabel", project.id, 7, str(clip), "the red square", "prelabel")[0]


def example() -> dict[str, str]:
    """The code of the section by the path in its first line."""
    section = (ROOT / "docs" / "extending.md").read_text().split("## A kind of job\n")[1].split("\n## ")[0]
    blocks = (textwrap.dedent(block) for block in re.findall(r"^ *```python\n(.*?)^ *```", section, re.S | re.M))
    return {block.splitlines()[0].removeprefix("# "): block for block in blocks}


@pytest.fixture(autouse=True)
def _example_is_there(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.cls is not TestTheExample:
        yield
        return
    code = example()
    names = dict(vars(params))
    exec(code["backend/store/params.py"], names)
    names |= vars(kinds)
    kind = eval(code["backend/store/kinds.py"].split("\n", 1)[1], names)
    monkeypatch.setitem(kinds.KINDS, kind.name, kind)
    monkeypatch.setattr(params, "ExportParams", names["ExportParams"], raising=False)
    module = ModuleType("worker.kinds.export")
    exec(code["worker/kinds/export.py"], vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    request.cls.kind = kind
    yield


class TestTheExample(JobKindContract):
    bad_params: ClassVar[dict[str, Any]] = {"limit": 0}

    def prepare(self, store: Store, clip: Path) -> Job:
        project = store.projects.upsert(1, "http://127.0.0.1:9", "<View/>")
        for task in range(3):
            run(store.jobs.add("prelabel", project.id, task, str(clip), "the red square", "prelabel")[0].id)
        return store.jobs.add("export", None, None, "", "", "finetune", {"project_id": project.id})[0]

    def test_its_report_says_where_the_files_are(self, job: Job, store: Store) -> None:
        run(job.id)
        report = (store.jobs.get(job.id).result or {})["report"]
        assert report["jobs"] == len(list(Path(report["folder"]).glob("*.json"))) == 3
