"""The store: requests, results, corrections, and the outbox for Label Studio."""

from backend.store.corrections import Change, Corrections, PaintedTrack, ReadAnnotation
from backend.store.models import Annotation, Correction, Delivery, Job, Project, TaskPictures, Track, UnreadTask
from backend.store.request import JobRequest
from backend.store.rows import StaleRunError, UnknownJobError
from backend.store.store import Store

__all__ = [
    "Annotation",
    "Change",
    "Correction",
    "Corrections",
    "Delivery",
    "Job",
    "JobRequest",
    "PaintedTrack",
    "Project",
    "ReadAnnotation",
    "StaleRunError",
    "Store",
    "TaskPictures",
    "Track",
    "UnknownJobError",
    "UnreadTask",
]
