"""`trajseg evaluate`: scores an engine on any data set."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from trajseg.commands.loading import EngineChoice, engine_options
from trajseg.errors import InputError

LABORATORY = {
    "review": "trajseg.shapes.evaluation.review:report",
    "conditions": "trajseg.shapes.evaluation.conditions:report",
}
"""Studies of the shapes world by option; named by string, so that they are imported only when used."""


@click.command("evaluate")
@click.option(
    "--data",
    default="shapes:test",
    show_default=True,
    help="The data set: shapes:test, ref-youtube-vos:FOLDER ...; an unknown name lists all.",
)
@click.option("--count", type=click.IntRange(1), help="Maximum number of clips [all; 50 for shapes].")
@click.option("--seed", type=int, help="Shapes: seed of the first clip [0].")
@click.option("--height", type=click.IntRange(64, 2160), help="Shapes: height of the clips [240].")
@click.option("--per-kind", type=click.IntRange(1), help="Shapes: instructions per kind and clip [1].")
@click.option("--contradictions", is_flag=True, help="Shapes: also compare captions with instructions.")
@click.option("--review", is_flag=True, help="Shapes: only measure what correcting the suggested frames gains.")
@click.option(
    "--conditions",
    is_flag=False,
    flag_value="all",
    metavar="[NAME,NAME...]",
    help="Shapes: only measure other conditions (sizes, noise, codecs, speeds, another renderer).",
)
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write all results.")
@click.option(
    "--picture", type=click.Path(dir_okay=False, path_type=Path), help="Draw best, median and worst, or each condition."
)
@engine_options
def command(
    engine: EngineChoice,
    data: str,
    count: int | None,
    seed: int | None,
    height: int | None,
    per_kind: int | None,
    contradictions: bool,
    review: bool,
    conditions: str | None,
    json_path: Path | None,
    picture: Path | None,
) -> None:
    """Measure an engine on clips with known masks.

    The last line printed is one JSON object with the overall results: means over frames, then over instructions. Clips
    of the shapes world are written to mp4 files and read back; for them caption_accuracy is a mean over objects, and
    null if the engine cannot caption tracks.
    """
    from trajseg.bars import progress_bar
    from trajseg.data.registry import DatasetOptions, open_dataset
    from trajseg.evaluation import evaluate
    from trajseg.evaluation.report import draw_evaluation, print_evaluation
    from trajseg.files import write_json

    dataset = open_dataset(data, DatasetOptions(count, seed, height, per_kind))
    if (review or conditions is not None) and not dataset.laboratory:
        raise InputError(
            f"--review and --conditions need rendered clips, and {data} has none.", "Use them with shapes:test."
        )
    loaded = engine.load()
    if review:
        _study("review", loaded, dataset, json_path)
        return
    if conditions is not None:
        _study("conditions", loaded, dataset, conditions, json_path, picture)
        return
    with progress_bar(f"{loaded.spec.model_version} on {data}") as progress:
        evaluation = evaluate(loaded, dataset, flops=True, contradictions=contradictions, progress=progress)
    print_evaluation(evaluation)
    if json_path is not None:
        write_json(json_path, evaluation.to_json())
    if picture is not None:
        draw_evaluation(evaluation, dataset, picture)
    headline = evaluation.headline()
    click.echo(
        json.dumps(
            {name: None if (value := headline[name]) is None else round(value, 4) for name in evaluation.LAST_LINE}
        )
    )


def _study(name: str, *arguments: Any) -> None:
    module, _, function = LABORATORY[name].partition(":")
    getattr(import_module(module), function)(*arguments)
