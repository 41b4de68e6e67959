"""`trajseg compare`: runs two engines on one video and shows where they differ."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from trajseg.commands.loading import DEVICE, DTYPE, FOUR_BIT, EngineChoice
from trajseg.engines.registry import loading_options

if TYPE_CHECKING:
    from trajseg.engines.registry import EngineLoader
    from trajseg.evaluation.comparison import Comparison
    from trajseg.tracks import Result
    from trajseg.video import Clip

SHOWN = 6


@click.command()
@click.argument("video", type=click.Path(path_type=Path))
@click.argument("instruction")
@click.option("--engines", required=True, help="Two engines, separated by a comma; names as for --model.")
@DEVICE
@DTYPE
@FOUR_BIT
@click.option("--show", default=SHOWN, show_default=True, type=click.IntRange(1, 50), help="Frames in the picture.")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write to.")
@click.pass_obj
def command(
    loader: EngineLoader | None,
    video: Path,
    instruction: str,
    engines: str,
    device: str | None,
    dtype: str | None,
    four_bit: bool,
    show: int,
    out: Path,
) -> None:
    """Run two engines on VIDEO with one INSTRUCTION and show where they differ.

    Writes into the folder --out: tracks-1.json and tracks-2.json, comparison.json (agreement by frame, lowest first)
    and comparison.png. The engines run one after the other.
    """
    names = [name.strip() for name in engines.split(",")]
    if len(names) != 2 or not all(names):
        raise click.BadParameter(f"{engines!r} must be two names separated by a comma.", param_hint="--engines")
    options = loading_options(dtype, four_bit)
    run([EngineChoice(loader, name, device, options) for name in names], video, instruction, show, out)


def run(engines: list[EngineChoice], video: Path, instruction: str, show: int, out: Path) -> Comparison:
    """Runs the comparison.

    Raises:
        InputError: the video or the instruction cannot be used.
        CheckpointError: there is no such engine, or its weights are missing.
    """
    from trajseg.engines.base import check_instruction
    from trajseg.evaluation.comparison import compare
    from trajseg.files import printable, write_json
    from trajseg.pictures.side_by_side import side_by_side
    from trajseg.video import open_clip

    instruction, clip = check_instruction(instruction), open_clip(video)
    for engine in engines:
        engine.check()
    results = []
    for number, engine in enumerate(engines, 1):
        result = _segmented(engine, clip, instruction)
        result.video = printable(str(video))
        result.save(out / f"tracks-{number}.json")
        results.append(result)
    first, second = results
    comparison = compare(first, second)
    frames = comparison.frames_to_look_at(show)
    write_json(out / "comparison.json", {"instruction": instruction, **comparison.to_json()})
    side_by_side(clip, (first, second), comparison.agreement, frames, out / "comparison.png", instruction)
    _print(comparison, frames, clip, out)
    return comparison


def _segmented(choice: EngineChoice, clip: Clip, instruction: str) -> Result:
    """One engine's result; the engine is released when this returns, so the next one has the memory."""
    from trajseg.bars import bars
    from trajseg.engines.base import RunContext

    with bars() as bar:
        loading = bar.add_task(f"loading {choice.model}", total=None)
        engine = choice.load()
        bar.remove_task(loading)
        task = bar.add_task(choice.model, total=len(clip))

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        return engine.segment(clip, instruction, RunContext(progress=progress)).result(progress)


def _print(comparison: Comparison, frames: list[int], clip: Clip, out: Path) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(*(escape(name) for name in comparison.names), "IoU")
    for pair in comparison.pairs:
        table.add_row(pair.first or "-", pair.second or "-", f"{pair.iou:.2f}")
    console.print(table if comparison.pairs else "Neither engine found such an object.")
    console.print(f"Agreement over {len(clip)} frames: {comparison.mean:.3f}", highlight=False)
    if frames:
        shown = ", ".join(f"{index + 1} ({comparison.agreement[index]:.2f})" for index in frames)
        console.print(f"Lowest agreement on frames: {shown}", highlight=False, soft_wrap=True)
    files = "tracks-1.json, tracks-2.json, comparison.json, comparison.png"
    console.print(f"{escape(str(out))}: {files}", soft_wrap=True, highlight=False)
