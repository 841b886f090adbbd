# SPDX-License-Identifier: BSD-3-Clause
"""Rules compiled so that a packet's fate is three searches and one AND, however many rules there are.

A *clause* is what a rule allows for one range of ports: protocols, sources, destinations, ports. Each clause has a bit.
For each of the three dimensions a sorted table cuts all values into intervals and says for each which clauses are in:

    destinations     0.0.0.0   100.64.0.1   100.64.0.2   …           a value's row is that of the last start that is not
                     000       011          000                      above it: a binary search

    source & destination & port & protocol   is not 0   ⟺   some clause allows the packet

Bit 0 of the destinations is no clause: it says that an address is ours. Jailed sources have empty rows, and so have
destinations that nothing passes to.

Starts are compared as bytes in network order, which is memcmp's order and that of what stands in a packet, so that
`packed` gives compiled code the same tables as they are. Rules with equal sources share their ranges: what a tailnet's
policy expands to is a few sets of many addresses.

Not as in tailscale: an ICMP packet from a node that has a rule's capability must also be for a destination of that
rule, and such a rule counts for protocols without ports, too.

Limits: a table has two rows per distinct range at most, each as long as there are clauses. 500 clauses with 10,000
sources: 20,000 rows of 63 bytes.

Source: the bit vectors of Lakshman and Stiliadis, SIGCOMM 1998; rules: notes dns-filter.md B4, B5.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from ts4nsnet.filter.rules import MAX_PORT, Prefix, Range, Rule
from ts4nsnet.filter.views import SCTP
from ts4nsnet.packet import Protocol

LOCAL = 1  # bit 0 of a destination's row
SIZES = {4: 4, 6: 16}  # of an address of each version, in bytes
_WORD_BYTES = 8
_WITH_PORTS = frozenset({Protocol.TCP.value, Protocol.UDP.value, SCTP})

Span = tuple[int, int]  # first, last
_Group = tuple[Iterable[Span], int]  # values, and the bits they have


def _span(prefix: str) -> Span:
    return Range.of(ip_network(prefix))[1:]


# destinations that nothing passes to; the metadata service of clouds is link-local by its number only
_METADATA = _span("169.254.169.254")[0]
MULTICAST: dict[int, list[Span]] = {4: [_span("224.0.0.0/4")], 6: [_span("ff00::/8")]}
LINK_LOCAL: dict[int, list[Span]] = {
    4: [(_span("169.254.0.0/16")[0], _METADATA - 1), (_METADATA + 1, _span("169.254.0.0/16")[1])],
    6: [_span("fe80::/10")],
}


@dataclass(frozen=True, slots=True)
class Intervals:
    """What bits each value of a dimension has.

    Attributes:
        starts: of the intervals, big-endian, all of one length, ascending; the first is zero.
        masks: the bits of all values from a start to the next.
    """

    starts: tuple[bytes, ...]
    masks: tuple[int, ...]

    @classmethod
    def build(cls, size: int, groups: Iterable[_Group], blocked: Iterable[Span] = ()) -> "Intervals":
        """Make the table of a dimension whose values have `size` bytes.

        A bit may be in one group only; values that are blocked have none.
        """
        groups = list(groups)
        block = 1 << max((mask.bit_length() for _, mask in groups), default=0)
        edges: dict[int, int] = {0: 0}
        for spans, mask in [*groups, (blocked, block)]:
            for first, last in _merged(spans):
                edges[first] = edges.get(first, 0) ^ mask
                edges[last + 1] = edges.get(last + 1, 0) ^ mask
        edges.pop(1 << 8 * size, None)
        starts: list[bytes] = []
        masks: list[int] = []
        bits = 0
        for start in sorted(edges):
            bits ^= edges[start]
            mask = 0 if bits & block else bits
            if not masks or mask != masks[-1]:
                starts.append(start.to_bytes(size, "big"))
                masks.append(mask)
        return cls(tuple(starts), tuple(masks))

    def find(self, value: bytes) -> int:
        """The bits of a value."""
        return self.masks[bisect_right(self.starts, value) - 1]

    def packed(self, words: int) -> tuple[bytes, bytes]:
        """The table for compiled code: all starts, and for each a row of that many little-endian 64-bit words."""
        return b"".join(self.starts), b"".join(mask.to_bytes(words * _WORD_BYTES, "little") for mask in self.masks)


@dataclass(frozen=True, slots=True)
class Matcher:
    """The rules for one address family.

    Attributes:
        icmp: the family's ICMP, by protocol number.
        sources, destinations, ports: the bits of each.
        protocols: the clauses for each of the 256.
        all_ports: the clauses that name no ports, and so count for protocols without.
        clause_count: how many there are; their bits begin with bit 1.
    """

    icmp: int
    sources: Intervals
    destinations: Intervals
    ports: Intervals
    protocols: tuple[int, ...]
    all_ports: int
    clause_count: int

    @classmethod
    def build(
        cls,
        version: int,
        rules: Iterable[Rule],
        local: Iterable[Prefix],
        sources_with: Mapping[str, Sequence[Range]],
        jailed: Iterable[Prefix],
    ) -> "Matcher":
        """Compile what concerns one family; see `Filter.set_rules` for the rest."""
        compiler = _Compiler(version, sources_with)
        for rule in rules:
            compiler.add(rule)
        return compiler.finish(local, jailed)

    def allows(self, source: bytes, row: int, protocol: int, header: bytes) -> bool:
        """Whether a clause allows a packet to a destination that has this row.

        Args:
            source: 4 or 16 bytes.
            row: what `destinations.find` says.
            protocol: one with ports; ICMP, which may come where anything may; or another, which takes all ports.
            header: its first four bytes.
        """
        clauses = row & self.sources.find(source)
        if protocol in _WITH_PORTS:
            return clauses & self.ports.find(header[2:]) & self.protocols[protocol] != 0
        if protocol == self.icmp:
            return clauses != 0
        return clauses & self.protocols[protocol] & self.all_ports != 0


class _Compiler:
    """Collects the clauses of one family."""

    def __init__(self, version: int, sources_with: Mapping[str, Sequence[Range]]) -> None:
        self._version = version
        self._size = SIZES[version]
        self._sources_with = sources_with
        self._clauses: dict[tuple[int, tuple[int, ...], Span], int] = {}
        self._source_numbers: dict[tuple[Span, ...], int] = {}
        self._sources: dict[int, int] = {}  # number of a set of sources → bits
        self._destinations: dict[int, set[Span]] = {}  # bit → addresses
        self._ports: dict[Span, int] = {}
        self._protocols = [0] * 256

    def add(self, rule: Rule) -> None:
        with_capability = (each for name in rule.source_capabilities for each in self._sources_with.get(name, ()))
        sources = self._spans((*rule.sources, *with_capability))
        if not sources:
            return
        number = self._source_numbers.setdefault(sources, len(self._source_numbers))
        for destination in rule.destinations:
            ports = (destination.first_port, destination.last_port)
            if destination.range.version == self._version and ports[0] <= ports[1]:
                bit = self._bit(number, rule.protocols, ports)
                self._destinations.setdefault(bit, set()).update(self._spans((destination.range,)))

    def _bit(self, sources: int, protocols: tuple[int, ...], ports: Span) -> int:
        """The bit of a clause, a new one if there is none like it."""
        key = (sources, protocols, ports)
        if key not in self._clauses:
            bit = self._clauses[key] = LOCAL << 1 << len(self._clauses)
            self._sources[sources] = self._sources.get(sources, 0) | bit
            self._ports[ports] = self._ports.get(ports, 0) | bit
            for protocol in protocols:
                self._protocols[protocol] |= bit
        return self._clauses[key]

    def finish(self, local: Iterable[Prefix], jailed: Iterable[Prefix]) -> Matcher:
        sources = ((spans, self._sources.get(number, 0)) for spans, number in self._source_numbers.items())
        ours = (self._spans(map(Range.of, local)), LOCAL)
        destinations = ((spans, bit) for bit, spans in self._destinations.items())
        never = MULTICAST[self._version] + LINK_LOCAL[self._version]
        return Matcher(
            icmp=Protocol.ICMP if self._version == 4 else Protocol.ICMPV6,
            sources=Intervals.build(self._size, sources, self._spans(map(Range.of, jailed))),
            destinations=Intervals.build(self._size, [ours, *destinations], never),
            ports=Intervals.build(2, (([span], bits) for span, bits in self._ports.items())),
            protocols=tuple(self._protocols),
            all_ports=self._ports.get((0, MAX_PORT), 0),
            clause_count=len(self._clauses),
        )

    def _spans(self, ranges: Iterable[Range]) -> tuple[Span, ...]:
        return tuple((first, last) for version, first, last in ranges if version == self._version)


def _merged(spans: Iterable[Span]) -> list[Span]:
    """The same values in ascending spans, none of which overlap."""
    merged: list[Span] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged
