"""scripts/soak.py in a short form: every kind of fault once, with real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(590)
def test_faults_at_random_lose_double_and_block_nothing() -> None:
    script = Path(__file__).parents[2] / "scripts" / "soak.py"
    ended = subprocess.run(
        [sys.executable, str(script), "--minutes", "1.3", "--seed", "3"], capture_output=True, text=True, timeout=580
    )
    assert ended.stdout, ended.stderr
    figures = json.loads(ended.stdout.splitlines()[-1])
    assert list(figures) == ["jobs", "faults", "lost", "duplicated", "stuck"]
    assert figures["jobs"] > 10
    assert figures["faults"] > 10
    assert figures["lost"] == figures["duplicated"] == figures["stuck"] == 0, ended.stdout
    assert ended.returncode == 0, ended.stderr
