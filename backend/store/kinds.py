"""Job kinds: the registry of what the backend knows of each kind of job. The work itself is in worker/kinds/."""

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
    """Raises InputError if there is no such queue."""
    if name not in QUEUES:
        raise InputError(f"There is no queue {name[:40]!r}.", f"Use one of {', '.join(QUEUES)}.")


@dataclass(frozen=True, kw_only=True)
class JobKind:
    """One kind of job. Its work is done by the function `do` in the module `worker.kinds.NAME`.

    Args:
        name: as in the database, API and metrics; at most 20 characters.
        title: as shown on pages.
        queue: where its jobs wait unless a request names another queue; one of QUEUES.
        params: validates the params of a job of this kind, on creation and when it runs.
        delivers: whether its result becomes a prediction in Label Studio.
        needs_clip: whether the worker fetches and opens the job's video when `do` asks for the clip.
        adapted: whether its engine uses the adapter that serves the job's project.
        one_per_project: whether a project has at most one unfinished job of this kind.
        task_state: the value of the column `trajseg_state` after delivery; empty leaves it unchanged.

    Raises:
        InputError: the name is not a Python identifier of at most 20 characters, or there is no such queue.
    """

    name: str
    title: str
    queue: str
    params: type[JobParams] = JobParams
    delivers: bool = False
    needs_clip: bool = True
    adapted: bool = True
    one_per_project: bool = False
    task_state: str = ""

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or len(self.name) > 20:
            raise InputError(
                f"{self.name!r} is not a valid job kind name.", "Use letters, digits and _, at most 20 characters."
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
        # Someone is waiting for these, and they are short; behind a thousand prelabel jobs they would come too late.
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
        # Training starts from the base: a broken serving version must not prevent its own replacement.
        JobKind(
            name="finetune",
            title="Fine-tune",
            queue="finetune",
            params=FinetuneParams,
            needs_clip=False,
            adapted=False,
            one_per_project=True,
        ),
    )
}
"""All job kinds, by name. A new kind is an entry here and a module in worker/kinds/; see docs/extending.md."""


def job_kind(name: str) -> JobKind:
    """The kind of this name. Raises InputError, which lists the known kinds."""
    kind = KINDS.get(name)
    if kind is None:
        raise InputError(f"There is no job kind {name[:40]!r}.", f"Use one of {', '.join(KINDS)}.")
    return kind


def title_of(name: str) -> str:
    """The title that pages show for a kind; jobs of another trajseg version may have a kind unknown here."""
    return KINDS[name].title if name in KINDS else name


def params_of(name: str, form: Mapping[str, Any]) -> JobParams:
    """The params of a job of kind `name`, as far as this version knows the kind. Raises InputError."""
    return (KINDS[name].params if name in KINDS else JobParams).read(form)
