"""Folders in a wrong layout: every engine names the folder, what is wrong, and what to set; none fails otherwise."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from trajseg.engines.registry import load_engine
from trajseg.errors import CheckpointError

TINY = Path(__file__).parents[3] / "trajseg" / "shapes" / "engines" / "grounded-tiny"
GROUNDED = {"detector": str(TINY / "detector"), "tracker": "trajseg-tiny", "chooser": "none"}
SLOTS: list[tuple[str, str, dict[str, str], str]] = [
    ("grounded", "detector", GROUNDED, "TRAJSEG_GROUNDED_DETECTOR"),
    ("grounded", "tracker", GROUNDED, "SAM 2"),
    ("grounded", "chooser", GROUNDED, "TRAJSEG_GROUNDED_CHOOSER"),
    ("sam3", "weights", {}, "facebook/sam3"),
    ("molmo2", "weights", {"tracker": "trajseg-tiny"}, "olmo2"),
]
DAMAGED: dict[str, dict[str, str]] = {
    "empty": {},
    "no json": {"config.json": "not json"},
    "a list": {"config.json": "[]"},
    "null": {"config.json": "null"},
    "another model": {"config.json": '{"model_type": "bert"}'},
    "a damaged detector": {"config.json": '{"model_type": "mm-grounding-dino"}', "model.safetensors": "garbage" * 9},
    "a damaged chooser": {"config.json": '{"model_type": "qwen3_vl"}', "model.safetensors": "garbage" * 9},
    "a damaged sam3": {"config.json": '{"model_type": "sam3_video"}', "model.safetensors": "garbage" * 9},
    "a pickle": {"model.pt": "garbage" * 9},
}


def message(engine: str, **options: Any) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        load_engine(engine, "cpu", **options)
    return caught.value


@pytest.mark.parametrize(("engine", "slot", "others", "remedy"), SLOTS, ids=[f"{one[0]}-{one[1]}" for one in SLOTS])
@pytest.mark.parametrize("files", DAMAGED.values(), ids=DAMAGED)
def test_the_folder_is_named_and_what_to_set(
    engine: str, slot: str, others: dict[str, str], remedy: str, files: dict[str, str], tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    error = message(engine, **{**others, slot: str(tmp_path)})
    assert str(tmp_path) in error.message
    assert len(error.message) < 700
    # A file that is no tensors, and a SAM 3 as the detector, have remedies of their own.
    assert "model.pt" in files or remedy in error.remedy or "facebook/sam3" in error.remedy


@pytest.mark.parametrize(
    ("slot", "left_out", "words"),
    [
        ("detector", "tokenizer.json", "has no tokenizer.json"),
        ("detector", "processor_config.json", "cannot be loaded"),
        ("chooser", "chat_template.jinja", "has no chat template"),
        ("chooser", "model.safetensors", "cannot be loaded"),
    ],
)
def test_a_file_that_was_not_copied_is_noticed_at_once(slot: str, left_out: str, words: str, tmp_path: Path) -> None:
    shutil.copytree(TINY / slot, tmp_path / slot)
    (tmp_path / slot / left_out).unlink()
    error = message("grounded", **{**GROUNDED, slot: str(tmp_path / slot)})
    assert str(tmp_path / slot) in error.message
    assert words in error.message
