"""Sam3Search: everything in a clip that matches noun phrases, as candidate tracks, found and tracked by SAM 3 alone."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Sam3VideoModel, Sam3VideoProcessor

from trajseg.checkpoints.reading import readable
from trajseg.checkpoints.silence import silent_loading
from trajseg.engines.grounded.blobs import without_blobs
from trajseg.engines.grounded.candidates import Candidate, CandidateFrame
from trajseg.engines.grounded.identity import merged
from trajseg.engines.grounded.losing import LostObject
from trajseg.engines.sam3.operations import install
from trajseg.engines.sam3.session import FlatSession
from trajseg.engines.sam3.settings import Sam3Settings
from trajseg.errors import InstructionError
from trajseg.progress import Progress
from trajseg.tracks import rle
from trajseg.video import Clip

MOST_TOKENS = 32
"""Most tokens in a phrase, as in the training of SAM 3's text encoder."""


class Sam3Search:
    """Finds candidates with one SAM 3; keeps nothing of a clip between calls.

    All phrases share one pass through the clip: the pictures are encoded once, the detector runs once per phrase.
    """

    def __init__(self, model: Any, processor: Any, settings: Sam3Settings | None = None) -> None:
        self.settings = settings or Sam3Settings()
        self.model, self.processor = model.eval(), processor
        model.score_threshold_detection = self.settings.threshold
        model.new_det_thresh = self.settings.certain
        # Objects that come and go are tracked to the end: memory is bounded by their maximum number.
        model.max_num_objects = 2 * self.settings.objects
        install()

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, device: torch.device | str = "cpu", settings: Sam3Settings | None = None
    ) -> Sam3Search:
        """Loads a folder in transformers' form; downloads nothing.

        Raises:
            CheckpointError: it is not a SAM 3 for video.
        """
        remedy = "Name the folder of facebook/sam3 in transformers' form, with config.json and model.safetensors."
        with readable(f"The SAM 3 {folder}", remedy):
            # Full half precision loses detections; on a GPU it runs under autocast instead.
            with silent_loading():
                model = Sam3VideoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
            processor = Sam3VideoProcessor.from_pretrained(folder, local_files_only=True)
        return cls(model.to(device), processor, settings)  # type: ignore[arg-type]

    @torch.inference_mode()
    def find(self, clip: Clip, phrases: Sequence[str], progress: Progress | None = None) -> list[Candidate]:
        """The candidates, ordered by phrase, first frame, and then from left to right.

        `progress` is called after every frame.

        Raises:
            InstructionError: a phrase is too long.
            VideoError: the video cannot be read; or anything that `progress` raises.
        """
        wanted = list(dict.fromkeys(phrases))
        session = self._session(clip, wanted)
        tracks: dict[int, Candidate] = {}
        lost: dict[int, LostObject] = {}
        removed: set[int] = set()
        for index, picture in clip.frames():
            outputs = self._step(session, index, picture)
            removed |= set(outputs.removed_obj_ids)
            for number in tracks.keys() & removed:
                # Each holds a frame for all of the clip, and in a long clip many come and go.
                del tracks[number], lost[number]
            for number, frame in self._drawn(session, outputs, clip).items():
                if number in removed:
                    continue
                share = rle.area(frame.rle) / (clip.height * clip.width) if frame.rle else 0.0
                if number not in tracks:
                    phrase = session.prompts[session.obj_id_to_prompt_id[number]]
                    empty = [CandidateFrame() for _ in range(len(clip))]
                    tracks[number] = Candidate(phrase, float(outputs.obj_id_to_score[number]), index, empty)
                    lost[number] = LostObject()
                    lost[number].anchor(share)
                elif lost[number].lost(share):
                    frame = CandidateFrame(presence=-abs(frame.presence))
                tracks[number].frames[index] = frame
            session.forget(index)
            if progress:
                progress(index, len(clip))
        # An object that the model removed was visible too long without a detection, or twice: it does not count, not
        # even on its first frames.
        kept = merged([track for track in tracks.values() if track.shown])
        best = sorted(kept, key=lambda one: -one.score * len(one.shown) ** 0.5)[: self.settings.objects]
        order = {phrase: place for place, phrase in enumerate(wanted)}
        return sorted(best, key=lambda one: (order[one.phrase], one.shown[0], (one.box(one.shown[0]) or (0.0,))[0]))

    def _session(self, clip: Clip, phrases: Sequence[str]) -> FlatSession:
        for phrase in phrases:
            tokens = len(self.processor.tokenizer(phrase)["input_ids"])
            if tokens > MOST_TOKENS:
                raise InstructionError(
                    f"SAM 3 reads at most {MOST_TOKENS} tokens a phrase, {phrase!r} has {tokens}.",
                    "Name the object in a few words, such as 'the red car'.",
                )
        tracker = self.model.tracker_model.config
        reach = max(tracker.num_maskmem, tracker.max_object_pointers_in_encoder)
        session = FlatSession(len(clip), reach, max(self.model.hotstart_delay, 1), self.model.device)
        self.processor.add_text_prompt(session, list(phrases))
        return session

    def _step(self, session: FlatSession, index: int, picture: np.ndarray) -> Any:
        pixels = self.processor.image_processor(images=np.ascontiguousarray(picture), return_tensors="pt")
        session.add_new_frame(pixels.pixel_values, index)
        device = self.model.device.type
        half = torch.autocast(device, torch.bfloat16) if device == "cuda" else contextlib.nullcontext()
        with half:
            # With the frame's number instead of its pixels: as in streaming, where the model would otherwise skip its
            # search for objects to remove.
            return self.model(session, frame_idx=index)

    def _drawn(self, session: FlatSession, outputs: Any, clip: Clip) -> dict[int, CandidateFrame]:
        """Each object's frame, by the model's number for it, including absent objects."""
        shown = self.processor.postprocess_outputs(session, outputs, original_sizes=[[clip.height, clip.width]])
        masks = dict(zip(shown["object_ids"].tolist(), shown["masks"], strict=True))
        frames = {}
        for number in outputs.object_ids:
            there = min(max(float(outputs.obj_id_to_tracker_score.get(number, 0.0)), 1e-6), 1 - 1e-6)
            mask = without_blobs(masks[number].cpu().numpy()) if number in masks else None
            presence = float(np.log(there / (1 - there)))
            if mask is None or not mask.any():
                frames[number] = CandidateFrame(None, 1 - there if there < 0.5 else 0.0, min(presence, 0.0))
            else:
                frames[number] = CandidateFrame(rle.encode(mask), there, presence)
        return frames
