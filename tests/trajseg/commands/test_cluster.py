"""`trajseg segment --jobs --ray`: two actors on this machine give the results of one process; a second run resumes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from trajseg.cli import main
from trajseg.engines.registry import load_engine

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `cluster` is not installed"),
    pytest.mark.timeout(600),
]


@pytest.fixture
def jobs(tmp_path: Path, tiny_clip: Any) -> Path:
    path = tmp_path / "jobs.jsonl"
    lines = [
        {"id": f"job-{number}", "video": str(tiny_clip.path), "instruction": instruction}
        for number, instruction in enumerate(("the red square", "the blue square", "everything"))
    ]
    lines.append({"id": "gone", "video": str(tmp_path / "gone.mp4"), "instruction": "the red square"})
    path.write_text("\n".join(map(json.dumps, lines)) + "\nnot json\n")
    return path


def segment(jobs: Path, out: Path, *more: str) -> Result:
    return CliRunner().invoke(
        main, ["segment", "--jobs", str(jobs), "--out", str(out), "--device", "cpu", *more], obj=load_engine
    )


@pytest.mark.slow
def test_two_actors_give_what_one_process_gives_and_a_second_run_does_only_what_is_missing(
    jobs: Path, tmp_path: Path
) -> None:
    alone = segment(jobs, tmp_path / "alone")
    assert alone.exit_code == 2, alone.output
    ray = segment(jobs, tmp_path / "ray", "--ray", "local", "--workers", "2")
    assert ray.exit_code == 2, ray.output
    files = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert sorted(path.name for path in (tmp_path / "ray").iterdir()) == files
    for name in files:
        assert json.loads((tmp_path / "ray" / name).read_text()) == json.loads((tmp_path / "alone" / name).read_text())
    # One is missing, one has another instruction: these are computed again, the third is kept.
    kept = tmp_path / "ray" / "job-2.json"
    before = kept.stat().st_mtime_ns
    (tmp_path / "ray" / "job-0.json").unlink()
    other = json.loads((tmp_path / "ray" / "job-1.json").read_text()) | {"instruction": "the star"}
    (tmp_path / "ray" / "job-1.json").write_text(json.dumps(other))
    again = segment(jobs, tmp_path / "ray", "--ray", "local", "--workers", "2")
    assert "1 job already done" in again.output
    assert "2 jobs done, 1 kept" in again.output
    assert kept.stat().st_mtime_ns == before
    for name in files:
        assert json.loads((tmp_path / "ray" / name).read_text()) == json.loads((tmp_path / "alone" / name).read_text())


def test_a_missing_cluster_is_named(jobs: Path, tmp_path: Path) -> None:
    outcome = segment(jobs, tmp_path / "out", "--ray", "127.0.0.1:9")
    assert outcome.exit_code != 0
    assert "127.0.0.1:9 cannot be reached" in str(outcome.exception) + outcome.output


@pytest.mark.parametrize("address", ["nowhere:port", "ray://127.0.0.1:99999"])
def test_an_invalid_address_is_named(jobs: Path, tmp_path: Path, address: str) -> None:
    outcome = segment(jobs, tmp_path / "out", "--ray", address)
    assert f"{address} cannot be reached" in str(outcome.exception) + outcome.output


def test_workers_without_a_cluster_are_refused(jobs: Path, tmp_path: Path) -> None:
    outcome = segment(jobs, tmp_path / "out", "--workers", "2")
    assert outcome.exit_code == 2
    assert "--ray" in outcome.output


def test_where_everything_is_done_no_cluster_is_needed(jobs: Path, tmp_path: Path) -> None:
    line = json.loads(jobs.read_text().splitlines()[0])
    jobs.write_text(json.dumps(line))
    form = {"video": line["video"], "instruction": line["instruction"], "model_version": "trajseg-tiny"}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"{line['id']}.json").write_text(json.dumps(form))
    outcome = segment(jobs, tmp_path / "out", "--ray", "127.0.0.1:9")
    assert outcome.exit_code == 0, outcome.output
    assert "0 jobs done, 1 kept" in outcome.output
