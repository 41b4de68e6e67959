"""What an engine can do beside segmenting, as its spec says: the object to call, or None."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from trajseg.engines.base import Captioner, Comparer, Engine, Marker, Propagating

if TYPE_CHECKING:
    from trajseg.correction import Propagator


def captioner(engine: Engine) -> Captioner | None:
    """The engine, if it puts tracks into words."""
    return cast(Captioner, engine) if engine.spec.captions else None


def comparer(engine: Engine) -> Comparer | None:
    """The engine, if it compares captions with instructions."""
    return cast(Comparer, engine) if engine.spec.compares else None


def marker(engine: Engine) -> Marker | None:
    """The engine, if it segments what a box or a point marks."""
    return cast(Marker, engine) if engine.spec.marks else None


def propagators(engine: Engine) -> list[Propagator]:
    """What can carry masks through a clip: optical flow always, the engine's own memory where it has one.

    Flow comes first: it is taken where a single painted frame leaves nothing to choose by, and there it draws better
    than the memory of trajseg-tiny (docs/results.md).
    """
    from trajseg.correction import FlowPropagator

    memory = [cast(Propagating, engine).propagator()] if engine.spec.propagates else []
    return [FlowPropagator(), *memory]
