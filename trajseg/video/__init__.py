"""Clips: reading a video frame by frame with exact frame times, and writing videos."""

from __future__ import annotations

from trajseg.video.clip import Clip, open_clip
from trajseg.video.frame_map import FrameMap
from trajseg.video.frames_folder import open_frames_folder
from trajseg.video.guarded_clip import DecoderLimits, guarded_clip
from trajseg.video.writing import even_size, playable_copy, save_frame, write_video

__all__ = [
    "Clip",
    "DecoderLimits",
    "FrameMap",
    "even_size",
    "guarded_clip",
    "open_clip",
    "open_frames_folder",
    "playable_copy",
    "save_frame",
    "write_video",
]
