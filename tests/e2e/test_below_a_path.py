"""Label Studio below a path, behind a proxy that strips the path: uploads, tokens, doctor and delivery."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.e2e.serving import COLOUR_MODEL, Question, make_project, serving
from tests.e2e.studio import LabelStudio, copy_data, free_port, running_label_studio

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]
PREFIX = "/labelstudio"
NOT_PASSED_ON = {"connection", "transfer-encoding", "content-encoding", "content-length", "host"}


@contextmanager
def prefixing_proxy(port: int, target: str) -> Iterator[list[str]]:
    """A reverse proxy at PREFIX, like nginx; yields the requested paths outside PREFIX."""
    astray: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if not self.path.startswith(f"{PREFIX}/"):
                astray.append(self.path)
                self.send_error(404)
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() not in NOT_PASSED_ON}
            headers["Host"] = f"127.0.0.1:{port}"
            answer = httpx.request(
                self.command, target + self.path.removeprefix(PREFIX), content=body, headers=headers, timeout=120
            )
            self.send_response(answer.status_code)
            for name, value in answer.headers.multi_items():
                if name.lower() not in NOT_PASSED_ON:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = answer

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield astray
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def below(studio: LabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LabelStudio, list[str]]]:
    """Label Studio below PREFIX, and the paths requested outside it."""
    folder = tmp_path_factory.mktemp("below")
    (folder / "media").mkdir()
    port = free_port()
    public = f"http://127.0.0.1:{port}{PREFIX}"
    data = copy_data(studio.data_dir, folder / "data")
    with (
        running_label_studio(data, folder / "media", host=public) as inner,
        prefixing_proxy(port, inner.url) as astray,
    ):
        yield LabelStudio(public, data, inner.process), astray


def personal_token(studio: LabelStudio) -> str:
    """A personal access token of the user, as created by Account & Settings."""
    studio.call("POST", "/api/jwt/settings", json={"api_tokens_enabled": True, "legacy_api_tokens_enabled": True})
    return str(studio.call("POST", "/api/token/")["token"])


def failures(report: str) -> list[str]:
    """Lines of `trajseg doctor` that report a fault, except that the scripted engine is not a checkpoint."""
    return [line for line in report.splitlines() if line.startswith("FAIL") and "Model:" not in line]


def test_uploads_tokens_and_deliveries_below_a_path(
    below: tuple[LabelStudio, list[str]], questions: list[Question], tmp_path: Path
) -> None:
    studio, astray = below
    with serving(studio, tmp_path, COLOUR_MODEL, LABEL_STUDIO_API_KEY=personal_token(studio)) as trajseg:
        assert failures(trajseg.cli("doctor").stdout) == []
        project = make_project(trajseg, studio, "mask", "Below a path", questions[:1])
        (task,) = studio.tasks(project.id)
        assert task["data"]["video"].startswith(f"{PREFIX}/data/upload/{project.id}/")
        assert all(picture.startswith(f"{PREFIX}/data/upload/") for picture in task["data"]["frames"])
        checked = trajseg.cli("doctor", "--project", str(project.id)).stdout
        assert failures(checked) == []
        assert "personal access token of" in checked
        assert f"task {task['id']}: h264" in checked
        studio.retrieve_predictions(project.id, project.tasks)
        job = trajseg.job_of(task["id"], questions[0].instruction)
        assert job["delivery"]["state"] == "sent"
        assert studio.predictions(task["id"])
        page = trajseg.client.get(f"/page/jobs/{job['id']}").text
        assert f"{studio.url}/projects/{project.id}" in page
    assert astray == []
