"""Pictures of mask tracks: overlays, contact sheets."""

from __future__ import annotations

from trajseg.pictures.overlay import overlay_video
from trajseg.pictures.sheet import contact_sheet

__all__ = ["contact_sheet", "overlay_video"]
