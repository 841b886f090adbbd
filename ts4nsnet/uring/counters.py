# SPDX-License-Identifier: BSD-3-Clause
"""What the engine counts: traffic, and each dropped packet under its reason; and which offloads are in use.

A compiled engine counts in shared memory, from which anybody may copy who maps it: `COUNTER_WORDS` native 64-bit words,
in the order of `FIELDS`, `DROPS` and `Offload`, each written by the engine alone.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from mmap import mmap

from ts4nsnet.packet import Buffer
from ts4nsnet.uring.offloads import Offload


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
    SEND_FORBIDDEN = "send forbidden"  # a firewall of the host drops it (EPERM)
    SEND_NO_BUFFERS = "send: no buffers"  # the host's network has no room for it (ENOBUFS)
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
    offloads: Mapping[Offload, int]


@dataclass(slots=True)
class Counters:
    """One engine's counters; only it writes them.

    A frame is one read or write of the TUN, a train one call of the UDP socket; packets and datagrams are what they
    are made of, so the quotients say how well batching works. What is sent is transport data alone; what is written or
    sent and then refused by the kernel counts as dropped, too. What is said of an offload is in `offloads`.
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
    offloads: dict[Offload, int] = field(default_factory=dict)

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
            dict(self.offloads),
        )


FIELDS = (
    "read_frames",
    "read_packets",
    "sent_trains",
    "sent_datagrams",
    "received_trains",
    "received_datagrams",
    "written_frames",
    "written_packets",
)
# the first of them are counted by compiled code, which knows them by their places (pipeline.pxd)
DROPS = (
    Drop.FRAME_MALFORMED,
    Drop.NO_ROUTE,
    Drop.NO_ENDPOINT,
    Drop.INNER_MALFORMED,
    Drop.SOURCE_NOT_ALLOWED,
    Drop.SEND_FAILED,
    Drop.SEND_TOO_BIG,
    Drop.WRITE_FAILED,
    Drop.SEND_FORBIDDEN,
    Drop.SEND_NO_BUFFERS,
    Drop.TOO_BIG,
    Drop.FILTERED_OUT,
    Drop.FILTERED_IN,
    Drop.NODE_BUSY,
)
OFFLOADS_AT = len(FIELDS) + len(DROPS)
COUNTER_WORDS = OFFLOADS_AT + len(Offload)


def counters_in(memory: Buffer | mmap) -> Counters:
    """A copy of the counters in a compiled engine's memory."""
    words = memoryview(memory).cast("B").cast("Q")
    dropped = {reason: words[place] for place, reason in enumerate(DROPS, start=len(FIELDS)) if words[place]}
    return Counters(
        **{name: words[place] for place, name in enumerate(FIELDS)},
        dropped=Counter(dropped),
        offloads={offload: words[place] for place, offload in enumerate(Offload, start=OFFLOADS_AT)},
    )
