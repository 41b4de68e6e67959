"""Label Studio labelling configurations for tracks: the XML templates, and a parser for existing projects."""

from label_config.config import NEGATIVE, LabelConfig, TextTag, View, parse
from label_config.frame_rate import DEFAULT_RATE, editor_rate
from label_config.older import Lack, lacks
from label_config.templates import DEFAULT_LABELS, clean_label, fill, track_labels, with_labels

__all__ = [
    "DEFAULT_LABELS",
    "DEFAULT_RATE",
    "NEGATIVE",
    "LabelConfig",
    "Lack",
    "TextTag",
    "View",
    "clean_label",
    "editor_rate",
    "fill",
    "lacks",
    "parse",
    "track_labels",
    "with_labels",
]
