# SPDX-License-Identifier: BSD-3-Clause
"""What a pipeline tells the node, beside the facts of its session table."""

from dataclasses import dataclass

from ts4nsnet.uring.offloads import OffloadRefused
from ts4nsnet.wireguard import Fact


@dataclass(frozen=True, slots=True)
class Unsealed:
    """Packets for a peer that has no keypair to seal them with, oldest first."""

    peer: int
    packets: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Slow:
    """A datagram that is no transport data: handshakes, and whatever else comes to our port."""

    datagram: bytes
    source: bytes  # the endpoint, 32 opaque bytes


@dataclass(frozen=True, slots=True)
class Local:
    """A packet of the container's that the node answers itself."""

    packet: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """A packet of the tailnet's own protocol (TSMP), from a peer to this node."""

    peer: int
    packet: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """The container was told that it has no way to an address, 4 or 16 bytes."""

    destination: bytes


Event = Unsealed | Slow | Local | Message | Refused | OffloadRefused | Fact
