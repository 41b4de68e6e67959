"""The studies by name, and how to run them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from trajseg.engines.trajseg import VideoSegmenter
from trajseg.files import whole_file
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
    """Measures the missing cells of some studies, and writes their tables to `out`/results.json beside the others'.

    Args:
        names: of STUDIES.
        out: gets cells/, with one file per measured cell, and results.json.
        say: called with the name of each cell that is measured.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        KeyboardInterrupt: stopped by a person; the same call resumes.
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
    """Writes a study's tables and settings into the results file, replacing its previous ones."""
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    measured = plan.settings(model=plan.model, seeds=list(plan.seeds), clips=plan.clips, steps=plan.steps)
    results[study] = {"measured": measured, "tables": [table.to_json() for table in tables]}
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
