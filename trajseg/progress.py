"""Progress: what long work calls so that others can show it, or end it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (done, in all), in frames unless a docstring says otherwise. What it raises ends the work."""
