"""Errors of transformers and safetensors while they read a folder, as trajseg's own, which name the folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trajseg.errors import CheckpointError, TrajSegError

LONGEST = 400
"""Most characters of another library's message."""


@contextmanager
def readable(what: str, remedy: str) -> Iterator[None]:
    """Raises CheckpointError if the block cannot read a checkpoint: files missing, damaged, or of another model.

    Args:
        what: for the message: "The detector /data/detector".
    """
    from safetensors import SafetensorError

    try:
        yield
    except TrajSegError:
        raise
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RuntimeError, SafetensorError) as error:
        if type(error).__name__ == "OutOfMemoryError":
            # Not the checkpoint's fault; the worker has a remedy of its own.
            raise
        words = " ".join(str(error).split())
        raise CheckpointError(f"{what} cannot be loaded: {words[:LONGEST]}", remedy) from error
