"""Damage: what is missing from a damaged or truncated video file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import av.logging

from trajseg.video.playback import container_family

SEGMENT = bytes.fromhex("18538067")
"""The Matroska element that contains all others."""


@dataclass
class Damage:
    """Counts and damage of one decoding pass; filled in by `decoded_frames`.

    Attributes:
        packets: picture packets passed to the decoder, without those marked to be skipped.
        all_packets: packets read from the file.
        frames: decoded pictures.
        refused_packets: packets that the browser's decoder rejects, see `BrowserDecoder`.
        first_delay: ticks of the stream's clock from decoding the first packet to showing it, if known.
        decoding_times: decoding time of each picture packet in ticks of the stream's clock, if known.
        leading_pictures: packets decoded after a key frame and shown before it, as in an open group of pictures.
        key_frames: pictures at which the decoder can start.
    """

    packets: int = 0
    all_packets: int = 0
    frames: int = 0
    unreadable_packets: int = 0
    refused_packets: int = 0
    corrupt_packets: int = 0
    corrupt_frames: int = 0
    cut_off: str = field(default="")
    first_delay: int = 0
    decoding_times: list[int] = field(default_factory=list)
    leading_pictures: int = 0
    key_frames: int = 0
    _key_time: int | None = None

    def count(self, packet: Any) -> None:
        """Counts a packet read from the file."""
        self.all_packets += 1
        self.corrupt_packets += packet.is_corrupt
        if self.all_packets == 1 and packet.pts is not None and packet.dts is not None:
            self.first_delay = packet.pts - packet.dts
        if packet.size and not packet.is_discard:
            self.packets += 1
            if packet.dts is not None:
                self.decoding_times.append(packet.dts)
        if packet.is_keyframe:
            # Decoding starts at the first key frame.
            self._key_time = packet.pts if self.all_packets > 1 else None
        elif packet.pts is not None and self._key_time is not None and packet.pts < self._key_time:
            self.leading_pictures += 1

    @property
    def found(self) -> bool:
        """Whether the decoder found damage."""
        return bool(
            self.unreadable_packets
            or self.refused_packets
            or self.corrupt_packets
            or self.corrupt_frames
            or self.cut_off
        )

    @property
    def certain(self) -> bool:
        """Whether every packet became a picture, so that any number of threads gives the same frames."""
        return not self.found and self.packets == self.frames


def missing_packets(path: Path, container: Any, stream: Any, damage: Damage) -> int:
    """Number of packets that the index of an MP4 lists but the file lacks; 0 for other formats.

    Packets, not pictures: because of an edit list some packets may have no picture.
    """
    if container_family(container.format.name) != "mov":
        return 0
    size = path.stat().st_size
    beyond = sum(entry.pos + entry.size > size for entry in stream.index_entries)
    return max(beyond, len(stream.index_entries) - damage.all_packets, 0)


def false_key_frames(container: Any, stream: Any, damage: Damage) -> int:
    """Number of pictures that the index of an MP4 wrongly lists as key frames; 0 for other formats."""
    if container_family(container.format.name) != "mov":
        return 0
    claimed = sum(entry.is_keyframe and not entry.is_discard for entry in stream.index_entries)
    return max(claimed - damage.key_frames, 0)


def cut_matroska(path: Path, container: Any) -> bool:
    """Whether a Matroska or WebM file ends before its segment does."""
    if "matroska" not in container.format.name:
        return False
    with path.open("rb") as file:
        start = file.read(4096)
    place = start.find(SEGMENT)
    if place < 0 or place + len(SEGMENT) >= len(start):
        return False
    # The size of the length field is the number of leading zero bits plus one; all ones mean unknown.
    first = start[place + len(SEGMENT)]
    octets = 9 - first.bit_length()
    begin = place + len(SEGMENT)
    length = int.from_bytes(start[begin : begin + octets], "big") & ((1 << 7 * octets) - 1)
    unknown = length == (1 << 7 * octets) - 1
    return not unknown and begin + octets + length > path.stat().st_size


def short_matroska(container: Any, stream: Any, end: float, gap: float) -> bool:
    """Whether a Matroska or WebM file declares its track longer than it is.

    Args:
        end: seconds at which the last frame ends, by the file's clock.
        gap: the longest gap between frames, in seconds.
    """
    if "matroska" not in container.format.name:
        return False
    claimed = 0.0
    if match := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):
        claimed = 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3])
    elif len(container.streams) == 1:
        claimed = (container.duration or 0) / av.time_base
    return end + max(3 * gap, 0.1) < claimed
