"""`trajseg data shapes`: draws a contact sheet of the shapes world, or writes clips to files."""

from __future__ import annotations

import json
import random
from pathlib import Path

import click


@click.group("data", help="Inspect the data for training and evaluation.")
def data() -> None:
    pass


@data.command("shapes")
@click.option("--sheet", type=click.Path(dir_okay=False, path_type=Path), help="Draw a contact sheet (PNG).")
@click.option("--write", "folder", type=click.Path(file_okay=False, path_type=Path), help="Write mp4 clips here.")
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the first clip.")
@click.option("--count", type=click.IntRange(1), default=6, show_default=True, help="How many clips.")
@click.option("--height", type=click.IntRange(64, 2160), default=240, show_default=True, help="Rows of the clips.")
def shapes(sheet: Path | None, folder: Path | None, split: str, seed: int, count: int, height: int) -> None:
    """Draw or write clips of the shapes world, with instructions and their target objects.

    --write also writes clips.jsonl: one line per clip, with its file, captions and instructions (targets are
    0-based).
    """
    from trajseg.shapes.world.facts import Facts
    from trajseg.shapes.world.language import instructions, reference_caption
    from trajseg.shapes.world.render import write_clip
    from trajseg.shapes.world.scenes import sample_scene
    from trajseg.shapes.world.sheet import draw_sheet

    if sheet is None and folder is None:
        raise click.UsageError("Nothing to do: give --sheet, --write, or both.")
    scenes = [sample_scene(seed + n, split) for n in range(count)]  # type: ignore[arg-type]
    if sheet is not None:
        click.echo(f"{draw_sheet(scenes, sheet)}: {count} {split} clips")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "clips.jsonl").open("w", encoding="utf-8") as lines:
            for scene in scenes:
                path = write_clip(scene, folder / f"{split}-{scene.seed:06d}.mp4", height)
                facts = Facts(scene)
                asked = instructions(scene, random.Random(scene.seed), facts=facts)
                record = {
                    "video": path.name,
                    "fps": scene.fps,
                    "frame_count": scene.frame_count,
                    "captions": [reference_caption(scene, k, facts) for k in range(len(scene.objects))],
                    "instructions": [
                        {"kind": i.kind, "category": i.category, "text": i.text, "targets": i.targets} for i in asked
                    ],
                }
                lines.write(json.dumps(record) + "\n")
        click.echo(f"{folder}: {count} {split} clips, {height} rows, and clips.jsonl")
