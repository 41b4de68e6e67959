"""scripts/load.py in a short form: real processes, and the last line has the form that `make load` documents."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_requests_beside_a_busy_worker_meet_no_error() -> None:
    script = Path(__file__).parents[2] / "scripts" / "load.py"
    ended = subprocess.run(
        [sys.executable, str(script), "--rate", "20", "--seconds", "6"], capture_output=True, text=True, timeout=170
    )
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(ended.stdout.splitlines()[-1])
    assert list(figures) == ["requests", "errors", "p50_ms", "p99_ms", "rss_growth_mb"]
    assert (figures["requests"], figures["errors"]) == (120, 0)
    assert 0 < figures["p50_ms"] <= figures["p99_ms"]
