"""Silence while transformers loads weights: it would draw a progress bar of its own for each model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def silent_loading() -> Iterator[None]:
    """No progress bars of transformers until the end of the block. Its warnings are still shown."""
    # Not at the top: trajseg.checkpoints works without transformers.
    from transformers.utils import logging

    def hidden(bar: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return bar(*arguments, **{**options, "disable": True})

    previous = logging.set_tqdm_hook(hidden)
    try:
        yield
    finally:
        logging.set_tqdm_hook(previous)
