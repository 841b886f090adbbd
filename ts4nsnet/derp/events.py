# SPDX-License-Identifier: BSD-3-Clause
"""What happened at a relay: facts, frozen. `region_id` names the relay as the map does."""

from dataclasses import dataclass

from ts4nsnet.derp.errors import DerpError
from ts4nsnet.keys import PublicKey


@dataclass(frozen=True, slots=True)
class Received:
    """Packets of the peer that owns `source` came through `region_id`, one behind the other; at least one."""

    region_id: int
    source: PublicKey
    packets: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PeerGone:
    """`peer` cannot be reached through `region_id` (any more); `reason` is a `PeerGoneReason` or a later number."""

    region_id: int
    peer: PublicKey
    reason: int


@dataclass(frozen=True, slots=True)
class Connected:
    """The relay has taken us: peers can reach us there."""

    region_id: int
    server_key: PublicKey


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """What the relay finds wrong with our connection; empty: nothing any more."""

    region_id: int
    problem: str


@dataclass(frozen=True, slots=True)
class Restarting:
    """The relay is about to restart and asks to come back after `reconnect_time` seconds."""

    region_id: int
    reconnect_time: float


@dataclass(frozen=True, slots=True)
class Probed:
    """The relay has answered a probe, after `latency` seconds."""

    region_id: int
    latency: float


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection, or the attempt at one, is over."""

    region_id: int
    error: DerpError


@dataclass(frozen=True, slots=True)
class HomeLost:
    """The map has no such region any more, or defines it anew: there is no home until one is chosen again."""

    region_id: int


Event = Received | PeerGone | Connected | HealthChanged | Restarting | Probed | Disconnected | HomeLost
