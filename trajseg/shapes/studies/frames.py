"""Numbers of frames: prompted ones (the paper's Table V), and those that the language model sees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trajseg.engines.base import PLAIN, RunContext
from trajseg.engines.segmentation import Segmentation
from trajseg.engines.trajseg import VideoSegmenter
from trajseg.model.sampling import Sampling
from trajseg.shapes.evaluation.evaluation import CATEGORIES, evaluate
from trajseg.shapes.studies.cells import Cells
from trajseg.shapes.studies.plan import SEEDS_APART, Plan
from trajseg.shapes.studies.table import Table
from trajseg.shapes.world.scenes import Split
from trajseg.video import Clip

CLIPS = 8
"""Default number per group."""
ALL_KEYS = 64
"""More key frames than a clip can have: all of them, without prompts between them."""
KEY_FRAMES = (1, 2, 4, 8, ALL_KEYS)
LLM_FRAMES = (1, 2, 4, None)
SPLIT: Split = "test"


class MasksOnly:
    """A segmenter without captions, so that an evaluation does not request any."""

    def __init__(self, segmenter: VideoSegmenter) -> None:
        self.segmenter = segmenter
        self.spec = replace(segmenter.spec, captions=False)

    def segment(self, clip: Clip, instruction: str, context: RunContext = PLAIN) -> Segmentation:
        return self.segmenter.segment(clip, instruction, context)


def key_frames(plan: Plan, segmenter: VideoSegmenter, cells: Cells) -> list[Table]:
    """One key frame, several, and prompts on every frame if the checkpoint was trained for that.

    The language model sees its usual number of frames.
    """
    config = segmenter.model.config
    own = config.llm_frames
    table = Table(
        "key_frames",
        f"Frames that get the trajectory token's prompt (the language model sees {own})",
        "key frames",
        {
            "referring_jf": "referring J&F",
            "reasoning_jf": "reasoning J&F",
            "avg_iou": "steady",
            "avg_iou_truth": "truth steady",
            "seconds": "seconds",
            "gflops": "GFLOPs",
        },
        drawn=("referring_jf", "reasoning_jf"),
        unit="J&F",
        notes=(
            "The first key frame is frame 0, where memory starts; the others are spread over what the model sees.",
            "Seconds and operations are for one instruction.",
        ),
    )
    labels = {ALL_KEYS: f"0 and all {own}", None: "every frame"}
    for count in (*KEY_FRAMES, *([None] if config.prompt_every_frame else [])):
        label = labels.get(count, f"{count}")
        table.add(label, [_figures(plan, segmenter, cells, Sampling(key_frames=count), seed) for seed in plan.seeds])
    return [table]


def llm_frames(plan: Plan, segmenter: VideoSegmenter, cells: Cells) -> list[Table]:
    """Quality and cost by number of frames that the language model sees; these and frame 0 are the key frames."""
    own = segmenter.model.config.llm_frames
    table = Table(
        "llm_frames",
        "Frames that the language model sees (these and frame 0 are the key frames)",
        "frames seen",
        {
            "referring_jf": "referring J&F",
            "reasoning_jf": "reasoning J&F",
            "several_jf": "several J&F",
            "none_accuracy": "none right",
            "right_object": "right object",
            "seconds": "seconds",
            "gflops": "GFLOPs",
        },
        drawn=("referring_jf", "reasoning_jf", "several_jf", "none_accuracy"),
        unit="J&F, share",
        notes=(f"The checkpoint was trained with {own} frames. A model trained with fewer would score differently.",),
    )
    for count in LLM_FRAMES:
        sampling = Sampling(llm_frames=count)
        table.add(f"{count or own}", [_figures(plan, segmenter, cells, sampling, seed) for seed in plan.seeds])
    return [table]


def _figures(plan: Plan, segmenter: VideoSegmenter, cells: Cells, sampling: Sampling, seed: int) -> dict[str, Any]:
    """Evaluation results with a sampling, on a seed's group of clips."""
    clips, first = plan.clips or CLIPS, SEEDS_APART * seed
    settings = plan.settings(
        split=SPLIT, clips=clips, first=first, llm_frames=sampling.llm_frames, key_frames=sampling.key_frames
    )

    def measure() -> dict[str, Any]:
        engine = MasksOnly(segmenter.sampled(sampling))
        found = evaluate(engine, split=SPLIT, count=clips, seed=first, height=plan.height, flops=True)
        headline = found.headline()
        flops = headline["flops_per_clip"]
        asked = {f"{category}_asked": len(found.of(category=category)) for category in CATEGORIES}
        return (
            headline
            | asked
            | {
                "seconds": headline["seconds_per_clip"],
                "gflops": None if flops is None else flops / 1e9,
            }
        )

    seen, keys = sampling.llm_frames or "own", sampling.key_frames or "own"
    return cells.measured(f"frames-seen-{seen}-keys-{keys}-group-{seed}", settings, measure)
