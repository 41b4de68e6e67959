"""The backend as a server: waitress in front of the application, and the reconciler beside it."""

from __future__ import annotations

import threading

from waitress.server import create_server  # type: ignore[import-untyped]

from backend.http.app import create_app
from backend.label_studio.incoming.reading import AnnotationReader
from backend.label_studio.outgoing.delivery import deliverer
from backend.queue import JobQueue
from backend.reconcile import Reconciler
from backend.settings import Settings
from backend.store import Store
from trajseg.errors import ServiceError


class BackendServer:
    """Listens from its making; answers from `start` or `run` to `stop`.

    Args:
        settings: `host`, `port` (0: any free one) and `threads` say how to listen.

    Raises ServiceError when the port is taken or the store does not answer.
    """

    def __init__(self, settings: Settings) -> None:
        self.store = Store(settings.store_url)
        self.store.migrate()
        self.queue = JobQueue(settings.redis_url, settings.job_timeout_seconds)
        self.app = create_app(settings, self.store, self.queue)
        try:
            self._server = create_server(
                self.app,
                host=settings.host,
                port=settings.port,
                threads=settings.threads,
                ident="trajseg",
                max_request_body_size=settings.max_request_bytes,
            )
        except OSError as error:
            raise ServiceError(
                f"The backend cannot listen on {settings.host}:{settings.port} ({error.strerror}).",
                "Choose another port with TRAJSEG_PORT.",
            ) from error
        # Links to key frames carry the port that was found.
        self.settings = settings.model_copy(update={"port": self._server.effective_port})
        self.app.extensions["trajseg"].settings = self.settings
        self._reconciler = Reconciler(
            self.store,
            self.queue,
            self.settings,
            deliverer(self.store, self.settings),
            AnnotationReader(self.store, self.settings),
        )
        self.app.extensions["trajseg"].hinted = self._reconciler.wake
        self._thread = threading.Thread(target=self._server.run, name="backend", daemon=True)

    @property
    def url(self) -> str:
        """Where it listens, with the port that was found."""
        return f"http://{self.settings.host}:{self.settings.port}"

    def start(self) -> None:
        """Answer from a thread."""
        self._reconciler.start()
        self._thread.start()

    def run(self) -> None:
        """Answer from this thread until `stop`, SIGINT or SIGTERM."""
        self._reconciler.start()
        self._server.run()

    def stop(self) -> None:
        """Stop answering; requests under way get a few seconds."""
        self._server.close()
        self._server.task_dispatcher.shutdown(timeout=5)
        self._reconciler.stop()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self.queue.close()
        self.store.close()
