"""Secrets are planted in every setting and in a task's address; a full run shows them nowhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from label_config import fill

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1]
PROGRAM = [sys.executable, "-P", "-c", "from trajseg.cli import main; main()"]
SECRETS = {
    "LABEL_STUDIO_API_KEY": "5ec2e7a1b0c4d8f35ec2e7a1b0c4d8f35ec2e7a1",
    "TRAJSEG_BASIC_AUTH_PASSWORD": "planted-password-of-people",
    "TRAJSEG_SECRET_KEY": "planted-key-of-links",
    "TRAJSEG_API_TOKEN": "planted-token-of-programs",
    "TRAJSEG_WEBHOOK_SECRET": "planted-secret-of-notices",
}
IN_ADDRESSES = ("planted-user-password", "planted-signature", "planted-hash")
VIDEO = "https://ann:planted-user-password@127.0.0.1:1/clip.mp4?X-Amz-Signature=planted-signature#planted-hash"
LOCAL = "clip.mp4"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, tiny_clip: Any) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("planted")
    (folder / LOCAL).write_bytes(tiny_clip.path.read_bytes())
    (folder / "pace").write_text("0")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TRAJSEG_", "LABEL_STUDIO"))}
    for name in ("REDIS_URL", "DATABASE_URL"):
        kept.pop(name, None)
    return {
        **kept,
        **SECRETS,
        "PYTHONPATH": os.pathsep.join([str(TESTS / "worker"), str(TESTS.parent)]),
        "SCRIPTED_PACE": str(folder / "pace"),
        "LABEL_STUDIO_URL": "http://127.0.0.1:9",
        "TRAJSEG_BASIC_AUTH_USER": "studio",
        "TRAJSEG_MODEL": "scripted_engine:build",
        "TRAJSEG_DATA_DIR": str(folder / "data"),
        "TRAJSEG_MEDIA_DIRS": str(folder),
        "TRAJSEG_MEDIA_HOSTS": "127.0.0.1",
        "TRAJSEG_RECONCILE_SECONDS": "0.5",
    }


@pytest.fixture(scope="module")
def outputs(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """All output of a full run, by place."""
    folder = Path(environment["TRAJSEG_DATA_DIR"]).parent
    log = folder / "output.txt"
    with log.open("wb") as written:
        process = subprocess.Popen(
            [*PROGRAM, "serve", "--port", "0"],
            env=environment, stdout=written, stderr=subprocess.STDOUT, cwd=folder,
        )  # fmt: skip
    try:
        yield run(folder, log)
    finally:
        process.terminate()
        process.wait(60)


def run(folder: Path, log: Path) -> dict[str, str]:
    url = wait_for(lambda: (re.search(r"ready at (http://\S+)", log.read_text()) or [None, None])[1])
    token = b64encode(f"studio:{SECRETS['TRAJSEG_BASIC_AUTH_PASSWORD']}".encode()).decode()
    found: dict[str, str] = {}
    with httpx.Client(base_url=url, headers={"Authorization": f"Basic {token}"}, timeout=30) as client:

        def ask(method: str, path: str, **more: Any) -> httpx.Response:
            answer = client.request(method, path, **more)
            found[f"{method} {path}"] = f"{answer.headers}\n{answer.text}"
            return answer

        for number, video in ((1, VIDEO), (2, str(folder / LOCAL)), (3, "http://127.0.0.1:9/data/upload/1/a.mp4")):
            for instruction in ("red", "divide by zero"):
                body = {
                    "tasks": [{"id": number, "data": {"video": video, "instruction": instruction}}],
                    "project": "6.1795422572",
                    "label_config": fill("mask"),
                    "params": {"context": None},
                }
                ask("POST", "/predict", json=body)
        over = {"done", "failed"}

        def settled() -> bool:
            jobs = client.get("/jobs").json()["jobs"]
            return len(jobs) == 6 and sum(job["state"] in over for job in jobs) >= 4

        wait_for(settled)
        # A delivery has been tried, and failed because there is no Label Studio.
        time.sleep(2)
        jobs = ask("GET", "/jobs").json()["jobs"]
        for path in ("/", "/health", "/ready", "/metrics", "/versions", "/failures", "/page/jobs", "/page/jobs.json", "/page/report"):  # fmt: skip # noqa: E501
            ask("GET", path)
        for job in jobs:
            for path in ("", "/result"):
                ask("GET", f"/jobs/{job['id']}{path}")
            for path in ("", "/news.json", "/tracks.json", "/masks.json"):
                ask("GET", f"/page/jobs/{job['id']}{path}")
            ask("POST", f"/jobs/{job['id']}/retry", headers={"Authorization": "Bearer wrong"})
        ask("POST", "/webhook", json={"action": "ANNOTATION_CREATED", "project": {"id": 6}})
        ask("POST", "/predict", content=b"{" + SECRETS["TRAJSEG_API_TOKEN"].encode())
        ask("GET", "/projects/6/export?format=coco-vid")
    found["stdout and stderr"] = log.read_text()
    for written in (folder / "data").rglob("*.log"):
        found[str(written)] = written.read_text(errors="replace")
    return found


def wait_for(probe: Any, seconds: float = 100.0) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        if value := probe():
            return value
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_full_run_shows_no_secret(outputs: dict[str, str]) -> None:
    assert len(outputs) > 40
    assert "ZeroDivisionError" in outputs["stdout and stderr"]
    for where, text in outputs.items():
        for secret in (*SECRETS.values(), *IN_ADDRESSES):
            assert secret not in text, (where, secret)


@pytest.mark.parametrize(
    "command",
    [
        ["doctor", "--read-only"],
        ["project", "create", "--title", "Planted", "-i", "red", VIDEO],
        ["project", "add", "6", "-i", "red", VIDEO],
        ["export", "--project", "6", "--format", "coco-vid", "--out", "out"],
        ["models", "list", "--project", "6"],
        ["finetune", "--project", "6"],
        ["segment", VIDEO, "red", "--out", "out"],
        ["backend", "--host", "0.0.0.0", "--port", "1"],
        ["worker", "--burst"],
    ],
    ids=lambda command: "-".join(command[:2]),
)
def test_no_command_says_a_secret(command: list[str], environment: dict[str, str], tmp_path: Path) -> None:
    without_store = command[0] in ("export", "models", "finetune", "backend")
    broken = {
        **environment,
        "DATABASE_URL": "postgresql://me:planted-store@127.0.0.1:1/x"
        if without_store
        else f"sqlite:///{tmp_path}/s.db",
        "REDIS_URL": "redis://:planted-queue@127.0.0.1:1/0",
        "TRAJSEG_DATA_DIR": str(tmp_path / "data"),
    }
    if command[0] == "worker":
        broken["REDIS_URL"] = "redis://:planted-queue@[::1/0"
    ran = subprocess.run(
        [*PROGRAM, *command], env=broken, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=90
    )
    text = ran.stdout + ran.stderr
    assert text.strip()
    for secret in (*SECRETS.values(), *IN_ADDRESSES, "planted-store", "planted-queue"):
        assert secret not in text, text


@pytest.mark.parametrize("module", ["backend.wsgi", "backend.ml_adapter._wsgi"])
def test_the_applications_for_other_servers_log_no_secret(
    module: str, environment: dict[str, str], tmp_path: Path
) -> None:
    program = (
        "import logging, os, threading\n"
        "logging.getLogger('gunicorn.error').addHandler(logging.StreamHandler())\n"
        "try:\n"
        f"    import {module}\n"
        "except ModuleNotFoundError as error:\n"
        "    raise SystemExit(f'missing {error.name}')\n"
        "token = os.environ['LABEL_STUDIO_API_KEY']\n"
        "for name in ('trajseg.backend', 'gunicorn.error', 'werkzeug', 'somebody.else'):\n"
        "    logging.getLogger(name).error('illegal header Token %s', token)\n"
        "def fail():\n"
        "    raise ValueError(token)\n"
        "thread = threading.Thread(target=fail)\n"
        "thread.start()\n"
        "thread.join()\n"
        "fail()\n"
    )
    changed = {**environment, "TRAJSEG_DATA_DIR": str(tmp_path), "REDIS_URL": "redis://127.0.0.1:1/0"}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=changed, capture_output=True, text=True, check=False, timeout=60
    )
    if "missing label_studio_ml" in ran.stderr:
        pytest.skip("label-studio-ml is not installed")
    assert ran.stderr.count("***") >= 5, ran.stderr
    assert SECRETS["LABEL_STUDIO_API_KEY"] not in ran.stdout + ran.stderr
