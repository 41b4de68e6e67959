"""Learning curves: drawn from a training's logs, or a clear error."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from trajseg.errors import InputError
from trajseg.shapes.recipe.curves import draw


def log(folder: Path, stage: str, lines: list[dict]) -> None:
    (folder / stage).mkdir()
    (folder / stage / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def picture(file: Path) -> np.ndarray:
    """BGR [height, width, 3]."""
    read = cv2.imread(str(file))
    assert read is not None
    return read


def test_a_curve_goes_where_the_log_says(tmp_path: Path) -> None:
    """The same training, plotted with and without a second kind of instruction."""
    lines = [{"step": step, "minutes": step / 10, "right_attribute": step / 100} for step in (10, 50, 90)]
    log(tmp_path, "language", [*lines, {"step": 90, "warning": "the loss is flat"}])
    one = picture(draw(tmp_path, tmp_path / "sub" / "one.png"))
    log(tmp_path, "vision", [{"step": 1, "minutes": 0.1, "token_shape": 0.2}])
    two = picture(draw(tmp_path, tmp_path / "two.png"))
    height, width = one.shape[:2]
    assert one.shape == two.shape
    assert min(height, width) > 400
    top = slice(0, height // 2)
    first_panel, third_panel = (top, slice(0, width // 4)), (top, slice(width // 2, 3 * width // 4))
    assert (one[first_panel] != two[first_panel]).any()
    assert (one[third_panel] == two[third_panel]).mean() > 0.9
    blue = (one[third_panel].astype(int) * (1, 0, -1)).sum(-1) > 100
    assert blue.sum() > 100


def test_a_folder_without_logs_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no training log"):
        draw(tmp_path, tmp_path / "curves.png")
