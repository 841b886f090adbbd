# SPDX-License-Identifier: BSD-3-Clause
"""What may go wrong between us and a relay: errors, and the labels of what is silently dropped.

An error ends one connection; the next attempt follows by itself. A drop ends nothing: it is counted.
"""

from enum import StrEnum

from ts4nsnet.errors import Ts4nsnetError


class DerpError(Ts4nsnetError):
    """The root of this package's errors."""


class Malformed(DerpError):
    """Bytes that break the protocol: what, what was there and what should have been."""

    def __init__(self, what: str, *, got: object, want: object) -> None:
        super().__init__(f"{what}: got {got}, want {want}")


class Refused(DerpError):
    """The relay is there and does not want us: another answer than the upgrade, or an end instead of a hello."""


class Untrusted(DerpError):
    """The relay's certificate does not prove that this is the relay of the map."""


class Lost(DerpError):
    """No relay, or none any more: cannot be reached, has ended the connection, or is silent."""


class Drop(StrEnum):
    """Why something was dropped: the labels of the counters. Nothing else happens on a drop."""

    PACKET_TOO_LARGE = "packet too large"  # to send: more than MAX_PACKET_BYTES
    NOT_READY = "not ready"  # to send: the hello is not complete, or the connection is over
    RATE_LIMITED = "rate limited"  # to send: more than the relay said it takes
    QUEUE_FULL = "queue full"  # to send: more waited for a region than may; of whom most did
    NO_REGION = "no region"  # to send: the map has no such region, and no other way to the peer is known
    OFFLINE = "offline"  # to send: no node key, or no network
    REGION_CLOSED = "region closed"  # to send: waited when we gave their region up
    FRAME_UNKNOWN = "frame unknown"  # received: a type that has no meaning for us
    FRAME_MALFORMED = "frame malformed"  # received: shorter than its layout
