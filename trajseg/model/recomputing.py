"""Activation recomputation: saves memory in training by recomputing a part's activations in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch.utils.checkpoint import checkpoint

T = TypeVar("T")


def worked(work: Callable[..., T], *given: Any, again: bool) -> T:
    """`work(*given)`; with `again`, its activations are recomputed in the backward pass instead of stored.

    Everything else that `work` reads must then be unchanged.
    """
    result: T = checkpoint(work, *given, use_reentrant=False) if again else work(*given)
    return result
