"""`trajseg preview`: an engine on a few frames of a video, before whole videos are queued."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trajseg.commands.loading import EngineChoice, engine_options

if TYPE_CHECKING:
    from trajseg.engines.base import Engine
    from trajseg.tracks import Result

FRAMES = 5


@click.command()
@click.argument("video", type=click.Path(path_type=Path))
@click.argument("instruction")
@click.option("--frames", default=FRAMES, show_default=True, type=click.IntRange(2, 30), help="Frames to try.")
@click.option("--videos", default=1, show_default=True, type=click.IntRange(1), help="Videos like this to estimate.")
@click.option(
    "--out",
    default="preview.png",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Picture to write.",
)
@engine_options
def command(engine: EngineChoice, video: Path, instruction: str, frames: int, videos: int, out: Path) -> None:
    """Segment what INSTRUCTION means in five frames of VIDEO, evenly spread, and estimate the time for all of it.

    Prints the engine's answer, which has its candidates and what it says of them, and writes the frames with their
    tracks as one picture. What moves between the frames is not seen, so an instruction about motion may come out
    differently on the whole video.
    """
    preview(engine.load, video, instruction, frames, videos, out)


def preview(load: Callable[[], Engine], video: Path, instruction: str, frames: int, videos: int, out: Path) -> Result:
    """Do it; the result is of the few frames.

    Raises:
        InputError: the video or the instruction cannot be used.
    """
    from rich.console import Console
    from rich.markup import escape

    from trajseg.commands.progress import bars
    from trajseg.engines.base import RunContext, check_instruction
    from trajseg.pictures import contact_sheet
    from trajseg.video import open_clip
    from trajseg.video.sampled_clip import sampled_clip
    from trajseg.video.spacing import end_to_end

    instruction, clip = check_instruction(instruction), open_clip(video)
    few = sampled_clip(clip, end_to_end(len(clip), frames))
    with bars() as bar:
        loading = bar.add_task("loading the model", total=None)
        engine = load()
        bar.remove_task(loading)
        task = bar.add_task(f"{len(few)} frames", total=len(few))

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        started = time.perf_counter()
        result = engine.segment(few, instruction, RunContext(progress=progress)).result(progress)
        seconds = time.perf_counter() - started
    contact_sheet(few, result.tracks, out, columns=5, count=len(few), title=instruction, frames=few.indices)
    console = Console()
    if result.answer:
        console.print(escape(result.answer), highlight=False)
    for track in result.tracks:
        shown = ", ".join(str(few.indices[index] + 1) for index in track.present)
        words = f"{track.label}: {track.caption or 'no caption'} (score {track.score:.2f}), in frames {shown}"
        console.print(escape(words), highlight=False, soft_wrap=True)
    if not result.tracks:
        console.print("No object is meant: no tracks.")
    each = seconds / len(few)
    console.print(
        f"{result.model_version}: {len(few)} frames in {seconds:.1f} s, {each:.2f} s a frame.", highlight=False
    )
    whole = each * len(clip) * videos
    many = f"{videos} videos like this" if videos > 1 else "this video"
    console.print(f"For {many} ({len(clip) * videos} frames): about {duration(whole)} at this speed.", highlight=False)
    console.print(escape(str(out)), soft_wrap=True, highlight=False)
    return result


def duration(seconds: float) -> str:
    """In words: seconds below two minutes, minutes below two hours, hours above."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
