"""Registry of the work: maps the name of a job kind to the function that does it."""

from __future__ import annotations

from importlib import import_module

from backend.store.kinds import KINDS
from trajseg.errors import TrajSegError
from worker.kinds.base import Work


def work_of(name: str) -> Work:
    """The function `do` of the module `worker.kinds.NAME`.

    Raises:
        TrajSegError: this version of trajseg has no such kind. Only names in KINDS are imported.
    """
    if name not in KINDS:
        raise TrajSegError(
            f"This worker cannot run {name} jobs.",
            "Start a worker of the same version of trajseg as the backend.",
        )
    work: Work = import_module(f"worker.kinds.{name}").do
    return work
