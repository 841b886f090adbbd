# SPDX-License-Identifier: BSD-3-Clause
"""What a node is called: its two addresses and its DNS label.

Addresses are given out in rising order, one offset in both families, so 100.64.0.7 and fd7a:115c:a1e0::7 are one
node. An address that became free is given out again only after the whole range was used: whoever still knows the old
owner by its address must not meet a stranger there.

Never given out: the first and last of 100.64.0.0/10; 100.100.100.0/24 and the offset of fd7a:115c:a1e0::53, which
clients answer themselves; 100.115.92.0/23, which ChromeOS uses. The lab's IPv6 addresses lie in
fd7a:115c:a1e0::/106, far from the reserved ranges (4via6 is …:b1a::/64).

A label is made from the host name that the client tells: one lower-case DNS label of letters, digits and hyphens. Who
comes second gets `-1`, then `-2`.

Source: control.md 10.6; RFC 1123, 2.1.
"""

import re
from collections.abc import Container
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from itertools import chain, count

from ts4nsnet.lab.errors import Refused
from ts4nsnet.tailnet import TAILNET_V4, TAILNET_V6

IPV4_RANGE, IPV6_RANGE = TAILNET_V4, TAILNET_V6
RESERVED = (IPv4Network("100.100.100.0/24"), IPv4Network("100.115.92.0/23"), IPv4Network("100.64.0.83/32"))

MAX_LABEL_CHARACTERS = 63  # RFC 1035, 2.3.4
NAMELESS = "node"
# what hosts append to their name in a network without a domain
LOCAL_SUFFIXES = (".local", ".localdomain", ".lan")

_NOT_IN_LABELS = re.compile(r"[^a-z0-9]+")


def ipv6_of(address: IPv4Address) -> IPv6Address:
    """The IPv6 address that goes with an IPv4 address of the range."""
    return IPV6_RANGE[int(address) - int(IPV4_RANGE.network_address)]


def next_address(last: IPv4Address | None, used: Container[IPv4Address]) -> IPv4Address:
    """The first usable address after `last`, from the start again after the end.

    Raises:
        Refused: all four million are in use.
    """
    first, beyond = int(IPV4_RANGE.network_address) + 1, int(IPV4_RANGE.broadcast_address)
    start = first if last is None else int(last) + 1
    for number in chain(range(start, beyond), range(first, start)):
        address = IPv4Address(number)
        if address not in used and not any(address in network for network in RESERVED):
            return address
    raise Refused(503, "no address is free")


def label_of(hostname: str) -> str:
    """One DNS label for what a client calls its host; `node` where nothing is left of it."""
    name = hostname.lower()
    for suffix in LOCAL_SUFFIXES:
        name = name.removesuffix(suffix)
    label = _NOT_IN_LABELS.sub("-", name).strip("-")
    return label[:MAX_LABEL_CHARACTERS].rstrip("-") or NAMELESS


def free_label(wanted: str, used: Container[str]) -> str:
    """`wanted`, or what it becomes when others have that name."""
    if wanted not in used:
        return wanted
    for number in count(1):
        ending = f"-{number}"
        label = wanted[: MAX_LABEL_CHARACTERS - len(ending)] + ending
        if label not in used:
            return label
    raise AssertionError("unreachable: labels are countless")
