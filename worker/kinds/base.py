"""Door 3: what a kind of job is. One module in worker/kinds/ with a function `do`, and one entry in the registry.

The entry (a `JobKind` in backend.store.kinds) says what everybody must know: name, queue, params, whether the result
is delivered to Label Studio, whether there is a clip. The module does the work:

    def do(context: JobContext[FinetuneParams]) -> JobOutcome: ...

Rules:

* `do` runs in a worker that has loaded an engine. It calls `context.progress(done, total)` at least once a frame or
  training step; that is where a cancelled or lost run ends, with CancelledError or StaleRunError: let both through.
* A heartbeat goes on beside `do`, so work that cannot count anything does not look dead.
* What `do` raises fails the job: a TrajSegError with its own message and remedy, anything else with a general remedy.
* A long job keeps what it has done, and raises PreemptedError when `context.preempted` says so: it is run again later.
* `do` may run again from the start after a worker died. What it writes outside of the store must bear that.
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
    """A run makes way for other jobs. The job goes back to the front of its queue; this run does not count as a try."""


@dataclass(frozen=True)
class JobOutcome:
    """What a job leaves behind.

    Args:
        result: tracks of the clip; None for a kind that makes none.
        notes: what is to be said beside the tracks.
        report: JSON that the kind itself defines, such as a checkpoint's path and its scores; shown as it is.
        follow_up: jobs to be queued once this one is done.
    """

    result: Result | None = None
    notes: JobNotes = field(default_factory=JobNotes)
    report: Mapping[str, Any] = field(default_factory=dict)
    follow_up: tuple[JobRequest, ...] = ()


class JobContext(ABC, Generic[Params]):
    """What `do` is given. Members may be added; none is taken away.

    Attributes:
        job: the row as it was when the run began.
        params: validated, of the class that the kind declares.
        engine: that the job is for, as the worker has loaded it, with the adapter that serves the job's project.
        store: to read from. The job's own state, progress and result are written by the worker alone.
        settings: of this worker.
        token: of this run; the store takes partial frames from the newest run alone.
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
        """The job's video, fetched and opened on first use, and kept until `do` has returned.

        Raises VideoError or InputError where it cannot be fetched or opened, or has too many frames.
        """

    @abstractmethod
    def use(self, name: str) -> Engine:
        """From now on `engine` is the one of this name; the one before may leave memory. Raises as loading it does."""

    @abstractmethod
    def progress(self, done: int, total: int) -> None:
        """Note how far the run is, in frames or steps. Raises CancelledError or StaleRunError."""

    @abstractmethod
    def alive(self) -> None:
        """Note that the run is alive where there is nothing to count. Raises as `progress`."""

    @abstractmethod
    def cancelled(self) -> bool:
        """Whether the run has been cancelled or replaced; for work that must clean up before it stops."""

    @abstractmethod
    def preempted(self, done: int = 0, total: int = 0) -> bool:
        """Whether this run should make way now, after `done` of `total` steps.

        With a total the run has had its turn first (see worker.turn.Turn), without one it makes way at once.
        """

    @abstractmethod
    def result_of(self, job_id: str | None) -> Result | None:
        """The tracks of another job; None where that job, or its tracks, are gone."""


Work = Callable[[JobContext[Any]], JobOutcome]
"""The type of a kind's `do`."""
