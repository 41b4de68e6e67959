"""The service between Label Studio and the model: HTTP, store, queue and delivery. Never imports torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backend.composition import compose
    from backend.http.app import create_app

__all__ = ["compose", "create_app"]


def __getattr__(name: str) -> object:
    # Loaded on first use, so that the worker can import the store without Flask.
    if name == "compose":
        from backend.composition import compose

        return compose
    if name == "create_app":
        from backend.http.app import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
