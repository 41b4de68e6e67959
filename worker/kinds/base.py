"""Door 3: what a kind of job is. One module in worker/kinds/ with a function `do`, and one entry in the registry.

The entry (a `JobKind` in backend.store.kinds) holds what the backend needs: name, queue, params, whether the result is
delivered to Label Studio, whether there is a clip. The module does the work:

    def do(context: JobContext[FinetuneParams]) -> JobOutcome: ...

Rules:

* `do` runs in a worker that has loaded an engine. It calls `context.progress(done, total)` at least once per frame or
  training step. That call ends a cancelled or lost run with CancelledError or StaleRunError: let both through.
* Heartbeats are sent in the background, so work without countable steps does not look dead.
* An exception from `do` fails the job: a TrajSegError with its own message and remedy, others with a general remedy.
* A long job saves its progress, and raises PreemptedError when `context.preempted` says so; it is resumed later.
* `do` may be run again from the start after a worker died. Anything it writes outside the store must allow for that.
* The outcome is stored in one transaction, and only if this run is still the newest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from backend.settings import Settings
from backend.store import Job, JobRequest, Store
from backend.store.notes import JobNotes
from backend.store.params import JobParams
from trajseg.engines.base import Engine
from trajseg.errors import TrajSegError
from trajseg.tracks import Result
from trajseg.video import Clip

Params = TypeVar("Params", bound=JobParams)


class PreemptedError(TrajSegError):
    """A run yields to other jobs. The job returns to the front of its queue; this run does not count as an attempt."""


@dataclass(frozen=True)
class JobOutcome:
    """What a job produces.

    Args:
        result: tracks of the clip; None for a kind without tracks.
        notes: what the result says besides the tracks.
        report: JSON defined by the kind, such as a checkpoint's path and its scores; shown as it is.
        follow_up: jobs to queue once this one is done.
    """

    result: Result | None = None
    notes: JobNotes = field(default_factory=JobNotes)
    report: Mapping[str, Any] = field(default_factory=dict)
    follow_up: tuple[JobRequest, ...] = ()


class JobContext(ABC, Generic[Params]):
    """The argument of `do`. Members may be added but are never removed.

    Attributes:
        job: the row as it was when the run started.
        params: validated, of the class that the kind declares.
        engine: the job's engine, loaded, with the adapter that serves the job's project.
        store: for reading. The job's own state, progress and result are written only by the worker.
        settings: of this worker.
        token: of this run; the store accepts partial frames only from the newest run.
    """

    job: Job
    params: Params
    engine: Engine
    store: Store
    settings: Settings
    token: str

    @property
    @abstractmethod
    def clip(self) -> Clip:
        """The job's video, fetched and opened on first use, and kept until `do` returns.

        Raises VideoError or InputError if it cannot be fetched or opened, or has too many frames.
        """

    @abstractmethod
    def use(self, name: str) -> Engine:
        """Switches `engine` to the one with this name; the previous one may be unloaded. Raises as loading it does."""

    @abstractmethod
    def unload(self) -> None:
        """Unloads all engines, so that another process has their memory; `engine` is gone until `use`."""

    @abstractmethod
    def progress(self, done: int, total: int) -> None:
        """Records the progress, in frames or steps. Raises CancelledError or StaleRunError."""

    @abstractmethod
    def alive(self) -> None:
        """Records a heartbeat if there is nothing to count. Raises as `progress` does."""

    @abstractmethod
    def cancelled(self) -> bool:
        """Whether the run has been cancelled or replaced; for work that must clean up before it stops."""

    @abstractmethod
    def preempted(self, done: int = 0, total: int = 0) -> bool:
        """Whether this run should yield now, after `done` of `total` steps.

        With a total the run gets its turn first (see worker.turn.Turn). Without one it may be long: it yields at once,
        and also when its worker was asked to exit.
        """

    @abstractmethod
    def result_of(self, job_id: str | None) -> Result | None:
        """The tracks of another job; None if that job or its tracks are gone."""


Work = Callable[[JobContext[Any]], JobOutcome]
"""The type of a kind's `do`."""
