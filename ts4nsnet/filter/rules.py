# SPDX-License-Identifier: BSD-3-Clause
"""Packet filter rules as values, independent of the JSON they came in.

A rule allows packets of its protocols from any of its sources to any of its destinations (an address and a port). All
forms that a set of addresses may be written in (`*`, address, prefix, range) become ranges of integers, which compare
quickly and of which a matcher makes what it needs:

    "10.0.0.0/8"  →  Range(4, 0x0A000000, 0x0AFFFFFF)           "*"  →  one range for IPv4, one for IPv6

Grants open no ports; they say what a source may do at a destination once it is connected (WhoIs, PeerAPI).

Source: tailcfg.FilterRule, wgengine/filter of tailscale; notes control.md 8.1, dns-filter.md B5.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from ts4nsnet.errors import Ts4nsnetError

Prefix = IPv4Network | IPv6Network

DEFAULT_PROTOCOLS = (6, 17, 1, 58)  # TCP, UDP, ICMP, ICMPv6: of a rule that names none
MAX_PORT = 65535


class FilterError(Ts4nsnetError):
    """A text that stands for no set of addresses."""


class Range(NamedTuple):
    """Addresses of one family, from `first` to `last`, both included. A tuple, as rules compare thousands of them."""

    version: int  # 4 or 6
    first: int
    last: int

    @classmethod
    def of(cls, prefix: Prefix) -> "Range":
        """All addresses of a prefix."""
        first = int(prefix.network_address)
        return cls(prefix.version, first, first + prefix.num_addresses - 1)

    def overlaps(self, other: "Range") -> bool:
        """Whether some address is in both."""
        return self.version == other.version and self.first <= other.last and other.first <= self.last


EVERYTHING = (Range(4, 0, 2**32 - 1), Range(6, 0, 2**128 - 1))


@dataclass(frozen=True, slots=True)
class Destination:
    """Addresses and ports that a rule opens; both ports are included, and first > last opens nothing."""

    range: Range
    first_port: int = 0
    last_port: int = MAX_PORT


@dataclass(frozen=True, slots=True)
class Grant:
    """What a source may do at a destination.

    Attributes:
        destinations: where it applies.
        capabilities: by name; the values are JSON texts, verbatim.
    """

    destinations: tuple[Prefix, ...]
    capabilities: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; what it does not name it does not allow.

    Attributes:
        sources: where packets may come from.
        source_capabilities: and from nodes that have one of these node capabilities (`cap:…` on the wire).
        destinations: where to.
        protocols: IP protocol numbers; none: the rule matches nothing.
        grants: see `Grant`.
    """

    sources: tuple[Range, ...] = ()
    source_capabilities: tuple[str, ...] = ()
    destinations: tuple[Destination, ...] = ()
    protocols: tuple[int, ...] = DEFAULT_PROTOCOLS
    grants: tuple[Grant, ...] = ()


def parse_ranges(text: str) -> tuple[Range, ...]:
    """Read `*`, an address, a prefix without host bits, or `lo-hi`, both included.

    Raises:
        FilterError: any other text.
    """
    if text == "*":
        return EVERYTHING
    try:
        if "/" in text:
            return (Range.of(_prefix(text)),)
        first, dash, last = text.partition("-")
        low = _address(first)
        high = _address(last) if dash else low
        if low.version == high.version and int(low) <= int(high):
            return (Range(low.version, int(low), int(high)),)
    except ValueError:
        pass
    raise FilterError(f"got {text[:100]!r}, want '*', an address, a prefix or two addresses with a '-' between")


def _address(text: str) -> IPv4Address | IPv6Address:
    if "%" in text:
        raise ValueError(text)
    return ip_address(text)


def _prefix(text: str) -> Prefix:
    if not text.rpartition("/")[2].isdecimal() or "%" in text:
        raise ValueError(text)  # a netmask: Python takes it, nobody else does
    return ip_network(text)
