"""A chooser's prompts: text files that anyone can read and edit.

A file holds one text. Names in braces are slots; {clean}, {outlined}, {portrait} and {picture} are replaced with
pictures. The built-in files are in trajseg/engines/grounded/prompts; a checkpoint or the setting `prompts` may replace
them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trajseg.errors import CheckpointError

FOLDER = Path(__file__).parent / "prompts"
SLOTS: dict[str, frozenset[str]] = {
    "concepts": frozenset({"instruction"}),
    "scene": frozenset({"duration", "width", "moments"}),
    "frame": frozenset({"time", "clean", "outlined"}),
    "candidate": frozenset(
        {"number", "phrase", "portrait", "size", "path", "moved", "way", "reach", "course", "seen"}
        | {"left", "right", "top", "bottom", "outermost"}
    ),
    "choose": frozenset({"instruction", "example"}),
    "caption": frozenset({"number"}),
    "boxes": frozenset({"picture", "instruction", "unit"}),
}
"""The slots allowed in each file. Other braces are plain text: answers are JSON."""
_SLOT = re.compile(r"\{([a-z]+)\}")

Part = str | np.ndarray
"""A piece of a turn: text, or a picture RGB uint8 [H, W, 3]."""


class Prompts:
    """The texts in one folder; missing ones are taken from the package.

    Raises:
        CheckpointError: the folder does not exist, or a text has an unknown slot.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None and not folder.is_dir():
            raise CheckpointError(
                f"The prompts folder {folder} does not exist.", "Name a folder with files such as choose.txt."
            )
        self._texts: dict[str, str] = {}
        for name, slots in SLOTS.items():
            own = None if folder is None else folder / f"{name}.txt"
            path = own if own is not None and own.is_file() else FOLDER / f"{name}.txt"
            self._texts[name] = path.read_text(encoding="utf-8")
            if unknown := set(_SLOT.findall(self._texts[name])) - slots:
                raise CheckpointError(
                    f"{path} has the unknown slot {{{sorted(unknown)[0]}}}.",
                    f"Its slots may be {', '.join(f'{{{slot}}}' for slot in sorted(slots))}.",
                )

    def parts(self, name: str, values: Mapping[str, Part]) -> list[Part]:
        """A text with its slots filled in: texts and pictures in order."""
        parts: list[Part] = []
        text, end = self._texts[name], 0
        for slot in _SLOT.finditer(text):
            value = values[slot[1]]
            before = text[end : slot.start()]
            parts += [before + value] if isinstance(value, str) else [before, value]
            end = slot.end()
        return joined([*parts, text[end:]])


def joined(parts: list[Part]) -> list[Part]:
    """The same turn with neighbouring texts joined and empty ones removed."""
    whole: list[Part] = []
    for part in parts:
        if isinstance(part, str) and whole and isinstance(whole[-1], str):
            whole[-1] += part
        elif not isinstance(part, str) or part:
            whole.append(part)
    return whole
