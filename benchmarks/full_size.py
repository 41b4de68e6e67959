"""Cost of a full-size model on a GPU: time and memory of segmenting, describing and joint training.

The weights are random, with the right names, shapes and precisions, in a checkpoint folder that is loaded like any
other: neither time nor memory depends on their values. Answers are random words, cut at `ANSWER_TOKENS`, to which this
script adds the [SEG] tokens; that is the only difference from a user's run. The masks are not evaluated.

Each row runs in its own process. Run: .venv/bin/python benchmarks/full_size.py --folder DIR --json out.json
(40 GB of disk and a GPU; about 6 minutes on an H200. `--model trajseg-tiny --device cpu` tries the script itself.)
"""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
import torch
from torch import Tensor

from trajseg.checkpoints.cost import ANSWER_TOKENS, cost
from trajseg.checkpoints.published import trajseg_7b
from trajseg.engines.trajseg import VideoSegmenter
from trajseg.evaluation.answers import masks_of
from trajseg.model import TrajSegConfig, TrajSegModel, TrajSegProcessor
from trajseg.model.device import chosen
from trajseg.model.modeling import Answer
from trajseg.model.processor import word_tokenizer
from trajseg.model.weights import write
from trajseg.shapes.world.facts import Facts
from trajseg.shapes.world.language import instructions
from trajseg.shapes.world.render import write_clip
from trajseg.shapes.world.scenes import sample_scene
from trajseg.video import open_clip

CLIP = Path(__file__).parents[1] / "tests/clips/opossum.mp4"
"""150 frames of 640 x 360."""
CARD = 24
"""GiB of the card that adapters are to be trained on; a process is held to 0.75 less, which the driver takes."""
STEPS, BATCH = 4, 8
"""Steps of a training; the first one is not timed."""
ROWS = ("train:four-bit", "segment:bfloat16", "train:bf16", "segment:float16", "segment:four-bit", "agree:")


@click.command()
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), required=True, help="For the checkpoint.")
@click.option("--model", type=click.Choice(["trajseg-7b", "trajseg-tiny"]), default="trajseg-7b", show_default=True)
@click.option("--device", default="cuda", show_default=True)
@click.option("--json", "out", type=click.Path(dir_okay=False, path_type=Path), help="File for the figures.")
@click.option("--only", "rows", multiple=True, type=click.Choice(ROWS), default=ROWS, help="Rows to measure.")
@click.option("--row", hidden=True, help="The row that this process measures.")
def main(folder: Path, model: str, device: str, out: Path | None, rows: tuple[str, ...], row: str | None) -> None:
    """Measure a model with random weights."""
    if row:
        kind, _, how = row.partition(":")
        click.echo(json.dumps(MEASURES[kind](folder, device, how)))
        return
    if not (folder / "config.json").exists():
        started = time.perf_counter()
        random_checkpoint(model, folder)
        click.echo(f"{folder} written in {time.perf_counter() - started:.0f} s", err=True)
    found: dict[str, Any] = {"model": model, "device": _device_name(device), "torch": torch.__version__}
    for name in rows:
        command = [sys.executable, __file__, "--folder", str(folder), "--device", device, "--row", name]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        found[name] = json.loads(run.stdout.splitlines()[-1]) if run.returncode == 0 else "failed"
        click.echo(f"{name} {json.dumps(found[name])}")
        if out:
            out.write_text(json.dumps(found, indent=2) + "\n")


def random_checkpoint(name: str, folder: Path, vocabulary: int = 32_008) -> None:
    """Writes a checkpoint of random weights in bfloat16, with a tokenizer of `vocabulary` words."""
    short = len(word_tokenizer([]))
    tokenizer = word_tokenizer(f"word{number}" for number in range(vocabulary - short))
    seg = cast(int, tokenizer.convert_tokens_to_ids("[SEG]"))
    config = TrajSegConfig.tiny(vocabulary, seg) if name == "trajseg-tiny" else trajseg_7b()
    config.seg_token_id, config.max_new_tokens, config.dtype = seg, ANSWER_TOKENS, torch.bfloat16
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, _random_tensors(TrajSegModel.skeleton(config)))
    side = config.llava_config.vision_config.image_size
    TrajSegProcessor(tokenizer, side, config.sam2_config.image_size).save_pretrained(folder)
    config.save_pretrained(folder)


def _random_tensors(model: TrajSegModel) -> Iterator[tuple[str, Tensor]]:
    """Matrices from a normal distribution of deviation 0.02, scales 1, biases 0; buffers unchanged."""
    device = chosen(None)
    generator = torch.Generator(device).manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.device.type != "meta":
            yield name, tensor
        elif tensor.ndim > 1:
            drawn = torch.empty(tensor.shape, dtype=torch.bfloat16, device=device).normal_(0, 0.02, generator=generator)
            yield name, drawn.cpu()
        else:
            yield name, torch.full(tensor.shape, float(name.endswith(("weight", "gamma"))), dtype=torch.bfloat16)


def segment(folder: Path, device: str, how: str) -> dict[str, Any]:
    """Seconds by part of one object, of four, and of describing; peak of memory; share of what was counted."""
    started = time.perf_counter()
    dtype = torch.float16 if how == "float16" else torch.bfloat16
    segmenter = VideoSegmenter.from_pretrained(folder, device, dtype, four_bit=how == "four-bit")
    found: dict[str, Any] = {"load_s": time.perf_counter() - started, "weights_gb": _memory(device)[0]}
    clip = open_clip(CLIP)
    frames = [frame for _, frame in clip.frames(range(8))]
    for objects in (1, 1, 4):  # the first is the warm-up
        _says(segmenter.model, objects)
        started = time.perf_counter()
        result = segmenter.segment(clip, "word1 word2 word3").result()
        found[f"objects_{objects}"] = {"s": time.perf_counter() - started, **result.timings}
    found["peak_gb"] = _memory(device)[1]
    pixels = segmenter.processor.mask_pixels(frames).to(device)
    found["encoder_s_a_frame"] = _seconds(lambda: segmenter.model.encode_frames(pixels), device) / len(frames)
    found["pixels_s_a_frame"] = _seconds(lambda: segmenter.processor.mask_pixels(frames), device) / len(frames)
    counted = cost(cast(TrajSegConfig, segmenter.model.config), len(clip)).total.flops
    found["tflops_a_second"] = counted / found["objects_1"]["s"] / 1e12
    found["caption_s"] = _seconds(lambda: segmenter.caption(clip, result.tracks[:1]), device)
    return found


def train(folder: Path, device: str, how: str) -> dict[str, Any]:
    """Seconds per sample and peak memory of the paper's second stage, on clips of 10 frames; 4 bits in CARD GiB."""
    from trajseg.shapes.samples import ShapesSamples
    from trajseg.training.recipes import RECIPES, train_jointly

    four_bit = how == "four-bit"
    if four_bit and device == "cuda":
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((CARD - 0.75) * 2**30 / whole)
    recipe = RECIPES["paper"][2]
    schedule = dataclasses.replace(recipe.schedule, steps=STEPS, log_every=1)
    frames = min(recipe.frames, TrajSegConfig.from_pretrained(folder).llm_frames)
    recipe = dataclasses.replace(recipe, schedule=schedule, batch=BATCH, frames=frames, four_bit=four_bit)
    out = folder.parent / f"training-{how}-{time.time_ns()}"
    train_jointly(recipe, str(folder), out, ShapesSamples(), workers=1)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "loss" in line]
    return {
        "s_a_sample": 60 * (lines[-1]["minutes"] - lines[0]["minutes"]) / ((len(lines) - 1) * BATCH),
        "peak_gb": _memory(device)[1],
        "reserved_gib": torch.cuda.max_memory_reserved() / 2**30 if device == "cuda" else 0.0,
        "losses": [line["loss"] for line in lines],
    }


def agree(folder: Path, device: str, _how: str) -> dict[str, Any]:
    """The shipped checkpoint on the device and in half precisions, against the CPU: pixels that differ, a mask's."""
    scene = sample_scene(2, "test")
    instruction = instructions(scene, random.Random(2), facts=Facts(scene))[0].text
    clip = open_clip(write_clip(scene, folder.parent / "agree.mp4", 240))

    def drawn(where: str, dtype: torch.dtype) -> tuple[str, np.ndarray, float]:
        segmenter = VideoSegmenter.from_pretrained("trajseg-tiny", where, dtype)
        segmenter.segment(clip, instruction).result()
        started = time.perf_counter()
        result = segmenter.segment(clip, instruction).result()
        took = time.perf_counter() - started
        [track] = result.tracks
        return result.answer, masks_of(track, (len(clip), clip.height, clip.width)), took

    expected, truth, seconds = drawn("cpu", torch.float32)
    found: dict[str, Any] = {"instruction": instruction, "answer": expected, "cpu_s": seconds}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        answer, masks, took = drawn(device, dtype)
        name = str(dtype).removeprefix("torch.")
        differ = np.count_nonzero(masks != truth) / np.count_nonzero(truth)
        found[name] = {"same_answer": answer == expected, "differ": differ, "s": took}
    return found


MEASURES = {"segment": segment, "train": train, "agree": agree}


def _says(model: TrajSegModel, objects: int) -> None:
    """From now on the model writes ANSWER_TOKENS tokens; its answer is the first of them and `[SEG]`s."""

    def answer(prompt: Tensor, _end: int) -> Answer:
        [said] = model.answers(prompt[None], -1)
        return Answer([*said.ids[:1], model.config.seg_token_id] * objects, model.trajectory_tokens(prompt[-objects:]))

    object.__setattr__(model, "answer", answer)


def _seconds(what: Any, device: str, times: int = 3) -> float:
    """Mean seconds per call, after one warm-up call."""
    for call in range(times + 1):
        if call == 1:
            started = time.perf_counter()
        with torch.inference_mode():
            what()
        if device == "cuda":
            torch.cuda.synchronize()
    return (time.perf_counter() - started) / times


def _memory(device: str) -> tuple[float, float]:
    """Current and peak memory of tensors in GB."""
    if device != "cuda":
        return 0.0, 0.0
    return torch.cuda.memory_allocated() / 1e9, torch.cuda.max_memory_allocated() / 1e9


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


if __name__ == "__main__":
    main()
