"""Scores of model versions on a base set, kept in a folder: a version is measured once, and compared in many rounds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trajseg.checkpoints.manifest import read_manifest
from trajseg.files import write_json
from trajseg.training.gate import ScoresByClip


class BaseScores:
    """Kept scores of the versions of one base.

    Args:
        folder: one file per version and set; created when the first is written.
        measured_on: what else scores depend on, as JSON: the base, the set, how many expressions, the weights' type.
    """

    def __init__(self, folder: Path, measured_on: Mapping[str, Any]) -> None:
        self.folder, self.measured_on = folder, measured_on

    def of_both(
        self, served: Path | None, candidate: Path, measure: Callable[[Path | None], ScoresByClip]
    ) -> tuple[ScoresByClip, ScoresByClip]:
        """Scores of the served version and of the candidate, measured where they are not kept.

        Kept scores of the served version are measured again if clips were added to the set, or changed, since then.

        Args:
            served, candidate: folders of their adapters; None: the base.
            measure: called with such a folder; an exception from it loses no finished scores.
        """
        new = self._of(candidate, measure)
        old = self._of(served, measure)
        if _sizes(old) != _sizes(new):
            self.path(served).unlink()
            old = self._of(served, measure)
        return old, new

    def path(self, version: Path | None) -> Path:
        """The file with a version's scores, named after all that they depend on."""
        files = None if version is None else read_manifest(version).files
        key = json.dumps({**self.measured_on, "adapter": files}, sort_keys=True)
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"

    def _of(self, version: Path | None, measure: Callable[[Path | None], ScoresByClip]) -> ScoresByClip:
        path = self.path(version)
        if not path.exists():
            write_json(path, {clip: list(scores) for clip, scores in measure(version).items()})
        scores: ScoresByClip = json.loads(path.read_text(encoding="utf-8"))
        return scores


def _sizes(scores: ScoresByClip) -> dict[str, int]:
    return {clip: len(each) for clip, each in scores.items()}
