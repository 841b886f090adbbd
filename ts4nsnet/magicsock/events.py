# SPDX-License-Identifier: BSD-3-Clause
"""What the choice of paths is told, says, counts and shows: values."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ts4nsnet.endpoint import Endpoint
from ts4nsnet.keys import ZERO_KEY, PublicKey
from ts4nsnet.tailnet import TAILNET_MTU


class Drop(StrEnum):
    """Why a datagram was dropped: the labels of the counters. Nothing else happens on a drop."""

    NO_NODE_KEY = "no node key"  # we are nobody yet, or not any more
    UNKNOWN_SENDER = "unknown sender"  # no peer has this disco key, or not the one that the relay names
    UNREADABLE = "unreadable"  # sealed for an older key of ours, or no message that we know
    REPEATED = "repeated"  # a ping that has been answered
    UNEXPECTED = "unexpected"  # a pong to no ping of ours; an invitation that did not come by a relay
    OVERLAY = "overlay"  # what comes back to there would go through another private network


@dataclass(frozen=True, slots=True)
class PeerPaths:
    """What the coordination server says of how a peer can be reached.

    Attributes:
        disco_key: zero: it has none, and is reached through its relay alone.
        home_region: of its relay; 0: unknown.
        endpoints: of UDP.
        wireguard_only: it knows neither disco nor relays: the first of its endpoints has to do.
        is_gateway: there are networks behind it, of which its paths say nothing.
    """

    key: PublicKey
    disco_key: PublicKey = ZERO_KEY
    home_region: int = 0
    endpoints: tuple[Endpoint, ...] = ()
    wireguard_only: bool = False
    is_gateway: bool = False


@dataclass(frozen=True, slots=True)
class PathChanged:
    """WireGuard's datagrams for this peer go to `endpoint` from now on: UDP, its relay, or NOWHERE.

    Attributes:
        latency: seconds there and back; None: not measured, as for relays.
        mtu: bytes of inner packet that a message to it may have.
    """

    key: PublicKey
    endpoint: Endpoint
    latency: float | None = None
    mtu: int = TAILNET_MTU


@dataclass(frozen=True, slots=True)
class Pinged:
    """The first answer to `Conn.ping` came this way after `latency` seconds; None: no answer came at all."""

    key: PublicKey
    endpoint: Endpoint
    latency: float | None


@dataclass(frozen=True, slots=True)
class OwnEndpointsChanged:
    """Peers can reach us here now; the coordination server is to tell them."""

    endpoints: tuple[Endpoint, ...]


Event = PathChanged | Pinged | OwnEndpointsChanged


@dataclass(frozen=True, slots=True)
class Path:
    """How a peer is reached at the moment.

    Attributes:
        endpoint: where WireGuard's datagrams go: UDP, its relay, or NOWHERE.
        is_direct: by UDP.
        latency: seconds there and back; None: not measured.
        is_active: there was traffic for it lately, so its path is looked after.
    """

    endpoint: Endpoint
    is_direct: bool
    latency: float | None
    is_active: bool


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a `Conn` has done so far; an invitation is a call-me-maybe."""

    pings_sent: int
    pings_received: int
    pongs_sent: int
    pongs_received: int
    invitations_sent: int
    invitations_received: int
    dropped: Mapping[Drop, int]
