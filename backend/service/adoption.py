"""Adopting refined tracks into the corrected annotation, and undoing it; called by pages and routes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from backend.label_studio.client import LabelStudioClient
from backend.label_studio.outgoing import adoption
from backend.label_studio.outgoing.adoption import AdoptionError, Plan
from backend.label_studio.outgoing.delivery import connected
from backend.store.models import Adoption

if TYPE_CHECKING:
    from backend.service.service import Service

PATIENCE_SECONDS = 30.0
"""Timeout for Label Studio while a person is waiting for the page."""


def plan(service: Service, job_id: str) -> Plan:
    """What adopting a job's tracks would change; raises as `adopt` does."""
    with _client(service) as client:
        return adoption.plan(service.store, client, service.store.jobs.get(job_id))


def adopt(service: Service, job_id: str) -> Adoption:
    """Writes the tracks of a refine job into its annotation.

    Raises:
        UnknownJobError: there is no such job.
        AdoptionError: the annotation is not in the state that the tracks belong to; nothing was written.
        LabelStudioError: Label Studio cannot be reached.
    """
    with _client(service) as client:
        return adoption.adopt(service.store, client, service.store.jobs.get(job_id))


def undo(service: Service, job_id: str) -> Adoption:
    """Restores the annotation as it was before a job's tracks were adopted; raises as `adopt` does."""
    held = service.store.adoptions.of_job(service.store.jobs.get(job_id).id)
    if held is None or held.undone_at is not None:
        raise AdoptionError(f"The tracks of job {job_id} are not adopted.", "There is nothing to undo.")
    with _client(service) as client:
        adoption.undo(service.store, client, held)
    return held


@contextmanager
def _client(service: Service) -> Iterator[LabelStudioClient]:
    client = connected(service.settings, PATIENCE_SECONDS)
    try:
        yield client
    finally:
        client.close()
