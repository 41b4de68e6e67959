"""Runs the stages of the recipe on one model, each from the results of the stages it needs."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import random
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from trajseg.errors import InputError
from trajseg.model import TrajSegConfig, TrajSegModel, TrajSegProcessor
from trajseg.shapes.recipe.captions import CaptionTraining
from trajseg.shapes.recipe.clips import ClipStream, Pictures
from trajseg.shapes.recipe.language import LanguageTraining
from trajseg.shapes.recipe.marks import BoxTraining
from trajseg.shapes.recipe.masks import MaskTraining, frame_roles
from trajseg.shapes.recipe.misreadings import misread
from trajseg.shapes.recipe.mixtures import DRAWN, DrawnShares
from trajseg.shapes.recipe.packing import Packed, QuestionStream
from trajseg.shapes.recipe.pixels import FITTED_FRAMES, PICTURES_EVERY, ClipQuestionStream, PixelTraining
from trajseg.shapes.recipe.recipe import SIZE, TINY, Stage
from trajseg.shapes.recipe.texts import Reading, shapes_processor
from trajseg.shapes.recipe.vision import TowerTraining, VisionPretraining
from trajseg.shapes.recipe.watching import WatchClips
from trajseg.training.feed import Feed, first, moved, several
from trajseg.training.run import Loss, Part, Schedule, Stop, train

SYMBOLIC = 40
"""Symbolic clips per step of stage `pixels`."""
WATCHED = 64
"""Clips without questions per step of stage `language`."""
WIDE = 0.4
"""Fraction of stage `tower`'s clips that are wider than 16:9."""
DECOYS, DECOYS_FILMED = 2, 1
"""Descriptions of absent objects, per picture of stage `masks` and per clip of stages `memory` and `tracking`."""
STRIDE = 4
"""Largest distance in frames between neighbouring pictures of a clip, in stages `memory` and `tracking`."""
CAPTIONS = 6
"""Captions per clip in stage `captions`, at most."""

T = TypeVar("T")
Report = Callable[[], dict[str, float]]

GATE_BIAS = 2.0
"""Initial bias of the object score: below 0 the gate would empty every mask before anything is learned."""


class TinyTraining:
    """A tiny model in training; `folder` has one subfolder per stage, and the tokenizer.

    Args:
        folder: receives states and logs.
        seed: of weights and clips.
        workers: number of rendering processes.
        device: torch's name of the device for training.
    """

    def __init__(self, folder: Path, seed: int = 0, workers: int = 1, device: str = "cpu") -> None:
        torch.manual_seed(seed)
        self.folder, self.seed, self.workers = folder, seed, workers
        self.device = None if device == "cpu" else torch.device(device)
        self.processor = self._processor()
        config = TrajSegConfig.tiny(len(self.processor.tokenizer), self.processor.seg_id)
        self.model = TrajSegModel(config).eval()
        nn.init.constant_(self.model.visual_model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias, GATE_BIAS)
        self.modules: dict[str, nn.Module] = {}

    def _processor(self) -> TrajSegProcessor:
        """The tokenizer saved when the run started: later changes of the world's wording must not change its ids."""
        kept = self.folder / "tokenizer"
        if not kept.exists():
            shapes_processor(SIZE).save_pretrained(kept)
        return TrajSegProcessor.from_pretrained(kept)

    def run(self, stage: Stage, schedule: Schedule, stop: Stop = lambda: False) -> bool:
        """Trains or resumes a stage; returns whether it is finished. `stop` as for `train`.

        Raises:
            InputError: a stage that it needs has no result.
        """
        for earlier in stage.needs:
            self.load(earlier)
        module = self.module(stage.name)
        for part in (self.model, *self.modules.values()):
            part.to(self.device or "cpu")
        with self.device or contextlib.nullcontext():
            loss, report = self.work(stage, module)
            return train(self.folder / stage.name, module, loss, schedule, report, stop=stop)

    def load(self, name: str) -> None:
        """Loads a finished stage's weights into the model."""
        state = self.folder / name / "state.pt"
        if not state.exists():
            raise InputError(
                f"Stage {name} has no result in {self.folder}.", f"Run `trajseg train --stage {name}` first."
            )
        self.module(name).load_state_dict(torch.load(state, weights_only=True, map_location="cpu")["module"])
        if name == "vision":
            stem = self.model.vision_tower.embeddings.patch_embedding.trunk
            stem.stages = copy.deepcopy(stem.stages)

    def module(self, name: str) -> nn.Module:
        """The module that a stage trains; it shares its parameters with the model. Mask stages share one module."""
        kept = _MODULE_OF.get(name, name)
        if kept not in self.modules:
            self.modules[kept] = _MODULES[kept](self)
        module = self.modules[kept]
        if isinstance(module, MaskTraining):
            # Only stage `masks` trains the trajectory tokens: stage `pixels` learns to predict them.
            module.tokens.requires_grad_(name == "masks")
        return module

    def work(self, stage: Stage, module: nn.Module) -> tuple[Loss, Report | None]:
        """A stage's loss, by part of a step, and its slow metrics (computed less often), if any."""
        return _WORK[stage.name](self, stage, module)

    def _mask_module(self) -> MaskTraining:
        # The trunk recognises shapes of any colour, and would forget that on the fewer pictures of the mask stages.
        module = MaskTraining(self.model)
        self.model.visual_model.image_encoder.trunk.requires_grad_(False)
        return module

    def _tower_module(self) -> TowerTraining:
        vision = self.module("vision")
        assert isinstance(vision, VisionPretraining)
        return TowerTraining(vision, self.model.features)

    def _pixel_module(self) -> PixelTraining:
        language, masks = self.module("language"), self.module("masks")
        assert isinstance(language, LanguageTraining)
        assert isinstance(masks, MaskTraining)
        return PixelTraining(self.model, language, masks.tokens)

    def _caption_module(self) -> CaptionTraining:
        pixels = self.module("pixels")
        assert isinstance(pixels, PixelTraining)
        return CaptionTraining(pixels, self.processor)

    def _clips(self, stage: Stage, seed: int, stream: Callable[..., Iterable[T]], stride: int = 1) -> Feed[list[T]]:
        """Batches of rendered clips by step; only every `stride`-th step has one."""
        return Feed(partial(several, stream, stage.batch, seed), self.workers, stride, self.device)

    def _drawn(
        self,
        stage: Stage,
        seed: int,
        frames: int | None = None,
        shares: DrawnShares = DrawnShares(),  # noqa: B008
        **looks: Any,
    ) -> Feed[list[Pictures]]:
        """Batches of clips without questions by step, `frames` pictures each [the stage's]; see ClipStream."""
        looks |= dataclasses.asdict(shares)
        return self._clips(stage, seed, partial(ClipStream, frames=frames or stage.frames, size=SIZE, **looks))

    def _texts(self, seed: int, batch: int, read: Reading | None = None) -> Feed[Packed]:
        """Batches of symbolic clips with questions, by step."""
        stream = partial(QuestionStream, self.processor, batch=batch, frames=self.model.config.llm_frames, read=read)
        return Feed(partial(first, stream, seed), self.workers, device=self.device)

    def _vision(self, stage: Stage, module: VisionPretraining) -> tuple[Loss, Report | None]:
        clips = self._drawn(stage, self.seed, shares=DRAWN["vision"])
        return lambda part: module.loss(clips.at(part.step)), None

    def _tower(self, stage: Stage, module: TowerTraining) -> tuple[Loss, Report | None]:
        clips = self._drawn(stage, self.seed + 7, shares=DRAWN["tower"], wide=WIDE)
        return lambda part: module.loss(clips.at(part.step)), None

    def _language(self, stage: Stage, module: LanguageTraining) -> tuple[Loss, Report | None]:
        frames = self.model.config.llm_frames
        texts = self._texts(self.seed, stage.batch)
        with torch.device("cpu"):
            held_out = list(itertools.islice(QuestionStream(self.processor, 0, stage.batch, frames, "val"), 8))
        held_out = moved(held_out, self.device)

        def report() -> dict[str, float]:
            outcome: dict[str, list[float]] = {}
            for packed in held_out:
                for kind, right in module.right_objects(packed).items():
                    outcome.setdefault(kind, []).extend(right)
            return {f"right_{kind}": round(sum(r) / len(r), 3) for kind, r in sorted(outcome.items())}

        watched = Feed(WatchClips(self.processor, self.seed, WATCHED, frames), self.workers, device=self.device)

        def loss(part: Part) -> tuple[Tensor, dict[str, float]]:
            asked = texts.at(part.step)
            answering, figures = module.loss(asked, module.hidden(asked, *module.symbols(asked)))
            watching, watching_figures = module.watching_loss(watched.at(part.step))
            return answering + 0.5 * watching, figures | watching_figures

        return loss, report

    def _masks(self, stage: Stage, module: MaskTraining) -> tuple[Loss, Report | None]:
        return self._mask_loss(stage, module, self.seed + 1, DECOYS)

    def _memory(self, stage: Stage, module: MaskTraining) -> tuple[Loss, Report | None]:
        return self._mask_loss(stage, module, self.seed + 2, DECOYS_FILMED, STRIDE)

    def _tracking(self, stage: Stage, module: MaskTraining) -> tuple[Loss, Report | None]:
        return self._mask_loss(stage, module, self.seed + 8, DECOYS_FILMED, STRIDE)

    def _mask_loss(
        self, stage: Stage, module: MaskTraining, seed: int, decoys: int, stride: int | None = None
    ) -> tuple[Loss, Report | None]:
        clips = self._drawn(stage, seed, shares=DRAWN["masks"], stride=stride)

        def loss(part: Part) -> tuple[Tensor, dict[str, float]]:
            rng = random.Random(f"{stage.name}/{self.seed}/{part.step}")
            return module.loss(clips.at(part.step), frame_roles(rng, stage.frames), rng, decoys)

        return loss, None

    def _pixels(self, stage: Stage, module: PixelTraining) -> tuple[Loss, Report | None]:
        asked = partial(ClipQuestionStream, self.processor, frames=stage.frames)
        if not (self.folder / stage.name / "state.pt").exists():
            drawn = self._drawn(stage, self.seed + 4, FITTED_FRAMES, DRAWN["vision"])
            module.fit_head(self._texts(self.seed + 4, SYMBOLIC, misread).onwards())
            module.fit_projector(drawn.onwards())
        clips, texts = (
            self._clips(stage, self.seed + 3, asked, PICTURES_EVERY),
            self._texts(self.seed + 3, SYMBOLIC, misread),
        )

        def loss(part: Part) -> tuple[Tensor, dict[str, float]]:
            value, figures = module.symbol_loss(texts.at(part.step))
            if part.step % PICTURES_EVERY == 0:
                seen, seen_figures = module.picture_loss(clips.at(part.step), self.processor)
                value, figures = value + seen, figures | seen_figures
            return value, figures

        return loss, None

    def _captions(self, stage: Stage, module: CaptionTraining) -> tuple[Loss, Report | None]:
        asked = partial(ClipQuestionStream, self.processor, frames=stage.frames, texts=0, captions=CAPTIONS)
        clips = self._clips(stage, self.seed + 5, asked)
        return lambda part: module.loss(clips.at(part.step)), None

    def _boxes(self, stage: Stage, module: BoxTraining) -> tuple[Loss, Report | None]:
        clips = self._drawn(stage, self.seed + 6)

        def loss(part: Part) -> tuple[Tensor, dict[str, float]]:
            return module.loss(clips.at(part.step), random.Random(f"boxes/{self.seed}/{part.step}"))

        return loss, None

    def export(self, folder: Path) -> None:
        """Writes the checkpoint of all finished stages, in Hugging Face's form and in half precision."""
        for stage in TINY:
            self.load(stage.name)
        self.model.save_pretrained(folder, dtype=torch.float16)
        self.processor.save_pretrained(folder)


_MODULE_OF = {"memory": "masks", "tracking": "masks"}
"""Stages that train another stage's module."""

_MODULES: dict[str, Callable[[TinyTraining], nn.Module]] = {
    "vision": lambda training: VisionPretraining(training.model),
    "tower": TinyTraining._tower_module,
    "language": lambda training: LanguageTraining(training.model, training.processor),
    "masks": TinyTraining._mask_module,
    "pixels": TinyTraining._pixel_module,
    "captions": TinyTraining._caption_module,
    "boxes": lambda training: BoxTraining(training.model),
}
"""Constructor of each module."""

_WORK: dict[str, Callable[[TinyTraining, Stage, Any], tuple[Loss, Report | None]]] = {
    "vision": TinyTraining._vision,
    "tower": TinyTraining._tower,
    "language": TinyTraining._language,
    "masks": TinyTraining._masks,
    "memory": TinyTraining._memory,
    "tracking": TinyTraining._tracking,
    "pixels": TinyTraining._pixels,
    "captions": TinyTraining._captions,
    "boxes": TinyTraining._boxes,
}
"""Loss and metrics of each stage."""
