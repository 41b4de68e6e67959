"""The studies save their measurements, use the documented settings, and report the spread."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trajseg.checkpoints.folders import fingerprint
from trajseg.engines.base import PLAIN, EngineSpec, FrameMasks, ObjectMask, RunContext, TrackedObject
from trajseg.engines.segmentation import Segmentation
from trajseg.engines.trajseg import Said
from trajseg.errors import CheckpointError
from trajseg.evaluation.metrics import mean
from trajseg.model.sampling import Sampling
from trajseg.shapes.studies import drift as drift_study
from trajseg.shapes.studies.ambiguity import ambiguous_and_clear, area_under_curve, ask, outcome
from trajseg.shapes.studies.cells import Cells
from trajseg.shapes.studies.drift import drift, identifies
from trajseg.shapes.studies.frames import KEY_FRAMES, LLM_FRAMES, key_frames, llm_frames
from trajseg.shapes.studies.plan import Plan
from trajseg.shapes.studies.report import draw, print_tables
from trajseg.shapes.studies.studies import keep
from trajseg.shapes.studies.table import Spread, Table
from trajseg.shapes.world.language import instructions, short_caption, words
from trajseg.shapes.world.render import render
from trajseg.shapes.world.scenes import COLOURS, SHAPES, SIZES, Scene, sample_scene
from trajseg.tracks import MaskTrack, Result, rle
from trajseg.video import Clip

Choice = Callable[[int, Sampling], Iterable[int]]
"""Objects of the scene that are drawn in a frame."""

pytestmark = pytest.mark.slow
HEIGHT = 64


class Stub:
    """A substitute for a VideoSegmenter: draws the objects of a scene that `choose` returns, for each frame of the
    clip.

    choose: from the frame's index and the sampling to indices of objects.
    """

    spec = EngineSpec(name="stub", model_version="stub")
    model = SimpleNamespace(config=SimpleNamespace(llm_frames=8, prompt_every_frame=True))

    def __init__(self, choose: Choice, said: str = "", sampling: Sampling | None = None) -> None:
        self.choose, self.said, self.sampling = choose, said, sampling or Sampling()
        self.asked: list[Sampling] = []

    def sampled(self, sampling: Sampling) -> Stub:
        other = Stub(self.choose, self.said, sampling)
        other.asked = self.asked
        return other

    def answer(self, clip: Clip, instruction: str) -> Said:
        return Said(self.said, (-0.1, -0.4))

    def segment(self, clip: Clip, instruction: str, context: RunContext = PLAIN) -> Segmentation:
        self.asked.append(self.sampling)
        drawn = [self.choose(index, self.sampling) for index in range(len(clip))]
        objects = sorted({k for chosen in drawn for k in chosen})

        def frames() -> Iterator[FrameMasks]:
            for t, chosen in enumerate(drawn):
                masks = {k: self.ids[t] == k + 1 for k in chosen}
                codes = {k: rle.encode(mask) if mask.any() else None for k, mask in masks.items()}
                yield FrameMasks(t, {f"t{k}": ObjectMask(codes.get(k), 0.5) for k in objects})

        return Segmentation(
            spec=self.spec,
            clip=clip,
            instruction=instruction,
            answer=self.said,
            objects=[TrackedObject(f"t{k}", f"t{k}") for k in objects],
            frames=frames(),
        )

    ids = np.zeros((0, 0, 0), np.uint8)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "model.safetensors").write_bytes(b"weights")
    return Plan(model=str(tmp_path / "checkpoint"), seeds=(0, 1), clips=1, height=HEIGHT)


def truth(scene: Scene) -> np.ndarray:
    """Ids at the size of the written clip, whose sides are even."""
    ids = render(scene, HEIGHT)[1]
    return np.pad(ids, ((0, 0), (0, ids.shape[1] % 2), (0, ids.shape[2] % 2)), mode="edge")


def test_a_cell_is_measured_once_and_again_only_under_other_settings(tmp_path: Path) -> None:
    told: list[str] = []
    measured: list[int] = []

    def measure() -> dict[str, Any]:
        measured.append(1)
        return {"jf": len(measured)}

    def cell(cells: Cells, **settings: int) -> dict[str, Any]:
        return cells.measured("jf", settings, measure)

    assert cell(Cells(tmp_path, told.append), clips=2) == {"jf": 1}
    assert cell(Cells(tmp_path), clips=2) == {"jf": 1}
    assert cell(Cells(tmp_path), clips=3) == {"jf": 2}
    assert len(told) == 2, "what is found is not announced as if it were measured"
    assert {path.suffix for path in tmp_path.iterdir()} == {".json"}


def test_a_cell_that_is_broken_off_leaves_nothing_behind(tmp_path: Path) -> None:
    def broken() -> dict:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cells(tmp_path).measured("jf", {}, broken)
    assert Cells(tmp_path).measured("jf", {}, lambda: {"jf": 1.0}) == {"jf": 1.0}


def test_other_weights_have_another_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"one")
    one = fingerprint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"two")
    two = fingerprint(tmp_path)
    assert two != one
    assert len(one) == 12
    (tmp_path / "warm_start.safetensors").write_bytes(b"only fine-tuning reads this")
    assert fingerprint(tmp_path) == two


def test_figures_have_the_mean_and_the_sample_deviation_of_their_seeds() -> None:
    spread = Spread.of([0.5, 0.7, None, 0.6])
    assert spread
    assert (spread.mean, spread.spread) == pytest.approx((0.6, 0.1))
    assert spread.each == (0.5, 0.7, 0.6)
    assert str(Spread.of([0.5, 0.7, 0.6])) == "0.600 ± 0.100"
    assert str(Spread.of([90.0])) == "90.0"
    assert Spread.of([None]) is None
    assert mean([True, None, False]) == 0.5
    assert mean([]) is None


def known(figure: Spread | None) -> Spread:
    assert figure
    return figure


def test_frames_are_studied_under_each_sampling_and_the_common_one_is_measured_once(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub: Any = Stub(lambda index, sampling: ())
    cells = Cells(tmp_path / "cells")
    [keys] = key_frames(plan, stub, cells)
    asked = set(stub.asked)
    assert asked == {Sampling(), *(Sampling(key_frames=count) for count in KEY_FRAMES)}
    assert list(keys.rows) == ["1", "2", "4", "8", "0 and all 8", "every frame"]
    assert known(keys.rows["4"]["referring_jf"]).mean < 0.1, "right only where the object is not to be seen"
    assert len(known(keys.rows["4"]["referring_jf"]).each) == 2
    stub.asked.clear()
    [seen] = llm_frames(plan, stub, cells)
    assert set(stub.asked) == {Sampling(llm_frames=count) for count in LLM_FRAMES if count}
    assert known(seen.rows["8"]["none_accuracy"]).mean == 1.0, "who draws nothing is right where nothing is meant"
    stub.asked.clear()
    assert key_frames(plan, stub, Cells(tmp_path / "cells")) == [keys]
    assert not stub.asked, "a second run finds all cells"
    monkeypatch.setattr(stub.model.config, "prompt_every_frame", False)
    [without] = key_frames(plan, stub, Cells(tmp_path / "cells"))
    assert list(without.rows)[-1] == "0 and all 8"


def test_drift_shows_where_in_a_clip_masks_fail_and_only_of_objects_that_were_identified(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift_study, "FRAMES", 40)
    found = [s for s in range(12) if _asks_about(sample_scene(s, "test", frame_count=40), 0)]
    scene = sample_scene(found[0], "test", frame_count=40)
    monkeypatch.setattr(drift_study, "sample_scene", lambda seed, split, frame_count: scene)
    said = f"{short_caption(scene.objects[0])} [SEG]"
    late: Any = Stub(lambda t, s: (0,) if t < 20 or s.key_frames != 1 else (1,), said)
    monkeypatch.setattr(Stub, "ids", truth(scene))
    place, age = drift(plan, late, Cells(tmp_path / "cells"))
    first, last = place.rows["1"], place.rows["10"]
    assert known(first["every"]).mean == known(first["all"]).mean == known(first["first"]).mean == 1.0
    assert known(last["every"]).mean == 1.0
    assert known(last["all"]).mean == 1.0
    assert known(last["first"]).mean == pytest.approx(0.0, abs=0.2)
    assert known(age.rows["0"]["all"]).mean == 1.0
    assert age.rows["25 to 49"]["all"] is None, "no frame is so far from a key frame"
    asked = json.loads(next((tmp_path / "cells").glob("drift-*.json")).read_text())["figures"]["asked"]
    assert place.notes[0].startswith(f"{2 * sum(one['identified'] for one in asked)} of {2 * len(asked)} instructions")
    assert all(("all" in one) == one["identified"] for one in asked)


def _asks_about(scene: Scene, k: int) -> bool:
    shown = (truth(scene)[0] == k + 1).any()
    return bool(shown) and any(i.targets == (k,) for i in instructions(scene, random.Random(scene.seed)))


def test_an_object_is_identified_by_its_looks_alone_and_only_if_no_other_is_named() -> None:
    scene = sample_scene(3, "test")
    captions = [short_caption(o) for o in scene.objects]
    assert identifies(scene, 0, f"{captions[0]} [SEG] .")
    assert identifies(scene, 0, f"{captions[0].replace('moving', 'not moving')} [SEG] .")
    assert not identifies(scene, 0, f"{captions[1]} [SEG] .")
    assert not identifies(scene, 0, f"{captions[0]} [SEG] ; {captions[1]} [SEG] .")
    assert not identifies(scene, 0, "there is no such object .")


def test_ambiguous_instructions_fit_several_objects_and_clear_ones_one() -> None:
    kinds = (SIZES, COLOURS, SHAPES)
    pairs = same_form = 0
    for seed in range(30):
        scene = sample_scene(seed, "val")
        described = ambiguous_and_clear(scene, random.Random(seed))
        for number, one in enumerate(described):
            named = [w for w in words(one.text) if any(w in kind for kind in kinds)]
            fits = [k for k, o in enumerate(scene.objects) if set(named) <= {o.size, o.colour, o.shape}]
            assert list(one.fits) == fits
            assert (len(fits) > 1) == (number % 2 == 0)
            assert one.text.startswith("the ")
        pairs += len(described) // 2
        same_form += sum(a.form == b.form for a, b in zip(described[::2], described[1::2], strict=True))
        assert len({one.text for one in described}) == len(described)
    assert pairs > 10
    assert same_form > pairs / 2, "clear controls have the form of the ambiguous ones where they can"


def test_drawings_are_recognised_by_the_objects_they_cover(tmp_path: Path) -> None:
    scene = next(s for s in (sample_scene(n, "val") for n in range(50)) if len(s.objects) >= 3)
    ids = render(scene, HEIGHT)[1]
    present = [k for k in range(len(scene.objects)) if (ids == k + 1).any()]
    a, b, c = present[:3]

    def drawn(*tracks: np.ndarray) -> str:
        found = [
            MaskTrack.from_masks(f"t{n}", list(m), range(len(ids)), [1.0] * len(ids)) for n, m in enumerate(tracks)
        ]
        return outcome(Result("", 8.0, ids.shape[2], ids.shape[1], len(ids), "", "", "", found), ids, (a, b))

    assert drawn(ids == a + 1) == "one"
    assert drawn(ids == a + 1, ids == a + 1) == "one"
    assert drawn(ids == a + 1, ids == b + 1) == "several"
    assert drawn(ids == a + 1, ids == c + 1) == "other"
    assert drawn(ids == 0) == "unclear"
    assert drawn(np.zeros_like(ids, bool)) == "nothing"
    assert drawn() == "nothing"


def test_an_ambiguous_question_is_asked_through_a_file_and_its_answer_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = next(
        s for s in (sample_scene(n, "val") for n in range(50)) if ambiguous_and_clear(s, random.Random(s.seed))
    )
    described = ambiguous_and_clear(scene, random.Random(scene.seed))
    monkeypatch.setattr(Stub, "ids", truth(scene))
    stub: Any = Stub(lambda t, s: described[0].fits, "so [SEG]")
    found = ask(stub, scene, HEIGHT)
    assert [one["text"] for one in found] == [one.text for one in described]
    assert found[0]["drawn"] == "several"
    assert {one["drawn"] for one in found[1:] if not set(described[0].fits) <= set(one["fits"])} <= {"other"}
    assert found[0]["score"] == pytest.approx(0.5)
    assert (found[0]["log_likelihood"], found[0]["least"]) == (-0.25, -0.4)


def test_the_area_under_the_curve_counts_pairs() -> None:
    assert area_under_curve([0.1, 0.2], [0.8, 0.9]) == 1.0
    assert area_under_curve([0.8, 0.9], [0.1, 0.2]) == 0.0
    assert area_under_curve([0.5], [0.5, 0.5]) == 0.5
    assert area_under_curve([0.1, 0.6], [0.5, 0.7]) == 0.75
    assert area_under_curve([], [0.5]) is None


@pytest.fixture
def table() -> Table:
    made = Table(
        "t", "What it is", "frames", {"jf": "J&F", "seconds": "s"}, drawn=("jf",), unit="J&F", notes=("Note.",)
    )
    made.add("1", [{"jf": 0.5, "seconds": 20.0}, {"jf": 0.7, "seconds": None}])
    made.add("8", [{"jf": 0.8}, {"jf": 0.9}])
    return made


def test_tables_are_printed_with_their_spread_and_drawn(
    table: Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_tables([table], seeds=2)
    shown = capsys.readouterr().out
    assert "0.600 ± 0.141" in shown
    assert "over 2 seeds" in shown
    assert "Note." in shown
    with Image.open(draw([table, table, table], tmp_path / "a" / "picture.png")) as picture:
        assert picture.width > 800
        colours = picture.convert("RGB").getcolors(1 << 24)
        assert colours is not None
        assert len(colours) > 20


def test_results_of_one_study_leave_those_of_others_alone(table: Table, plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "out" / "results.json"
    keep([table], "one", plan, path)
    keep([table, table], "two", plan, path)
    results = json.loads(path.read_text())
    assert set(results) == {"one", "two"}
    assert results["one"]["tables"][0]["rows"]["1"]["jf"]["each"] == [0.5, 0.7]
    assert results["two"]["measured"]["seeds"] == [0, 1]


def test_a_missing_checkpoint_is_named() -> None:
    with pytest.raises(CheckpointError, match="no-such"):
        Plan(model=str(Path("no-such"))).segmenter()
