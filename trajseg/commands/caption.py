"""`trajseg caption`: the tracks of a result get sentences from the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trajseg.commands.loading import EngineChoice, engine_options
from trajseg.commands.progress import bars
from trajseg.engines.base import Engine
from trajseg.engines.capabilities import captioner
from trajseg.errors import CheckpointError, InputError
from trajseg.tracks import Result
from trajseg.video import Clip, open_clip


def caption_result(load: Callable[[], Engine], video: Path, tracks: Path, out: Path) -> Result:
    """Describe every track of a file that `trajseg segment` wrote; write it to `out` and print the sentences.

    The arguments are checked before the model is loaded. A track of which nothing can be said keeps the sentence
    that it has.

    Raises:
        InputError: the tracks cannot be read, or are not of this video.
        CheckpointError: the engine cannot describe tracks.
    """
    result, clip = Result.load(tracks), open_clip(video)
    _check_same_clip(result, clip, video, tracks)
    with bars() as bar:
        loading = bar.add_task("loading the model", total=None)
        engine = load()
        bar.remove_task(loading)
        describing = captioner(engine)
        if describing is None:
            raise CheckpointError(
                f"{engine.spec.model_version} cannot describe tracks.", "Name another one with --model."
            )
        task = bar.add_task("describing", total=len(result.tracks))
        captions = describing.caption(
            clip, result.tracks, lambda done, total: bar.update(task, completed=done, total=total)
        )
    table = Table("track", "frames", "before", "now")
    for track, caption in zip(result.tracks, captions, strict=True):
        frames = f"{len(track.present)} of {len(track)}"
        table.add_row(escape(track.label), frames, escape(track.caption), escape(caption))
        track.caption = caption or track.caption
    result.save(out)
    console = Console()
    console.print(table if result.tracks else "There are no tracks to describe.")
    console.print(escape(str(out)), soft_wrap=True)
    return result


def _check_same_clip(result: Result, clip: Clip, video: Path, tracks: Path) -> None:
    described = f"{result.frame_count} frames of {result.width}x{result.height}"
    found = f"{len(clip)} frames of {clip.width}x{clip.height}"
    if described != found:
        raise InputError(
            f"{tracks} is of {described} pixels, {video} has {found}.", "Give the video that the tracks were made from."
        )


@click.command("caption")
@click.argument("video", type=click.Path(path_type=Path))
@click.option("--tracks", required=True, type=click.Path(path_type=Path), help="What `trajseg segment` wrote.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where to write; --tracks if not given.")
@engine_options
def command(engine: EngineChoice, video: Path, tracks: Path, out: Path | None) -> None:
    """Describe each track of VIDEO in a sentence.

    Reads a tracks.json, also one in which a person has drawn, and writes it back with the model's sentences.
    """
    caption_result(engine.load, video, tracks, out or tracks)
