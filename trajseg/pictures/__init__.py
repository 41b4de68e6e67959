"""Pictures of mask tracks: overlays, contact sheets, and the colours that tell tracks apart."""

from __future__ import annotations

from trajseg.pictures.overlay import overlay_video
from trajseg.pictures.palette import PALETTE, palette
from trajseg.pictures.sheet import contact_sheet

__all__ = ["PALETTE", "contact_sheet", "overlay_video", "palette"]
