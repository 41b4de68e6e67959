"""Job kinds: the registry of what the backend knows of each kind of job. What a kind does is in worker/kinds/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.store.params import (
    CaptionParams,
    FinetuneParams,
    JobParams,
    PrelabelParams,
    PreviewParams,
    RefineParams,
)
from trajseg.errors import InputError

QUEUES = ("interactive", "prelabel", "finetune")
"""In the order in which a worker empties them."""


def check_queue(name: str) -> None:
    """Raises InputError where there is no such queue."""
    if name not in QUEUES:
        raise InputError(f"There is no queue {name[:40]!r}.", f"Use one of {', '.join(QUEUES)}.")


@dataclass(frozen=True, kw_only=True)
class JobKind:
    """One kind of job. Its work is the function `do` of the module `worker.kinds.NAME`.

    Args:
        name: as the database, the API and the metrics write it; at most 20 characters.
        title: as pages show it.
        queue: where its jobs wait unless a request names another queue; one of QUEUES.
        params: validates what a job of this kind takes, when it is created and when it runs.
        delivers: its result becomes a prediction in Label Studio.
        needs_clip: the worker fetches and opens the job's video when `do` asks for the clip.
        adapted: its engine has the adapter that serves the job's project.
        task_state: what the Data Manager's column `trajseg_state` says after the delivery; empty leaves it.

    Raises:
        InputError: the name is no Python name of at most 20 characters, or there is no such queue.
    """

    name: str
    title: str
    queue: str
    params: type[JobParams] = JobParams
    delivers: bool = False
    needs_clip: bool = True
    adapted: bool = True
    task_state: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or len(self.name) > 20:
            raise InputError(
                f"A job kind cannot be called {self.name!r}.", "Use letters, digits and _, at most 20 characters."
            )
        check_queue(self.queue)


KINDS = {
    kind.name: kind
    for kind in (
        JobKind(
            name="prelabel",
            title="Prelabel",
            queue="prelabel",
            params=PrelabelParams,
            delivers=True,
            task_state="prelabelled",
        ),
        # Somebody waits for these, and they are short; behind a thousand prelabels they would come too late.
        JobKind(
            name="refine",
            title="Refine",
            queue="interactive",
            params=RefineParams,
            delivers=True,
            task_state="refined",
        ),
        JobKind(name="caption", title="Caption", queue="interactive", params=CaptionParams, delivers=True),
        JobKind(name="preview", title="Preview", queue="interactive", params=PreviewParams),
        # A training begins at the base: what serves must not keep it from being replaced.
        JobKind(
            name="finetune",
            title="Fine-tune",
            queue="finetune",
            params=FinetuneParams,
            needs_clip=False,
            adapted=False,
        ),
    )
}
"""All kinds of job, by name. A new one is an entry here and a module in worker/kinds/; see docs/extending.md."""


def job_kind(name: str) -> JobKind:
    """The kind of this name. Raises InputError, which lists those that there are."""
    kind = KINDS.get(name)
    if kind is None:
        raise InputError(f"There is no kind of job {name[:40]!r}.", f"Use one of {', '.join(KINDS)}.")
    return kind


def title_of(name: str) -> str:
    """How pages call a kind; a job that another version of trajseg created may be of a kind unknown here."""
    return KINDS[name].title if name in KINDS else name


def params_of(name: str, form: Mapping[str, Any]) -> JobParams:
    """The params of a job of the kind `name`, as far as this version knows the kind. Raises InputError."""
    return (KINDS[name].params if name in KINDS else JobParams).read(form)
