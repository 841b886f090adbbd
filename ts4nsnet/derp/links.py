# SPDX-License-Identifier: BSD-3-Clause
"""A link: our wish to be connected to a region, what has become of it, and what the adapter is to do for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ts4nsnet.derp.client import Client
from ts4nsnet.derp.errors import Drop
from ts4nsnet.derp.map import Region
from ts4nsnet.fair import FairQueue
from ts4nsnet.keys import PrivateKey, PublicKey

# ours, as `fair` counts: 144 of a tailnet's largest packets, 3 ms at 500 Mbit/s. The reference has 32, but hands over
# packet by packet; ours come in trains of up to 64 KiB
MAX_QUEUED_BYTES = 192 << 10
MAX_URGENT_BYTES = 64 << 10  # ours, likewise: 300 handshakes or disco messages
TURN_BYTES = 16 << 10  # ours; of one peer: half a write


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect to a node of `region`, the one named `avoid` last; then say `opened`, and in any case `ended`."""

    connection: int
    region: Region
    avoid: str  # where the last hello failed; empty: nowhere


@dataclass(frozen=True, slots=True)
class Hangup:
    """End this connection, or the attempt at it; then say `ended`."""

    connection: int


Command = Dial | Hangup


@dataclass(frozen=True, slots=True)
class Waiting:
    """For the next try. Allowed: to dial, from `until` on."""

    until: float


@dataclass(frozen=True, slots=True)
class Dialling:
    """The adapter dials. Allowed: opened, ended."""

    connection: int
    since: float
    key: PrivateKey  # as whom


@dataclass(frozen=True, slots=True)
class Up:
    """There is a byte stream; whether the relay has taken us, the client knows. Allowed: bytes, ended."""

    connection: int
    client: Client
    node: str
    local_address: str


@dataclass(slots=True)
class Link:
    """A region that we want to be connected to, and what waits for it.

    Attributes:
        written_at: when a packet last came to be sent.
        urgent: what sets up paths and sessions, MAX_URGENT_BYTES: it leaves before all the rest.
        queue: the rest, MAX_QUEUED_BYTES. Of both, the oldest of the peer with most leave first.
    """

    region_id: int
    state: Waiting | Dialling | Up
    written_at: float
    urgent: FairQueue[PublicKey] = field(default_factory=lambda: FairQueue(MAX_URGENT_BYTES, TURN_BYTES))
    queue: FairQueue[PublicKey] = field(default_factory=lambda: FairQueue(MAX_QUEUED_BYTES, TURN_BYTES))
    tries: int = 0  # since a connection has lasted
    connected_at: float | None = None
    away_until: float = 0.0  # the relay restarts and asked us not to come before
    avoid: str = ""  # the node where a hello failed
    health: str = ""  # what the relay finds wrong
    error: str = ""  # why the last connection ended

    @property
    def connection(self) -> int | None:
        """The connection that this link has, or is about to have."""
        return None if isinstance(self.state, Waiting) else self.state.connection

    @property
    def is_ready(self) -> bool:
        """Whether a packet would leave at once."""
        return isinstance(self.state, Up) and self.state.client.is_ready

    @property
    def queued_packets(self) -> int:
        """How many packets wait."""
        return len(self.urgent) + len(self.queue)

    @property
    def queued_bytes(self) -> int:
        """How much they count."""
        return self.urgent.size + self.queue.size


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """How it stands with a region that we want to be connected to."""

    region_id: int
    is_home: bool
    state: str  # waiting, dialling, or a client's phase: open is what it should be
    node: str
    local_address: str
    health: str
    error: str
    tries: int
    queued_packets: int
    queued_bytes: int
    last_frame_at: float | None


@dataclass(frozen=True, slots=True)
class RegionsStatistics:
    """What happened so far, and how it stands."""

    home: int
    links: tuple[LinkStatistics, ...]
    routes: int
    packets_sent: int
    packets_received: int
    dropped: Mapping[Drop, int]
