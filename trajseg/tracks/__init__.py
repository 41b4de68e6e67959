"""Mask tracks: one object over a whole clip, as data, as JSON, and as pictures of it."""

from __future__ import annotations

from trajseg.tracks import rle
from trajseg.tracks.key_frames import key_frames
from trajseg.tracks.overlay import overlay_video
from trajseg.tracks.palette import PALETTE, palette
from trajseg.tracks.result import Result
from trajseg.tracks.rle import Box, Rle
from trajseg.tracks.sheet import contact_sheet
from trajseg.tracks.track import MaskTrack, TrackFrame

__all__ = [
    "PALETTE",
    "Box",
    "MaskTrack",
    "Result",
    "Rle",
    "TrackFrame",
    "contact_sheet",
    "key_frames",
    "overlay_video",
    "palette",
    "rle",
]
