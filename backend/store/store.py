"""Store: all persistent data of the service, in parts by noun."""

from __future__ import annotations

from datetime import datetime

from backend.store.adoptions import Adoptions
from backend.store.backlog import Backlog
from backend.store.clock import database_now
from backend.store.corrections import Corrections
from backend.store.database import Database
from backend.store.deliveries import DeliveryStore
from backend.store.engines import ProjectEngines
from backend.store.failures import Failures
from backend.store.figures import Figures
from backend.store.jobs import JobStore
from backend.store.partial import PartialFrameStore
from backend.store.pictures import Pictures
from backend.store.preemption import Preemption
from backend.store.projects import ProjectStore
from backend.store.retention import Retention
from backend.store.runs import RunStore
from backend.store.selection import Selections
from backend.store.sides import Sides
from backend.store.superseded import Superseded
from backend.store.tasks import Tasks
from backend.store.unread import UnreadTasks
from backend.store.versions import Versions


class Store:
    """One database. Safe to share between threads; returned objects are copies.

    Args:
        database_url: `sqlite:///file` or `postgresql://...`; see Database.

    Attributes:
        projects: Label Studio's projects.
        jobs: requests and results.
        runs: what workers write while they run a job.
        backlog: queued jobs and lost runs, for the reconciler.
        preemption: which jobs yield to which.
        failures: failed jobs by reason.
        figures: counts and ages for /metrics.
        engines: the engine chosen for each project.
        partial: frames of unfinished jobs.
        deliveries: the outbox of predictions.
        superseded: predictions to be deleted in Label Studio.
        selections: jobs that are cancelled or queued again together.
        adoptions: refined tracks written into annotations.
        unread: tasks whose annotations have to be read.
        corrections: what people changed.
        sides: which videos of a project are held out of training.
        versions: model versions of projects.
        retention: deletes finished jobs that are no longer needed.
    """

    def __init__(self, database_url: str) -> None:
        self.database = Database(database_url)
        self.projects = ProjectStore(self.database)
        self.jobs = JobStore(self.database)
        self.runs = RunStore(self.database)
        self.backlog = Backlog(self.database)
        self.preemption = Preemption(self.database)
        self.failures = Failures(self.database)
        self.figures = Figures(self.database)
        self.engines = ProjectEngines(self.database)
        self.partial = PartialFrameStore(self.database)
        self.deliveries = DeliveryStore(self.database)
        self.superseded = Superseded(self.database)
        self.tasks = Tasks(self.database)
        self.unread = UnreadTasks(self.database)
        self.corrections = Corrections(self.database)
        self.sides = Sides(self.database)
        self.versions = Versions(self.database)
        self.pictures = Pictures(self.database)
        self.adoptions = Adoptions(self.database)
        self.selections = Selections(self.database)
        self.retention = Retention(self.database)

    def migrate(self) -> None:
        """Creates the tables, or upgrades them to this version. Safe to call on every start."""
        self.database.migrate()

    def now(self) -> datetime:
        """The database's current time: the one clock for whatever several processes compare."""
        with self.database.read() as session:
            return database_now(session)

    def close(self) -> None:
        """Closes all connections."""
        self.database.close()
