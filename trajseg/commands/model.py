"""The command `trajseg model`: the cost of models, and checkpoints made from published ones or an adapter."""

from __future__ import annotations

from pathlib import Path

import click

DTYPES = ("bfloat16", "float16", "float32")


@click.group()
def command() -> None:
    """Show the cost of models; make checkpoints from published ones or from an adapter."""


@command.command()
@click.argument("names", nargs=-1)
@click.option("--frames", default=60, show_default=True, type=click.IntRange(1), help="Frames of the counted clip.")
def table(names: tuple[str, ...], frames: int) -> None:
    """Parameters, memory and floating-point operations of each part of NAMES.

    A name is "trajseg-tiny", "trajseg-7b" (with SAM 2.1) or a checkpoint's folder; the default is tiny and 7b. Only the
    configuration is read; nothing is computed.
    """
    from rich.console import Console

    from trajseg.checkpoints.cost import cost
    from trajseg.checkpoints.cost_table import cost_table

    # When piped, rich would fold the table at 80 columns.
    console = Console() if Console().is_terminal else Console(width=112)
    for name in names or ("trajseg-tiny", "trajseg-7b"):
        console.print(cost_table(cost(_config(name), frames)))


@command.command()
@click.option(
    "--llava",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of a LLaVA (Hugging Face's form or its authors'), or of TrajSeg in its authors' layout.",
)
@click.option(
    "--sam2", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Meta's .pt of SAM 2 or 2.1."
)
@click.option(
    "--clip",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the CLIP, if the LLaVA only names its vision tower.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--dtype", type=click.Choice(DTYPES), default=DTYPES[0], show_default=True, help="Of the new weights.")
@click.option("--seed", default=0, show_default=True, help="Seed for freshly initialised parts.")
def assemble(llava: Path, sam2: Path | None, clip: Path | None, out: Path, dtype: str, seed: int) -> None:
    """Make a TrajSeg checkpoint from published ones."""
    import torch

    from trajseg.checkpoints.assembly import assemble as put_together

    made = put_together(llava, out, sam2, clip, dtype=getattr(torch, dtype), seed=seed)
    click.echo(f"{out}: {made.size / 1e9:.2f} GB in {dtype}, from {', '.join(made.sources.values())}")
    if made.tokens:
        click.echo(f"New tokens, with rows near the mean of the others: {' '.join(made.tokens)}")
    if made.fresh:
        click.secho(
            f"Freshly initialised and never trained: {', '.join(made.fresh)}. "
            "Its masks and captions are meaningless before `trajseg train`.",
            fg="yellow",
        )


def _config(name: str):  # type: ignore[no-untyped-def]
    from trajseg.checkpoints.folders import checkpoint_folder
    from trajseg.checkpoints.published import trajseg_7b
    from trajseg.errors import CheckpointError
    from trajseg.model.config import TrajSegConfig

    if name == "trajseg-7b":
        return trajseg_7b()
    folder = checkpoint_folder(name)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"There is no model {name}.", "Name trajseg-tiny, trajseg-7b or a checkpoint's folder.")
    return TrajSegConfig.from_pretrained(folder)


@command.command()
@click.option("--checkpoint", default="trajseg-tiny", show_default=True, help="The checkpoint it was trained on.")
@click.option("--adapter", type=click.Path(file_okay=False, path_type=Path), required=True, help="A PEFT folder.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write to.")
@click.option("--half", is_flag=True, help="Write float16.")
@click.option("--name", help="Model version of the result [the checkpoint's, and the start of the adapter's hash].")
def merge(checkpoint: str, adapter: Path, out: Path, half: bool, name: str | None) -> None:
    """Merge an adapter into a checkpoint: the result runs without peft."""
    import torch

    from trajseg.checkpoints.base_identity import BaseIdentity
    from trajseg.checkpoints.folders import checkpoint_folder
    from trajseg.checkpoints.manifest import NAME, read_manifest
    from trajseg.checkpoints.own_data import DEFAULT_BASE_SET, DEFAULT_REPLAY
    from trajseg.engines.trajseg import VideoSegmenter
    from trajseg.training.adapter_folder import merge_adapter, name_after

    if (adapter / NAME).exists():
        BaseIdentity.of(checkpoint_folder(checkpoint)).check(read_manifest(adapter))
    base = VideoSegmenter.from_pretrained(checkpoint, device="cpu")
    before = base.model.config.model_name
    model = merge_adapter(base.model, adapter)
    name_after(model, adapter / "adapter_model.safetensors")
    config = model.config
    config.model_name = name or config.model_name
    for key, known in (("replay_data", DEFAULT_REPLAY), ("base_set", DEFAULT_BASE_SET)):
        # A built-in checkpoint's data sets are known by its name, which the result does not have.
        if before in known and not getattr(config, key, None):
            setattr(config, key, known[before])
    model.save_pretrained(out, dtype=torch.float16 if half else None)
    base.processor.save_pretrained(out)
    click.echo(f"Checkpoint: {out} ({config.model_name})")
