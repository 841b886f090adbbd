# SPDX-License-Identifier: BSD-3-Clause
"""Receiver indices: the 32-bit numbers by which a peer's messages name our handshake or keypair.

They are random, so that nobody can guess one and make us try to decrypt, and no value is special. One that was issued
rests until its handshake, its keypair and the messages that named them are all gone, before it may be issued again.
"""

from collections import deque

from ts4nsnet.wireguard.cookies import Random
from ts4nsnet.wireguard.sessions import REJECT_AFTER_TIME
from ts4nsnet.wireguard.timers import ZERO_KEYS_TIME

REST_TIME = ZERO_KEYS_TIME + REJECT_AFTER_TIME  # seconds


class ReceiverIndices:
    """Which index was issued for which peer; as many as are issued within REST_TIME."""

    __slots__ = ("_owners", "_random", "_resting")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._owners: dict[int, int] = {}
        self._resting: deque[tuple[float, int]] = deque()  # when it may be issued again, index

    def owner(self, index: int) -> int:
        """The number of the peer that `index` was issued for; -1 for none."""
        return self._owners.get(index, -1)

    def issue(self, peer: int, now: float) -> int:
        """A new index for peer number `peer`."""
        while self._resting and self._resting[0][0] <= now:
            self._owners.pop(self._resting.popleft()[1], None)
        while (index := int.from_bytes(self._random(4), "little")) in self._owners:
            pass
        self.reserve(index, peer, now)
        return index

    def reserve(self, index: int, peer: int, since: float) -> None:
        """Count `index` as issued at `since`, seconds, by a device before this one."""
        self._owners[index] = peer
        self._resting.append((since + REST_TIME, index))
