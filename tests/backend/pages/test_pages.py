"""The jobs page: what it shows for each state of a job, its access rules, and the data for its scripts."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask import Flask
from flask.testing import FlaskClient

import backend.pages
from backend.composition import compose
from backend.effort import EffortReader, total
from backend.fetch.cache import download_folder
from backend.http.app import create_app
from backend.pages import report
from backend.queue import JobQueue
from backend.settings import Settings
from backend.store import Change, Job, ReadAnnotation, Store
from backend.store.models import now
from backend.store.notes import JobNotes
from backend.store.reports import Reports
from trajseg.tracks import Result, rle

STATIC = Path(backend.pages.__file__).parent / "static"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
SCRIPT = {"Accept": "application/json"}


@pytest.fixture
def ask(client: FlaskClient, store: Store, predict_body: Callable[..., dict[str, Any]]) -> Any:
    """Requests a task's prediction and returns its job."""

    def asked(task: int = 1, **data: Any) -> Job:
        client.post("/predict", json=predict_body(task, **data))
        return store.jobs.newest(task_id=task)[0]

    return asked


NOTES = {
    "doubt": 0.31,
    "review": [
        {
            "track": "t1",
            "label": "track-1",
            "frames": [
                {"index": 3, "reason": "object lost", "doubt": 0.6},
                {"index": 2, "reason": "low mask score", "doubt": 0.3},
            ],
        }
    ],
    "refinement": [
        {
            "track": "t1",
            "label": "track-1",
            "chosen": "flow",
            "left_out": {"flow": {"0": 0.9, "2": 0.8}},
            "painted": [0, 2],
            "hinted": [],
            "carried": 1,
        }
    ],
    "warnings": [
        {"track": "t1", "text": "you asked for something still."},
        {"track": "t9", "text": "track-9: odd."},
        {"text": "The clip was cut off."},
    ],
}
"""A worker's notes beside the tracks; see docs/requests.md."""


@pytest.fixture
def done(ask: Any, store: Store, result: Result) -> Job:
    """A job with one track over four frames, absent in the last; a person painted the first and the third."""
    job = ask()
    for index in (0, 2):
        result.tracks[0].frames[index].provenance = "person"
    store.runs.finish(job.id, store.runs.start(job.id) or "", result, JobNotes.of(NOTES))
    return store.jobs.get(job.id)


def token(client: FlaskClient) -> str:
    found = re.search(r'name="token" value="([^"]+)"', client.get("/page/jobs").text)
    assert found
    return found[1]


def text_of(html: str) -> str:
    """The visible text: without tags, with single spaces."""
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_a_browser_at_the_front_door_is_led_to_the_jobs(client: FlaskClient) -> None:
    answer = client.get("/", headers=BROWSER)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/page/jobs")
    assert client.get("/page/").headers["Location"] == "/page/jobs"


@pytest.mark.parametrize("accept", ["*/*", "application/json", ""])
def test_label_studio_and_monitors_get_health_as_ever(client: FlaskClient, accept: str) -> None:
    for path in ("/", "/health"):
        answer = client.get(path, headers={"Accept": accept})
        assert (answer.status_code, answer.get_json()["status"]) == (200, "UP")
    assert client.get("/health", headers=BROWSER).get_json()["status"] == "UP"


def test_an_empty_list_says_how_to_begin(client: FlaskClient) -> None:
    assert "No jobs yet" in client.get("/page/jobs").text
    assert "Nothing here" in client.get("/page/jobs?state=failed").text


def test_a_waiting_job_can_be_cancelled_and_missing_workers_are_reported(client: FlaskClient, ask: Any) -> None:
    job = ask()
    page = client.get("/page/jobs").text
    assert "the red square" in page
    assert f'formaction="/page/jobs/{job.id}/cancel"' in page
    assert "No worker is running" in page
    assert "It is next." in client.get(f"/page/jobs/{job.id}").text


def test_a_running_job_shows_how_far_it_is_and_how_long_it_takes(client: FlaskClient, store: Store, ask: Any) -> None:
    job = ask()
    run = store.runs.start(job.id) or ""
    assert "preparing" in client.get("/page/jobs").text
    with store.database.write() as session:
        session.get_one(Job, job.id).started_at = now() - timedelta(seconds=60)
    store.runs.progress(job.id, run, 15, 60)
    for path in ("/page/jobs", f"/page/jobs/{job.id}"):
        page = client.get(path).text
        assert 'value="25"' in page
        assert "25 % 15 of 60 frames about 3 min left" in text_of(page)
        assert f"/page/jobs/{job.id}/cancel" in page


def test_a_run_that_fell_silent_is_called_lost(client: FlaskClient, store: Store, ask: Any) -> None:
    job = ask()
    store.runs.start(job.id)
    with store.database.write() as session:
        session.get_one(Job, job.id).heartbeat_at = now() - timedelta(seconds=500)
    assert "Its worker was last heard from" in text_of(client.get("/page/jobs").text)


def test_a_failed_job_says_why_and_what_to_do_and_can_be_retried(client: FlaskClient, store: Store, ask: Any) -> None:
    job = ask()
    store.runs.fail(
        job.id, store.runs.start(job.id) or "", "The host <b>x</b> is not allowed.", "Set `TRAJSEG_MEDIA_HOSTS`."
    )
    for path in ("/page/jobs", f"/page/jobs/{job.id}"):
        page = client.get(path).text
        assert "The host &lt;b&gt;x&lt;/b&gt; is not allowed." in page
        assert "<b>What to do:</b> Set <code>TRAJSEG_MEDIA_HOSTS</code>." in page
        assert f"/page/jobs/{job.id}/retry" in page


def test_what_a_task_lacks_cannot_be_retried_here(client: FlaskClient, ask: Any) -> None:
    job = ask(instruction="")
    page = client.get(f"/page/jobs/{job.id}").text
    assert "lacks <code>instruction</code>" in page
    assert "/retry" not in page
    answer = client.post(f"/page/jobs/{job.id}/retry", data={"token": token(client)})
    assert answer.status_code == 400
    assert "lacks <code>instruction</code>" in answer.text


def test_texts_of_strangers_are_shown_and_never_run(client: FlaskClient, ask: Any) -> None:
    job = ask(instruction="<script>alert(1)</script>", video="https://x.example/a.mp4?sig=secret")
    for path in ("/page/jobs", f"/page/jobs/{job.id}"):
        page = client.get(path).text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
        assert "<script>" not in page
        assert "secret" not in page


def test_cancel_and_retry_without_a_script_lead_to_the_jobs_page(client: FlaskClient, store: Store, ask: Any) -> None:
    job, form = ask(), {"token": token(client)}
    answer = client.post(f"/page/jobs/{job.id}/cancel", data=form)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/page/jobs/{job.id}")
    assert store.jobs.get(job.id).state == "cancelled"
    assert "It was cancelled" in client.get(f"/page/jobs/{job.id}").text
    client.post(f"/page/jobs/{job.id}/retry", data=form)
    assert store.jobs.get(job.id).state == "queued"


def test_cancel_by_script_answers_with_the_new_state(client: FlaskClient, ask: Any) -> None:
    job = ask()
    answer = client.post(f"/page/jobs/{job.id}/cancel", data={"token": token(client)}, headers=SCRIPT)
    assert answer.json == {"id": job.id, "state": "cancelled"}


@pytest.mark.parametrize(
    ("form", "headers"),
    [
        ({}, {}),
        ({"token": "made up"}, {}),
        ({"token": None}, {"Sec-Fetch-Site": "cross-site"}),
        ({"token": None}, {"Sec-Fetch-Site": "same-site"}),
    ],
)
def test_a_strangers_page_cannot_cancel(
    client: FlaskClient, store: Store, ask: Any, form: dict[str, Any], headers: dict[str, str]
) -> None:
    job = ask()
    form = {name: value or token(client) for name, value in form.items()}
    answer = client.post(f"/page/jobs/{job.id}/cancel", data=form, headers=headers | SCRIPT)
    assert answer.status_code == 403
    assert answer.get_json()["error"]
    if headers:
        assert client.post(f"/jobs/{job.id}/cancel", headers=headers).status_code == 403
    assert store.jobs.get(job.id).state == "queued"


def test_another_backends_token_and_an_old_one_are_refused(
    client: FlaskClient, settings: Settings, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, old = ask(), token(client)
    monkeypatch.setattr("backend.pages.guard.TOKEN_SECONDS", -1)
    assert "open for too long" in client.post(f"/page/jobs/{job.id}/cancel", data={"token": old}).text
    (settings.data_dir / "secret_key").write_text("another")
    assert client.post(f"/page/jobs/{job.id}/cancel", data={"token": old}).status_code == 403


def test_no_page_may_run_scripts_of_its_own_or_be_framed(client: FlaskClient, done: Job) -> None:
    for path in ("/page/jobs", f"/page/jobs/{done.id}", "/page/report", "/page/nothing", "/page/static/viewer.js"):
        answer = client.get(path)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", answer.text)
        # Label Studio's own address is that of a task and of an uploaded video.
        assert not re.search(r'(src|href)="https?://(?!127\.0\.0\.1:8080/(projects|data)/)', answer.text)


def test_the_pages_ask_for_the_same_password_as_the_rest(settings: Settings, store: Store, queue: JobQueue) -> None:
    protected = settings.model_copy(update={"basic_auth_user": "lead"})
    protected.basic_auth_password = type(settings.basic_auth_password)("open")
    client = create_app(compose(protected, store, queue)).test_client()
    for path in ("/", "/page/jobs", "/page/jobs.json", "/page/report", "/page/static/page.css"):
        assert client.get(path, headers=BROWSER).status_code == 401
        assert client.get(path, headers=BROWSER, auth=("lead", "open")).status_code in (200, 302)
    assert client.post("/page/jobs/x/cancel").status_code == 401


def test_unknown_jobs_and_pages_are_reported_as_pages(client: FlaskClient) -> None:
    for path in ("/page/jobs/x", "/page/nothing"):
        answer = client.get(path, headers=BROWSER)
        assert answer.status_code == 404
        assert "<h1>Not found</h1>" in answer.text
    assert "There is no state" in client.get("/page/jobs?state=odd").text
    assert client.get("/page/jobs/x/tracks.json").get_json()["error"]


def test_jobs_are_chosen_by_state_kind_and_project_and_come_in_pages(
    client: FlaskClient, store: Store, ask: Any
) -> None:
    for task in range(1, 31):
        ask(task, instruction=f"object {task}")
    last = store.jobs.newest(task_id=3)[0]
    store.runs.start(last.id)
    first = client.get("/page/jobs").text
    shown = re.findall(r"object (\d+)</a>", first)
    # Running ones first, then the newest.
    assert shown == ["3", *(str(task) for task in range(30, 6, -1))]
    assert "Page 1 of 2" in first
    assert re.findall(r"object (\d+)</a>", client.get("/page/jobs?page=2").text) == ["6", "5", "4", "2", "1"]
    # Of the waiting ones, the next.
    assert re.findall(r"object (\d+)</a>", client.get("/page/jobs?state=queued").text)[:3] == ["1", "2", "4"]
    project = store.projects.of_label_studio(7, "1795422572")
    assert "object 30" in client.get(f"/page/jobs?project={project.id}&kind=prelabel").text
    for nothing in ("kind=refine", "project=999", "state=done"):
        assert "Nothing here" in client.get(f"/page/jobs?{nothing}").text
    assert "Page 2 of 2" in client.get("/page/jobs?page=99").text


def test_news_bring_only_what_has_changed(client: FlaskClient, store: Store, ask: Any) -> None:
    jobs = [ask(task) for task in (1, 2)]
    news = client.get("/page/jobs.json")
    marks = [part["mark"] for part in news.get_json()["parts"].values()] + [
        row["mark"] for row in news.get_json()["rows"]
    ]
    assert all("html" in row for row in news.get_json()["rows"])
    again = f"/page/jobs.json?have={'.'.join(marks)}"
    assert client.get(again, headers={"If-None-Match": news.headers["ETag"]}).status_code == 304
    store.runs.progress(jobs[0].id, store.runs.start(jobs[0].id) or "", 1, 4)
    news = client.get(again, headers={"If-None-Match": news.headers["ETag"]})
    assert [row["id"] for row in news.get_json()["rows"] if "html" in row] == [jobs[0].id]
    assert {name for name, part in news.get_json()["parts"].items() if "html" in part} == {"tabs"}


def test_news_of_one_job_tell_its_state(client: FlaskClient, store: Store, ask: Any) -> None:
    job = ask()
    assert client.get(f"/page/jobs/{job.id}/news.json").get_json()["state"] == "queued"
    store.jobs.cancel(job.id)
    news = client.get(f"/page/jobs/{job.id}/news.json").get_json()
    assert news["state"] == "cancelled"
    assert "Cancelled" in news["parts"]["head"]["html"]


def test_a_done_job_shows_its_tracks_with_their_notes(client: FlaskClient, done: Job) -> None:
    page = client.get(f"/page/jobs/{done.id}").text
    shown = text_of(page)
    for told in (
        "track-1 0.80 a red square",
        "Carried on by flow from 2 painted frames; painted frames that were withheld came out with J 0.85.",
        "It is a red square.",
        "Doubt 0.31",
        "3 warnings",
    ):
        assert told in shown + text_of(client.get("/page/jobs").text), told
    # Warnings about a track are beside it, others above.
    places = [page.index(told) for told in ("track-9: odd.", "The clip was", "a red square</p>", ">you asked for")]
    assert places == sorted(places)


def test_a_job_that_continues_another_links_to_it(client: FlaskClient, store: Store, done: Job) -> None:
    params = {"base_job_id": done.id, "annotation_id": 5}
    job, _ = store.jobs.add("refine", done.project_id, 1, done.video, done.instruction, "interactive", params)
    assert f'href="/page/jobs/{done.id}"' in client.get(f"/page/jobs/{job.id}").text
    assert "Refine" in client.get("/page/jobs?kind=refine").text


def test_a_job_of_a_kind_without_tracks_shows_its_report(client: FlaskClient, store: Store, ask: Any) -> None:
    job = ask()
    store.runs.finish(job.id, store.runs.start(job.id) or "", None, report={"folder": "/exports/7"})
    page = client.get(f"/page/jobs/{job.id}")
    assert page.status_code == 200
    assert "/exports/7" in page.text
    assert "no such object" not in page.text + client.get("/page/jobs").text
    assert client.get(f"/jobs/{job.id}").get_json()["tracks"] in (None, 0)
    assert client.get(f"/jobs/{job.id}/result").status_code == 400
    assert client.get(f"/page/jobs/{job.id}/tracks.json").get_json()["tracks"] == []
    assert store.deliveries.of_job(job.id) is None


def test_a_job_without_tracks_says_so(client: FlaskClient, store: Store, ask: Any, result: Result) -> None:
    job = ask()
    result.tracks = []
    store.runs.finish(job.id, store.runs.start(job.id) or "", result)
    assert "no such object" in client.get("/page/jobs").text
    assert "The model found no matching object" in client.get(f"/page/jobs/{job.id}").text
    assert client.get(f"/page/jobs/{job.id}/tracks.json").get_json()["tracks"] == []


def test_what_the_engine_s_chooser_said_is_shown_line_by_line_and_never_run(
    client: FlaskClient, store: Store, ask: Any, result: Result
) -> None:
    job = ask()
    said = 'Looked for: dog.\n1. a brown dog (0.91), frames 0 to 3: accepted.\n{"1": "a <b>brown</b> dog: accept"}'
    result.answer = said
    store.runs.finish(job.id, store.runs.start(job.id) or "", result, JobNotes())
    page = client.get(f"/page/jobs/{job.id}").text
    assert "<blockquote>Looked for: dog.\n1. a brown dog (0.91), frames 0 to 3: accepted.\n" in page
    assert "a &lt;b&gt;brown&lt;/b&gt; dog: accept" in page
    assert re.search(r"blockquote {[^}]*white-space: pre-wrap", (STATIC / "page.css").read_text())


def test_a_job_that_waits_for_label_studio_says_so(client: FlaskClient, store: Store, ask: Any) -> None:
    job = ask()
    later = now() + timedelta(minutes=5)
    store.runs.put_off(job.id, store.runs.start(job.id) or "", "Label Studio does not serve the video.", later)
    for path in ("/page/jobs", f"/page/jobs/{job.id}"):
        assert "Waiting: Label Studio does not serve the video." in text_of(client.get(path).text)


def test_a_result_that_did_not_arrive_can_be_delivered_again(client: FlaskClient, store: Store, done: Job) -> None:
    delivery = store.deliveries.of_job(done.id)
    assert delivery
    store.deliveries.failed(delivery.id, "The task is gone.", None)
    for path in ("/page/jobs", f"/page/jobs/{done.id}"):
        page = text_of(client.get(path).text)
        assert "The task is gone." in page
        assert "Deliver again" in page
    client.post(f"/page/jobs/{done.id}/retry", data={"token": token(client)})
    again = store.deliveries.of_job(done.id)
    assert again
    assert (store.jobs.get(done.id).state, again.state) == ("done", "pending")


def test_the_viewer_gets_scores_times_and_masks(
    client: FlaskClient, settings: Settings, done: Job, result: Result
) -> None:
    folder = settings.media_dir / done.id
    folder.mkdir(parents=True)
    (folder / "000002.jpg").write_bytes(b"picture")
    form = client.get(f"/page/jobs/{done.id}/tracks.json").get_json()
    assert (form["width"], form["height"], form["frame_count"]) == (32, 24, 4)
    assert form["times"] == [0.0, 0.1, 0.2, 0.3]
    (track,) = form["tracks"]
    assert track["scores"] == [0.9, 0.8, 0.7, None]
    assert track["doubts"] == [{"frame": 2, "reason": "low mask score"}, {"frame": 3, "reason": "object lost"}]
    assert track["painted"] == [0, 2]
    (still,) = form["stills"].items()
    assert still[0] == "2"
    assert client.get(still[1]).data == b"picture"
    counts = [frame.rle["counts"] if frame.rle else None for frame in result.tracks[0].frames]
    assert client.get(f"/page/jobs/{done.id}/masks.json").json == {"start": 0, "tracks": [counts]}
    assert client.get(f"/page/jobs/{done.id}/masks.json?start=2").json == {"start": 2, "tracks": [counts[2:]]}


def video_link(client: FlaskClient, job: Job) -> str:
    found = re.search(r'<video[^>]* src="([^"]+)"', client.get(f"/page/jobs/{job.id}").text)
    return found[1] if found else ""


def finished(store: Store, result: Result, job: Job) -> Job:
    store.runs.finish(job.id, store.runs.start(job.id) or "", result)
    return store.jobs.get(job.id)


def test_a_video_in_an_allowed_folder_is_played_by_signed_link_with_ranges(
    app: Flask, client: FlaskClient, settings: Settings, store: Store, ask: Any, result: Result, clips: Path
) -> None:
    settings.media_dirs = (str(clips),)
    link = video_link(client, finished(store, result, ask(video="yellow_box.mp4")))
    answer = client.get(link, headers={"Range": "bytes=0-99"})
    assert (answer.status_code, len(answer.data), answer.mimetype) == (206, 100, "video/mp4")
    assert client.get(link.replace("/video/", "/video/x")).status_code == 403


def test_a_file_outside_the_allowed_folders_is_never_served(
    client: FlaskClient, settings: Settings, store: Store, ask: Any, result: Result, clips: Path, tmp_path: Path
) -> None:
    (tmp_path / "allowed").mkdir()
    (tmp_path / "allowed" / "link.mp4").symlink_to(clips / "yellow_box.mp4")
    settings.media_dirs = (str(tmp_path / "allowed"),)
    for task, video in enumerate((str(clips / "yellow_box.mp4"), "../secret.mp4", "link.mp4", "file:///etc/passwd"), 1):
        assert video_link(client, finished(store, result, ask(task, video=video))) == ""


def test_what_is_not_a_video_by_its_content_is_not_served_and_nothing_can_run(
    client: FlaskClient, settings: Settings, store: Store, ask: Any, result: Result, tmp_path: Path, clips: Path
) -> None:
    (tmp_path / "notes.html").write_text("<script>alert(1)</script>")
    (tmp_path / "clip.html").write_bytes((clips / "yellow_box.mp4").read_bytes())
    settings.media_dirs = (str(tmp_path),)
    assert client.get(video_link(client, finished(store, result, ask(1, video="notes.html")))).status_code == 404
    answer = client.get(video_link(client, finished(store, result, ask(2, video="clip.html"))))
    assert answer.mimetype == "video/mp4"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]


def test_a_video_that_a_worker_has_fetched_is_played_from_here(
    client: FlaskClient, settings: Settings, store: Store, done: Job, clips: Path
) -> None:
    assert video_link(client, done) == "http://127.0.0.1:8080/data/upload/7/clip.mp4"
    folder = download_folder(settings.data_dir.resolve() / "downloads", f"{settings.label_studio_url}{done.video}")
    folder.mkdir(parents=True)
    (folder / "video.mp4").write_bytes(b'{"token": "secret"}')
    assert client.get(video_link(client, done)).status_code == 404
    (folder / "video.mp4").write_bytes((clips / "yellow_box.mp4").read_bytes())
    assert client.get(video_link(client, done)).data == (clips / "yellow_box.mp4").read_bytes()


def test_only_the_videos_own_host_is_let_in_besides_this_one(
    client: FlaskClient, store: Store, ask: Any, result: Result
) -> None:
    def media_policy(task: int, video: str) -> str:
        job = finished(store, result, ask(task, video=video))
        policy = client.get(f"/page/jobs/{job.id}").headers["Content-Security-Policy"]
        return next(part.strip() for part in policy.split(";") if "media-src" in part)

    assert media_policy(1, "https://user:pw@media.example/clip.mp4") == "media-src 'self' https://media.example"
    assert media_policy(2, "https://x; script-src 'unsafe-inline'/clip.mp4") == "media-src 'self'"
    assert media_policy(3, "https://[odd/clip.mp4") == "media-src 'self'"
    assert media_policy(4, "s3://bucket/clip.mp4") == "media-src 'self'"


def test_the_report_counts_a_task_once_a_day(
    client: FlaskClient, store: Store, ask: Any, result: Result, predict_body: Any
) -> None:
    ask(1)
    ask(1, instruction="another sentence")
    for task in (1, 2, 3):
        ask(task)
    for number, job in enumerate(sorted(store.jobs.newest(), key=lambda job: job.task_id or 0)):
        finished(store, result, job)
        if number == 3:
            with store.database.write() as session:
                session.get_one(Job, job.id).finished_at = now() - timedelta(days=40)
    per_day = Reports(store.database).tasks_per_day(30)
    assert len(per_day) == 30
    assert list(per_day.values())[-1] == sum(per_day.values()) == 2
    assert "in the last 30 days" in client.get("/page/report").text


def mask(*box: int) -> Any:
    """A mask of 24 x 32 pixels as RLE, from top, bottom, left, right."""
    drawn = np.zeros((24, 32), bool)
    top, bottom, left, right = box
    drawn[top:bottom, left:right] = True
    return rle.encode(drawn)


def record(store: Store, job: Job, changes: list[Change], annotation: int = 5, **more: Any) -> None:
    assert job.project_id is not None
    read = ReadAnnotation(job.project_id, job.task_id or 0, annotation, "1", now(), "ann@x.example", job.id, **more)
    store.corrections.record(read, changes)


def test_the_report_reckons_minutes_by_the_formula_it_states(
    client: FlaskClient, app: Flask, store: Store, done: Job, result: Result
) -> None:
    frames = result.tracks[0].frames
    assert "no annotation has been compared" in client.get("/page/report").text
    # Frame 1 had 8 x 8 pixels at (4, 4); half of it is left, so its IoU is 0.5.
    changes = [
        Change("track-1", 0, "unchanged", "t1", done.id, rle=frames[0].rle),
        Change("track-1", 1, "edited", "t1", done.id, rle=mask(4, 12, 4, 8)),
        Change("track-1", 2, "removed", "t1", done.id),
        Change("track-1", 3, "added", "t1", done.id, rle=mask(0, 4, 0, 4)),
    ]
    record(store, done, changes, lead_seconds=90.0)
    found = report.read(store, EffortReader())
    effort = found.effort
    assert effort.changed_per_track == 3
    assert effort.edit_distance == pytest.approx(0.5 + 1)
    assert effort.by_hand_minutes == pytest.approx(3 * 37.8 / 60)
    assert effort.spent_minutes == pytest.approx((4 * 2.0 + 1.5 * 37.8) / 60)
    assert effort.saved_minutes == pytest.approx(effort.by_hand_minutes - effort.spent_minutes)
    assert (found.annotated, found.predicted) == (1, 1)
    page = text_of(client.get("/page/report").text)
    assert "3 of 4 frames changed, in 1 track" in page
    assert "with predictions = 2.0 s × 4 frames + 37.8 s × 1.5 edit distance" in page
    assert "Label Studio measured 2 minutes for 1 annotation" in page
    # Of two annotations of a task the newer counts; a deleted one does not.
    record(store, done, changes[:1], annotation=6)
    newer = report.read(store, EffortReader())
    assert (newer.effort.frames, newer.effort.changed, newer.annotations) == (1, 0, 1)
    for annotation in (5, 6):
        store.corrections.withdraw(done.project_id or 0, annotation)
    nothing = report.read(store, EffortReader())
    assert (nothing.effort.saved_minutes, nothing.annotated, nothing.effort.tracks) == (0, 0, 0)


def test_a_mask_whose_prediction_is_no_longer_kept_counts_as_drawn_from_nothing(store: Store, done: Job) -> None:
    record(store, done, [Change("track-1", 1, "edited", "t1", done.id, rle=mask(4, 12, 4, 8))])
    store.jobs.retry(done.id)
    assert total(EffortReader().tracks(store)).edit_distance == 1


def test_boxes_are_reckoned_as_boxes(store: Store, done: Job) -> None:
    kinds = ("unchanged", "edited", "added")
    boxes = [Change("track-1", i, kind, "t1", done.id, box=(0, 0, 8, 8)) for i, kind in enumerate(kinds)]
    record(store, done, boxes)
    found = report.read(store, EffortReader()).effort
    assert found.by_hand_minutes == pytest.approx(3 * 7 / 60)
    assert found.spent_minutes == pytest.approx((3 * 2 + 2 * 7) / 60)


def luminance(colour: str) -> float:
    """WCAG 2.2's relative luminance of "#rrggbb"."""
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_text_colour_can_be_read_in_light_and_dark() -> None:
    css = (STATIC / "page.css").read_text()
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in css.split("@media", 2)[:2])
    pairs = [(text, ground) for text in ("text", "quiet", "accent") for ground in ("ground", "card", "sunk")]
    states = ("queued", "running", "done", "failed", "cancelled", "warn")
    pairs += [(state, f"{state}-ground") for state in states] + [("text", f"{state}-ground") for state in states]
    pairs += [("on-accent", "accent"), ("ground", "text"), ("failed", "ground"), ("warn", "card"), ("running", "card")]
    for name, colours in (("light", light), ("dark", dark)):
        for text, ground in pairs:
            bright, dim = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, (name, text, ground)


def test_an_adoption_is_described_in_ranges_of_frames() -> None:
    from backend.pages.adoption import _in_words
    from backend.store.adoptions import FrameChange

    changes = [FrameChange("a", index, "added", 0.0) for index in (0, 1, 2, 6)] + [FrameChange("a", 4, "removed", 0.0)]
    assert _in_words(changes) == ["added on frames 1 to 3, 7", "removed on frame 5"]
