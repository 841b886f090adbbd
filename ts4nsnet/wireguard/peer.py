# SPDX-License-Identifier: BSD-3-Clause
"""A peer: what is configured of it, and what this process knows of it.

What must outlive the process, or what a worker needs, is in the peer's record of the session memory (records.py).
"""

from dataclasses import dataclass, field
from math import inf

from ts4nsnet.keys import PublicKey
from ts4nsnet.wireguard.cookies import CookieGenerator
from ts4nsnet.wireguard.handshake import NO_PRESHARED_KEY, Initiator, Timestamps
from ts4nsnet.wireguard.messages import ENDPOINT_BYTES, Endpoint, WireGuardError
from ts4nsnet.wireguard.records import PeerRecord
from ts4nsnet.wireguard.routing import Prefix
from ts4nsnet.wireguard.timers import PeerTimers

PRESHARED_KEY_BYTES = 32
# ours, as `fair` counts: a burst while one handshake runs, of one peer (144 packets of 1280) and of all of them
MAX_STAGED_BYTES = 192 << 10
MAX_ALL_STAGED_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """What is configured of a peer."""

    public_key: PublicKey
    allowed_ips: frozenset[Prefix] = frozenset()
    preshared_key: bytes = field(default=NO_PRESHARED_KEY, repr=False)  # 32 bytes
    endpoint: Endpoint | None = None  # None: as it is known, or learned from the peer's messages
    persistent_keepalive: float = 0.0  # seconds; 0 for none

    def __post_init__(self) -> None:
        if len(self.preshared_key) != PRESHARED_KEY_BYTES:
            got = len(self.preshared_key)
            raise WireGuardError(f"pre-shared key: got {got} bytes, want {PRESHARED_KEY_BYTES}")
        if self.endpoint is not None and len(self.endpoint) != ENDPOINT_BYTES:
            raise WireGuardError(f"endpoint: got {len(self.endpoint)} bytes, want {ENDPOINT_BYTES}")
        if not 0 <= self.persistent_keepalive < inf:
            raise WireGuardError(f"persistent keep-alive: got {self.persistent_keepalive} seconds, want 0 or more")


@dataclass(frozen=True, slots=True)
class Idle:
    """No handshake of ours is under way. Allowed: everything but a response."""


@dataclass(frozen=True, slots=True)
class Initiated:
    """Our initiation is out. Allowed: its response, a cookie reply, the peer's own initiation, a retry."""

    index: int  # receiver index we announced
    initiator: Initiator


class Peer:
    """One peer's state in this process; what outlives it is in its record."""

    __slots__ = (
        "allowed_ips",
        "attempts",
        "calls",
        "cookies",
        "endpoint",
        "handshake_sent_at",
        "has_answered",
        "initiation_received_at",
        "number",
        "preshared_key",
        "public_key",
        "record",
        "state",
        "static_static",
        "timers",
        "timestamps",
        "wake_at",
    )

    def __init__(self, number: int, public_key: PublicKey, record: PeerRecord, timers: PeerTimers) -> None:
        self.number = number
        self.public_key = public_key
        self.record = record
        self.timers = timers
        self.cookies = CookieGenerator(public_key)
        self.timestamps = Timestamps()
        self.preshared_key = NO_PRESHARED_KEY
        self.static_static = b""  # computed at the first handshake
        self.endpoint: Endpoint = record.endpoint
        self.state: Idle | Initiated = Idle()
        self.attempts = 0  # retries since somebody wanted a keypair
        self.calls = 0  # under our present key
        self.has_answered = False  # likewise
        self.handshake_sent_at = -inf
        self.initiation_received_at = -inf
        self.wake_at = inf
