"""`trajseg caption`: captions the tracks of a result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trajseg.bars import bars
from trajseg.commands.loading import EngineChoice, engine_options
from trajseg.engines.base import Engine
from trajseg.engines.capabilities import captioner
from trajseg.errors import CheckpointError, InputError
from trajseg.tracks import Result
from trajseg.video import Clip, open_clip


def caption_result(load: Callable[[], Engine], video: Path, tracks: Path, out: Path) -> Result:
    """Captions every track of a file written by `trajseg segment`; writes it to `out` and prints the captions.

    The arguments are checked before the model is loaded. A track for which the engine has nothing to say keeps its
    caption.

    Raises:
        InputError: the tracks cannot be read, or do not belong to this video.
        CheckpointError: the engine cannot caption tracks.
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
                f"{engine.spec.model_version} cannot caption tracks.", "Choose another engine with --model."
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
    console.print(table if result.tracks else "There are no tracks to caption.")
    console.print(escape(str(out)), soft_wrap=True)
    return result


def _check_same_clip(result: Result, clip: Clip, video: Path, tracks: Path) -> None:
    described = f"{result.frame_count} frames of {result.width}x{result.height}"
    found = f"{len(clip)} frames of {clip.width}x{clip.height}"
    if described != found:
        raise InputError(
            f"{tracks} is for {described} pixels, {video} has {found}.", "Use the video that the tracks belong to."
        )


@click.command("caption")
@click.argument("video", type=click.Path(path_type=Path))
@click.option("--tracks", required=True, type=click.Path(path_type=Path), help="File written by `trajseg segment`.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File to write [the file of --tracks].")
@engine_options
def command(engine: EngineChoice, video: Path, tracks: Path, out: Path | None) -> None:
    """Caption each track of VIDEO with a sentence.

    Reads a tracks.json, possibly edited by a person, and writes it back with the model's captions.
    """
    caption_result(engine.load, video, tracks, out or tracks)
