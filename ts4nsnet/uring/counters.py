# SPDX-License-Identifier: BSD-3-Clause
"""What the engine counts: traffic, and each dropped packet under its reason."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Drop(StrEnum):
    """Why the engine dropped a packet. What WireGuard refuses is counted by `wireguard.SessionTable` and `Device`."""

    FRAME_MALFORMED = "frame malformed"  # the TUN gave something that is no packet, or one that cannot be cut
    NO_ROUTE = "no route"  # the destination belongs to no peer; the container is told
    TOO_BIG = "too big"  # for the path, and not to be fragmented; the container is told
    FILTERED_OUT = "filtered out"  # what must not leave: multicast, link-local addresses, fragments that hide something
    FILTERED_IN = "filtered in"  # what the tailnet's packet filter does not allow
    NO_ENDPOINT = "no endpoint"  # we do not know where the peer is
    INNER_MALFORMED = "inner malformed"  # what a peer sealed is no IP packet
    SOURCE_NOT_ALLOWED = "source not allowed"  # the packet's source does not belong to the peer that sealed it
    SEND_FAILED = "send failed"  # the kernel did not take a datagram
    SEND_TOO_BIG = "send too big"  # a datagram is longer than the path's MTU
    NODE_BUSY = "node busy"  # the node did not take what is not the worker's
    WRITE_FAILED = "write failed"  # the kernel did not take a frame for the container; its link is down


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """A copy of the counters at one moment."""

    read_frames: int
    read_packets: int
    sent_trains: int
    sent_datagrams: int
    received_trains: int
    received_datagrams: int
    written_frames: int
    written_packets: int
    dropped: Mapping[Drop, int]


@dataclass(slots=True)
class Counters:
    """One engine's counters; only it writes them.

    A frame is one read or write of the TUN, a train one call of the UDP socket; packets and datagrams are what they
    are made of, so the quotients say how well batching works. What is sent is transport data alone; what is written or
    sent and then refused by the kernel counts as dropped, too.
    """

    read_frames: int = 0
    read_packets: int = 0
    sent_trains: int = 0
    sent_datagrams: int = 0
    received_trains: int = 0
    received_datagrams: int = 0
    written_frames: int = 0
    written_packets: int = 0
    dropped: Counter[Drop] = field(default_factory=Counter)

    def statistics(self) -> EngineStatistics:
        """The counters now."""
        return EngineStatistics(
            self.read_frames,
            self.read_packets,
            self.sent_trains,
            self.sent_datagrams,
            self.received_trains,
            self.received_datagrams,
            self.written_frames,
            self.written_packets,
            dict(self.dropped),
        )
