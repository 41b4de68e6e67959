"""Fetches a task's video safely. It lives here and not in `worker`, since the doctor fetches too: one policy for all.

Annotators control the text of a task, so the address of a video is not to be trusted. `policy` says what may be
asked, `transport` connects to the address that was checked, `cache` keeps what is a video.
"""

from __future__ import annotations

from backend.fetch.cache import BusyServerError, cached_file, evict, fetched, is_video
from backend.fetch.policy import FetchPolicy, Target

__all__ = ["BusyServerError", "FetchPolicy", "Target", "cached_file", "evict", "fetched", "is_video"]
