"""Fetches a task's video safely. Part of the backend because the doctor fetches too, under the same policy.

Annotators control the content of tasks, so a video's address is untrusted. `policy` says which addresses are
allowed, `transport` connects to the address that was checked, `cache` keeps the file if it is a video.
"""

from __future__ import annotations

from backend.fetch.cache import BusyServerError, cached_file, evict, fetched, is_video
from backend.fetch.policy import FetchPolicy, Target

__all__ = ["BusyServerError", "FetchPolicy", "Target", "cached_file", "evict", "fetched", "is_video"]
