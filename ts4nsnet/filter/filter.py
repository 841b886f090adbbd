# SPDX-License-Identifier: BSD-3-Clause
"""What becomes of a packet: `Filter.inbound` from the tailnet, `Filter.outbound` from the container.

    either way    unreadable ─► dropped     to a multicast or link-local address ─► dropped
    outbound      the rest leaves; UDP and SCTP are noted as flows
    inbound       to an address that is not ours ─► dropped
                  later fragment            accepted: nothing without its first piece
                  TCP                       accepted unless it begins a connection (SYN without ACK); that needs a rule
                  UDP, SCTP                 answers to a flow are accepted; the rest needs a rule
                  ICMP                      echo replies and errors are accepted; the rest where a rule allows anything
                  TSMP (protocol 99)        the tailnet's own messages; for us, never for the container
                  another                   needs a rule that names it, for all ports

There are only rules that allow, so their order does not matter. No rules (shields up): only answers come in. Before
the first `set_rules` no address is ours, so nothing does. Jailed peers are those no rule is for.

The order of the tests is that of how often they decide: for nearly all packets (TCP, established) it is a look at the
header, one search for the destination, and the flags.

A packet that came out of a tunnel is here already known to have a source that belongs to its sender (cryptokey
routing). The container's packets are complete; of those cut from one superpacket the first speaks for all.

Not as in tailscale: later fragments, too, must be for one of our addresses; a bad ICMPv4 parameter is an error by its
number in RFC 792, 12 (there 18); and no port is open without a rule, since there is no PeerAPI here.

Limits: jailed are addresses, not peers, so what a jailed peer routes for others is not jailed. ICMP errors are believed
without a look at what they quote; the kernel takes that look.

Source: wgengine/filter of tailscale; notes dns-filter.md part B, control.md 8.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ts4nsnet.filter.flows import Flows
from ts4nsnet.filter.matcher import LINK_LOCAL, LOCAL, MULTICAST, SIZES, Intervals, Matcher
from ts4nsnet.filter.rules import Prefix, Range, Rule
from ts4nsnet.filter.views import FRAGMENT, SCTP, TSMP, UNKNOWN, look
from ts4nsnet.packet import ACK, IPV4_HEADER_BYTES, SYN, Buffer, Protocol


class Verdict(StrEnum):
    """What becomes of a packet; the value is how counters call it."""

    ACCEPT = "accepted"
    TSMP = "tailnet message"  # from a peer to us, not to the container

    # dropped, because it is
    TOO_SHORT = "too short"
    UNKNOWN = "unknown protocol"
    MULTICAST = "multicast"
    LINK_LOCAL = "link-local"
    NOT_LOCAL = "not to us"
    NO_RULE = "no rule"
    SHIELDS_UP = "shields up"  # no rule, because there are none
    FORGED = "tailnet message of the container"
    STRANGE_SOURCE = "not from us"  # the container's, from an address that no peer would accept


@dataclass(frozen=True, slots=True)
class FilterStatistics:
    """How large a filter is.

    Attributes:
        clauses: what IPv4 and IPv6 rules were compiled to, both together.
        flows: how many are remembered.
    """

    clauses: int
    flows: int


# plain values in this module: looked up for every packet
_TCP, _UDP = Protocol.TCP.value, Protocol.UDP.value
_ACCEPT = Verdict.ACCEPT

_TCP_FLAGS = 13  # offset in the header

# of each address length: where nothing passes to
_SPECIAL_BITS = {1: Verdict.MULTICAST, 2: Verdict.LINK_LOCAL}
_SPECIAL = {
    size: Intervals.build(size, [(MULTICAST[version], 1), (LINK_LOCAL[version], 2)]) for version, size in SIZES.items()
}

# likewise ICMP: its protocol, type and code of an echo reply, the types of errors
_ICMP = {
    4: (Protocol.ICMP.value, bytes([0, 0]), frozenset({3, 11, 12})),
    16: (Protocol.ICMPV6.value, bytes([129, 0]), frozenset({1, 2, 3, 4})),
}


class Filter:
    """The packet filter of one node.

    Attributes:
        v4, v6: the rules as they were compiled.
    """

    def __init__(self) -> None:
        self._flows = Flows()
        self._refused = Verdict.NO_RULE
        self._has_local = False
        self.v4 = Matcher.build(4, (), (), {}, ())
        self.v6 = Matcher.build(6, (), (), {}, ())

    def set_rules(
        self,
        rules: Sequence[Rule],
        local: Sequence[Prefix],
        sources_with: Mapping[str, Sequence[Range]] | None = None,
        jailed: Sequence[Prefix] = (),
        *,
        shields_up: bool = False,
    ) -> None:
        """Replace all rules. Flows stay, but when shields go up: what a rule let in began some of them.

        Args:
            rules: what may come in.
            local: which addresses are ours: the node's own, and the subnets it routes.
            sources_with: the addresses of the nodes that have a node capability, by its name; for rules with
                `source_capabilities`.
            jailed: sources for which no rule counts.
            shields_up: no rule counts at all.
        """
        capable = sources_with or {}
        self._has_local = bool(local)
        if shields_up and self._refused is not Verdict.SHIELDS_UP:
            self._flows.clear()
        self._refused = Verdict.SHIELDS_UP if shields_up else Verdict.NO_RULE
        self.v4, self.v6 = (
            Matcher.build(version, () if shields_up else rules, local, capable, jailed) for version in (4, 6)
        )

    def inbound(self, packet: Buffer) -> Verdict:
        """Decide about a packet from a peer whose source is known to be right; padding may follow it."""
        protocol, start, source, destination = look(packet)
        if protocol == UNKNOWN:
            return _unreadable(packet)
        matcher = self.v4 if len(destination) == 4 else self.v6
        row = matcher.destinations.find(destination)
        if not row & LOCAL:
            return _special(destination) or Verdict.NOT_LOCAL
        if (protocol == _TCP and packet[start + _TCP_FLAGS] & (SYN | ACK) != SYN) or protocol == FRAGMENT:
            return _ACCEPT
        if protocol == TSMP:
            return Verdict.TSMP
        header = bytes(packet[start : start + 4])
        if self._answers(protocol, source, destination, header) or matcher.allows(source, row, protocol, header):
            return _ACCEPT
        return self._refused

    def _answers(self, protocol: int, source: bytes, destination: bytes, header: bytes) -> bool:
        """Whether a packet, of whose header `header` is the first four bytes, answers something of the container's."""
        if protocol in (_UDP, SCTP):
            return self._flows.has(protocol, source, destination, header)
        icmp, echo_reply, errors = _ICMP[len(destination)]
        return protocol == icmp and (header[0] in errors or header[:2] == echo_reply)

    def outbound(self, packet: Buffer) -> Verdict:
        """Decide about a packet from the container, and remember its flow."""
        protocol, start, source, destination = look(packet)
        if protocol == UNKNOWN:
            return _unreadable(packet)
        special = _special(destination)
        if special is not None:
            return special
        if protocol == TSMP:
            return Verdict.FORGED
        if self._has_local and not (self.v4 if len(source) == 4 else self.v6).destinations.find(source) & LOCAL:
            return Verdict.STRANGE_SOURCE
        if protocol in (_UDP, SCTP):
            self._flows.note(protocol, source, destination, bytes(packet[start : start + 4]))
        return _ACCEPT

    def statistics(self) -> FilterStatistics:
        """How large it is now."""
        return FilterStatistics(self.v4.clause_count + self.v6.clause_count, len(self._flows))


def _unreadable(packet: Buffer) -> Verdict:
    return Verdict.TOO_SHORT if len(packet) < IPV4_HEADER_BYTES else Verdict.UNKNOWN


def _special(destination: bytes) -> Verdict | None:
    """Why nothing passes to a destination, or None."""
    bits = _SPECIAL[len(destination)].find(destination)
    return _SPECIAL_BITS[bits] if bits else None
