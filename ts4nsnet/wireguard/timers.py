# SPDX-License-Identifier: BSD-3-Clause
"""The five timers of a peer.

    timer                 runs from                                            for            stopped by
    retransmit            our initiation                                       5 s + jitter   a finished handshake
    keep-alive            data received, if nothing was sent since             10 s           anything sent
    new handshake         data sent, if nothing was received since             15 s + jitter  anything received
    zero keys             a keypair made                                       540 s          the next keypair
    persistent keep-alive anything sent or received, where one is configured   its interval   -

Transport data passes through the session table, perhaps in another process, and nobody tells us of each packet. But
its owner writes into the peer's record when the last packets were sent and received, and of what kind. The timers of
traffic are therefore not armed but *read*: at the time at which one could expire at the earliest, we look whether it
has. While packets can flow a look every 10 seconds misses none, since no timer of traffic is shorter.

Handshake messages pass through the device; they count as sent and received too, and the device says so.

Source: WireGuard paper, sections 6.1 to 6.5; the fifth, the jitter and "another keep-alive" are those of the Linux
implementation.
"""

from collections.abc import Callable
from enum import Enum, auto
from math import inf

from ts4nsnet.wireguard.records import PeerRecord
from ts4nsnet.wireguard.sessions import KEEPALIVE_TIMEOUT, REJECT_AFTER_TIME, REKEY_TIMEOUT

NEW_HANDSHAKE_TIME = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT
ZERO_KEYS_TIME = 3 * REJECT_AFTER_TIME
REKEY_ATTEMPT_TIME = 90.0  # seconds; paper, 6.4
MAX_RETRIES = int(REKEY_ATTEMPT_TIME / REKEY_TIMEOUT) + 1
JITTER_TIME = 0.333  # seconds; so that two peers do not call each other in step for ever

Jitter = Callable[[], float]


class Expiry(Enum):
    """A timer of the table above has run out."""

    RETRANSMIT = auto()
    KEEPALIVE = auto()
    NEW_HANDSHAKE = auto()
    ZERO_KEYS = auto()
    PERSISTENT_KEEPALIVE = auto()


class PeerTimers:
    """The timers of one peer.

    Args:
        record: where the session table writes what passes.
        jitter: seconds between 0 and JITTER_TIME, another one at each call.
    """

    __slots__ = (
        "_another_from",
        "_handshake_received_at",
        "_handshake_sent_at",
        "_jitter",
        "_keepalive_done_at",
        "_made_at",
        "_new_handshake_done_at",
        "_new_handshake_jitter",
        "_persistent_done_at",
        "_record",
        "_retransmit_at",
        "_zero_at",
        "persistent_keepalive",
    )

    def __init__(self, record: PeerRecord, jitter: Jitter) -> None:
        self._record = record
        self._jitter = jitter
        self.persistent_keepalive = 0.0  # seconds between keep-alives; 0 for none
        self._retransmit_at = inf
        self._zero_at = inf
        self._made_at = -inf
        self._handshake_sent_at = 0.0
        self._handshake_received_at = 0.0
        self._keepalive_done_at = 0.0  # data received until then needs no keep-alive
        self._another_from = inf
        self._new_handshake_done_at = 0.0  # data sent until then needs no handshake
        self._new_handshake_jitter = jitter()
        self._persistent_done_at = 0.0

    # --- what the device says ---------------------------------------------------------------------------------

    def handshake_sent(self, now: float) -> None:
        """An initiation or response of ours was sent: it tells the peer as much as a keep-alive does."""
        self._handshake_sent_at = self._keepalive_done_at = now
        self._another_from = inf

    def handshake_received(self, now: float) -> None:
        """An authentic initiation or response has come: the peer is alive."""
        self._handshake_received_at = self._new_handshake_done_at = now

    def retransmit_later(self, sent_at: float, after: float = REKEY_TIMEOUT, *, postponed: bool = False) -> None:
        """A handshake message was sent at `sent_at`, seconds: call again `after` that if nothing comes of it.

        `postponed`: a call was wanted so soon after that message that it was not made; a retry that is due already
        is early enough for it.
        """
        if not postponed or self._retransmit_at == inf:
            self._retransmit_at = sent_at + after + self._jitter()

    def keypair_made(self, now: float) -> None:
        """A handshake yielded keys, confirmed or not."""
        self._made_at = now
        self._zero_at = now + ZERO_KEYS_TIME

    def handshake_finished(self) -> None:
        """The peer has answered or confirmed."""
        self._retransmit_at = inf

    def gave_up(self, now: float) -> None:
        """Nobody has answered for REKEY_ATTEMPT_TIME; what may be left of keys goes later."""
        self._keepalive_done_at = now
        self._another_from = inf
        self._zero_at = min(self._zero_at, now + ZERO_KEYS_TIME)

    # --- what the device asks ---------------------------------------------------------------------------------

    def expired(self, now: float) -> list[Expiry]:
        """Which timers have run out by `now`; each is told once."""
        expired = []
        if now >= self._retransmit_at:
            self._retransmit_at = inf
            expired.append(Expiry.RETRANSMIT)
        if now >= self._keepalive_at():
            self._another_from = now if self._more_data() else inf
            self._keepalive_done_at = now
            expired.append(Expiry.KEEPALIVE)
        if now >= self._new_handshake_at():
            self._new_handshake_done_at = now
            self._new_handshake_jitter = self._jitter()
            expired.append(Expiry.NEW_HANDSHAKE)
        if now >= self._zero_at:
            self._zero_at = inf
            self._made_at = -inf
            expired.append(Expiry.ZERO_KEYS)
        if now >= self._persistent_at():
            self._persistent_done_at = now
            expired.append(Expiry.PERSISTENT_KEEPALIVE)
        return expired

    def next_at(self, now: float) -> float:
        """When to ask again: when a timer runs out, or could by what may pass meanwhile; infinity for never."""
        look_at = now + KEEPALIVE_TIMEOUT if now < self._made_at + REJECT_AFTER_TIME else inf
        return min(
            look_at,
            self._retransmit_at,
            self._keepalive_at(),
            self._new_handshake_at(),
            self._zero_at,
            self._persistent_at(),
        )

    def _keepalive_at(self) -> float:
        if self._record.sent_at > self._another_from:
            self._another_from = inf
        return min(self._first_unanswered(), self._another_from) + KEEPALIVE_TIMEOUT

    def _first_unanswered(self) -> float:
        record = self._record
        return _first_since(self._keepalive_done_at, record.sent_at, record.unanswered_at, record.data_received_at)

    def _more_data(self) -> bool:
        """Whether data came while a keep-alive was already due, so that another one has to follow it."""
        first = self._first_unanswered()
        return first < inf if self._another_from < inf else self._record.data_received_at > first

    def _new_handshake_at(self) -> float:
        record = self._record
        first = _first_since(self._new_handshake_done_at, record.received_at, record.unheard_at, record.data_sent_at)
        return first + NEW_HANDSHAKE_TIME + self._new_handshake_jitter

    def _persistent_at(self) -> float:
        if not self.persistent_keepalive:
            return inf
        record = self._record
        handshake_at = max(self._handshake_sent_at, self._handshake_received_at, self._persistent_done_at)
        return max(record.sent_at, record.received_at, handshake_at) + self.persistent_keepalive


def _first_since(done_at: float, settled_at: float, first: float, last: float) -> float:
    """When the first packet passed that nothing has settled since; infinity for none.

    Args:
        done_at: when a handshake message or an expiry settled things; only the device knows.
        settled_at: when transport data did; it also made `first` zero.
        first: the first packet since `settled_at`.
        last: the last packet.

    Packets after `done_at` do not change `first`. Then only the last one is known, and that the first came after
    `done_at`: we take the earliest time it can have.
    """
    if first and first >= done_at:
        return first
    return done_at if last > max(done_at, settled_at) else inf
