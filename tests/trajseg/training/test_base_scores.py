"""Kept scores on base sets: a version is measured once, and again only if what its scores depend on has changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trajseg.training.base_scores import BaseScores
from trajseg.training.gate import ScoresByClip


def version(folder: Path, digest: str) -> Path:
    """A version's folder, with just its manifest."""
    folder.mkdir(parents=True)
    form = {"model_version": folder.name, "base": "tiny", "base_config": "c", "files": {"adapter": digest}}
    (folder / "manifest.json").write_text(json.dumps(form))
    return folder


class Measuring:
    """Scores by version, and which versions were measured."""

    def __init__(self, clips: int = 2, score: float = 0.5) -> None:
        self.clips, self.score = clips, score
        self.measured: list[Path | None] = []

    def __call__(self, at: Path | None) -> ScoresByClip:
        self.measured.append(at)
        return {f"clip-{number}": (self.score, self.score) for number in range(self.clips)}


@pytest.fixture
def kept(tmp_path: Path) -> Callable[..., BaseScores]:
    def of(**changed: object) -> BaseScores:
        return BaseScores(tmp_path / "models" / "base-scores", {"base": "c", "set": "shapes:val", **changed})

    return of


def test_each_version_is_measured_once(kept: Callable[..., BaseScores], tmp_path: Path) -> None:
    one, two, measuring = version(tmp_path / "1", "a"), version(tmp_path / "2", "b"), Measuring()
    assert kept().of_both(None, one, measuring) == ({"clip-0": [0.5, 0.5], "clip-1": [0.5, 0.5]},) * 2
    kept().of_both(None, two, measuring)
    kept().of_both(one, two, measuring)
    assert measuring.measured == [one, None, two]


def test_what_scores_depend_on_is_part_of_their_name(kept: Callable[..., BaseScores], tmp_path: Path) -> None:
    one, again, measuring = (
        version(tmp_path / "1", "a"),
        version(tmp_path / "again" / "1", "other weights"),
        Measuring(),
    )
    kept().of_both(None, one, measuring)
    kept(set="ref-youtube-vos:/data").of_both(None, one, measuring)
    kept().of_both(None, again, measuring)
    assert measuring.measured == [one, None, one, None, again]


def test_a_set_that_has_changed_is_measured_again(kept: Callable[..., BaseScores], tmp_path: Path) -> None:
    one, two = version(tmp_path / "1", "a"), version(tmp_path / "2", "b")
    kept().of_both(None, one, Measuring())
    larger = Measuring(clips=3, score=0.25)
    old, new = kept().of_both(None, two, larger)
    assert larger.measured == [two, None]
    assert old == new == {f"clip-{number}": [0.25, 0.25] for number in range(3)}


def test_an_interrupted_measurement_keeps_what_is_finished(kept: Callable[..., BaseScores], tmp_path: Path) -> None:
    one, measuring = version(tmp_path / "1", "a"), Measuring()

    def stopped(at: Path | None) -> ScoresByClip:
        if at is None:
            raise KeyboardInterrupt
        return measuring(at)

    with pytest.raises(KeyboardInterrupt):
        kept().of_both(None, one, stopped)
    kept().of_both(None, one, measuring)
    assert measuring.measured == [one, None]
