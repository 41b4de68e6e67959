"""The export formats, by the names for `--format`."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from trajseg.errors import InputError
from trajseg.tracks.formats.base import TrackFormat

FORMATS = {
    "coco-vid": "trajseg.tracks.formats.coco_vid:CocoVid",
    "davis": "trajseg.tracks.formats.davis:Davis",
    "mevis": "trajseg.tracks.formats.mevis:Mevis",
    "mots": "trajseg.tracks.formats.mots:Mots",
    "png": "trajseg.tracks.formats.png:PngMasks",
    "trajseg": "trajseg.tracks.formats.native:Native",
    "youtube-vis": "trajseg.tracks.formats.youtube_vis:YouTubeVis",
}
GROUP = "trajseg.formats"


def format_names() -> list[str]:
    """Names of all formats, in alphabetical order: trajseg's own and those of other packages."""
    return sorted({*FORMATS, *(point.name for point in entry_points(group=GROUP))})


def load_format(name: str) -> type[TrackFormat]:
    """The format with this name, or of `package.module:Class`.

    Raises:
        InputError: there is no such format.
    """
    brought = {point.name: point.value for point in entry_points(group=GROUP)}
    module, _, attribute = (FORMATS.get(name) or brought.get(name) or name).partition(":")
    try:
        if not attribute:
            raise AttributeError
        kind = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"There is no export format {name!r}.",
            f"Use one of {', '.join(format_names())}, or package.module:Class.",
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, TrackFormat)):
        raise InputError(f"{name} is not a TrackFormat.", "See docs/extending.md for what a format is.")
    return kind
