# SPDX-License-Identifier: BSD-3-Clause
"""When our own node key expires, and when to ask for another.

With a credential a new key is asked for a little before: a tenth of the time that is left when we first see the expiry,
at most five minutes. Peers then get the new key while the old one is good, and traffic goes on. Without one there is
nothing to be done before the time; at the time the node has to log in again.

The server's clock rules (netmap.py), and wall clocks are set at times; so what a timer finds is judged anew.

Source: control.md 4.5; the lead is ours.
"""

from enum import Enum, auto
from math import inf

from ts4nsnet.control.netmap import NetMap

MAX_LEAD_TIME = 300.0  # seconds
LEAD_SHARE = 0.1


class Due(Enum):
    """What to do about the node key."""

    NOTHING = auto()
    RENEWAL = auto()
    EXPIRY = auto()
    REVIVAL = auto()  # it had expired, and is good again


class KeyExpiry:
    """The expiry of the node key in use."""

    __slots__ = ("_expires_at", "_expiry", "_renew_at", "expired")

    def __init__(self) -> None:
        self.expired = False
        self.forget()

    def forget(self) -> None:
        """Another key is in use, of which we know nothing yet."""
        self.expired = False
        self._expiry: float | None = None
        self._expires_at = self._renew_at = inf

    def look(self, netmap: NetMap, now: float, wall: float, *, renewable: bool) -> Due:
        """Judge by the netmap of this key.

        Args:
            wall: unix seconds.
            renewable: whether a credential is there to renew it with.
        """
        node = netmap.self_node
        was_expired, self.expired = self.expired, netmap.is_expired(node, wall)
        if self.expired:
            self._expires_at = self._renew_at = inf
            return Due.NOTHING if was_expired else Due.EXPIRY
        due = Due.REVIVAL if was_expired else Due.NOTHING
        if node.key_expiry is None:
            self._expiry, self._expires_at, self._renew_at = None, inf, inf
            return due
        left = max(node.key_expiry - netmap.clock_skew - wall, 0.0)
        if node.key_expiry != self._expiry:
            self._expiry = node.key_expiry
            self._renew_at = now + left - min(MAX_LEAD_TIME, left * LEAD_SHARE) if renewable else inf
        self._expires_at = now + left
        if now >= self._renew_at:
            self._renew_at = inf
            return Due.RENEWAL
        return due

    def next_timer(self) -> float:
        """When to look again."""
        return min(self._expires_at, self._renew_at)
