"""Label Studio's pages as a person uses them in headless Chromium; the editor's store is `window.Htx`."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, FloatRect, Page, sync_playwright

from tests.e2e.studio import PASSWORD, USERNAME, LabelStudio

EXECUTABLE = os.environ.get("TRAJSEG_CHROMIUM", "/usr/bin/chromium")
# Without the background flags Chromium asks the makers' hosts for updates at every start.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
MINUTE = 60_000  # milliseconds

SELECTED = "window.Htx && Htx.annotationStore && Htx.annotationStore.selected"
REGIONS = """() => Htx.annotationStore.selected.regions
    .filter(r => r.type && r.type.endsWith('region') && r.type !== 'textarearegion')
    .map(r => ({
        id: r.id, type: r.type, frame: r.item_index, labels: [...(r.labels || [])], origin: r.origin,
        png: r.imageDataURL || null,
        sequence: r.sequence ? r.sequence.map(s => ({...s})) : null,
    }))"""
SUGGESTIONS = """() => [...Htx.annotationStore.selected.suggestions.values()]
    .map(r => ({id: r.id, type: r.type, frame: r.item_index, labels: [...(r.labels || [])]}))"""


def mask_of(png_url: str) -> np.ndarray:
    """The mask, bool [H, W], of a `data:image/png;base64,...`: where the picture is not transparent."""
    picture = Image.open(io.BytesIO(base64.b64decode(png_url.split(",", 1)[1]))).convert("RGBA")
    return np.asarray(picture)[..., 3] > 127


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """A headless Chromium. One thread can drive only one: everything in a test run shares it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=EXECUTABLE, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def browser_page(browser: Browser) -> Iterator[Page]:
    """A new page with cookies of its own."""
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    try:
        page.set_default_timeout(MINUTE)
        yield page
    finally:
        page.close()


def pressed(page: Page, button: str) -> str:
    """Press a button of trajseg's pages; what the page says then."""
    page.get_by_role("button", name=button).first.click()
    page.wait_for_function("() => document.getElementById('said').classList.contains('is-shown')")
    return page.locator("#said").inner_text()


class Editor:
    """One person at Label Studio: opens tasks, looks at them, corrects and submits them."""

    def __init__(self, page: Page, studio: LabelStudio, pictures: Path) -> None:
        self.page = page
        self.studio = studio
        self.pictures = pictures
        self.foreign: list[str] = []  # requests to anything that is not on this machine
        self.failed: list[str] = []  # requests that never got an answer
        page.on("request", self._watch)
        page.on("requestfailed", lambda request: self.failed.append(f"{request.url} {request.failure}"))
        page.goto(f"{studio.url}/user/login/")
        page.fill("input[name=email]", USERNAME)
        page.fill("input[name=password]", PASSWORD)
        page.click("button[type=submit]")
        page.wait_for_url(lambda url: "/user/login" not in url)

    def _watch(self, request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1", "data:", "blob:")):
            self.foreign.append(request.url)

    def retrieve_predictions(self, project_id: int) -> None:
        """In the Data Manager: tick all tasks, choose "Retrieve Predictions", confirm."""
        self.page.goto(f"{self.studio.url}/projects/{project_id}/data")
        self.page.locator("input[type=checkbox]").first.click(force=True)
        self.page.locator("button", has_text=re.compile(r"^\s*\d+ Tasks?\s*$")).click()
        self.screenshot("retrieve-predictions-menu")
        self.page.get_by_text("Retrieve Predictions", exact=True).click()
        with self.page.expect_response(lambda answer: "retrieve_tasks_predictions" in answer.url) as answer:
            self.page.get_by_role("button", name=re.compile("^(ok|yes|confirm|retrieve)", re.IGNORECASE)).click()
        assert answer.value.ok, answer.value.text()

    def open_task(self, project_id: int, task_id: int, regions: int = 0) -> None:
        """Open a task for labelling; waits until the editor shows at least that many regions."""
        self.page.goto(f"{self.studio.url}/projects/{project_id}/data?task={task_id}")
        self.page.wait_for_function(f"() => {SELECTED} && ({REGIONS})().length >= {regions}", timeout=2 * MINUTE)
        self.page.wait_for_load_state("networkidle")

    def show_prediction(self, prediction_id: int) -> None:
        """Select one of the open task's predictions."""
        there = "id => Htx.annotationStore.predictions.find(p => String(p.pk) === String(id))"
        self.page.wait_for_function(f"id => Boolean(({there})(id))", arg=prediction_id, timeout=2 * MINUTE)
        self.page.evaluate(f"id => Htx.annotationStore.selectPrediction(({there})(id).id)", prediction_id)
        self._settle()

    def regions(self) -> list[dict[str, Any]]:
        """Masks and boxes of the annotation that is open."""
        return self.page.evaluate(REGIONS)

    def suggestions(self) -> list[dict[str, Any]]:
        """What waits for accept or reject."""
        return self.page.evaluate(SUGGESTIONS)

    def boxes_at(self, frame: int) -> dict[str, tuple[float, float, float, float]]:
        """Boxes shown on an editor frame (1-based): label -> x, y, width, height in percent."""
        found = self.page.evaluate(
            """frame => Htx.annotationStore.selected.regions
                .filter(r => r.type === 'videorectangleregion' && r.isInLifespan(frame))
                .map(r => [r.labels[0], r.getShape(frame)])
                .map(([label, s]) => [label, [s.x, s.y, s.width, s.height]])""",
            frame,
        )
        return {label: tuple(box) for label, box in found}

    def show_video_frame(self, frame: int) -> None:
        """Seek the video to an editor frame (1-based) and wait until the browser shows it."""
        # A player that has just loaded goes back to its first frame, so the wish is repeated until it holds.
        self.page.wait_for_function(
            """frame => {
                const video = Htx.annotationStore.selected.names.get('video');
                const players = [...document.querySelectorAll('video')];
                if (!players.length || players.some(v => v.seeking || v.readyState < 2)) return false;
                if (video.frame === frame) return true;
                video.setFrame(frame);
                return false;
            }""",
            arg=frame,
            polling=500,
        )
        self._settle()

    def video_time(self) -> float:
        """Seconds at which the player stands."""
        return float(self.page.evaluate("() => document.querySelector('video').currentTime"))

    def show_frame(self, item_index: int) -> None:
        """Turn to a page of the multi-image picture (0-based) and wait until its picture is loaded."""
        self.page.evaluate(
            f"() => {SELECTED}.names.get('image').setCurrentImage({item_index})",
        )
        self.page.wait_for_function(
            f"""() => {{ const image = {SELECTED}.names.get('image');
                return image.currentImage === {item_index} && image.currentImageEntity.imageLoaded }}"""
        )
        self._settle()

    def painted(self, height: int, width: int) -> np.ndarray:
        """Where masks are really drawn over the frame that is shown: bool [height, width].

        The difference between the picture with all regions and with all hidden, averaged within a pixel.
        """
        # What "Zoom to fit" does: the editor's own first zoom may be from before the page had its final width.
        self.page.evaluate(f"() => {SELECTED}.names.get('image').sizeToFit()")
        self._settle()
        for _ in range(10):
            with_masks = self._canvas()
            self.page.get_by_role("button", name="Hide all regions").click()
            self._settle()
            without = self._canvas()
            self.page.get_by_role("button", name="Show all regions").click()
            self._settle()
            again = self._canvas()
            # Anything else that moved meanwhile, such as a player that has just loaded, is no mask.
            if with_masks.shape == without.shape == again.shape and np.array_equal(with_masks, again):
                break
        else:
            raise AssertionError("the picture never came to rest")
        changed = (np.abs(with_masks.astype(int) - without).max(axis=2) > 8).astype(np.uint8) * 255
        return np.asarray(Image.fromarray(changed).resize((width, height), Image.Resampling.BOX)) > 127

    def _canvas(self) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.page.screenshot(clip=self._stage()))).convert("RGB"))

    def _stage(self) -> FloatRect:
        """Where the picture lies in the window: x, y, width, height in CSS pixels."""
        stage: FloatRect = self.page.evaluate(
            """() => { const stages = [...document.querySelectorAll('.konvajs-content')];
                const b = stages.map(e => e.getBoundingClientRect())
                    .sort((a, b) => b.width * b.height - a.width * a.height)[0];
                return {x: b.x, y: b.y, width: b.width, height: b.height} }"""
        )
        return stage

    def _look_at_picture(self) -> None:
        """Scroll back to it from the text areas below."""
        self.page.locator(".konvajs-content").first.evaluate("e => e.scrollIntoView({block: 'center'})")
        self._settle()

    def _settle(self) -> None:
        # Two frames of animation: what the store has just changed is then on the screen.
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        self.page.wait_for_timeout(400)

    def give_instruction(self, text: str) -> None:
        """Switch Auto-Annotation on, type a sentence into the instruction area and add it."""
        toggle = self.page.locator("label", has_text="Auto-Annotation")
        if not toggle.locator("input").is_checked():
            toggle.click()
        self.page.fill("[name=instruction]", text)
        with self.page.expect_response(
            lambda answer: "interactive-annotating" in answer.url, timeout=2 * MINUTE
        ) as answer:
            self.page.locator("form:has([name=instruction]) button").click()
        assert answer.value.ok, answer.value.text()

    def wait_for_suggestions(self, count: int = 1) -> list[dict[str, Any]]:
        self.page.wait_for_function(f"() => ({SUGGESTIONS})().length >= {count}")
        self._look_at_picture()
        return self.suggestions()

    def accept_suggestions(self) -> None:
        self.page.locator(".lsf-auto-accept__action_type_accept").click()
        self.page.wait_for_function(f"() => ({SUGGESTIONS})().length === 0")
        self._look_at_picture()

    def paint(self, label: str) -> None:
        """A stroke of the brush across the middle of the picture that is shown, with this label."""
        self.page.locator("label, span, div", has_text=re.compile(rf"^{re.escape(label)}\s*\d*$")).first.click()
        box = self._stage()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x - 60, y)
        self.page.mouse.down()
        for step in range(-60, 61, 10):
            self.page.mouse.move(x + step, y + step / 4)
        self.page.mouse.up()
        self._settle()

    def submit(self) -> None:
        """Press Submit, and wait until Label Studio has stored the annotation."""
        self._save("POST", "Submit")

    def update(self) -> None:
        """Press Update, and wait until Label Studio has stored the changed annotation."""
        self._save("PATCH", "Update")

    def _save(self, method: str, button: str) -> None:
        with self.page.expect_response(
            lambda answer: answer.request.method == method and "/annotations" in answer.url
        ) as answer:
            self.page.locator("button", has_text=re.compile(rf"^\s*{button}\s*$")).click()
        assert answer.value.ok, answer.value.text()

    def screenshot(self, name: str) -> Path:
        path = self.pictures / f"{name}.png"
        self.page.screenshot(path=path)
        return path
