"""FlatSession: SAM 3's state during one pass through a clip, dropping whatever it never reads again.

transformers' own session keeps every frame's pixels and every object's masks and memories for every frame: 12 MB per
frame, plus 4 MB per object and frame.
"""

from __future__ import annotations

import torch
from transformers.models.sam3_video.modeling_sam3_video import Sam3VideoInferenceSession

PAINTED_KEPT = 16
"""Frames with a confirmed detection that are remembered for an object: the first and the latest ones."""


class FlatSession(Sam3VideoInferenceSession):
    """A session for one pass through a clip, from its first frame to its last.

    Args:
        frames: of the clip; they are added one by one (`add_new_frame`) and dropped (`forget`).
        reach: how many frames back the tracker reads masks or pointers.
        hotstart: frames for which the model observes a new object before accepting it.
    """

    def __init__(self, frames: int, reach: int, hotstart: int, device: torch.device | str) -> None:
        super().__init__(
            inference_device=device, inference_state_device=device, video_storage_device=device, dtype=torch.float32
        )
        self._frames, self._reach, self._hotstart = frames, reach, hotstart

    @property
    def num_frames(self) -> int:
        """Frames in the whole clip, however many are in memory."""
        return self._frames

    def forget(self, index: int) -> None:
        """Drops what is not read after frame `index`."""
        self.processed_frames.pop(index, None)  # type: ignore[union-attr]
        oldest = index - self._reach
        for number, outputs in self.output_dict_per_obj.items():
            _drop_below(outputs["non_cond_frame_outputs"], oldest)
            painted = outputs["cond_frame_outputs"]
            for frame in sorted(painted)[1 : 1 - PAINTED_KEPT]:
                del painted[frame]
            _drop_below(self.frames_tracked_per_obj[number], oldest)
            _drop_below(self.mask_inputs_per_obj[number], index)
        # These are copied with every frame.
        _drop_below(self.obj_id_to_tracker_score_frame_wise, index)  # type: ignore[arg-type]
        _drop_below(self.suppressed_obj_ids, index)
        for counted in (self.unmatched_frame_inds, self.overlap_pair_to_frame_inds):
            for noted in counted.values():
                # Only the count is read, up to the length of the hotstart.
                del noted[: -self._hotstart]


def _drop_below(by_frame: dict[int, object], oldest: int) -> None:
    for frame in [frame for frame in by_frame if frame < oldest]:
        del by_frame[frame]
