"""The contract of a job kind; subclass it with the kind, and pytest runs it: see docs/extending.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from backend.settings import Settings
from backend.store import Job, Store
from backend.store.kinds import KINDS, JobKind
from trajseg.errors import InputError
from worker.kinds.registry import work_of
from worker.run import keep, run
from worker.state import WorkerState


class JobKindContract:
    """Subclasses define `kind`, `bad_params`, and `prepare` for what a job needs."""

    kind: JobKind
    bad_params: ClassVar[dict[str, Any]]

    def prepare(self, store: Store, clip: Path) -> Job:
        """A queued job of the kind that will take at least three steps of progress."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        opened = Store(f"sqlite:///{tmp_path / 'store.db'}")
        opened.migrate()
        yield opened
        opened.close()

    @pytest.fixture
    def job(self, store: Store, tmp_path: Path, tiny_clip: Any, scripted_engine: Any) -> Iterator[Job]:
        settings = Settings(data_dir=tmp_path / "data", media_dirs=(str(tiny_clip.path.parent),))
        settings = settings.model_copy(update={"label_studio_url": "http://127.0.0.1:9"})
        keep(WorkerState(settings, store, scripted_engine))
        yield self.prepare(store, tiny_clip.path)
        keep(None)

    @pytest.fixture
    def steps(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
        """The job's current progress."""
        made: list[tuple[int, int]] = []
        progress = store.runs.progress

        def note(job_id: str, token: str, done: int, total: int) -> None:
            made.append((done, total))
            progress(job_id, token, done, total)

        monkeypatch.setattr(store.runs, "progress", note)
        return made

    def test_it_is_declared_and_can_be_done(self) -> None:
        assert KINDS[self.kind.name] == self.kind
        assert callable(work_of(self.kind.name))

    def test_its_params_are_read_back_as_they_were_written(self, job: Job) -> None:
        assert type(job.asked) is self.kind.params
        assert self.kind.params.read(job.asked.to_json()) == job.asked

    def test_params_that_it_does_not_take_are_refused_with_a_remedy(self) -> None:
        with pytest.raises(InputError) as caught:
            self.kind.params.read(self.bad_params)
        assert caught.value.remedy

    def test_a_run_counts_its_steps_and_is_done(self, job: Job, store: Store, steps: list[tuple[int, int]]) -> None:
        run(job.id)
        done = store.jobs.get(job.id)
        assert (done.state, done.error) == ("done", "")
        assert len(steps) >= 3
        assert [count for count, _ in steps] == sorted(count for count, _ in steps)
        assert steps[-1][0] == steps[-1][1] == done.frames_done
        assert done.heartbeat_at is not None
        assert (store.deliveries.of_job(job.id) is not None) == (self.kind.delivers and job.task_id is not None)

    def test_a_cancelled_run_stops_at_its_next_step(
        self, job: Job, store: Store, steps: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        noting = store.runs.progress

        def cancel_second(job_id: str, token: str, done: int, total: int) -> None:
            if len(steps) == 1:
                store.jobs.cancel(job_id)
            noting(job_id, token, done, total)

        monkeypatch.setattr(store.runs, "progress", cancel_second)
        run(job.id)
        assert len(steps) == 2
        cancelled = store.jobs.get(job.id)
        assert (cancelled.state, cancelled.result) == ("cancelled", None)

    def test_a_failure_has_a_reason_and_a_remedy(self, job: Job, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise OSError("the disk is full")

        monkeypatch.setattr(store.runs, "progress", fail)
        run(job.id)
        failed = store.jobs.get(job.id)
        assert failed.state == "failed"
        assert "the disk is full" in failed.error
        assert failed.remedy
