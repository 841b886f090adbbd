# SPDX-License-Identifier: BSD-3-Clause
"""Trains: datagrams that pass the kernel in one call.

With UDP_SEGMENT one send, with UDP_GRO one receive carries many datagrams of one peer. All are equally long but for
the last, which may be shorter. A lone datagram is a train of one.

    ┌──────────┬──────────┬──────────┬─────┐
    │   1452   │   1452   │   1452   │ 700 │    segment_bytes = 1452, one endpoint
    └──────────┴──────────┴──────────┴─────┘

Limits: 64 datagrams, what all kernels with UDP_SEGMENT take (6.18 takes 128); 65,507 bytes, what fits behind an IPv4
and a UDP header.
Source: udp(7); net/ipv4/udp.c, UDP_MAX_SEGMENTS.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ts4nsnet.packet import Buffer

MAX_TRAIN_DATAGRAMS = 64
MAX_TRAIN_BYTES = 65507


class Train(NamedTuple):
    """Datagrams from or to one endpoint, as one call gives or takes them."""

    payload: Sequence[Buffer]  # the bytes of all datagrams in pieces of any size
    segment_bytes: int  # of every datagram but the last
    datagram_count: int
    endpoint: bytes  # 32 opaque bytes

    @classmethod
    def received(cls, payload: Buffer, segment_bytes: int, endpoint: bytes) -> "Train":
        """What one receive gave; `segment_bytes` is 0 where the kernel did not merge."""
        size = segment_bytes or max(1, len(payload))
        return cls((payload,), size, max(1, -(-len(payload) // size)), endpoint)

    def datagrams(self) -> Iterator[Buffer]:
        """The datagrams of a received train, in their order."""
        whole = memoryview(self.payload[0])
        for start in range(0, self.datagram_count * self.segment_bytes, self.segment_bytes):
            yield whole[start : start + self.segment_bytes]


def form_trains(
    messages: Sequence[bytes], endpoint: bytes, *, longest: int = MAX_TRAIN_DATAGRAMS, equal_tails: bool = True
) -> list[Train]:
    """Arrange messages for one endpoint in trains, in their order.

    Args:
        longest: how many datagrams a train has at most.
        equal_tails: whether those of a train may all be equally long. If not, only the end of a run of equal ones that
            a shorter one follows makes a train; those before it go alone.
    """
    end_of = _end if equal_tails else _end_with_tail
    trains: list[Train] = []
    first = 0
    while first < len(messages):
        after = end_of(messages, first, longest)
        trains.append(Train(messages[first:after], len(messages[first]), after - first, endpoint))
        first = after
    return trains


def _end(messages: Sequence[bytes], first: int, longest: int) -> int:
    """Behind the last message of the train that begins with `first`."""
    size = total = len(messages[first])
    end = min(len(messages), first + longest)
    after = first + 1
    while after < end and len(messages[after]) <= size and total + len(messages[after]) <= MAX_TRAIN_BYTES:
        total += len(messages[after])
        after += 1
        if total % size:
            break
    return after


def _end_with_tail(messages: Sequence[bytes], first: int, longest: int) -> int:
    """The same, where the last one of a train must be shorter."""
    size = len(messages[first])
    after = first + 1
    while after < len(messages) and len(messages[after]) == size:
        after += 1
    has_tail = after < len(messages) and len(messages[after]) < size
    after += has_tail
    most = min(longest, max(1, MAX_TRAIN_BYTES // size))
    return after if has_tail and after - first <= most else first + 1
