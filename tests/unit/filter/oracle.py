# SPDX-License-Identifier: BSD-3-Clause
"""The filter as the notes say it, rule by rule and on values instead of bytes; slow and without any table."""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from ts4nsnet.filter import Range, Rule, Verdict
from ts4nsnet.filter.rules import Prefix
from ts4nsnet.packet import ICMP, IP, SYN, TCP, UDP, IPv4

Address = IPv4Address | IPv6Address
Inner = TCP | UDP | ICMP | bytes  # bytes: of another protocol

METADATA = ip_address("169.254.169.254")
ALL_PORTS = (0, 65535)


def contains(ranges: Iterable[Range], address: Address) -> bool:
    return any(each.version == address.version and each.first <= int(address) <= each.last for each in ranges)


def special(destination: Address) -> Verdict | None:
    if destination.is_multicast:
        return Verdict.MULTICAST
    return Verdict.LINK_LOCAL if destination.is_link_local and destination != METADATA else None


class Oracle:
    """Says what `Filter` must say."""

    def __init__(
        self,
        rules: Sequence[Rule],
        local: Sequence[Prefix],
        sources_with: Mapping[str, Sequence[Range]],
        jailed: Sequence[Prefix] = (),
    ) -> None:
        self._rules = rules
        self._local = local
        self._sources_with = sources_with
        self._jailed = jailed
        self._flows: set[tuple[int, Address, int, Address, int]] = set()

    def outbound(self, ip: IP, inner: Inner) -> Verdict:
        source, destination = ip_address(ip.source), ip_address(ip.destination)
        refused = special(destination)
        if refused is None and (special(source) or not any(source in prefix for prefix in self._local)):
            refused = Verdict.STRANGE_SOURCE
        if refused is None and isinstance(inner, UDP):
            self._flows.add((17, destination, inner.destination_port, source, inner.source_port))
        return refused or Verdict.ACCEPT

    def inbound(self, ip: IP, inner: Inner) -> Verdict:
        source, destination = ip_address(ip.source), ip_address(ip.destination)
        refused = special(destination)
        if refused is not None:
            return refused
        if not any(destination in prefix for prefix in self._local):
            return Verdict.NOT_LOCAL
        return Verdict.ACCEPT if self._admits(source, destination, ip, inner) else Verdict.NO_RULE

    def _admits(self, source: Address, destination: Address, ip: IP, inner: Inner) -> bool:
        is_jailed = any(source in prefix for prefix in self._jailed)
        rules = [] if is_jailed else [rule for rule in self._rules if is_from(source, rule, self._sources_with)]
        match inner:
            case TCP():
                return inner.flags & 0x12 != SYN or opens(rules, destination, 6, inner.destination_port)
            case UDP():
                flow = (17, source, inner.source_port, destination, inner.destination_port)
                return flow in self._flows or opens(rules, destination, 17, inner.destination_port)
            case ICMP():
                reply, errors = (0, {3, 11, 12}) if isinstance(ip, IPv4) else (129, {1, 2, 3, 4})
                if inner.type in errors or (inner.type, inner.code) == (reply, 0):
                    return True
                to = (each.range for rule in rules for each in rule.destinations if each.first_port <= each.last_port)
                return contains(to, destination)
            case _:
                named = (each for rule in rules if ip.protocol in rule.protocols for each in rule.destinations)
                whole = (each.range for each in named if (each.first_port, each.last_port) == ALL_PORTS)
                return contains(whole, destination)


def is_from(source: Address, rule: Rule, sources_with: Mapping[str, Sequence[Range]]) -> bool:
    capable = (sources_with.get(name, ()) for name in rule.source_capabilities)
    return contains(rule.sources, source) or any(contains(ranges, source) for ranges in capable)


def opens(rules: Iterable[Rule], destination: Address, protocol: int, port: int) -> bool:
    return any(
        contains([each.range], destination) and each.first_port <= port <= each.last_port
        for rule in rules
        if protocol in rule.protocols
        for each in rule.destinations
    )
