# SPDX-License-Identifier: BSD-3-Clause
"""MagicDNS behind a real TUN: glibc in a container asks, a server beyond the host answers what is not the tailnet's.

box (container, tap0) ── test process: TUN ── adapter ── sockets of `host` ── server, or of the box
"""

import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from ipaddress import ip_address
from math import inf
from pathlib import Path

import pytest
import trio

from tests.topology import Container, Host, Topology
from ts4nsnet.dns import Config, MagicDns, Upstream
from ts4nsnet.dns.adapter import Adapter, HostFiles
from ts4nsnet.dns.forwarder import GIVE_UP_TIME
from ts4nsnet.netns import Link, NetnsChild, Route, Target, Tun
from ts4nsnet.packet import UDP, IPv4, Malformed, Protocol, carry, parse_ip
from ts4nsnet.uring.segment import VnetHeader, segment

TIME_LIMIT = 20.0  # seconds; catches a hang
ALICE = ("100.64.0.1", "fd7a:115c:a1e0::1")
SUFFIX = "tail.example"
HOSTS = {
    f"{name}.{SUFFIX}.": tuple(map(ip_address, addresses))
    for name, addresses in {"alice": ALICE, "bob": ("100.64.0.2", "fd7a:115c:a1e0::2")}.items()
}
# as podman writes it first into a container's resolv.conf
NAME_SERVER = "10.0.2.3"


class Names:
    """A container that has names, and nothing else."""

    def __init__(self, topology: Topology, folder: Path) -> None:
        self.box: Container = topology.container("box")
        self.host: Host = topology.host("host")
        self.folder = folder
        (folder / "etc").mkdir()
        self.magic = MagicDns(os.urandom)
        self.magic.set_config(Config(magic_dns=True), HOSTS, SUFFIX)
        self._pass, self.passed = trio.open_memory_channel[bytes](inf)  # packets that are no query for us
        self._tun: Tun

    def ask(self, *servers: str) -> None:
        """Have the host ask these servers."""
        text = "".join(f"nameserver {server}\n" for server in servers)
        (self.folder / "etc/resolv.conf").write_text(text)

    async def host_socket(self, upstream: Upstream, kind: int) -> socket.socket:
        return _socket_in(self.host, upstream, kind)

    async def box_socket(self, upstream: Upstream, kind: int) -> socket.socket:
        return _socket_in(self.box, upstream, kind)

    async def getent(self, *words: str, server: str = NAME_SERVER) -> str:
        """What glibc in the container finds: its first line; empty: nothing."""
        file = self.folder / "resolv.conf"
        file.write_text(f"nameserver {server}\n")
        script = f'mount -t tmpfs tmpfs /etc && cp {file} /etc/resolv.conf && exec getent "$@"'
        command = partial(self.box.run, "unshare", "--mount", "sh", "-c", script, "sh", *words, check=False)
        done = await trio.to_thread.run_sync(command)
        return done.stdout.partition("\n")[0]

    def write(self, packets: Sequence[bytes]) -> None:
        """Give the container packets."""
        for packet in packets:
            os.write(self._tun.fds[0], VnetHeader().emit() + packet)

    @asynccontextmanager
    async def running(
        self, upstream_socket: Callable[[Upstream, int], Awaitable[socket.socket]]
    ) -> AsyncIterator[None]:
        """Serve the container for the length of the block."""
        with NetnsChild(Target(self.box.netns)) as child:
            self._tun = child.open_tun("tap0")
            child.configure(Link("tap0", ALICE, (Route("0.0.0.0/0"), Route("::/0"))))
        assert self._tun.vnet_hdr
        adapter = Adapter(self.magic, self.write, upstream_socket, HostFiles(str(self.folder)))
        with trio.fail_after(TIME_LIMIT), closing(self._tun):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(adapter.run)
                nursery.start_soon(self._carry, adapter)
                yield
                nursery.cancel_scope.cancel()

    async def _carry(self, adapter: Adapter) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._tun.fds[0])
            for packet in segment(os.read(self._tun.fds[0], 1 << 17)):
                if not adapter.handle(packet):
                    self._pass.send_nowait(packet)


def _socket_in(namespace: Container | Host, upstream: Upstream, kind: int) -> socket.socket:
    with namespace.entered():
        sock = socket.socket(socket.AF_INET if upstream.address.version == 4 else socket.AF_INET6, kind)
    sock.setblocking(False)
    return sock


def add_server(topology: Topology, host: Host, number: int) -> None:
    """A server at 192.0.2.1, …: names below example.com have the address 203.0.113.1, … there."""
    server = topology.host(f"server{number}")
    topology.link(host, f"192.0.2.{100 + number}/24", server, f"192.0.2.{number}/24")
    host.ip(f"route replace 192.0.2.{number}/32 dev server{number}")
    server.start(sys.executable, "-m", "tests.programs.name_server", f"203.0.113.{number}").wait_for("serving")


@pytest.fixture
def names(topology: Topology, tmp_path: Path) -> Names:
    return Names(topology, tmp_path)


async def test_glibc_finds_peers_and_what_is_beyond(topology: Topology, names: Names) -> None:
    add_server(topology, names.host, 1)
    names.ask("192.0.2.1")
    async with names.running(names.host_socket):
        assert (await names.getent("ahostsv4", "bob")).split()[0] == "100.64.0.2"
        assert (await names.getent("ahostsv4", "Bob.tail.example")).split()[0] == "100.64.0.2"
        assert (await names.getent("hosts", "100.64.0.2")).split()[1] == "bob.tail.example"
        assert (await names.getent("hosts", "fd7a:115c:a1e0::2")).split()[1] == "bob.tail.example"
        assert (await names.getent("ahosts", "www.example.com")).split()[0] == "203.0.113.1"
        assert await names.getent("ahosts", "nobody.tail.example") == ""
        assert await names.getent("ahosts", "www.example.org") == ""
        for server in ("100.100.100.100", "fd7a:115c:a1e0::53"):
            assert (await names.getent("ahostsv4", "bob", server=server)).split()[0] == "100.64.0.2"
    assert names.magic.statistics().failed == 0


async def test_without_a_way_to_a_server_a_name_fails_at_once(names: Names) -> None:
    names.ask("192.0.2.1", "2001:db8::1")
    async with names.running(names.host_socket):
        began_at = time.monotonic()
        assert await names.getent("ahosts", "www.example.com") == ""
        assert time.monotonic() - began_at < GIVE_UP_TIME
        assert (await names.getent("ahostsv4", "bob")).split()[0] == "100.64.0.2"


async def test_a_change_of_the_hosts_resolvers_is_noticed(topology: Topology, names: Names) -> None:
    for number in (1, 2):
        add_server(topology, names.host, number)
    names.ask("192.0.2.1", "100.100.100.100")
    async with names.running(names.host_socket):
        assert (await names.getent("ahostsv4", "www.example.com")).split()[0] == "203.0.113.1"
        names.ask("100.100.100.100", "192.0.2.2")  # an overlay of the host comes up
        while (await names.getent("ahostsv4", "www.example.com")).split()[0] != "203.0.113.2":
            pass


async def test_servers_are_asked_through_the_containers_own_interface(topology: Topology, names: Names) -> None:
    """The engine's part here: what is let pass goes out by another way, and comes back."""
    add_server(topology, names.host, 1)
    names.ask("192.0.2.1")
    outside = trio.socket.from_stdlib_socket(
        _socket_in(names.host, Upstream(ip_address("192.0.2.1")), socket.SOCK_DGRAM)
    )
    await outside.bind(("192.0.2.101", 0))
    async with names.running(names.box_socket), trio.open_nursery() as nursery:
        nursery.start_soon(exit_node, names, outside)
        assert (await names.getent("ahostsv4", "www.example.com")).split()[0] == "203.0.113.1"
        nursery.cancel_scope.cancel()
    outside.close()


async def exit_node(names: Names, outside: trio.socket.SocketType) -> None:
    """Carry datagrams that the container sends to 192.0.2.1, one after the other, and their answers."""
    async for packet in names.passed:
        try:
            ip = parse_ip(packet)
        except Malformed:
            continue
        if ip.protocol == Protocol.UDP and ip.destination == socket.inet_aton("192.0.2.1"):
            udp = UDP.parse(ip.payload)
            await outside.sendto(bytes(udp.payload), ("192.0.2.1", udp.destination_port))
            answer = await outside.recv(4096)
            back = IPv4(ip.destination, ip.source, Protocol.UDP)
            names.write([carry(back, UDP(udp.destination_port, udp.source_port, answer))])
