"""Export formats: labelled clips in the formats of data sets and evaluation tools."""

from __future__ import annotations

from trajseg.tracks.formats.base import TrackFormat, export
from trajseg.tracks.formats.registry import format_names, load_format
from trajseg.tracks.labelled import Expression, LabelledClip, LabelledTrack

__all__ = ["Expression", "LabelledClip", "LabelledTrack", "TrackFormat", "export", "format_names", "load_format"]
