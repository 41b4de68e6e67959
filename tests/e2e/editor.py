"""Label Studio's pages in headless Chromium, operated like a person; the editor's store is `window.Htx`."""

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
# Without these flags Chromium requests updates at every start.
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
    """The mask, bool [H, W], of a `data:image/png;base64,...`: its pixels that are not transparent."""
    picture = Image.open(io.BytesIO(base64.b64decode(png_url.split(",", 1)[1]))).convert("RGBA")
    return np.asarray(picture)[..., 3] > 127


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """A headless Chromium. One thread can drive only one, so the whole test run shares it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=EXECUTABLE, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def browser_page(browser: Browser) -> Iterator[Page]:
    """A new page with its own cookies."""
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    try:
        page.set_default_timeout(MINUTE)
        yield page
    finally:
        page.close()


def pressed(page: Page, button: str) -> str:
    """Presses a button on trajseg's pages; returns the page's message."""
    page.get_by_role("button", name=button).first.click()
    page.wait_for_function("() => document.getElementById('said').classList.contains('is-shown')")
    return page.locator("#said").inner_text()


class Editor:
    """A person at Label Studio: opens, views, corrects and submits tasks."""

    def __init__(self, page: Page, studio: LabelStudio, pictures: Path) -> None:
        self.page = page
        self.studio = studio
        self.pictures = pictures
        self.foreign: list[str] = []  # requests to anything that is not on this machine
        self.failed: list[str] = []  # requests without an answer
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
        """In the Data Manager: selects all tasks, chooses "Retrieve Predictions", confirms."""
        self.page.goto(f"{self.studio.url}/projects/{project_id}/data")
        self.page.locator("input[type=checkbox]").first.click(force=True)
        self.page.locator("button", has_text=re.compile(r"^\s*\d+ Tasks?\s*$")).click()
        self.screenshot("retrieve-predictions-menu")
        self.page.get_by_text("Retrieve Predictions", exact=True).click()
        with self.page.expect_response(lambda answer: "retrieve_tasks_predictions" in answer.url) as answer:
            self.page.get_by_role("button", name=re.compile("^(ok|yes|confirm|retrieve)", re.IGNORECASE)).click()
        assert answer.value.ok, answer.value.text()

    def open_task(self, project_id: int, task_id: int, regions: int = 0) -> None:
        """Opens a task for labelling; waits until the editor shows at least that many regions."""
        self.page.goto(f"{self.studio.url}/projects/{project_id}/data?task={task_id}")
        self.page.wait_for_function(f"() => {SELECTED} && ({REGIONS})().length >= {regions}", timeout=2 * MINUTE)
        self.page.wait_for_load_state("networkidle")

    def predictions(self) -> list[dict[str, str]]:
        """The predictions that the page offers, in its order: id and model version."""
        found: list[dict[str, str]] = self.page.evaluate(
            "() => Htx.annotationStore.predictions.map(p => ({id: String(p.pk), version: p.createdBy}))"
        )
        return found

    def show_prediction(self, prediction_id: int) -> None:
        """Selects one of the open task's predictions."""
        there = "id => Htx.annotationStore.predictions.find(p => String(p.pk) === String(id))"
        self.page.wait_for_function(f"id => Boolean(({there})(id))", arg=prediction_id, timeout=2 * MINUTE)
        self.page.evaluate(f"id => Htx.annotationStore.selectPrediction(({there})(id).id)", prediction_id)
        self._settle()

    def regions(self) -> list[dict[str, Any]]:
        """Masks and boxes of the open annotation."""
        return self.page.evaluate(REGIONS)

    def suggestions(self) -> list[dict[str, Any]]:
        """The suggestions to accept or reject."""
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
        """Seeks the video to an editor frame (1-based) and waits until the browser shows it."""
        # A player that has just loaded returns to its first frame, so the seek is repeated until it persists.
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
        """The player's position in seconds."""
        return float(self.page.evaluate("() => document.querySelector('video').currentTime"))

    def show_frame(self, item_index: int) -> None:
        """Turns to a page of the multi-image picture (0-based) and waits until its picture is loaded."""
        # A page that has just opened may still replace the annotation, whose first picture is shown.
        self.page.wait_for_function(
            f"""() => {{
                const image = {SELECTED}.names.get('image');
                if (image.currentImage === {item_index}) return image.currentImageEntity.imageLoaded;
                image.setCurrentImage({item_index});
                return false;
            }}"""
        )
        self._settle()

    def painted(self, height: int, width: int) -> np.ndarray:
        """The masks actually drawn over the shown frame: bool [height, width].

        The difference between the picture with all regions and with all hidden, averaged within a pixel.
        """
        # "Zoom to fit": the editor's first zoom may precede the page's final width.
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
            # Other changes, such as a player that has just loaded, are not masks.
            if with_masks.shape == without.shape == again.shape and np.array_equal(with_masks, again):
                break
        else:
            raise AssertionError("the picture never came to rest")
        changed = (np.abs(with_masks.astype(int) - without).max(axis=2) > 8).astype(np.uint8) * 255
        return np.asarray(Image.fromarray(changed).resize((width, height), Image.Resampling.BOX)) > 127

    def _canvas(self) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.page.screenshot(clip=self._stage()))).convert("RGB"))

    def _stage(self) -> FloatRect:
        """The picture's position in the window: x, y, width, height in CSS pixels."""
        stage: FloatRect = self.page.evaluate(
            """() => { const stages = [...document.querySelectorAll('.konvajs-content')];
                const b = stages.map(e => e.getBoundingClientRect())
                    .sort((a, b) => b.width * b.height - a.width * a.height)[0];
                return {x: b.x, y: b.y, width: b.width, height: b.height} }"""
        )
        return stage

    def _look_at_picture(self) -> None:
        """Scrolls back to the picture from the text areas below."""
        self.page.locator(".konvajs-content").first.evaluate("e => e.scrollIntoView({block: 'center'})")
        self._settle()

    def _settle(self) -> None:
        # Two animation frames: the store's latest change is then on the screen.
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        self.page.wait_for_timeout(400)

    def give_instruction(self, text: str) -> None:
        """Switches Auto-Annotation on, types an instruction and adds it."""
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

    def paint(self, label: str, at: tuple[float, float] = (0.5, 0.5), reach: int = 60) -> None:
        """A brush stroke with this label across a point of the shown picture.

        Args:
            at: the point, as fractions of the picture's width and height.
            reach: of the stroke to either side, in CSS pixels.
        """
        self.page.locator("label, span, div", has_text=re.compile(rf"^{re.escape(label)}\s*\d*$")).first.click()
        box = self._stage()
        x, y = box["x"] + at[0] * box["width"], box["y"] + at[1] * box["height"]
        self.page.mouse.move(x - reach, y)
        self.page.mouse.down()
        for step in range(-reach, reach + 1, 10):
            self.page.mouse.move(x + step, y + step / 4)
        self.page.mouse.up()
        self._settle()

    def submit(self) -> None:
        """Presses Submit, and waits until Label Studio has stored the annotation."""
        self._save("POST", "Submit")

    def update(self) -> None:
        """Presses Update, and waits until Label Studio has stored the changed annotation."""
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
