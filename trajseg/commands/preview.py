"""`trajseg preview`: tries an engine on a few frames of a video, before whole videos are queued."""

from __future__ import annotations

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
@click.option(
    "--videos", default=1, show_default=True, type=click.IntRange(1), help="Similar videos, for the estimate."
)
@click.option(
    "--out",
    default="preview.png",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Picture to write.",
)
@engine_options
def command(engine: EngineChoice, video: Path, instruction: str, frames: int, videos: int, out: Path) -> None:
    """Segment INSTRUCTION on five evenly spaced frames of VIDEO, and estimate the time for the whole video.

    Prints the engine's answer with its candidates, and writes one picture of the frames with all candidates, including
    rejected ones. Motion between the frames is not seen, so an instruction about motion may give other results on the
    whole video.
    """
    preview(engine.load, video, instruction, frames, videos, out)


def preview(load: Callable[[], Engine], video: Path, instruction: str, frames: int, videos: int, out: Path) -> Result:
    """Runs the preview; the result is for the few frames.

    Raises:
        InputError: the video or the instruction cannot be used.
    """
    from rich.console import Console
    from rich.markup import escape

    from trajseg.bars import bars
    from trajseg.engines.base import check_instruction
    from trajseg.evaluation.preview import duration
    from trajseg.evaluation.preview import preview as previewed
    from trajseg.video import open_clip

    instruction, clip = check_instruction(instruction), open_clip(video)
    with bars() as bar:
        loading = bar.add_task("loading the model", total=None)
        engine = load()
        bar.remove_task(loading)
        task = bar.add_task(f"{frames} frames", total=frames)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        seen = previewed(engine, clip, instruction, frames, progress)
    seen.draw(out)
    result = seen.result
    console = Console()
    if result.answer:
        console.print(escape(result.plain_answer), highlight=False)
    for words in seen.sentences():
        console.print(escape(words), highlight=False, soft_wrap=True)
    speed = f"{len(seen.clip)} frames in {seen.seconds:.1f} s, {seen.seconds_a_frame:.2f} s per frame."
    console.print(f"{result.model_version}: {speed}", highlight=False)
    whole = seen.estimate(videos)
    many = f"{videos} videos like this" if videos > 1 else "this video"
    console.print(f"For {many} ({len(clip) * videos} frames): about {duration(whole)} at this speed.", highlight=False)
    console.print(escape(str(out)), soft_wrap=True, highlight=False)
    return result
