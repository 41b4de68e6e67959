"""Propagation: carries masks that a person painted to all other frames of the clip.

Only MemoryPropagator loads torch; it is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trajseg.correction.flow import FlowPropagator
from trajseg.correction.propagator import Drawn, Painted, Propagator
from trajseg.correction.refine import Refinement, refine

if TYPE_CHECKING:
    from trajseg.correction.memory import MemoryPropagator

__all__ = ["Drawn", "FlowPropagator", "MemoryPropagator", "Painted", "Propagator", "Refinement", "refine"]


def __getattr__(name: str) -> object:
    if name == "MemoryPropagator":
        from trajseg.correction.memory import MemoryPropagator

        return MemoryPropagator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
