"""Fills the built-in labelling configurations with labels and their colours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from xml.etree import ElementTree

from label_config.config import View
from trajseg.errors import LabelConfigError
from trajseg.palette import colour

DEFAULT_LABELS = 8
"""Tracks in a new project; more labels are added if a video has more objects."""

MAX_LABEL_LENGTH = 80
"""Longest label, characters, that fits beside a colour in the editor."""

_LABEL_TAGS: dict[View, str] = {"mask": "BitmaskLabels", "box": "Labels"}
# Characters that XML 1.0 cannot contain, not even escaped.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def track_labels(count: int = DEFAULT_LABELS) -> list[str]:
    """`["track-1", ..., "track-<count>"]`."""
    return [f"track-{number}" for number in range(1, count + 1)]


def clean_label(label: str) -> str:
    """A label in the form that Label Studio can store: one line, only XML characters, no leading `$`.

    Label Studio treats a leading `$` as a key of task data. Raises LabelConfigError if nothing is left.
    """
    text = " ".join(_FORBIDDEN.sub(" ", label).split()).lstrip("$ ")[:MAX_LABEL_LENGTH].strip()
    if not text:
        raise LabelConfigError(f"{label!r} cannot be a label.", "Use at least one visible character.")
    return text


def fill(view: View, labels: Iterable[str] | None = None, instructions: Mapping[str, str] | None = None) -> str:
    """The labelling configuration of a view, with coloured labels (default track-1 to track-8).

    Args:
        instructions: by label, for tasks without an instruction of their own.

    Labels are cleaned (clean_label) and duplicates dropped. Raises LabelConfigError if none is left.
    """
    xml = with_labels(_template(view), view, track_labels() if labels is None else labels)
    if not instructions:
        return xml
    root = ElementTree.fromstring(xml)
    by_label = {clean_label(label): text for label, text in instructions.items()}
    for tag in next(root.iter(_LABEL_TAGS[view])).findall("Label"):
        if text := by_label.get(tag.get("value") or ""):
            tag.set("instruction", text)
    return ElementTree.tostring(root, encoding="unicode")


def with_labels(xml: str, view: View, labels: Iterable[str]) -> str:
    """The same configuration with these labels; existing labels keep their tag and colour.

    Labels of the configuration that are not in `labels` are dropped.
    """
    root = ElementTree.fromstring(xml.strip())
    control = next(root.iter(_LABEL_TAGS[view]))
    present = {tag.get("alias") or tag.get("value"): tag for tag in control.findall("Label")}
    names = list(dict.fromkeys(clean_label(label) for label in labels))
    if not names:
        raise LabelConfigError("A labelling configuration needs at least one label.", "Name a label.")
    for tag in present.values():
        control.remove(tag)
    for number, name in enumerate(names):
        fresh = ElementTree.Element("Label", {"value": name, "background": colour(number)})
        control.append(present.get(name, fresh))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode")


@cache
def _template(view: View) -> str:
    return files("label_config").joinpath(f"{view}_tracks.xml").read_text(encoding="utf-8")
