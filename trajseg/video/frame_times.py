"""Frame times from a file's timestamps: replaces wrong ones, and closes restarts and jumps of the clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

LONGEST_ERROR = 3
"""Longest run of wrong timestamps; if more of them contradict the others, the clock has restarted."""

REORDERED = 16
"""Maximum number of frames between decoding and presentation."""

CLOCK_TICK = 0.001
"""Precision of times in Matroska and WebM, in seconds."""

JUMP_SECONDS, JUMP_GAPS = 10.0, 10.0
"""A gap longer than this many seconds, and than this many usual gaps, is a jump of the clock."""


@dataclass(frozen=True)
class FrameTimes:
    """Presentation times of frames.

    Args:
        times: seconds, strictly increasing, none below 0.
        replaced: number of frames without a usable timestamp.
        restarts: how often the clock restarted.
        jumps: number of closed jumps forward.
    """

    times: tuple[float, ...]
    replaced: int = 0
    restarts: int = 0
    jumps: int = 0


def is_jump(gap: float, usual: float) -> bool:
    """Whether a gap between two frames, in seconds, is a jump of the clock instead of a long pause."""
    return gap > max(JUMP_SECONDS, JUMP_GAPS * usual)


def usual_gap(times: Sequence[float]) -> float:
    """Median gap between frames in seconds; 0 without gaps."""
    gaps = [after - before for before, after in pairwise(times) if after > before]
    return median(gaps) if gaps else 0.0


def repaired(stamps: Sequence[float | None], step: float, close_jumps: bool) -> FrameTimes:
    """Times of frames from their timestamps.

    A timestamp that contradicts its neighbours changes no other frame: its frame is placed between the frames before
    and after it. If the clock restarts, as in joined recordings, frames continue `step` seconds after the last one.

    Args:
        stamps: seconds in presentation order; None for frames without a timestamp.
        step: seconds between frames if nothing else is known, above 0.
        close_jumps: whether to close jumps of the clock; a browser that plays the file shows the gap.
    """
    known = [stamp for stamp in stamps if stamp is not None]
    gap = usual_gap(known) or step
    if (in_order := _in_order(stamps)) is not None:
        return in_order
    kept: list[tuple[int, float]] = []
    offset, restarts, jumps = 0.0, 0, 0
    earlier_offsets: list[float] = []
    for index, stamp in enumerate(stamps):
        if stamp is None:
            continue
        time = stamp + offset
        last = kept[-1][1] if kept else -1.0
        back = next((old for old in earlier_offsets if 0 < stamp + old - last <= 1.5 * gap), None)
        if back is not None and not 0 < time - last <= 1.5 * gap:
            # The clock is back to its values from before the restart.
            offset, time = back, stamp + back
        if kept and time <= last:
            wrong_here = _below(stamps, index, last - offset)
            wrong_before = sum(before > time for _, before in kept[-LONGEST_ERROR - 1 :])
            if not wrong_before or wrong_here <= min(LONGEST_ERROR, wrong_before):
                continue
            if wrong_before <= LONGEST_ERROR and (wrong_before < len(kept) or wrong_here > wrong_before):
                del kept[-wrong_before:]
                # A repeated timestamp belongs to the earlier frame.
                if kept and kept[-1][1] == time:
                    continue
            else:
                restarts += 1
                earlier_offsets.append(offset)
                offset += last + step - time
                time = stamp + offset
        elif close_jumps and kept and is_jump(time - last, gap):
            if _returns(stamps, index, time - offset, gap):
                continue
            jumps += 1
            offset -= time - last - step
            time = stamp + offset
        kept.append((index, time))
    times = _filled(kept, len(stamps), step)
    return FrameTimes(times, len(stamps) - len(kept), restarts, jumps)


def _in_order(stamps: Sequence[float | None]) -> FrameTimes | None:
    """The sorted timestamps, if they are evenly spaced but in decoding order; otherwise None."""
    known = [stamp for stamp in stamps if stamp is not None]
    order = sorted(range(len(known)), key=known.__getitem__)
    if len(known) < len(stamps) or all(index == place for place, index in enumerate(order)):
        return None
    ordered = [known[index] for index in order]
    gap = usual_gap(ordered)
    uneven = max(gap / 10, CLOCK_TICK * 1.1)
    if not all(abs(after - before - gap) <= uneven for before, after in pairwise(ordered)):
        return None
    if not all(abs(index - place) <= REORDERED for place, index in enumerate(order)):
        return None
    return FrameTimes(tuple(ordered), sum(index != place for place, index in enumerate(order)))


def _below(stamps: Sequence[float | None], index: int, limit: float) -> int:
    """Number of timestamps from `index` on that do not exceed `limit`, counted up to LONGEST_ERROR + 1."""
    count = 0
    for stamp in stamps[index : index + LONGEST_ERROR + 1]:
        if stamp is not None and stamp > limit:
            break
        count += 1
    return count


def _returns(stamps: Sequence[float | None], index: int, jumped: float, gap: float) -> bool:
    """Whether the clock returns soon after the frame that jumped."""
    coming = [stamp for stamp in stamps[index + 1 : index + 1 + LONGEST_ERROR] if stamp is not None]
    return any(is_jump(jumped - stamp, gap) for stamp in coming)


def _filled(kept: list[tuple[int, float]], count: int, step: float) -> tuple[float, ...]:
    """Times of all `count` frames; those not in `kept` are spaced evenly between their neighbours."""
    if not kept:
        return tuple(index * step for index in range(count))
    times: list[float] = []
    first, start = kept[0]
    # Without room before the first frame with a time, all frames are shifted.
    room = first * step - start
    if first and room > 0 and start < first * step / 2:
        kept = [(index, time + room) for index, time in kept]
        start += room
    early = min(step, start / first) if first else 0.0
    times += [start - early * (first - index) for index in range(first)]
    for (index, time), (following, end) in zip(kept, [*kept[1:], (count, 0.0)], strict=True):
        between = following - index
        space = (end - time) / between if following < count else step
        times += [time + space * number for number in range(between)]
    return tuple(times)
