"""The studies by name, and a run of some of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from trajseg.engines.trajseg import VideoSegmenter
from trajseg.shapes.studies.ambiguity import ambiguity
from trajseg.shapes.studies.cells import Cells
from trajseg.shapes.studies.drift import drift
from trajseg.shapes.studies.frames import key_frames, llm_frames
from trajseg.shapes.studies.plan import Plan
from trajseg.shapes.studies.table import Table
from trajseg.shapes.studies.training import training

Study = Callable[[Plan, VideoSegmenter, Cells], list[Table]]

STUDIES: Mapping[str, Study] = {
    "key_frames": key_frames,
    "llm_frames": llm_frames,
    "drift": drift,
    "ambiguity": ambiguity,
    "training": training,
}


def run(names: Iterable[str], plan: Plan, out: Path, say: Callable[[str], None]) -> list[Table]:
    """Measures the missing cells of some studies, and keeps their tables in `out`/results.json beside those of others.

    Args:
        names: of STUDIES.
        out: receives cells/, a file for each measured cell, and results.json.
        say: is called with each cell that is measured.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        KeyboardInterrupt: a person stopped it; the same call resumes.
    """
    segmenter = plan.segmenter()
    cells = Cells(out / "cells", say)
    tables: list[Table] = []
    for name in names:
        found = STUDIES[name](plan, segmenter, cells)
        keep(found, name, plan, out / "results.json")
        tables += found
    return tables


def keep(tables: list[Table], study: str, plan: Plan, path: Path) -> None:
    """Writes a study's tables, with what they were measured on, in its place among the others'."""
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    measured = plan.settings(model=plan.model, seeds=list(plan.seeds), clips=plan.clips, steps=plan.steps)
    results[study] = {"measured": measured, "tables": [table.to_json() for table in tables]}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
