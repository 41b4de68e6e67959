"""The progress callback of long-running functions."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (done, total), in frames unless a docstring says otherwise. An exception from it ends the work."""
