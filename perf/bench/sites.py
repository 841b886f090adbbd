# SPDX-License-Identifier: BSD-3-Clause
"""Where contenders stand: two hosts of their own, and what lies between them.

    client ── a ════ path ════ b ── server        each contender has its own a and b, all of them at the same time

What carries the packets runs on a and b; client and server are containers on them, or the hosts themselves. On the
path "same host" both containers belong to a.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perf.bench.processes import End
from tests.processes import Namespace
from tests.topology import Host, Topology

ADDRESSES = "192.0.2.1", "192.0.2.2"  # of the hosts
NO_UDP = (
    "add table inet no-udp",
    "add chain inet no-udp out { type filter hook output priority filter; }",
    'add rule inet no-udp out oifname != "lo" meta l4proto udp drop',
)


@dataclass(frozen=True)
class Way:
    """A path between two hosts."""

    name: str
    mtu: int = 1500
    udp: bool = True  # without it, traffic takes a relay
    one_host: bool = False


DIRECT = Way("a path of 1500 bytes")
WIDE = Way("a path of 9000 bytes", mtu=9000)
RELAYED = Way("no UDP between the hosts", udp=False)
ONE_HOST = Way("one host", one_host=True)
WAYS = DIRECT, WIDE, RELAYED, ONE_HOST


@dataclass(frozen=True)
class Pair:
    """Two ends between which to measure.

    Attributes:
        client: where transfers begin.
        server: where they are accepted.
        address: of the server, for the client.
        ends: the processes that carry packets at the client's end and at the server's; a bare network has none.
    """

    client: Namespace
    server: Namespace
    address: str
    ends: tuple[End, ...] = ()


class Site:
    """The place of one contender; `mtu`: the most that packets inside may have, None: what it does by itself."""

    def __init__(self, topology: Topology, number: int, way: Way, mtu: int | None, folder: Path) -> None:
        self.topology, self.number, self.way, self.mtu, self.folder = topology, number, way, mtu, folder
        a, b = topology.host(f"a{number}"), topology.host(f"b{number}")
        topology.link(a, f"{ADDRESSES[0]}/24", b, f"{ADDRESSES[1]}/24", mtu=way.mtu)
        self.hosts: tuple[Host, Host] = (a, a) if way.one_host else (a, b)
        if not way.udp:
            for host in self.hosts:
                host.nft(*NO_UDP)


Stand = Callable[[Site], Pair]
