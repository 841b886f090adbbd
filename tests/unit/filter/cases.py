# SPDX-License-Identifier: BSD-3-Clause
"""Addresses, rules and packets for tests of the filter, few enough that hypothesis often finds two that meet."""

from ipaddress import ip_network

from hypothesis import strategies as st

from ts4nsnet.filter import DEFAULT_PROTOCOLS, Destination, Range, Rule, parse_ranges
from ts4nsnet.packet import ICMP, IP, TCP, UDP, IPv4, IPv6, carry

SELF4, PEER4, OTHER4 = (bytes([100, 64, 0, last]) for last in (1, 2, 3))
SELF6, PEER6, OTHER6 = (bytes.fromhex("fd7a115ca1e0") + bytes(9) + bytes([last]) for last in (1, 2, 3))
SUBNET4 = bytes([192, 168, 7, 9])  # behind us
STRANGERS = [bytes([224, 0, 0, 1]), bytes([169, 254, 1, 1]), bytes([169, 254, 169, 254]), bytes([255] * 4), bytes(4)]
STRANGERS6 = [bytes.fromhex("ff02") + bytes(13) + b"\1", bytes.fromhex("fe80") + bytes(13) + b"\1", bytes(16)]

LOCAL = [ip_network(each) for each in ("100.64.0.1/32", "fd7a:115c:a1e0::1/128", "192.168.7.0/24", "169.254.0.0/16")]

RANGES = [
    *("*", "100.64.0.2", "100.64.0.1", "100.64.0.0/30", "100.64.0.2-100.64.0.3", "192.168.7.0/24", "0.0.0.0/0"),
    *("fd7a:115c:a1e0::1", "fd7a:115c:a1e0::2-fd7a:115c:a1e0::3", "fd7a:115c:a1e0::/48", "169.254.0.0/16", "ff00::/8"),
]
PORTS = [0, 1, 22, 80, 81, 65535]


def rule(sources: str, destinations: str, ports: tuple[int, int] = (0, 65535), *protocols: int) -> Rule:
    """A rule between two sets of addresses."""
    to = tuple(Destination(each, *ports) for each in parse_ranges(destinations))
    return Rule(parse_ranges(sources), (), to, protocols or DEFAULT_PROTOCOLS)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[Range, ...]:
    return tuple(each for text in draw(st.lists(st.sampled_from(RANGES), max_size=3)) for each in parse_ranges(text))


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    port = st.sampled_from(PORTS)
    whole = st.just((0, 65535))
    to = draw(st.lists(st.tuples(st.sampled_from(RANGES), whole | st.tuples(port, port)), max_size=3))
    return Rule(
        sources=draw(ranges()),
        source_capabilities=draw(st.sampled_from([(), (), ("a",), ("a", "b"), ("unknown",)])),
        destinations=tuple(Destination(each, *ports) for text, ports in to for each in parse_ranges(text)),
        protocols=draw(st.sampled_from([DEFAULT_PROTOCOLS, (6,), (17, 132), (47,), (6, 47), (1,), ()])),
    )


@st.composite
def packets(draw: st.DrawFn) -> tuple[IP, TCP | UDP | ICMP | bytes]:
    """A whole packet, as values."""
    port = st.sampled_from(PORTS)
    four = draw(st.booleans())
    ours, theirs = ([SELF4, SUBNET4, *STRANGERS], [PEER4, OTHER4]) if four else ([SELF6, *STRANGERS6], [PEER6, OTHER6])
    every = [ours[0], *ours, *theirs]
    flags = st.sampled_from([0x02, 0x12, 0x10, 0xC2, 0x00])
    kind = st.sampled_from([0, 1, 3, 5, 8, 11, 12, 18, 4, 128, 129])
    inner: TCP | UDP | ICMP | bytes = draw(
        st.one_of(
            st.tuples(port, port, flags).map(lambda each: TCP(each[0], each[1], 1, flags=each[2])),
            st.tuples(port, port).map(lambda each: UDP(*each)),
            st.tuples(kind, st.integers(0, 1)).map(lambda each: ICMP(*each)),
            st.just(bytes(8)),
        )
    )
    addresses = (draw(st.sampled_from(every)), draw(st.sampled_from(every)))
    protocol = draw(st.sampled_from([47, 50]))
    return IPv4(*addresses, protocol) if four else IPv6(*addresses, protocol), inner


def emit(ip: IP, inner: TCP | UDP | ICMP | bytes) -> bytes:
    """Its bytes."""
    return ip._replace(payload=inner).emit() if isinstance(inner, bytes) else carry(ip, inner)
