"""The worker's state: what it keeps between jobs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import cast

from backend.label_studio.outgoing.courier import Courier, Hand
from backend.settings import Settings
from backend.store import Job, Store
from backend.store.kinds import KINDS
from trajseg.checkpoints.manifest import other_version, read_manifest
from trajseg.correction.mobile_sam import load_marks_model
from trajseg.engines.base import Adaptable, Engine
from trajseg.engines.registry import load_engine, loading_options
from worker.engines import LoadedEngines
from worker.figures import StageTally


class WorkerState:
    """What a worker keeps between jobs.

    Args:
        engine: TRAJSEG_MODEL, loaded; those of TRAJSEG_ENGINES are loaded on demand.

    Attributes:
        engines: all loaded engines.
        stopping: set once the worker has been asked to exit.
        preempted: preempted jobs that are not in the queue yet.
        tally: seconds per stage of the finished jobs.
    """

    def __init__(self, settings: Settings, store: Store, engine: Engine) -> None:
        self.settings, self.store = settings, store
        self.engines = LoadedEngines(
            settings.model,
            settings.engines,
            settings.device,
            settings.engine_memory_gb,
            loading_options(settings.dtype, settings.four_bit),
        )
        self.engines.put("", engine)
        self.stopping = threading.Event()
        self.preempted: list[str] = []
        self.courier = Courier(store, settings)
        self.hand = Hand(self.courier)
        self.tally = StageTally()

    @classmethod
    def load(cls, settings: Settings) -> WorkerState:
        """Opens the store and loads engine and marks model. Raises CheckpointError if one cannot be loaded."""
        engine = load_engine(settings.model, settings.device, **loading_options(settings.dtype, settings.four_bit))
        if settings.marks_model:
            load_marks_model(settings.marks_model)
        store = Store(settings.store_url)
        store.migrate()
        return cls(settings, store, engine)

    @property
    def engine(self) -> Engine:
        """The default engine, reloaded if it had been unloaded."""
        return self.engines.get()

    def engine_for(self, job: Job, name: str = "", in_use: Sequence[str] = ()) -> Engine:
        """The engine with this name, with the adapter that currently serves the job's project.

        Raises:
            InputError: this worker does not offer the engine.
            CheckpointError: it cannot be loaded; or the adapter's folder is incomplete or holds another adapter, or the
                adapter was trained on another base.
        """
        engine = self.engines.get(name, in_use)
        if not KINDS[job.kind].adapted or not engine.spec.adapts:
            return engine
        version = self.store.versions.served(job.project_id, engine.spec.model_version)
        adaptable = cast(Adaptable, engine)
        if version is None:
            return adaptable.adapted(None)
        folder = self.settings.data_dir / version.folder
        published = read_manifest(folder).model_version
        if published != version.name:
            raise other_version(folder, published, version.name)
        return adaptable.adapted(folder)
