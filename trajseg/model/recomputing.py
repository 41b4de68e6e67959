"""Trading time for memory in training: a part's activations are computed again in the backward pass, not kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch.utils.checkpoint import checkpoint

T = TypeVar("T")


def worked(work: Callable[..., T], *given: Any, again: bool) -> T:
    """`work(*given)`; with `again`, its activations are not kept for the backward pass but computed again there.

    What `work` reads beside `given` must then still be the same.
    """
    result: T = checkpoint(work, *given, use_reentrant=False) if again else work(*given)
    return result
