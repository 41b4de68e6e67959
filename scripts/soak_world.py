"""The environment of `scripts/soak.py`: real processes that can be killed and restarted, and the fake Label Studio."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from flask import Response
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.serving import make_server

from backend.store import Store
from tests.backend.label_studio.conftest import LEGACY, FakeLabelStudio
from worker.child import spawn, stop
from worker.valkey import EmbeddedValkey, free_port

TESTS = Path(__file__).parents[1] / "tests"
WORKERS = 2
SKEWS = (0, 0, 300, -300)
"""Seconds by which a worker's clock is wrong, where libfaketime is installed; only where the database has a clock of
its own. All processes on an SQLite file share the machine's."""
GRACE_SECONDS = 20.0
PROGRAM = [sys.executable, "-P", "-c", "from trajseg.cli import main; main()"]


class UnwellLabelStudio(FakeLabelStudio):
    """A fake: the tests' fake Label Studio, with faults that affect every request."""

    def __init__(self) -> None:
        super().__init__()
        self.mood = ""
        self._well = threading.Event()
        self._well.set()
        self._port = self._server.port

    def set_mood(self, mood: str) -> None:
        """Empty: healthy."""
        if self.mood == "away":
            self._server = make_server("127.0.0.1", self._port, self._app(), threaded=True)
            threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.mood, self.lose_answer = mood, mood == "loses answers"
        if mood == "hangs":
            self._well.clear()
        else:
            self._well.set()
        if mood == "away":
            self.stop()

    def _guard(self) -> Response | None:
        if self.mood == "hangs":
            self._well.wait(120)
        if self.mood == "500":
            return Response("<html>Server Error (500)</html>", 500)
        if self.mood == "401":
            return Response('{"detail": "Invalid token."}', 401, content_type="application/json")
        if self.mood == "429":
            return Response('{"detail": "Too many requests."}', 429, {"Retry-After": "2"})
        answer: Response | None = super()._guard()
        return answer


class World:
    """A backend, workers, a Valkey, a store and a Label Studio. Faults end by themselves, or in `look_after`.

    Args:
        database: URL of a PostgreSQL database, which is emptied; an SQLite file in the folder where it is empty.
    """

    def __init__(self, folder: Path, database: str) -> None:
        self.folder = folder
        self.is_postgresql = bool(database)
        self.studio = UnwellLabelStudio()
        self.store = Store(database or f"sqlite:///{folder / 'trajseg.db'}")
        if database:
            with self.store.database.engine.begin() as connection:
                connection.execute(text("DROP SCHEMA public CASCADE"))
                connection.execute(text("CREATE SCHEMA public"))
        self.store.migrate()
        self._valkey = EmbeddedValkey(folder / "valkey")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        (folder / "pace").write_text("0.05")
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(TESTS / "worker"), os.environ.get("PYTHONPATH", ""))),
            "REDIS_URL": self._valkey.url,
            "DATABASE_URL": self.store.database.url.render_as_string(hide_password=False),
            "LABEL_STUDIO_URL": self.studio.url,
            "LABEL_STUDIO_API_KEY": LEGACY,
            "SCRIPTED_PACE": str(folder / "pace"),
            "TRAJSEG_DATA_DIR": str(folder / "data"),
            "TRAJSEG_MODEL": "scripted_engine:build",
            "TRAJSEG_PORT": str(port),
            "TRAJSEG_RECONCILE_SECONDS": "2",
            # Beside other work a worker that gives way would never get done between two faults.
            "TRAJSEG_WORKER_NICE": "0",
        }
        self._backend: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes] | None] = [None] * WORKERS
        self._due: dict[int, float] = {}
        """When a worker, by its number, or the backend (the number after the last worker's) is started again."""
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> World:
        self._valkey.start()
        self._backend = self._start("backend")
        self._workers = [self._start("worker") for _ in range(WORKERS)]
        time.sleep(5.0)
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self._backend, *self._workers):
            if process is not None:
                stop(process, 5.0, 5.0)
        self._valkey.stop()
        self.studio.stop()
        self.store.close()

    def look_after(self, choose: random.Random) -> None:
        """Run due actions and restart processes that have ended, after a pause, as a supervisor does."""
        now = time.monotonic()
        due, self._later = (
            [what for at, what in self._later if at <= now],
            [entry for entry in self._later if entry[0] > now],
        )
        for what in due:
            what()
        for number, process in enumerate((*self._workers, self._backend)):
            if process is None or process.poll() is None:
                continue
            if number not in self._due:
                self._due[number] = now + choose.uniform(0, 4)
            elif now >= self._due[number]:
                del self._due[number]
                if number == WORKERS:
                    self._backend = self._start("backend")
                else:
                    self._workers[number] = self._start("worker", choose.choice(SKEWS))
        if not self._valkey.running:
            self._valkey.start()

    def heal(self) -> None:
        """Ends all faults; `look_after` restarts the processes that have ended."""
        for _, what in self._later:
            what()
        self._later = []
        for thread in self._threads:
            thread.join()
        self.studio.set_mood("")

    def complaints(self) -> dict[str, int]:
        """Last lines of the tracebacks in the logs, with counts."""
        found: Counter[str] = Counter()
        for path in self.folder.glob("*.log"):
            log = path.read_text(errors="replace")
            for last in re.findall(r"^Traceback .*?\n(?:[ \t].*\n|\n)+(\S.*)", log, re.MULTILINE):
                found[re.sub(r"[0-9a-f-]{36}|\d+", "#", last)[:120]] += 1
        return dict(found.most_common(12))

    # Faults

    def kill_worker(self, choose: random.Random) -> None:
        self._signal(choose.choice(self._workers), signal.SIGKILL)

    def stop_worker(self, choose: random.Random, kill_after: float | None = None) -> None:
        worker = choose.choice(self._workers)
        self._signal(worker, signal.SIGTERM)
        # A worker ends after its job; `docker stop` kills it after a timeout.
        self._after(GRACE_SECONDS if kill_after is None else kill_after, lambda: self._signal(worker, signal.SIGKILL))

    def hang_worker(self, choose: random.Random, seconds: float) -> None:
        worker = choose.choice(self._workers)
        self._signal(worker, signal.SIGSTOP)
        self._after(seconds, lambda: self._signal(worker, signal.SIGCONT))

    def kill_backend(self) -> None:
        self._signal(self._backend, signal.SIGKILL)

    def stop_backend(self) -> None:
        backend = self._backend
        self._signal(backend, signal.SIGTERM)
        self._after(GRACE_SECONDS, lambda: self._signal(backend, signal.SIGKILL))

    def kill_valkey(self) -> None:
        self._signal(self._valkey.process, signal.SIGKILL)

    def empty_valkey(self) -> None:
        try:
            with Redis.from_url(self._valkey.url, socket_timeout=2) as connection:
                connection.flushall()
        except RedisError as error:
            print(f"Valkey is not emptied: {error}")

    def hang_valkey(self, seconds: float) -> None:
        process = self._valkey.process
        self._signal(process, signal.SIGSTOP)
        self._after(seconds, lambda: self._signal(process, signal.SIGCONT))

    def label_studio(self, mood: str, seconds: float) -> None:
        self.studio.set_mood(mood)
        self._after(seconds, lambda: self.studio.set_mood("") if self.studio.mood == mood else None)

    def lock_database(self, seconds: float) -> None:
        self._threads.append(threading.Thread(target=self._lock, args=(seconds,)))
        self._threads[-1].start()

    def drop_connections(self) -> None:
        with self.store.database.engine.begin() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )

    def _lock(self, seconds: float) -> None:
        try:
            if self.is_postgresql:
                with self.store.database.engine.begin() as connection:
                    connection.execute(text("LOCK TABLE jobs, deliveries IN ACCESS EXCLUSIVE MODE"))
                    time.sleep(seconds)
            else:
                file = sqlite3.connect(self.folder / "trajseg.db", timeout=30, isolation_level=None)
                file.execute("BEGIN EXCLUSIVE")
                time.sleep(seconds)
                file.execute("ROLLBACK")
                file.close()
        except (SQLAlchemyError, sqlite3.Error) as error:
            # Another injected fault may cut the connection that holds the lock.
            print(f"the lock ends early: {type(error).__name__}")

    def _start(self, command: str, skew: int = 0) -> subprocess.Popen[bytes]:
        environment = dict(self._environment)
        if skew and self.is_postgresql and (library := _libfaketime()):
            environment |= {"LD_PRELOAD": library, "FAKETIME": f"{skew:+d}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        with (self.folder / f"{command}.log").open("ab") as log:
            return spawn([*PROGRAM, command], environment, log)

    def _after(self, seconds: float, what: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, what))

    def _signal(self, process: subprocess.Popen[bytes] | None, number: int) -> None:
        if process is not None and process.poll() is None:
            process.send_signal(number)


def _libfaketime() -> str:
    """The library that shifts a process's clock; empty if not installed."""
    found = importlib.util.find_spec("libfaketime")
    places = [] if found is None else [Path(place) for place in found.submodule_search_locations or ()]
    return next((str(path) for place in places for path in place.rglob("libfaketime.so.1")), "")
