"""Everything in one command: starts, watches and stops queue server, backend and worker together."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import httpx
from rq import Worker

from backend.label_studio.setup.engines import proposal
from backend.locks import held_alone
from backend.reconcile import reconcile
from backend.server import BackendServer
from backend.settings import Settings
from trajseg.engines.registry import check_engine
from trajseg.errors import ServiceError
from worker.child import spawn, stop
from worker.valkey import EmbeddedValkey

log = logging.getLogger("trajseg.serve")

WATCH_SECONDS = 0.5
HEALTHY_SECONDS = 30.0
FIRST_SECONDS = 1.5
"""Pause after the first signal: RQ ignores a second one within 1 s."""
WORKER_SECONDS = 5.0
"""How long a stopping worker may take to store its frames and return its job."""
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A worker that ran this long is restarted at once when it dies; after shorter runs, back-off grows."""


class Serve:
    """All of trajseg on this machine, with SQLite and an embedded Valkey unless the settings name others.

    Args:
        settings: a port of 0 uses a free one.
        say: receives the lines for the person at the terminal.
    """

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self.settings = settings.model_copy(update={"data_dir": settings.data_dir.resolve()})
        self.say = say
        self.stopping = threading.Event()
        self._valkey: EmbeddedValkey | None = None
        self._worker: subprocess.Popen[bytes] | None = None
        self._worker_began = 0.0
        self._worker_due = 0.0
        self._early_deaths = 0

    def run(self) -> None:
        """Starts everything, watches it until `stopping` is set, and stops everything, even after an error.

        Raises InputError if the port or the data folder is in use, QueueError without a queue server,
        ServiceError if the backend or the first worker does not start, CheckpointError if there is no such model or its
        weights are missing.
        """
        # A model that cannot be loaded is reported before anything starts.
        check_engine(self.settings.model)
        with ExitStack() as stack:
            stack.enter_context(_only_one(self.settings.data_dir))
            if "redis_url" not in self.settings.model_fields_set:
                self._valkey = EmbeddedValkey(self.settings.data_dir / "valkey")
                stack.callback(self._valkey.stop)
                self._valkey.start()
                self.settings = self.settings.model_copy(update={"redis_url": self._valkey.url})
            self._backend = BackendServer(self.settings)
            self._backend.start()
            stack.callback(self._backend.stop)
            self.settings = self._backend.settings
            stack.callback(self._stop_worker)
            self._start_worker()
            self._wait_for_backend()
            self._wait_for_worker()
            if not self.stopping.is_set():
                self._tell()
            while not self.stopping.wait(WATCH_SECONDS):
                self._watch()
            self.say("Stopping ...")
        self.say("Stopped.")

    def _start_worker(self) -> None:
        """Starts the worker; if there is no other, jobs that the last one left unfinished are queued first."""
        if self._valkey is not None:
            at_once = self.settings.model_copy(update={"stale_after_seconds": 0.0})
            reconcile(self._backend.store, self._backend.queue, at_once, grace_seconds=0.0)
        program = [sys.executable, "-P", "-c", "from trajseg.cli import main; main()", "worker"]
        self._worker = spawn(program, self._worker_environment())
        self._worker_began = time.monotonic()
        log.info("the worker has the process id %d", self._worker.pid)

    def _worker_environment(self) -> dict[str, str]:
        """This process's environment, with what `serve` determined or was given on its command line."""
        settings = self.settings
        return {
            **os.environ,
            "REDIS_URL": settings.redis_url,
            "TRAJSEG_DATA_DIR": str(settings.data_dir),
            "TRAJSEG_DEVICE": settings.device,
            "TRAJSEG_DTYPE": settings.dtype,
            "TRAJSEG_FOUR_BIT": "1" if settings.four_bit else "0",
            "TRAJSEG_MODEL": settings.model,
            "TRAJSEG_PORT": str(settings.port),
        }

    def _stop_worker(self) -> None:
        if self._worker is not None:
            # An idle worker exits on the first signal; a busy one returns its job on the second.
            stop(self._worker, FIRST_SECONDS, WORKER_SECONDS)

    def _wait_for_backend(self) -> None:
        deadline = time.monotonic() + HEALTHY_SECONDS
        while not _healthy(f"{self._backend.url}/health"):
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"The backend does not answer at {self._backend.url}/health.", "See the lines above."
                )
            time.sleep(0.1)

    def _wait_for_worker(self) -> None:
        """Waits until the worker has loaded its model."""
        self.say(f"Loading {self.settings.model} ...")
        while not self.stopping.wait(0.1):
            assert self._worker is not None
            if self._worker.poll() is not None:
                raise ServiceError(
                    f"The worker does not start (exit code {self._worker.returncode}).",
                    "See the reason above.",
                )
            workers = Worker.all(connection=self._backend.queue.connection)
            if any(worker.pid == self._worker.pid for worker in workers):
                return

    def _watch(self) -> None:
        """Restarts what has died."""
        if self._valkey is not None and not self._valkey.running:
            log.warning("the embedded Valkey has died and is being restarted; the store still has all jobs")
            self._valkey.start()
        assert self._worker is not None
        if self._worker.poll() is None:
            return
        if self._worker_due == 0.0:
            lived = time.monotonic() - self._worker_began
            self._early_deaths = self._early_deaths + 1 if lived < STEADY_SECONDS else 0
            pause = min(2.0**self._early_deaths - 1, LONGEST_PAUSE_SECONDS)
            self._worker_due = time.monotonic() + pause
            log.warning(
                "the worker has died (exit code %d) and will be restarted in %.0f s",
                self._worker.returncode,
                pause,
            )
        if time.monotonic() >= self._worker_due:
            self._worker_due = 0.0
            self._start_worker()

    def _store_name(self) -> str:
        if not self.settings.database_url:
            return str(self.settings.data_dir / "trajseg.db")
        return self.settings.redact(self.settings.database_url.rpartition("@")[2])

    def _tell(self) -> None:
        settings = self.settings
        for line in proposal("model" in settings.model_fields_set):
            self.say(line)
        self.say(f"trajseg is ready at {settings.external_url}")
        self.say(f"  jobs     {settings.external_url}/page/jobs")
        self.say(f"  model    {settings.model_version()}")
        self.say(f"  store    {self._store_name()}")
        if settings.label_studio_api_key.get_secret_value():
            self.say(f"  delivery to Label Studio at {settings.label_studio_url}")
        else:
            self.say("  delivery waits: LABEL_STUDIO_API_KEY is not set, so predictions stay in the store")
        self.say("Connect it in Label Studio (Settings > Model), or with `trajseg project create`.")
        self.say("Ctrl-C stops everything.")


def _only_one(data_dir: Path) -> AbstractContextManager[None]:
    """Keeps a second `trajseg serve` out of the folder."""
    busy = f"Another `trajseg serve` (process {{process}}) is using {data_dir}."
    return held_alone(data_dir / "serve.lock", busy, "Stop it, or use another folder with --data-dir.")


def _healthy(url: str) -> bool:
    try:
        # Certificates, which plain HTTP does not need, would take longer to load than the answer.
        return httpx.get(url, timeout=2.0, trust_env=False, verify=False).status_code == 200
    except httpx.HTTPError:
        return False
