"""Real parts for the end-to-end tests: Label Studio, `trajseg serve`, Chromium, projects made by the CLI."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.e2e.prelabelled import Prelabelled, prelabelled
from tests.e2e.serving import COLOUR_MODEL, MadeProject, Question, Trajseg, make_project, serving
from tests.e2e.studio import ROOT, LabelStudio, running_label_studio

MODEL = os.environ.get("TRAJSEG_E2E_MODEL", "trajseg-tiny")
SHAPES_SEED = 13  # an orange ring that circles, a blue square that bounces, a red ring that moves up
SHAPES_INSTRUCTION = "the red ring"


PICTURES = ROOT / "e2e-artifacts"
"""Where screenshots are kept after the run; ignored by git."""
# In milliseconds. Two browsers, two Label Studios and two workers share the cores.
expect.set_options(timeout=30_000)


def pytest_sessionstart(session: pytest.Session) -> None:
    """The screenshots of the last run are removed once, not by each of the processes that share a run."""
    if not hasattr(session.config, "workerinput"):
        shutil.rmtree(PICTURES, ignore_errors=True)


@pytest.fixture(scope="session")
def pictures() -> Path:
    PICTURES.mkdir(exist_ok=True)
    return PICTURES


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory, clips: Path) -> list[Question]:
    """A rendered clip of the shapes world and a real one."""
    from trajseg.shapes.world.render import write_clip
    from trajseg.shapes.world.scenes import sample_scene

    folder = tmp_path_factory.mktemp("clips")
    scene = sample_scene(SHAPES_SEED, "val", frame_count=24, aspect=4 / 3)
    return [
        Question(write_clip(scene, folder / "shapes.mp4", 240), SHAPES_INSTRUCTION),
        Question(Path(shutil.copy(clips / "yellow_box.mp4", folder)), "the yellow box"),
    ]


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    """Label Studio with the settings in the README."""
    # A terminated run (such as by a time limit) stops its servers like an interrupted one.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = tmp_path_factory.mktemp("label-studio")
    (folder / "media").mkdir()
    with running_label_studio(folder / "data", folder / "media") as running:
        yield running


@pytest.fixture(scope="session")
def trajseg(studio: LabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trajseg]:
    """`trajseg serve` with an engine whose masks are known in advance."""
    with serving(studio, tmp_path_factory.mktemp("trajseg"), COLOUR_MODEL) as running:
        yield running


@pytest.fixture(scope="session")
def tiny(studio: LabelStudio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trajseg]:
    """`trajseg serve` with defaults: the shipped checkpoint."""
    with serving(studio, tmp_path_factory.mktemp("tiny"), MODEL) as running:
        yield running


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser of all tests."""
    from tests.e2e.editor import running_chromium

    with running_chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def editor(chromium: Any, studio: LabelStudio, pictures: Path) -> Iterator[Any]:
    """A person logged in to that Label Studio, in Chromium."""
    from tests.e2e.editor import Editor, browser_page

    with browser_page(chromium) as page:
        yield Editor(page, studio, pictures)


@pytest.fixture(scope="module")
def page(chromium: Any) -> Iterator[Any]:
    """A page for trajseg's own pages."""
    from tests.e2e.editor import browser_page

    with browser_page(chromium) as opened:
        yield opened


@pytest.fixture(scope="module")
def task(project: MadeProject, studio: LabelStudio, trajseg: Trajseg) -> Prelabelled:
    """The first task of the module's project with its prediction."""
    return prelabelled(studio, trajseg, project, 0)


@pytest.fixture(scope="session")
def mask_project(trajseg: Trajseg, studio: LabelStudio, questions: list[Question]) -> MadeProject:
    """Both clips in the mask view."""
    return make_project(trajseg, studio, "mask", "Masks", questions)


@pytest.fixture(scope="session")
def box_project(trajseg: Trajseg, studio: LabelStudio, questions: list[Question], clips: Path) -> MadeProject:
    """The clip of the shapes world and one whose frame rate varies, in the box view."""
    varying = Question(clips / "variable_frame_rate.mp4", "the yellow box")
    return make_project(trajseg, studio, "box", "Boxes", [questions[0], varying])


@pytest.fixture(scope="session")
def typing_project(trajseg: Trajseg, studio: LabelStudio, questions: list[Question]) -> MadeProject:
    """The clip of the shapes world in the mask view, for instructions typed on the page."""
    return make_project(trajseg, studio, "mask", "Typed", questions[:1])
