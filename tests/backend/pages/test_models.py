"""The page of model versions: decisions in words and numbers, and who may promote and roll back."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from click.testing import CliRunner
from flask.testing import FlaskClient
from PIL import Image

from backend.settings import Settings
from backend.store import Store
from tests.backend.adapter_folder import publish_adapter
from trajseg.cli import main

BASE = "trajseg-tiny"
WORDS = "Promoted: +0.120 J&F on 4 held-out videos (95%: +0.050 to +0.190), -0.001 on 12 clips of the base set."


def decision(promoted: bool, reason: str) -> dict[str, Any]:
    """A decision in the gate's format."""
    return {
        "promoted": promoted,
        "reason": reason,
        "served": BASE,
        "gain": {"mean": 0.12, "low": 0.05, "high": 0.19},
        "base_gain": {"mean": -0.001, "low": -0.004, "high": 0.002},
        "project": [{"clip": f"task-{number}", "served": 0.5, "candidate": 0.62} for number in range(4)],
        "base": [{"clip": f"clip-{number}", "served": 0.9, "candidate": 0.899} for number in range(12)],
    }


@pytest.fixture
def project_id(store: Store) -> int:
    found: int = store.projects.upsert(12, "http://ls", "<View/>").id
    return found


def trained(store: Store, settings: Settings, project_id: int, job: str, promoted: bool = True) -> str:
    version = store.versions.of_job(project_id, BASE, job)
    folder = f"models/project-{project_id}/{version.number}"
    publish_adapter(settings.data_dir / folder, version.name)
    Image.new("RGB", (40, 20), "red").save(settings.data_dir / folder / "differences.png")
    reason = WORDS if promoted else "Not promoted: the gain may be chance."
    clips = [{"name": "task-1", "side": "train"}, {"name": "task-2", "side": "held-out"}]
    manifest = {"decision": decision(promoted, reason), "data": {"clips": clips}}
    return str(store.versions.decide(version.id, promoted, reason, folder, manifest).name)


def token(client: FlaskClient) -> str:
    found = re.search(r'name="token" value="([^"]+)"', client.get("/page/models/").text)
    assert found
    return found[1]


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_without_versions_the_page_says_how_to_train(client: FlaskClient) -> None:
    assert "Nothing has been trained yet" in client.get("/page/models/").text
    assert '<a href="/page/models/"' in client.get("/page/jobs").text


def test_the_command_shows_the_numbers_of_versions_on_a_narrow_screen(
    store: Store, settings: Settings, project_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TRAJSEG_DATA_DIR", str(settings.data_dir))
    names = [trained(store, settings, project_id, job, promoted) for job, promoted in (("a", True), ("b", False))]
    listed = CliRunner().invoke(main, ["models", "list"])
    assert listed.exit_code == 0, listed.output
    assert all(name in listed.output for name in names), listed.output
    [serves] = [line for line in listed.output.splitlines() if "*" in line]
    assert names[0] in serves


def test_a_version_shows_its_decision_its_figures_and_its_picture(
    client: FlaskClient, store: Store, settings: Settings, project_id: int
) -> None:
    name = trained(store, settings, project_id, "a")
    page = client.get("/page/models/").text
    shown = text_of(page)
    for words in (
        name,
        "Serves",
        WORDS.replace("&", "&amp;"),
        "+0.050 to +0.190",
        "-0.001",
        "trained on 1 video, 1 held out",
    ):
        assert words in shown, words
    assert "task-3 0.500 0.620 +0.120" in shown
    picture = client.get(f"/page/models/{project_id}/1/differences.png")
    assert (picture.status_code, picture.mimetype) == (200, "image/png")
    assert f"/page/models/{project_id}/1/differences.png" in page
    assert client.get(f"/page/models/{project_id}/2/differences.png").status_code == 400


def test_a_rollback_and_a_promotion_take_effect_at_once(
    client: FlaskClient, store: Store, settings: Settings, project_id: int
) -> None:
    first = trained(store, settings, project_id, "a")
    second = trained(store, settings, project_id, "b")
    refused = trained(store, settings, project_id, "c", promoted=False)
    assert store.versions.served_name(project_id, BASE) == second
    page = client.get("/page/models/").text
    assert f"Roll back to {first}" in page
    assert f"Promote {second}" not in page, "it serves already"
    form = {"token": token(client)}
    assert client.post(f"/page/models/{project_id}/rollback", data=form).status_code == 303
    assert store.versions.served_name(project_id, BASE) == first
    assert client.post(f"/page/models/{project_id}/3/promote", data=form).status_code == 303
    assert store.versions.served_name(project_id, BASE) == refused
    shown = text_of(client.get("/page/models/").text)
    assert "Not promoted: the gain may be chance." in shown, "what the gate said is not forgotten"
    assert "Promoted by hand." in shown


@pytest.mark.parametrize("path", ["1/promote", "rollback"])
def test_only_a_form_of_our_own_page_changes_what_serves(
    client: FlaskClient, store: Store, settings: Settings, project_id: int, path: str
) -> None:
    name = trained(store, settings, project_id, "a")
    address = f"/page/models/{project_id}/{path}"
    assert client.post(address, data={"token": "forged"}).status_code == 403
    assert client.post(address).status_code == 403
    theirs = client.post(address, data={"token": token(client)}, headers={"Sec-Fetch-Site": "cross-site"})
    assert theirs.status_code == 403
    assert store.versions.served_name(project_id, BASE) == name


def test_a_rejected_request_is_answered_with_the_reason(client: FlaskClient, store: Store, project_id: int) -> None:
    form = {"token": token(client)}
    nothing = client.post(f"/page/models/{project_id}/rollback", data=form)
    assert (nothing.status_code, "served by the base" in nothing.text) == (400, True)
    assert client.post(f"/page/models/{project_id}/9/promote", data=form).status_code == 400
    job, _ = store.jobs.add("finetune", project_id, None, "", "", "finetune")
    store.versions.of_job(project_id, BASE, job.id)
    assert "Training is queued" in client.get("/page/models/").text
    store.runs.start(job.id)
    assert "In training" in client.get("/page/models/").text
    assert "no adapter yet" in client.post(f"/page/models/{project_id}/1/promote", data=form).text


def test_a_damaged_adapter_is_not_promoted_and_the_file_is_named(
    client: FlaskClient, store: Store, settings: Settings, project_id: int
) -> None:
    trained(store, settings, project_id, "a", promoted=False)
    (settings.data_dir / f"models/project-{project_id}/1/config.json").write_text("damaged")
    answer = client.post(f"/page/models/{project_id}/1/promote", data={"token": token(client)})
    assert answer.status_code == 503
    assert "config.json is not the trained file: its hash has changed." in text_of(answer.text)
    assert store.versions.served_name(project_id, BASE) == BASE


def test_the_command_says_which_base_a_version_belongs_to(
    store: Store, settings: Settings, project_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAJSEG_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("REDIS_URL", settings.redis_url)
    words = ["models", "promote", "--project", "12", "1"]
    trained(store, settings, project_id, "a")
    assert (
        CliRunner().invoke(main, words).output == f"{BASE}/project-12@1 is promoted and serves from the next job on.\n"
    )
    monkeypatch.setenv("TRAJSEG_MODEL", "colour")
    output = CliRunner().invoke(main, words).output
    assert f"Project 12 uses colour now; the version serves once the project uses {BASE} again." in output


def test_a_training_that_failed_is_not_shown_as_going_on(
    client: FlaskClient, store: Store, settings: Settings, project_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAJSEG_DATA_DIR", str(settings.data_dir))
    job, _ = store.jobs.add("finetune", project_id, None, "", "", "finetune")
    store.versions.of_job(project_id, BASE, job.id)
    store.runs.fail(job.id, store.runs.start(job.id) or "", "Out of memory.", "Use 4 bits.")
    assert "Training failed" in (shown := text_of(client.get("/page/models/").text))
    assert "Out of memory. Use 4 bits." in shown
    monkeypatch.setenv("COLUMNS", "200")
    listed = CliRunner().invoke(main, ["models", "list"]).output
    assert "training failed" in listed
    assert "Out of memory. Use 4 bits." in listed
    form = json.loads(CliRunner().invoke(main, ["models", "show", "--project", "12", "1"]).output)
    assert (form["state"], form["training"], form["error"]) == ("candidate", "failed", "Out of memory. Use 4 bits.")


def test_a_folder_outside_of_the_data_folder_is_never_read(
    client: FlaskClient, store: Store, settings: Settings, project_id: int
) -> None:
    (settings.data_dir.parent / "out").mkdir()
    Image.new("RGB", (4, 4)).save(settings.data_dir.parent / "out" / "differences.png")
    version = store.versions.of_job(project_id, BASE, "a")
    store.versions.decide(version.id, True, "it", "../out", {})
    assert client.get(f"/page/models/{project_id}/1/differences.png").status_code == 404


def test_a_trainings_job_shows_the_decision(client: FlaskClient, store: Store, project_id: int) -> None:
    job, _ = store.jobs.add("finetune", project_id, None, "", "", "finetune")
    run = store.runs.start(job.id) or ""
    report = {"version": "trajseg-tiny/project-12@1", "decision": decision(False, "Not promoted: needs more videos.")}
    store.runs.finish(job.id, run, None, report=report)
    for page in (f"/page/jobs/{job.id}", "/page/jobs"):
        assert "Not promoted: needs more videos." in client.get(page).text
    assert "needs_videos" not in client.get(f"/page/jobs/{job.id}").text
