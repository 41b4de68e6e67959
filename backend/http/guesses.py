"""GuessLimiter: back-off by address for wrong passwords and tokens."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

FREE_GUESSES = 5
"""Wrong guesses per address without a delay, since people mistype."""
FIRST_PAUSE_SECONDS = 1.0
"""Delay after the first guess beyond FREE_GUESSES; it doubles with each further one."""
LONGEST_PAUSE_SECONDS = 300.0
"""Longest delay, which allows about 300 guesses per day and address."""
FORGOTTEN_SECONDS = 3600.0
"""An address without a wrong guess for this long starts afresh."""
MOST_ADDRESSES = 4096
"""Most addresses remembered; beyond that, the one with the oldest guess is forgotten."""


@dataclass
class _Guesses:
    wrong: int = 0
    last: float = 0.0

    @property
    def pause(self) -> float:
        beyond = self.wrong - FREE_GUESSES
        return min(FIRST_PAUSE_SECONDS * 2.0 ** min(beyond, 30), LONGEST_PAUSE_SECONDS) if beyond >= 0 else 0.0


@dataclass(frozen=True)
class Attempt:
    """The outcome of a guess.

    Attributes:
        wait_seconds: above 0 if the guess was not even compared, because its address has to wait this long.
    """

    right: bool
    wait_seconds: float = 0.0


class GuessLimiter:
    """Counts wrong guesses per address, in this process. Safe to share between threads.

    A right guess does not reset the count: otherwise someone behind the same proxy as Label Studio could guess as
    often as Label Studio makes requests.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._addresses: OrderedDict[str, _Guesses] = OrderedDict()

    def attempt(self, address: str, right: Callable[[], bool]) -> Attempt:
        """Compares, unless the address has to wait. One at a time, so that parallel guesses gain nothing.

        Args:
            address: of the client; an IPv6 /64 network counts as one address.
            right: compares the guess, in constant time.
        """
        key, moment = _network(address), self._clock()
        with self._lock:
            guesses = self._addresses.get(key)
            if guesses is not None and moment - guesses.last > FORGOTTEN_SECONDS:
                guesses = None
            if guesses is not None and (wait := guesses.last + guesses.pause - moment) > 0:
                return Attempt(False, wait)
            if right():
                return Attempt(True)
            guesses = guesses or _Guesses()
            guesses.wrong, guesses.last = guesses.wrong + 1, moment
            self._addresses[key] = guesses
            self._addresses.move_to_end(key)
            while len(self._addresses) > MOST_ADDRESSES:
                self._addresses.popitem(last=False)
            return Attempt(False)

    def __len__(self) -> int:
        return len(self._addresses)


def _network(address: str) -> str:
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.IPv6Network((ip, 64), strict=False))
    return str(ip)
