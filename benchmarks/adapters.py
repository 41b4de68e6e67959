"""Cost of adapters: time of a segmentation with and without one, time of a swap, and whether the outputs stay equal.

    python benchmarks/adapters.py --rounds 5

Two adapters with every trained tensor changed are served in turn on one loaded base. The last line is one JSON object;
`slower` is the median over rounds of the time with an adapter divided by the time without, minus 1. Both are processor
time of one thread, so that other programs do not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from trajseg import VideoSegmenter
from trajseg.checkpoints.folders import checkpoint_folder
from trajseg.checkpoints.manifest import AdapterManifest, publish
from trajseg.files import content_hash
from trajseg.shapes.dataset import ShapesDataset
from trajseg.training.adapter_folder import save_adapter
from trajseg.training.adapters import HEADS, SIGHT, LoraSettings, prepare

BASE = "trajseg-tiny"
WHOLE = (*HEADS, *SIGHT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (5)")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    annotated = ShapesDataset("test", 1, 500, 160)[0]
    clip, instruction = annotated.clip, annotated.expressions[0].text
    with tempfile.TemporaryDirectory() as name:
        folders = [adapter(seed, Path(name)) for seed in (1, 2)]
        base = VideoSegmenter.from_pretrained(BASE, "cpu")

        def segmented(folder: Path | None) -> tuple[float, float, object]:
            """Seconds of the swap (the first reads the folder) and of the segmentation, and the tracks."""
            started = time.process_time()
            engine = base.adapted(folder)
            swapped = time.process_time()
            tracks = engine.segment(clip, instruction).result().to_json()["tracks"]
            return swapped - started, time.process_time() - swapped, tracks

        first = {folder: segmented(folder)[2] for folder in (None, *folders)}
        ratios, swaps, same = [], [], True
        for _ in range(rounds):
            times: dict[Path | None, list[float]] = {}
            for folder in (None, *folders, None):
                swap, seconds, tracks = segmented(folder)
                swaps.append(swap)
                times.setdefault(folder, []).append(seconds)
                same = same and tracks == first[folder]
            plain = statistics.fmean(times[None])
            ratios += [times[folder][0] / plain - 1 for folder in folders]
    figures = {
        "slower": round(statistics.median(ratios), 4),
        "swap_ms": round(1000 * statistics.median(swaps), 1),
        "outputs_bit_for_bit_the_same": same,
        "adapters_differ": first[folders[0]] != first[folders[1]] != first[None],
    }
    print(json.dumps(figures))


def adapter(seed: int, folder: Path) -> Path:
    """A published adapter whose trained tensors differ slightly from the base's."""
    model = VideoSegmenter.from_pretrained(BASE, "cpu").model
    torch.manual_seed(seed)
    for parameters in prepare(model, LoraSettings(), WHOLE).values():
        for parameter in parameters:
            parameter.data += 0.002 * torch.randn_like(parameter)
    save_adapter(model, LoraSettings(), BASE, folder / f"work-{seed}", WHOLE)
    manifest = AdapterManifest(f"{BASE}/project-1@{seed}", BASE, content_hash(checkpoint_folder(BASE) / "config.json"))
    publish(manifest, folder / f"work-{seed}", folder / str(seed))
    return folder / str(seed)


if __name__ == "__main__":
    main()
