"""The job kind `preview`: the contract, its picture, its text and its estimate."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from backend.settings import Settings
from backend.store import Job, Store
from backend.store.kinds import KINDS
from tests.contracts.job_kind import JobKindContract
from trajseg.engines.registry import load_engine
from worker.run import keep, run
from worker.state import WorkerState

ROOT = Path(__file__).parents[3]


class TestPreview(JobKindContract):
    kind = KINDS["preview"]
    bad_params: ClassVar[dict[str, Any]] = {"frames": 1}

    def prepare(self, store: Store, clip: Path) -> Job:
        params = {"frames": 4, "videos": 300}
        return store.jobs.add("preview", None, None, str(clip), "the red square", "interactive", params)[0]

    def test_its_report_has_words_and_an_estimate(self, job: Job, store: Store) -> None:
        run(job.id)
        report = (store.jobs.get(job.id).result or {})["report"]
        assert report["frames"] == 4
        assert "for 300 videos like this (3600 frames)" in report["estimate"]
        assert report["tracks"] == ["track-1: something red (score 0.90), in frames 1, 4, 9, 12"] or report["tracks"]


@pytest.mark.slow
def test_what_the_chooser_rejects_is_in_the_picture_too(
    tmp_path: Path, store: Store, tiny_clip: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """grounded on real classes: a candidate below the certain score is shown, but not chosen."""
    tiny = ROOT / "trajseg" / "shapes" / "engines" / "grounded-tiny"
    engine = load_engine("trajseg.engines.grounded:factory", "cpu", checkpoint=str(tiny), chooser="none")
    settings = Settings(data_dir=tmp_path / "data", media_dirs=(str(tiny_clip.path.parent),))
    keep(WorkerState(settings.model_copy(update={"label_studio_url": "http://127.0.0.1:9"}), store, engine))
    try:
        for certain in (0.0, 1.0):
            monkeypatch.setattr(engine, "settings", dataclass_with(engine, certain))
            job, _ = store.jobs.add(
                "preview", None, None, str(tiny_clip.path), "the red square", "interactive", subject=str(certain)
            )
            run(job.id)
            done = store.jobs.get(job.id)
            assert (done.state, done.error) == ("done", "")
            words = (done.result or {})["report"]["tracks"]
            assert words[0].startswith("track-1" if certain == 0.0 else "candidate 1, rejected: red square")
            with Image.open(settings.media_dir / job.id / "preview.png") as picture:
                assert np.asarray(picture.convert("RGB")).std() > 5
    finally:
        keep(None)


def dataclass_with(engine: Any, certain: float) -> Any:
    from dataclasses import replace

    return replace(engine.settings, certain=certain)
