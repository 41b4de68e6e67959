"""The composition root: turns settings into store, queue, service and reconciler, wired in this one place."""

from __future__ import annotations

import gc
import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from backend.engines import OfferedEngines
from backend.label_studio.api import load_sdk
from backend.label_studio.incoming.reading import AnnotationReader
from backend.label_studio.outgoing.courier import Courier
from backend.private import tighten_all
from backend.queue import JobQueue
from backend.reconcile import Reconciler
from backend.retention import drop_finished_jobs
from backend.service.service import Service
from backend.service.training import due_trainings
from backend.settings import Settings, load_settings
from backend.store import Store

log = logging.getLogger("trajseg.backend")

EMBEDDED_QUEUE = Path("valkey/url")
"""In the data folder while `trajseg serve` runs its own Valkey: the address, which contains the password."""


@dataclass(frozen=True)
class Backend:
    """The parts of a backend process; its host (waitress, gunicorn, label-studio-ml) starts and closes it.

    Attributes:
        service: called by the HTTP routes and the label-studio-ml adapter.
        reconciler: reads annotations, requeues lost jobs and makes deliveries once started.
    """

    settings: Settings
    store: Store
    queue: JobQueue
    service: Service
    reconciler: Reconciler

    def close(self) -> None:
        """Stops the reconciler and background work, and closes all connections."""
        self.reconciler.stop()
        self.service.jobs.close()
        self.queue.close()
        self.store.close()


def compose(settings: Settings | None = None, store: Store | None = None, queue: JobQueue | None = None) -> Backend:
    """A backend whose reconciler has not been started. Neither the queue nor Label Studio needs to be up.

    Args:
        settings: defaults to those of the environment.
        store, queue: default to ones made from the settings; a store that is passed in is not migrated.

    Raises InputError for invalid settings, ServiceError if the store does not answer.
    """
    settings = settings or load_settings()
    tighten_all(settings.data_dir)
    if store is None:
        store = Store(settings.store_url)
        store.migrate()
    queue = queue or JobQueue(settings.redis_url, settings.job_timeout_seconds)
    read = AnnotationReader(store, settings)
    # Read once: the worker also keeps the engines that it was started with.
    engines = OfferedEngines.from_settings(settings)
    due = due_trainings(store, engines, settings.finetune_after)
    reconciler = Reconciler(
        store,
        queue,
        settings,
        deliver=Courier(store, settings).round,
        read=lambda: [*read(), *due()],
        retire=lambda: drop_finished_jobs(store, settings),
    )

    def noticed(project_id: int, configuration: bool) -> None:
        # A webhook only says that something may have changed: look now instead of in the next round.
        read.notice(project_id, configuration)
        reconciler.wake()

    service = Service(settings, store, queue, engines, on_notice=noticed)
    return Backend(settings, store, queue, service, reconciler)


def compose_beside_serve() -> Backend:
    """The parts for a command. Without REDIS_URL it uses the Valkey of the `trajseg serve` in the same data folder.

    Raises like `compose`.
    """
    settings = load_settings()
    if "redis_url" not in settings.model_fields_set:
        with suppress(OSError):
            url = (settings.data_dir / EMBEDDED_QUEUE).read_text(encoding="utf-8").strip()
            settings = settings.model_copy(update={"redis_url": url})
    return compose(settings)


def settle(settings: Settings) -> None:
    """Prepares the process for serving: what would stop all threads is done now.

    Label Studio's SDK is loaded if there is a token to use it with: 70 MB, and a second in which nothing else runs.
    What exists now, modules above all, is exempt from garbage collection: a full one took 110 to 180 ms every few
    seconds under load; afterwards 3 ms.
    """
    if settings.label_studio_api_key.get_secret_value():
        load_sdk()
    gc.collect()
    gc.freeze()
