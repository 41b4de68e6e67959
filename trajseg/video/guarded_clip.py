"""Guarded clips: a separate process scans and decodes a video, within limits on frames, memory and silence.

A decoder that hangs, crashes or exhausts its limits ends with a VideoError. Its process is also killed if the caller's
`tick` raises, so that cancellation reaches it. The frames are the same, byte for byte, as without a guard.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trajseg.errors import VideoError
from trajseg.video.clip import Clip, open_clip
from trajseg.video.clip_json import clip_fields, clip_to_json

SLOTS = 3
"""Pictures in shared memory at a time: while the caller reads one, the next are decoded."""
TICK_SECONDS = 1.0
END_SECONDS = 1.0

Tick = Callable[[], None]
"""Called about once a second while waiting for a decoder; an exception from it ends the decoder."""


@dataclass(frozen=True)
class DecoderLimits:
    """Limits of a decoder.

    Args:
        frames: of one video; checked during the scan.
        memory_bytes: in addition to an idle decoder process; on Linux only.
        silence_seconds: maximum time without a frame or progress of the scan.
    """

    frames: int = 20_000
    memory_bytes: int = 4 * 2**30
    silence_seconds: float = 60.0


@contextmanager
def guarded_clip(path: Path, name: str, limits: DecoderLimits, tick: Tick = lambda: None) -> Iterator[Clip]:
    """The video at `path`, opened and decoded within limits until the context ends.

    Folders of pictures are opened in this process.

    Args:
        name: the video's name in errors.

    Raises:
        VideoError: as in `open_clip`, or a limit is reached, or the decoder crashes.
        Exception: whatever `tick` raises.
    """
    if path.is_dir():
        yield open_clip(path, name, limits.frames)
        return
    guard = DecoderGuard(name, limits, tick)
    try:
        yield guard.scan(path)
    finally:
        guard.close()


class DecoderGuard:
    """The decoders of one video; thread-safe."""

    def __init__(self, name: str, limits: DecoderLimits, tick: Tick) -> None:
        self.name = name
        self.limits = limits
        self.tick = tick
        self._idle: list[Decoder] = []
        self._lock = threading.Lock()

    def scan(self, path: Path) -> GuardedClip:
        """Opens the video; raises like `guarded_clip`."""
        with self.decoder() as decoder:
            decoder.ask({"scan": str(path), "name": self.name, "max_frames": self.limits.frames})
            while "clip" not in (answer := decoder.answer()):
                pass
        return GuardedClip(**clip_fields(answer["clip"]), guard=self)

    @contextmanager
    def decoder(self) -> Iterator[Decoder]:
        """An idle decoder; afterwards it is reused, or killed if its work was interrupted."""
        with self._lock:
            decoder = self._idle.pop() if self._idle else None
        if decoder is None or not decoder.alive:
            decoder = Decoder(self)
        try:
            yield decoder
        except BaseException:
            decoder.kill()
            raise
        with self._lock:
            self._idle.append(decoder)

    def close(self) -> None:
        """Ends the decoders."""
        with self._lock:
            idle, self._idle = self._idle, []
        for decoder in idle:
            decoder.kill()


class Decoder:
    """A process that scans or decodes; see decoder_process."""

    def __init__(self, guard: DecoderGuard) -> None:
        self._guard = guard
        self._pictures = _anonymous_file()
        self._buffer = b""
        self._process = subprocess.Popen(
            # -P: a folder named `trajseg` in the working directory must not shadow this package.
            [
                *(sys.executable, "-P", "-m", "trajseg.video.decoder_process"),
                *(str(os.getpid()), str(guard.limits.memory_bytes), str(self._pictures), str(SLOTS)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(self._pictures,),
            # Separate heaps per thread would count towards the memory limit.
            env={**os.environ, "MALLOC_ARENA_MAX": "2"},
        )
        assert self._process.stdout is not None
        self._answers = self._process.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN | select.POLLHUP)

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: dict[str, Any]) -> None:
        """Sends a request; raises VideoError if the decoder has crashed."""
        self._send(json.dumps(request).encode() + b"\n")

    def answer(self) -> dict[str, Any]:
        """The next answer; raises VideoError after an error, a crash or silence, and whatever `tick` raises."""
        line = self._line()
        form: dict[str, Any] = json.loads(line)
        if "error" in form:
            raise self._error(form)
        return form

    def pictures(self, clip: Clip, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Frames of a clip in increasing order. Consume all of them before the next request."""
        shape = (clip.height, clip.width, 3)
        size = clip.height * clip.width * 3
        os.ftruncate(self._pictures, max(SLOTS * size, os.fstat(self._pictures).st_size))
        which = {"range": [wanted.start, wanted.stop, wanted.step]} if isinstance(wanted, range) else {}
        self.ask({"clip": clip_to_json(clip), **(which or {"indices": list(wanted)})})
        with mmap.mmap(self._pictures, SLOTS * size, prot=mmap.PROT_READ) as memory:
            for number in range(len(wanted)):
                index = self.answer()["frame"]
                # A copy, because the slot will be overwritten.
                start = number % SLOTS * size
                picture = np.frombuffer(memory[start : start + size], np.uint8).reshape(shape).copy()
                self._send(b"\n")
                if number + 1 == len(wanted):
                    self.answer()
                yield index, picture

    def kill(self) -> None:
        """Kills the process."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                with suppress(BrokenPipeError):
                    pipe.close()
        if self._pictures >= 0:
            os.close(self._pictures)
            self._pictures = -1

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except (BrokenPipeError, OSError) as error:
            raise self._crashed() from error

    def _line(self) -> bytes:
        limits = self._guard.limits
        quiet_until = time.monotonic() + limits.silence_seconds
        while b"\n" not in self._buffer:
            if not self._poll.poll(1000 * min(TICK_SECONDS, limits.silence_seconds)):
                self._guard.tick()
                if time.monotonic() >= quiet_until:
                    seconds = f"{limits.silence_seconds:g} s"
                    raise VideoError(
                        f"The decoder of {self._guard.name} sent nothing for {seconds} and was stopped.",
                        "The file is damaged or too large for this machine: re-encode it as H.264.",
                    )
                continue
            data = os.read(self._answers, 2**16)
            if not data:
                raise self._crashed()
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _crashed(self) -> VideoError:
        try:
            code = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            code = 0
        reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return VideoError(
            f"The decoder crashed on {self._guard.name} ({reason}).",
            "The file is damaged in a way that FFmpeg does not survive: re-encode it as H.264.",
        )

    def _error(self, form: dict[str, Any]) -> VideoError:
        if form["error"] == "MemoryError":
            megabytes = self._guard.limits.memory_bytes / 2**20
            return VideoError(
                f"The video {self._guard.name} takes more than {megabytes:.0f} MB to decode.",
                "Use a smaller picture, or allow more memory (TRAJSEG_DECODER_MEMORY_BYTES).",
            )
        if form["error"] == "VideoError":
            return VideoError(str(form["message"]), str(form["remedy"]))
        return VideoError(
            f"The video {self._guard.name} cannot be decoded ({form['error']}: {str(form['message'])[:200]}).",
            "Re-encode it as H.264.",
        )


@dataclass(frozen=True)
class GuardedClip(Clip):
    """A clip whose frames are decoded by another process, within limits.

    Args:
        guard: from `guarded_clip`; after its context has ended, frames raise an error.
    """

    guard: DecoderGuard | None = field(default=None, compare=False, repr=False)

    def _decode(self, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        if not wanted:
            return
        assert self.guard is not None
        last = None
        with self.guard.decoder() as decoder:
            for number, (index, picture) in enumerate(decoder.pictures(self, wanted), 1):
                if number == len(wanted):
                    # Only after the decoder is free again, because the caller may not resume this generator.
                    last = index, picture
                else:
                    yield index, picture
        if last is not None:
            yield last


def _anonymous_file() -> int:
    """A descriptor of anonymous memory, or of a temporary file on systems without it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("trajseg-pictures")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
