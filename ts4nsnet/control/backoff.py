# SPDX-License-Identifier: BSD-3-Clause
"""When to try again.

The n-th failure in a row waits min(n² · 10 ms, 30 s), times a random factor between 0.5 and 1.5: a single broken
connection is back at once, a server that restarts is not met by all its nodes at the same time.

A 429 may say in `Retry-After` how long to wait, in seconds or until when; up to an hour is heeded.

Source: control.md 4.5, 11; tailscale util/backoff.
"""

from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

UNIT_TIME = 0.01
MAX_TIME = 30.0
MIN_RETRY_AFTER_TIME, MAX_RETRY_AFTER_TIME = 0.0, 3600.0  # seconds; what else a server asks for is not heeded
# where a 429 has no usable Retry-After: between these
UNNAMED_RETRY_TIME = (5.0, 10.0)

Random = Callable[[int], bytes]


class Backoff:
    """The failures of one loop.

    Attributes:
        retry_at: when the next attempt is due, in seconds of `now`.
    """

    __slots__ = ("_failures", "_random", "retry_at")

    def __init__(self, random: Random, now: float) -> None:
        self._random = random
        self._failures = 0
        self.retry_at = now

    def failed(self, now: float) -> None:
        """Wait, longer each time."""
        self._failures += 1
        time = min(self._failures**2 * UNIT_TIME, MAX_TIME)
        self.retry_at = now + time * (0.5 + fraction(self._random))

    def postponed(self, time: float, now: float) -> None:
        """Wait as long as the server has asked for."""
        self._failures += 1
        self.retry_at = now + time

    def succeeded(self, now: float) -> None:
        """The next failure is the first one."""
        self._failures = 0
        self.retry_at = now


def fraction(random: Random) -> float:
    """A random number between 0 and 1."""
    return int.from_bytes(random(4), "little") / 0xFFFF_FFFF


def retry_after(headers: Mapping[str, str], random: Random, wall: float) -> float:
    """How long a 429 wants us to wait, in seconds; a random time if it does not say, or says nonsense."""
    value = headers.get("retry-after", "").strip()
    try:
        if value.isascii() and value.isdigit():
            time = float(value[:10])
        else:
            date = parsedate_to_datetime(value)
            time = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - wall
    except (ValueError, OverflowError):
        time = 0.0
    if MIN_RETRY_AFTER_TIME < time <= MAX_RETRY_AFTER_TIME:
        return time
    low, high = UNNAMED_RETRY_TIME
    return low + (high - low) * fraction(random)
