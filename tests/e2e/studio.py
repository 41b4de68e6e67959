"""A real Label Studio 1.23.2 on loopback with its own data directory, and the requests that clicks cause."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

ROOT = Path(__file__).resolve().parents[2]
EXECUTABLE = Path(os.environ.get("TRAJSEG_LABEL_STUDIO", ROOT / ".venv-label-studio/bin/label-studio"))
EMPTY_DATA = EXECUTABLE.parents[1] / "empty-data"
"""A database without users, made by `scripts/install_label_studio.sh`; without it the first start takes a minute."""
USERNAME = "annotator@example.com"
PASSWORD = "corner-of-the-picture"
TOKEN = "0123456789abcdef0123456789abcdef01234567"

NO_TLS = False
"""For httpx's `verify`: these servers speak plain HTTP, and loading certificates takes longer than their answers."""

T = TypeVar("T")


def free_port() -> int:
    """A free port on 127.0.0.1."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(what: str, probe: Callable[[], T | None], seconds: float, every: float = 0.5) -> T:
    """Calls `probe` until it returns something; an error names what was awaited."""
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:.0f} s still no {what}")
        time.sleep(every)


class Process:
    """A server in its own process group that writes to a log file."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path, cwd: Path = ROOT) -> None:
        self.name = Path(command[0]).name
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, cwd=cwd, env=environment, stdout=output, stderr=output, start_new_session=True
            )

    def wait_for(self, url: str, seconds: float) -> None:
        """Waits until `url` answers 200; fails with the end of the log if the process dies or time runs out."""

        def probe() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"{self.name} ended with {self.process.returncode}:\n{self.tail()}")
            try:
                return httpx.get(url, timeout=5, verify=NO_TLS).status_code == 200
            except httpx.HTTPError:
                return False

        try:
            wait_until(f"answer from {url}", probe, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tail()}") from None

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self, seconds: float = 30) -> int:
        """SIGTERM, then SIGKILL to the whole group; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(10)
        return self.process.returncode


@dataclass
class LabelStudio:
    """A running server and its API, used like its own pages."""

    url: str
    data_dir: Path
    process: Process
    token: str = TOKEN
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Token {self.token}"},
            timeout=httpx.Timeout(120),
            verify=NO_TLS,
        )

    def call(self, method: str, path: str, **kwargs: Any) -> Any:
        """JSON of an answer; fails with the body if the status is an error."""
        answer = self.client.request(method, path, **kwargs)
        assert answer.is_success, f"{method} {path} -> {answer.status_code}: {answer.text[:2000]}"
        return answer.json() if answer.content else None

    def fetch(self, address: str) -> bytes:
        """A file in task data, from Label Studio itself or, without its token, from elsewhere."""
        if address.startswith("/"):
            answer = self.client.get(address, follow_redirects=True)
        else:
            answer = httpx.get(address, timeout=60, verify=NO_TLS)
        assert answer.is_success, f"{address} -> {answer.status_code}"
        return answer.content

    def project(self, project_id: int) -> dict[str, Any]:
        return self.call("GET", f"/api/projects/{project_id}")

    def tasks(self, project_id: int) -> list[dict[str, Any]]:
        """All tasks of a project in order, with full data, without asking the backend for predictions."""
        listed = self.call("GET", "/api/tasks", params={"project": project_id, "fields": "all", "page_size": 100})
        return sorted(listed["tasks"], key=lambda task: task["id"])

    def predictions(self, task_id: int) -> list[dict[str, Any]]:
        return self.call("GET", "/api/predictions", params={"task": task_id})

    def annotations(self, task_id: int) -> list[dict[str, Any]]:
        return self.call("GET", f"/api/tasks/{task_id}/annotations/")

    def retrieve_predictions(self, project_id: int, task_ids: list[int]) -> dict[str, Any]:
        """The Data Manager's "Retrieve Predictions" (Batch Predictions) for the selected rows."""
        return self.call(
            "POST",
            "/api/dm/actions",
            params={"id": "retrieve_tasks_predictions", "project": project_id},
            json={"selectedItems": {"all": False, "included": task_ids}},
        )


def _environment(data_dir: Path, media: Path, guarded: bool) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LABEL_STUDIO", "TRAJSEG"))}
    environment |= {
        "LABEL_STUDIO_BASE_DATA_DIR": str(data_dir),
        "LABEL_STUDIO_USERNAME": USERNAME,
        "LABEL_STUDIO_PASSWORD": PASSWORD,
        "LABEL_STUDIO_USER_TOKEN": TOKEN,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(media),
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    if not guarded:
        environment |= {"ML_BLOCK_LOCAL_IP": "false", "SSRF_PROTECTION_ENABLED": "false"}
    return environment


@contextmanager
def running_label_studio(
    data_dir: Path, media: Path, *, guarded: bool = False, host: str = "", seconds: float = 600
) -> Iterator[LabelStudio]:
    """Starts Label Studio with `data_dir` and stops it at the end.

    `guarded` leaves its two protections against private addresses on, the default. `host` is its public address, if
    that differs from its own.
    """
    port = free_port()
    if EMPTY_DATA.is_dir() and not data_dir.exists():
        shutil.copytree(EMPTY_DATA, data_dir)
    data_dir.mkdir(parents=True, exist_ok=True)
    process = Process(
        [
            str(EXECUTABLE), "start", "--no-browser", "--internal-host", "127.0.0.1",
            "--port", str(port), "--host", host or f"http://127.0.0.1:{port}",
        ],
        _environment(data_dir, media, guarded),
        data_dir / "server.log",
    )  # fmt: skip
    try:
        process.wait_for(f"http://127.0.0.1:{port}/health", seconds)
        yield LabelStudio(f"http://127.0.0.1:{port}", data_dir, process)
    finally:
        process.stop()


def copy_data(data_dir: Path, target: Path) -> Path:
    """The database of a migrated server, so that a second one starts in seconds."""
    shutil.copytree(data_dir, target, ignore=shutil.ignore_patterns("server.log", "media", "export"))
    return target
