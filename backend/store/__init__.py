"""The store: what was asked for, what came out, and what still has to reach Label Studio."""

from backend.store.models import Delivery, Job, Project, Track
from backend.store.store import JobRequest, StaleRunError, Store, UnknownJobError

__all__ = ["Delivery", "Job", "JobRequest", "Project", "StaleRunError", "Store", "Track", "UnknownJobError"]
