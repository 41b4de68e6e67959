"""What every test can ask for: the shipped clips, a tiny clip with known masks, an engine without a model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psycopg
import pytest
from sqlalchemy import make_url

from trajseg.engines.base import (
    PLAIN,
    EngineSpec,
    FrameMasks,
    ObjectMask,
    RunContext,
    TrackedObject,
    check_instruction,
)
from trajseg.engines.segmentation import Segmentation
from trajseg.video import Clip, open_clip, write_video

POSTGRES = "TRAJSEG_TEST_POSTGRES_URL"
"""Names a PostgreSQL database that tests may empty; processes of one test run use databases of their own beside it."""
TINY_WIDTH, TINY_HEIGHT, TINY_FRAMES, TINY_FPS = 96, 64, 12, 12.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: started last, one of them would keep one of two processes waiting for the other."""
    first = ("tests/integration/", "tests/worker/", "tests/trajseg/")
    items.sort(key=lambda item: next((at for at, name in enumerate(first) if item.nodeid.startswith(name)), len(first)))


@pytest.fixture(scope="session")
def clips() -> Path:
    """The folder of real clips that stand in the repository."""
    return Path(__file__).parent / "clips"


@pytest.fixture(scope="session")
def cases() -> Path:
    """The folder of small clips with one oddity each; its NOTICE says which."""
    return Path(__file__).parent / "data" / "cases"


@pytest.fixture
def postgres_url() -> str:
    """An empty PostgreSQL database; the test is skipped where there is none."""
    named = os.environ.get(POSTGRES, "")
    if not named:
        pytest.skip(f"{POSTGRES} names no PostgreSQL database that may be emptied")
    url = make_url(named).set(drivername="postgresql")
    process = os.environ.get("PYTEST_XDIST_WORKER")
    if process:
        own = f"{url.database}_{process}"
        server = psycopg.connect(url.render_as_string(hide_password=False), autocommit=True)
        with server, suppress(psycopg.errors.DuplicateDatabase):
            server.execute(f'CREATE DATABASE "{own}"'.encode())
        url = url.set(database=own)
    text = url.render_as_string(hide_password=False)
    with psycopg.connect(text, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return text


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind in turn."""
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgres_url")
        return url
    return f"sqlite:///{tmp_path / 'store.db'}"


@dataclass(frozen=True)
class TinyClip:
    """A clip of 12 frames, 96x64 pixels, 12 frames a second, H.264, and what is drawn in it.

    A red square moves right all the time; a blue one moves left and is gone from frame 8 on.
    """

    path: Path
    red: list[np.ndarray]
    blue: list[np.ndarray]


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> TinyClip:
    """A tiny clip with known masks; read it, do not change it."""
    red, blue, frames = [], [], []
    for index in range(TINY_FRAMES):
        picture = np.full((TINY_HEIGHT, TINY_WIDTH, 3), 90, np.uint8)
        masks = np.zeros((2, TINY_HEIGHT, TINY_WIDTH), bool)
        masks[0, 8:24, 4 + 6 * index : 20 + 6 * index] = True
        if index < 8:
            masks[1, 36:56, 64 - 6 * index : 84 - 6 * index] = True
        picture[masks[0]] = (230, 20, 20)
        picture[masks[1]] = (20, 20, 230)
        red.append(masks[0])
        blue.append(masks[1])
        frames.append(picture)
    path = write_video(tmp_path_factory.mktemp("clips") / "tiny.mp4", frames, TINY_FPS, crf=10)
    return TinyClip(path, red, blue)


class ScriptedEngine:
    """An engine that finds saturated red, green and blue when the instruction says their names."""

    spec = EngineSpec(name="scripted", model_version="scripted", several=True, none=True)

    def segment(self, clip: Clip | str | Path, instruction: str, context: RunContext = PLAIN) -> Segmentation:
        """One object for each colour named; a red, green or blue pixel outshines its other channels by 80."""
        clip, instruction = open_clip(clip), check_instruction(instruction)
        colours = [name for name in ("red", "green", "blue") if name in instruction.lower()]
        objects = TrackedObject.numbered([f"something {name}" for name in colours])
        done = context.done_of(objects)
        return Segmentation(
            spec=self.spec,
            clip=clip,
            instruction=instruction,
            objects=objects,
            frames=self.frames(clip, colours, {frame.index for frame in done}),
            answer=", ".join(colours) or "there is none",
            done=done,
        )

    def frames(self, clip: Clip, colours: Sequence[str], done: set[int]) -> Iterator[FrameMasks]:
        for index, rgb in clip.frames([index for index in range(len(clip)) if index not in done]):
            masks = {}
            for number, name in enumerate(colours, 1):
                channel = ("red", "green", "blue").index(name)
                others = np.delete(rgb, channel, axis=2).max(axis=2).astype(int)
                masks[f"t{number}"] = ObjectMask.of(rgb[..., channel] - others > 80, 0.9)
            yield FrameMasks(index, masks)


@pytest.fixture(scope="session")
def scripted_engine() -> ScriptedEngine:
    """An engine that needs no model: it segments by the colours that the instruction names."""
    return ScriptedEngine()
