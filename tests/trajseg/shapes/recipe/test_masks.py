"""Stages `masks` and `memory`: which frames are prompted, and the presence that memory uses."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import torch

from trajseg.model import TrajSegConfig, TrajSegModel
from trajseg.model.mask_decoder import DecodedMask, FrameFeatures, Tracker
from trajseg.shapes.recipe.clips import pictures
from trajseg.shapes.recipe.masks import MaskTraining, Role, frame_roles
from trajseg.shapes.world.scenes import sample_scene


def test_a_clip_begins_with_a_key_frame_and_half_of_the_clips_have_prompts_throughout() -> None:
    rng = random.Random(0)
    drawn = [frame_roles(rng, 4) for _ in range(400)]
    assert all(roles[0] == "key" and len(roles) == 4 for roles in drawn)
    assert 0.45 < sum("carried" not in roles for roles in drawn) / len(drawn) < 0.65
    later = Counter(role for roles in drawn for role in roles[1:])
    assert later["key"] == pytest.approx(later["prompted"], rel=0.2)
    assert later["carried"] > 0.25 * sum(later.values())


@pytest.mark.parametrize("last", ["carried", "prompted"])
def test_memory_believes_the_object_scores_where_the_next_prompt_can_put_them_right(
    monkeypatch: pytest.MonkeyPatch, last: Role
) -> None:
    torch.manual_seed(0)
    training = MaskTraining(TrajSegModel(TrajSegConfig.tiny(300, 259)).eval())
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    step = Tracker.step

    def watched(
        self: Tracker,
        index: int,
        frame: FrameFeatures,
        prompt: torch.Tensor | None,
        present: torch.Tensor | None = None,
        *rest: Any,
        **named: Any,
    ) -> DecodedMask:
        decoded = step(self, index, frame, prompt, present, *rest, **named)
        kept.append((decoded.score, self.key_memories[0]["obj_ptr"]))
        return decoded

    monkeypatch.setattr(Tracker, "step", watched)
    scene = sample_scene(5)
    training.loss([pictures(scene, [0, 4], 256)], ["key", last], random.Random(0), 1)
    score, pointer = kept[0]
    absent = (pointer == training.sam2.no_obj_ptr).all(1)
    truth = [False] * len(scene.objects) + [True]  # all but the decoy are present
    if last == "carried":
        assert absent.tolist() == truth
    else:
        assert torch.equal(absent, score <= 0)
        assert absent.tolist() != truth, "untrained, it knows nothing"
