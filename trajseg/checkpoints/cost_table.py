"""A model's cost as a printed table."""

from __future__ import annotations

from rich.table import Table

from trajseg.checkpoints.cost import ANSWER_TOKENS, TRAJECTORY_ENCODER, Cost, Part


def cost_table(cost: Cost) -> Table:
    """One row a part and one for all, the conditions of the count beneath."""
    caption = (
        f"FLOPs: one object in {cost.frames} frames; the language model sees {cost.llm_frames} frames, reads "
        f"{cost.positions:,} positions and writes {ANSWER_TOKENS} tokens (keys and values: "
        f"{_size(cost.cache_bytes)} in 16 bits)."
    )
    if any(part.name == TRAJECTORY_ENCODER for part in cost.parts):
        caption += f" Of the {TRAJECTORY_ENCODER}: one description, not in the sum."
    table = Table(
        title=cost.name,
        caption=caption,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("part")
    for column in ("parameters", "float32", "bfloat16", "4-bit layers", "FLOPs", "share"):
        table.add_column(column, justify="right")
    total = cost.total
    for part in cost.parts:
        share = "" if part.name == TRAJECTORY_ENCODER else f"{part.flops / total.flops:.1%}"
        table.add_row(*_cells(part), share)
    table.add_section()
    table.add_row(*_cells(total), "100.0%")
    return table


def _cells(part: Part) -> tuple[str, ...]:
    sizes = (_size(part.bytes(bits)) for bits in (32, 16, 4))
    return part.name, _counted(part.parameters), *sizes, _counted(part.flops)


def _size(count: float) -> str:
    """Bytes in powers of ten, as GPUs' memory is sold in powers of two: 24 GiB are 25.8 GB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def _counted(count: float) -> str:
    for size, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f}"
