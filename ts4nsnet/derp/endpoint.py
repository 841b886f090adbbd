# SPDX-License-Identifier: BSD-3-Clause
"""A peer behind a relay, as an endpoint of WireGuard's: 32 opaque bytes.

     0                        16     18     20           24                  32
    | first half of the key   | port | zero | region id  | next 8 of the key |        big-endian
    | address of a host       | port | zero | zone       | zero              |        over UDP, for comparison

WireGuard's limits and cookies count by the first 16 bytes, the host: so each peer behind a relay is a host of its own,
and one that floods costs the others nothing. The port tells both kinds apart: no datagram comes from port 0. Region id
and key do not fit together, so the last 8 bytes of the key are not there. Whoever sends to such an endpoint looks the
peer up: by its first 24 bytes of key, which nobody can make another key for (that is 2^192 tries), or by the number
that WireGuard itself has for the peer. An endpoint changes when the region changes: this is roaming like any other.
"""

import struct

from ts4nsnet.keys import PublicKey

_LAYOUT = struct.Struct("!16sHHI8s")
KEY_PREFIX_BYTES = 24


def to_endpoint(region_id: int, peer: PublicKey) -> bytes:
    """The endpoint of a peer behind the relay of a region (1 to 2^32 - 1)."""
    return _LAYOUT.pack(peer.raw[:16], 0, 0, region_id, peer.raw[16:KEY_PREFIX_BYTES])


def from_endpoint(endpoint: bytes) -> tuple[int, bytes] | None:
    """Region id and the first 24 bytes of the peer's key; None for an endpoint that is not behind a relay."""
    first, port, zero, region_id, second = _LAYOUT.unpack(endpoint)
    return (region_id, first + second) if port == zero == 0 and region_id else None
