# SPDX-License-Identifier: BSD-3-Clause
"""Cryptokey routing: which peer an address belongs to.

Each peer has a set of allowed prefixes, and each prefix belongs to one peer. A packet to be sent goes to the peer with
the longest prefix of its destination; a packet that has been decrypted is accepted only if the longest prefix of its
*source* belongs to the peer whose key decrypted it. Membership is not enough: a /32 of another peer inside a peer's
/24 is not that peer's.

The table is a dictionary per prefix length, asked from the longest length to the shortest:

    lengths in use   32 ─ 24 ─ 16 ─ 0          address >> (32 - length) in table[length]

A tailnet's addresses are /32 and /128, found at the first question; what is not there costs one question per length in
use. A trie asks one question per bit, and each costs the same in Python. Updates touch only what changed.

For compiled look-ups the table is also given flat: the address space cut wherever the owner changes (`intervals`), in
which one binary search finds the longest prefix.

    prefixes     10.0.0.0/8 → 1     10.1.0.0/16 → 2
    intervals    0.0.0.0 → nobody   10.0.0.0 → 1   10.1.0.0 → 2   10.2.0.0 → 1   11.0.0.0 → nobody

Source: WireGuard paper, section 2.
"""

from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Network

Prefix = IPv4Network | IPv6Network

_Question = tuple[int, dict[int, int]]  # how far to shift an address; network bits → peer


class _Family:
    """The prefixes of one address family."""

    __slots__ = ("_bits", "_peers", "questions")

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._peers: dict[int, dict[int, int]] = {}
        self.questions: list[_Question] = []  # the longest prefixes first

    def insert(self, prefix: Prefix, peer: int) -> int | None:
        """Give `prefix` to `peer`; returns whose it was."""
        table = self._peers.get(prefix.prefixlen)
        if table is None:
            table = self._peers[prefix.prefixlen] = {}
            self._order()
        key = int(prefix.network_address) >> (self._bits - prefix.prefixlen)
        before = table.get(key)
        table[key] = peer
        return before

    def remove(self, prefix: Prefix) -> None:
        table = self._peers[prefix.prefixlen]
        del table[int(prefix.network_address) >> (self._bits - prefix.prefixlen)]
        if not table:
            del self._peers[prefix.prefixlen]
            self._order()

    def _order(self) -> None:
        self.questions = [(self._bits - length, self._peers[length]) for length in sorted(self._peers, reverse=True)]


class AllowedIPs:
    """The cryptokey routing table of one device: prefixes of both families, peers by number.

    Attributes:
        version: another number after each change.
    """

    __slots__ = ("_by_peer", "_v4", "_v6", "version")

    def __init__(self) -> None:
        self.version = 0
        self._v4 = _Family(32)
        self._v6 = _Family(128)
        self._by_peer: dict[int, set[Prefix]] = {}

    def lookup(self, address: bytes) -> int | None:
        """The peer with the longest prefix of `address` (4 or 16 bytes, network order), or None."""
        value = int.from_bytes(address, "big")
        for shift, peers in (self._v4 if len(address) == 4 else self._v6).questions:
            peer = peers.get(value >> shift)
            if peer is not None:
                return peer
        return None

    def prefixes(self, peer: int) -> frozenset[Prefix]:
        """What belongs to `peer` now; less than it was given once another peer got one of its prefixes."""
        return frozenset(self._by_peer.get(peer, ()))

    def set(self, peer: int, prefixes: Collection[Prefix]) -> None:
        """Make `prefixes` all that belongs to `peer`; one that belonged to another peer moves."""
        self.version += 1
        wanted = set(prefixes)
        held = self._by_peer.get(peer, set())
        for prefix in held - wanted:
            self._family(prefix).remove(prefix)
        for prefix in wanted - held:
            before = self._family(prefix).insert(prefix, peer)
            if before is not None:
                self._by_peer[before].discard(prefix)
        if wanted:
            self._by_peer[peer] = wanted
        else:
            self._by_peer.pop(peer, None)

    def intervals(self, ip_version: int) -> list[tuple[int, int | None]]:
        """The addresses of one family in pieces of one owner: the first of each, and whose they are; ascending."""
        pieces: list[tuple[int, int | None]] = [(0, None)]
        inside: list[tuple[int, int]] = []  # the prefixes around where we are: behind their ends, and whose they are

        def own(start: int, peer: int | None) -> None:
            if pieces[-1][0] == start:
                pieces.pop()
            if not pieces or pieces[-1][1] != peer:
                pieces.append((start, peer))

        def leave(until: int) -> None:
            while inside and inside[-1][0] <= until:
                end, _ = inside.pop()
                own(end, inside[-1][1] if inside else None)

        # those around others come first
        for start, length, peer in sorted(
            (int(prefix.network_address), prefix.prefixlen, peer)
            for peer, prefixes in self._by_peer.items()
            for prefix in prefixes
            if prefix.version == ip_version
        ):
            leave(start)
            own(start, peer)
            inside.append((start + (1 << (32 if ip_version == 4 else 128) - length), peer))
        end_of_all = 1 << (32 if ip_version == 4 else 128)
        leave(end_of_all)
        return [piece for piece in pieces if piece[0] < end_of_all]

    def _family(self, prefix: Prefix) -> _Family:
        return self._v4 if prefix.version == 4 else self._v6
