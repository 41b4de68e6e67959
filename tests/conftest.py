"""Fixtures for all tests: the shipped clips, a tiny clip with known masks, an engine without a model."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psycopg
import pytest
from sqlalchemy import make_url

from backend.tls import SETTINGS
from tests.scripted import ScriptedEngine
from tests.tiny_clip import TinyClip
from trajseg.video import write_video

POSTGRES = "TRAJSEG_TEST_POSTGRES_URL"
"""Names a PostgreSQL database that tests may empty; processes of one test run use databases of their own beside it."""
# Several test processes keep all cores busy: a worker with low priority would delay its own test.
os.environ.setdefault("TRAJSEG_WORKER_NICE", "0")
# Tests that need authorities name them; loading those of this machine takes every process a quarter of a second.
for _name in SETTINGS:
    os.environ.pop(_name, None)
TINY_WIDTH, TINY_HEIGHT, TINY_FRAMES, TINY_FPS = 96, 64, 12, 12.0


def pytest_collection_finish() -> None:
    """Thousands of tests make a large heap; frozen, it is not searched for garbage again and again."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that one process does not wait for the others at the end."""
    end_to_end = ("learning", "adoption", "below_a_path", "round", "submit", "box_round", "correction", "typed")
    first = (
        *(f"tests/e2e/test_{name}" for name in end_to_end),
        "tests/integration/",
        "tests/worker/",
        "tests/trajseg/",
    )
    items.sort(key=lambda item: next((at for at, name in enumerate(first) if item.nodeid.startswith(name)), len(first)))


@pytest.fixture(autouse=True)
def _same_signal_handlers() -> Iterator[None]:
    """RQ's workers and our commands install handlers for good; the next test must not get them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def clips() -> Path:
    """The folder of real clips in the repository."""
    return Path(__file__).parent / "clips"


@pytest.fixture(scope="session")
def cases() -> Path:
    """The folder of small clips with one oddity each; its NOTICE says which."""
    return Path(__file__).parent / "data" / "cases"


@pytest.fixture
def postgres_url() -> str:
    """An empty PostgreSQL database; the test is skipped without one."""
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


@pytest.fixture(scope="session")
def scripted_engine() -> ScriptedEngine:
    """An engine that needs no model: it segments by the colours that the instruction names."""
    return ScriptedEngine()
