"""An engine's capabilities besides segmenting, according to its spec: the object to call, or None."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from trajseg.engines.base import Captioner, Comparer, Engine, Marker, Propagating

if TYPE_CHECKING:
    from trajseg.correction import Propagator


def captioner(engine: Engine) -> Captioner | None:
    """The engine, if it can caption tracks."""
    return cast(Captioner, engine) if engine.spec.captions else None


def comparer(engine: Engine) -> Comparer | None:
    """The engine, if it can compare captions with instructions."""
    return cast(Comparer, engine) if engine.spec.compares else None


def marker(engine: Engine) -> Marker | None:
    """The engine, if it can segment the object at a box or point."""
    return cast(Marker, engine) if engine.spec.marks else None


def propagators(engine: Engine) -> list[Propagator]:
    """What can propagate masks through a clip: optical flow always, and the engine's own memory if it has one.

    Flow comes first: it is used when a single painted frame leaves no evidence to choose by, and there it is better
    than the memory of trajseg-tiny (docs/results.md).
    """
    from trajseg.correction import FlowPropagator

    memory = [cast(Propagating, engine).propagator()] if engine.spec.propagates else []
    return [FlowPropagator(), *memory]
