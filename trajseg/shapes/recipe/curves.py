"""Plots the learning curves of a training, one panel per stage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from trajseg.errors import InputError, TrajSegError
from trajseg.shapes.recipe.recipe import TINY
from trajseg.shapes.world.language import KINDS

RIGHT = "right_"
"""Prefix of the names of metrics that are fractions of right answers by kind."""
FOLLOWED: Mapping[str, Sequence[str]] = {
    "vision": ("token_colour", "token_shape", "token_size"),
    "tower": ("token_colour", "token_shape", "token_size"),
    "masks": ("iou_key", "right_key", "denied_key"),
    "memory": ("iou_key", "iou_memory", "right_memory", "denied_key"),
    "tracking": ("iou_key", "iou_memory", "right_memory", "denied_key"),
    "pixels": ("seen_motion", "seen_looked"),
    "captions": ("text", "encoder"),
    "boxes": ("iou_box", "iou_click"),
}
"""Metrics plotted for each stage except `language`, which is plotted by kind of instruction."""
WIDTH, HEIGHT = 3, 3
"""Number of panels."""


@click.command("curves")
@click.option("--out", type=click.Path(exists=True, file_okay=False, path_type=Path), default=Path("runs/tiny"))
@click.option("--picture", type=click.Path(dir_okay=False, path_type=Path), help="[OUT/curves.png]")
def curves(out: Path, picture: Path | None) -> None:
    """Draw the learning curves of a training, stage by stage, from its logs."""
    click.echo(draw(out, picture or out / "curves.png"))


def draw(folder: Path, picture: Path) -> Path:
    """Plots the logs of a training's stages, one panel each; returns the picture's path.

    Raises:
        InputError: there is no log in `folder`.
        TrajSegError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TrajSegError("Drawing curves needs matplotlib.", "pip install 'trajseg[train]'") from error
    logs = {stage.name: _read(folder / stage.name / "log.jsonl") for stage in TINY}
    if not any(logs.values()):
        raise InputError(f"There is no training log in {folder}.", "Give the folder that `trajseg train` wrote.")
    figure = Figure(figsize=(5.2 * WIDTH, 3.9 * HEIGHT), layout="constrained")
    for panel, stage in zip(figure.subplots(HEIGHT, WIDTH).flat, TINY, strict=True):
        log = logs[stage.name]
        names = [RIGHT + kind for kind in KINDS] if stage.name == "language" else FOLLOWED[stage.name]
        for number, name in enumerate(names):
            points = [(line["step"], line[name]) for line in log if name in line]
            if points:
                style = {"ls": "-" if number < 10 else "--", "marker": "o" if len(points) < 30 else "", "ms": 3}
                panel.plot(*zip(*points, strict=True), label=_label(stage.name, name), **style)
        minutes = f", {log[-1]['minutes']:.0f} min" if log else ": not run"
        panel.set(title=f"{stage.name}{minutes}", xlabel="step")
        panel.grid(alpha=0.3)
        panel.set_axis_on() if log else panel.set_axis_off()
        panel.spines[["top", "right"]].set_visible(False)
        if panel.lines:
            panel.legend(fontsize=8, frameon=False, ncols=2)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=90)
    return picture


def _label(stage: str, name: str) -> str:
    return name.removeprefix(RIGHT) if stage == "language" else name.replace("_", " ")


def _read(log: Path) -> list[dict[str, Any]]:
    """The lines with metrics."""
    lines = map(json.loads, log.read_text().splitlines()) if log.exists() else ()
    return [line for line in lines if "minutes" in line]
