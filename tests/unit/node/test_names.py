# SPDX-License-Identifier: BSD-3-Clause
"""The node's own services: which packets it takes, and what it gives back."""

import socket
from collections.abc import Sequence
from ipaddress import IPv4Network, ip_address, ip_network
from mmap import mmap
from pathlib import Path

import dns.message
import dns.rcode
import dns.rdatatype
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ts4nsnet.control import NetMap
from ts4nsnet.control import Node as NetMapNode
from ts4nsnet.control.persistent import PersistentMap
from ts4nsnet.dns import Config as DnsConfig
from ts4nsnet.dns import Upstream
from ts4nsnet.filter import answers
from ts4nsnet.netns import Configured, Link, Tun
from ts4nsnet.node.config import Config
from ts4nsnet.node.names import Names
from ts4nsnet.node.surroundings import WorkerLink
from ts4nsnet.packet import ICMP, UDP, IPv4, IPv6, carry, parse_ip
from ts4nsnet.wireguard import AllowedIPs

ALICE = bytes([100, 64, 0, 1])
SLIRP, SLIRP6 = bytes([10, 0, 2, 3]), bytes.fromhex("fd00").ljust(15, b"\0") + b"\3"
SELF = NetMapNode(1, name="alice.tail.ts.net.", addresses=(ip_address("100.64.0.1"),))
BOB = NetMapNode(2, name="bob.tail.ts.net.", addresses=(ip_address("100.64.0.2"),))
NETMAP = NetMap(SELF, peers=PersistentMap[NetMapNode]().updated({2: BOB}), dns=DnsConfig(magic_dns=True))


class Container:
    """Surroundings that give sockets of the container, and remember which."""

    def __init__(self) -> None:
        self.sockets: list[tuple[int, int]] = []

    async def open_tun(self) -> Tun:
        raise NotImplementedError

    async def configure(self, link: Link) -> Configured:
        raise NotImplementedError

    async def udp_socket(self) -> socket.socket:
        raise NotImplementedError

    async def session_memory(self, size: int) -> mmap:
        raise NotImplementedError

    async def worker(self, engine: str) -> WorkerLink | None:
        raise NotImplementedError

    async def container_socket(self, family: int, kind: int) -> socket.socket:
        self.sockets.append((family, kind))
        raise OSError("this container has no network")


class Services:
    """Names that answer into a list."""

    def __init__(self, routes: AllowedIPs | None = None, **config: object) -> None:
        self.container = Container()
        self.written: list[bytes] = []
        settings = Config("https://control.example", "alice", Path("/nowhere"), **config)  # type: ignore[arg-type]
        self.names = Names(settings, self.container, routes or AllowedIPs(), self.write)

    def write(self, packets: Sequence[bytes]) -> None:
        self.written += packets

    async def ask(self, server: bytes, name: str) -> dns.message.Message:
        """The answer to a question about the IPv4 address of `name`."""
        packet = question(server, name)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.names.run)
            assert self.names.take(packet)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        (answer,) = self.written
        ip = parse_ip(answer)
        assert (ip.source, ip.destination) == (server, parse_ip(packet).source)
        return dns.message.from_wire(bytes(UDP.parse(ip.payload).payload))


def question(server: bytes, name: str) -> bytes:
    query = UDP(40000, 53, dns.message.make_query(name, dns.rdatatype.A).to_wire())
    return carry(IPv4(ALICE, server, 0) if len(server) == 4 else IPv6(bytes(15) + b"\1", server, 0), query)


@pytest.mark.parametrize(
    "server",
    [
        answers.SERVICE_IPV4,
        answers.SERVICE_IPV6,
        SLIRP,
        bytes([9, 9, 9, 9]),
        bytes.fromhex("fd00").ljust(15, b"\0") + b"\3",
    ],
    ids=["service", "service ipv6", "slirp4netns", "some other", "slirp4netns ipv6"],
)
@pytest.mark.parametrize("name", ["bob", "BOB.tail.ts.net"])
async def test_peers_names_are_answered_whoever_is_asked(server: bytes, name: str) -> None:
    services = Services()
    services.names.set_netmap(NETMAP)
    answer = await services.ask(server, name)
    assert [record.address for record in answer.answer[0]] == ["100.64.0.2"]


async def test_names_of_an_expired_node_are_unknown() -> None:
    services = Services(exit_node="gate")  # so that others are asked by the container's way, of which it has none
    services.names.set_netmap(NETMAP, expired=True)
    answer = await services.ask(SLIRP, "bob.tail.ts.net")
    assert (answer.answer, answer.rcode()) == ([], dns.rcode.SERVFAIL)


def test_address_of_the_names_follows_the_network_that_was_asked_for() -> None:
    services = Services(cidr=IPv4Network("10.50.0.0/24"))
    addresses = services.names.traffic(frozenset()).addresses
    assert bytes([10, 50, 0, 3]) in addresses
    assert SLIRP not in addresses


async def test_without_names_only_the_service_addresses_answer() -> None:
    services = Services(names=False)
    services.names.set_netmap(NETMAP)
    assert not services.names.traffic(frozenset()).names
    assert SLIRP not in services.names.traffic(frozenset()).addresses
    assert not services.names.take(question(SLIRP, "bob"))
    assert services.written == []
    answer = await services.ask(answers.SERVICE_IPV4, "bob")
    assert [record.address for record in answer.answer[0]] == ["100.64.0.2"]


def test_ping_of_the_service_address_is_answered() -> None:
    services = Services()
    assert services.names.take(carry(IPv4(ALICE, answers.SERVICE_IPV4, 0), ICMP(8, 0, bytes(4), b"data")))
    (answer,) = services.written
    assert parse_ip(answer).source == answers.SERVICE_IPV4
    assert ICMP.parse(parse_ip(answer).payload) == ICMP(0, 0, bytes(4), b"data")


def test_what_is_neither_a_question_nor_for_a_service_address_goes_on() -> None:
    services = Services()
    assert not services.names.take(carry(IPv4(ALICE, bytes([9, 9, 9, 9]), 0), UDP(1, 54)))
    assert services.written == []


@pytest.mark.parametrize(
    ("upstream", "exit_node", "by_container"),
    [
        (Upstream(ip_address("192.0.2.53")), "", False),
        (Upstream(ip_address("192.0.2.53")), "gate", True),
        (Upstream(ip_address("10.1.0.53"), tailnet=True), "", True),
        (Upstream(ip_address("192.0.2.53"), tailnet=True), "", False),
        (Upstream(ip_address("10.1.0.53")), "", False),
    ],
)
async def test_resolvers_are_asked_by_the_way_that_leads_to_them(
    upstream: Upstream, exit_node: str, by_container: bool
) -> None:
    routes = AllowedIPs()
    routes.set(1, {ip_network("10.1.0.0/16")})
    services = Services(routes, exit_node=exit_node)
    if by_container:
        with pytest.raises(OSError, match="no network"):
            await services.names.upstream_socket(upstream, socket.SOCK_DGRAM)
    else:
        (await services.names.upstream_socket(upstream, socket.SOCK_DGRAM)).close()
    assert services.container.sockets == [(socket.AF_INET, socket.SOCK_DGRAM)] * by_container
