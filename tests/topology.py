# SPDX-License-Identifier: BSD-3-Clause
"""Networks for tests: hosts, routers, NATs and lossy links, from a line of Python each.

    def test_two_homes(topology: Topology) -> None:
        internet = topology.router("internet")
        home = topology.router("home", nat="easy")
        alice, bob = topology.host("alice"), topology.host("bob")

        topology.link(alice, "10.1.0.2/24 fd01::2/64", home, "10.1.0.1/24 fd01::1/64", mtu=1400)
        topology.link(home, "192.0.2.2/24", internet, "192.0.2.1/24", loss=0.02)
        topology.link(bob, "198.51.100.2/24", internet, "198.51.100.1/24")

        alice.run("ping", "-c1", "198.51.100.2")

which is this picture, higher up on the page meaning nearer to the rest of the world:

            internet
             │    │
    home (NAT)    bob            each node a network namespace, each line a veth pair,
     │                           each interface named after the node at the other end
    alice

**A link goes up.** Its first end reaches the rest of the world through its second, if that is a router. Default
routes, the routes back and the side on which a NAT translates all follow from this; tests set no routes. Where a
host has several links up, the last one that is not down carries its default route.

**A NAT** (nftables masquerade) translates IPv4 between everything below and each link up, and drops what arrives from
above without having been asked for, as homes do: an answer of "port unreachable" would spoil hole punching, and the
connection tracking entry behind it would take the port. "easy" keeps the source port, so that one socket has the same
address for all the world; "hard" draws another port for each destination. IPv6 is routed, not translated.

**Loss** strikes each direction of a link by itself, at random, where packets arrive. Neighbour discovery and ARP are
spared, as they would add waiting times of their own. Lossy links segment before they send (gso_max_segs), so that a
loss costs one packet and not 64 KiB.

Every call has taken effect when it returns. IPv6 addresses are usable at once (no duplicate address detection). The
fixture ends all processes and removes all namespaces; what processes said is shown with the failed test.
`topology.container(…)` is another kind of node: not on any link, owned by a user namespace of its own, like the
containers that ts4nsnet is attached to.

All this runs where tests/namespaces.py has brought pytest; nodes share its user, mount and pid namespaces.
"""

import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_interface
from pathlib import Path
from typing import Literal, TypeVar

import pytest

from tests import namespaces
from tests.processes import TIME_LIMIT, CommandFailed, Namespace, Process

__all__ = ["CommandFailed", "Container", "Host", "Link", "Process", "Router", "Topology", "topology"]

Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network
NatKind = Literal["easy", "hard"]
T = TypeVar("T", bound="Host")

EVERYTHING: list[Network] = [IPv4Network("0.0.0.0/0"), IPv6Network("::/0")]
NAME = re.compile(r"[a-z][a-z0-9-]{0,14}")  # also the name of interfaces: 15 characters at most
DEFAULT_GSO_MAX_SEGS = 65535  # the kernel's
MASQUERADE = {"easy": "masquerade", "hard": "masquerade random,fully-random"}
SYSCTLS = {
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/default/accept_ra": "0",
}
FORWARDING = {"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"}


class Host(Namespace):
    """A machine: a network namespace that `Topology.link` connects to others."""

    def __init__(self, name: str, sysctls: Mapping[str, str] = SYSCTLS) -> None:
        subprocess.run(["ip", "netns", "add", name], check=True)
        super().__init__(name, f"/run/netns/{name}")
        self.links_up: list[Link] = []
        self.links_down: list[Link] = []
        self.ip("link set dev lo up")
        with self.entered():
            for key, value in sysctls.items():
                Path("/proc/sys/net", key).write_text(value)

    def set_address(self, old: str, new: str) -> None:
        """Exchange an address of this host ("10.0.0.2/24") for another; the routes of its link follow."""
        for link in (*self.links_up, *self.links_down):
            end = link.lower if link.lower.host is self else link.upper
            if ip_interface(old) in end.addresses:
                end.addresses[end.addresses.index(ip_interface(old))] = ip_interface(new)
                self.ip(f"address del {old} dev {end.device}")
                link.configure()
                return
        raise ValueError(f"{self.name} has no address {old}")

    def networks_below(self) -> list[Network]:
        """What the world above reaches through this host."""
        found: list[Network] = []
        for link in self.links_down:
            found += link.networks + link.lower.host.networks_below()
        return found

    def ip(self, *lines: str) -> None:
        """Run lines of the `ip` command in one process."""
        if lines:
            self.run("ip", "-batch", "-", stdin="\n".join(lines))

    def nft(self, *lines: str) -> None:
        """Run lines of the `nft` command as one transaction."""
        self.run("nft", "-f", "-", stdin="\n".join(lines))


class Router(Host):
    """A host that forwards and, with a NAT, translates IPv4 on its links up."""

    def __init__(self, name: str, nat: NatKind | None) -> None:
        super().__init__(name, SYSCTLS | FORWARDING)
        self.nat = nat

    def networks_below(self) -> list[Network]:
        """What the world above reaches through this router: not what its NAT hides."""
        return [network for network in super().networks_below() if network.version == 6 or not self.nat]

    def translate(self, device: str) -> None:
        """Put the NAT between `device` and everything below."""
        if self.nat:
            table = f"inet nat-{device}"
            self.nft(
                f"add table {table}",
                f"add chain {table} outgoing {{ type nat hook postrouting priority srcnat; }}",
                f'add rule {table} outgoing meta nfproto ipv4 oifname "{device}" {MASQUERADE[self.nat]}',
                f"add chain {table} unasked {{ type filter hook input priority filter; }}",
                f'add rule {table} unasked iifname "{device}" ct state new meta l4proto {{ tcp, udp }} drop',
            )


@dataclass
class End:
    """One end of a link: an interface with its addresses."""

    host: Host
    device: str
    addresses: list[Interface]

    def wait_until_up(self) -> None:
        """Wait until packets pass and neighbours are answered.

        The kernel starts a device's queue, and joins the multicast group in which an IPv6 address is asked for, in work
        items of its own, later than `ip` returns; on a busy machine seconds later.
        """
        addresses = [int(address.ip) for address in self.addresses if address.version == 6]
        groups = [f"ff0200000000000000000001ff{address & 0xFFFFFF:06x}" for address in addresses]
        until = time.monotonic() + TIME_LIMIT
        while True:
            is_up = '"operstate":"UP"' in self.host.run("ip", "-j", "link", "show", "dev", self.device).stdout
            with self.host.entered():
                joined = Path("/proc/thread-self/net/igmp6").read_text()
            if is_up and all(group in joined for group in groups):
                return
            if time.monotonic() > until:
                raise AssertionError(f"{self.host.name}: {self.device} is not up after {TIME_LIMIT} s")

    def configure(self, *more: str) -> None:
        """Set the interface up with its addresses, then run `more` lines of `ip`."""
        addresses = [f"address replace {address} dev {self.device}" for address in self.addresses]
        self.host.ip(f"link set dev {self.device} up", *addresses, *more)

    def routes(self, networks: list[Network], gateway: "End") -> list[str]:
        """Lines of `ip` that lead to `networks` through the other end, for each IP version that this has."""
        first = {address.version: address.ip for address in reversed(gateway.addresses)}
        return [
            f"route replace {network} via {first[network.version]} dev {self.device}"
            for network in networks
            if network.version in first
        ]

    def lose(self, share: float) -> None:
        """Drop this share of what arrives here."""
        table = f"inet loss-{self.device}"
        kept = round(1000 - share * 1000)
        rules = [
            f"add table {table}",
            f"add chain {table} arriving {{ type filter hook prerouting priority raw; }}",
            f"add rule {table} arriving icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept",
            f'add rule {table} arriving iifname "{self.device}" numgen random mod 1000 >= {kept} drop',
        ]
        self.host.nft(f"add table {table}", f"delete table {table}", *(rules if share else ()))


class Link:
    """A veth pair; `lower` reaches the rest of the world through `upper`."""

    def __init__(self, lower: End, upper: End) -> None:
        self.lower = lower
        self.upper = upper
        self.is_up = True

    @property
    def networks(self) -> list[Network]:
        """The networks of the link itself."""
        return [address.network for address in self.upper.addresses]

    def set_loss(self, *, up: float, down: float) -> None:
        """From now on lose these shares (0 to 1) of the packets that go up and down."""
        for end, share in ((self.upper, up), (self.lower, down)):
            end.lose(share)
            end.host.ip(f"link set dev {end.device} gso_max_segs {1 if up or down else DEFAULT_GSO_MAX_SEGS}")

    def down(self) -> None:
        """Unplug it: both ends lose their carrier. Another link up of the lower host takes over."""
        self.is_up = False
        self.lower.host.ip(f"link set dev {self.lower.device} down")
        for other in self.lower.host.links_up:
            other.configure()

    def up(self) -> None:
        """Plug it in again."""
        self.is_up = True
        self.configure()

    def configure(self) -> None:
        """Set interfaces, addresses and routes as they should be now; may be repeated at any time."""
        if self.is_up:
            is_way_out = isinstance(self.upper.host, Router)
            self.lower.configure(*(self.lower.routes(EVERYTHING, self.upper) if is_way_out else ()))
            self.upper.configure()
            self.announce()

    def announce(self) -> None:
        """Lead those above to what is below."""
        self.upper.host.ip(*self.upper.routes(self.lower.host.networks_below(), self.lower))
        for link in self.upper.host.links_up:
            link.announce()


class Container(Namespace):
    """A container as a container tool makes one: a process in a user and a network namespace of its own.

    No link leads to it and its loopback is down: connecting it is the work of who is tested. `run`, `start` and
    `socket` act in its network namespace with the test's own privileges, which reach into it.
    """

    def __init__(self, name: str) -> None:
        command = ["unshare", "--user", "--map-root-user", "--net", "--", "cat"]
        self._holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.write(b"\n")
        self._holder.stdin.flush()
        self._holder.stdout.read(1)  # cat answers once the namespaces are there
        self.pid = self._holder.pid
        super().__init__(name, f"/proc/{self.pid}/ns/net")

    def stop(self) -> None:
        """End the container; its network namespace stays as long as others hold it."""
        self._holder.kill()
        self._holder.communicate()


class Topology:
    """What the `topology` fixture gives: makes nodes and links, and removes them in the end."""

    def __init__(self) -> None:
        self._hosts: dict[str, Host] = {}
        self._containers: list[Container] = []

    def host(self, name: str) -> Host:
        """Make a host. Names: up to 15 small letters, digits and hyphens, as interfaces are named after hosts."""
        return self._add(name, Host)

    def router(self, name: str, nat: NatKind | None = None) -> Router:
        """Make a router; it translates IPv4 on its links up if `nat` is "easy" or "hard"."""
        return self._add(name, lambda name: Router(name, nat))

    def container(self, name: str) -> Container:
        """Make a container, which no link leads to; `pid` is its process."""
        container = Container(name)
        self._containers.append(container)
        return container

    def link(
        self,
        lower: Host,
        lower_addresses: str,
        upper: Host,
        upper_addresses: str,
        *,
        loss: float = 0.0,
        mtu: int = 1500,
    ) -> Link:
        """Connect two hosts; the first reaches the rest of the world through the second.

        Args:
            lower: the host nearer to the edge; its interface is called like `upper`.
            lower_addresses: its addresses, separated by blanks: "10.0.0.2/24 fd00::2/64".
            upper: the host nearer to the rest of the world; its interface is called like `lower`.
            upper_addresses: its addresses, in the same networks.
            loss: share of packets lost in each direction, 0 to 1. `Link.set_loss` has more.
            mtu: in bytes.
        """
        ends = (End(lower, upper.name, _parsed(lower_addresses)), End(upper, lower.name, _parsed(upper_addresses)))
        link = Link(*ends)
        first, second = (f"name {end.device} netns {end.host.name} mtu {mtu}" for end in ends)
        subprocess.run(["ip", *f"link add {first} type veth peer {second}".split()], check=True)
        lower.links_up.append(link)
        upper.links_down.append(link)
        if isinstance(lower, Router):
            lower.translate(ends[0].device)
        if loss:
            link.set_loss(up=loss, down=loss)
        link.configure()
        for end in ends:
            end.wait_until_up()
        return link

    def close(self) -> None:
        """End all processes and remove all namespaces; prints what processes said, pytest shows it on failure."""
        for node in (*self._containers, *self._hosts.values()):
            print(node.close(), end="")
        for container in self._containers:
            container.stop()
        for name in self._hosts:
            subprocess.run(["ip", "netns", "del", name], check=True)

    def _add(self, name: str, make: Callable[[str], T]) -> T:
        if not NAME.fullmatch(name) or name in self._hosts:
            raise ValueError(f"{name!r} is no name for a host, or is taken")
        self._hosts[name] = host = make(name)
        return host


def _parsed(addresses: str) -> list[Interface]:
    return [ip_interface(address) for address in addresses.split()]


@pytest.fixture
def topology() -> Iterator[Topology]:
    """An empty `Topology`; what a test makes with it ends with the test."""
    if not namespaces.inside():
        pytest.fail("`topology` is for tests in tests/system and tests/interop, which run in namespaces")
    made = Topology()
    yield made
    made.close()
