"""Mask tracks: one object over a whole clip, as data and as JSON."""

from __future__ import annotations

from trajseg.tracks import rle
from trajseg.tracks.result import Result, plain
from trajseg.tracks.rle import Box, Rle
from trajseg.tracks.shown_frames import key_frames
from trajseg.tracks.track import MaskTrack, TrackFrame

__all__ = ["Box", "MaskTrack", "Result", "Rle", "TrackFrame", "key_frames", "plain", "rle"]
