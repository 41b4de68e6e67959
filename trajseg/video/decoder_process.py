"""The decoder's own process: scans and decodes a video for a parent that may kill it; see guarded_clip.

`python -m trajseg.video.decoder_process PARENT_PID MEMORY_BYTES PICTURES SLOTS`: it reads requests as JSON lines from
standard input, writes answers as JSON lines, and passes pictures through SLOTS slots of shared memory (PICTURES is its
file descriptor). A file that crashes FFmpeg crashes only this process.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from trajseg.errors import TrajSegError
from trajseg.video.clip import Clip, open_clip
from trajseg.video.clip_json import clip_fields, clip_to_json

PROGRESS_SECONDS = 0.5
PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> None:
    parent, memory_bytes, pictures, slots = (int(argument) for argument in arguments)
    _end_with(parent)
    _limit_memory(memory_bytes)
    # Output of libraries must not be mixed with the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "scan" in request:
                _scan(request, answers)
            else:
                _decode(request, pictures, slots, answers)
        except (BrokenPipeError, KeyboardInterrupt):
            return
        except TrajSegError as error:
            _say(answers, error=type(error).__name__, message=error.message, remedy=error.remedy)
        except MemoryError as error:
            # numpy has its own class.
            _say(answers, error="MemoryError", message=str(error), remedy="")
        except Exception as error:
            _say(answers, error=type(error).__name__, message=str(error), remedy="")


def _scan(request: Mapping[str, Any], answers: IO[str]) -> None:
    reported = time.monotonic()

    def progress(frames: int) -> None:
        nonlocal reported
        if time.monotonic() - reported >= PROGRESS_SECONDS:
            reported = time.monotonic()
            _say(answers, scanned=frames)

    clip = open_clip(request["scan"], request["name"], request["max_frames"], progress)
    _say(answers, clip=clip_to_json(clip))


def _decode(request: Mapping[str, Any], pictures: int, slots: int, answers: IO[str]) -> None:
    clip = Clip(**clip_fields(request["clip"]))
    wanted = range(*request["range"]) if "range" in request else request["indices"]
    size = clip.height * clip.width * 3
    with mmap.mmap(pictures, slots * size) as memory:
        free = slots
        for number, (index, rgb) in enumerate(clip.frames(wanted)):
            if not free:
                # The parent has copied the oldest one.
                if not sys.stdin.readline():
                    raise BrokenPipeError
                free += 1
            free -= 1
            start = number % slots * size
            memory[start : start + size] = rgb.data if rgb.flags.c_contiguous else np.ascontiguousarray(rgb).data
            _say(answers, frame=index)
    while free < slots:
        if not sys.stdin.readline():
            raise BrokenPipeError
        free += 1
    _say(answers, end=True)


def _say(answers: IO[str], **form: Any) -> None:
    answers.write(json.dumps(form, separators=(",", ":")) + "\n")


def _end_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before the line above.
    if os.getppid() != parent:
        sys.exit(1)
    # Ctrl-C is the parent's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _limit_memory(more_bytes: int) -> None:
    """Limits this process's memory to so many bytes more than it uses now."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + more_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main(sys.argv[1:])
