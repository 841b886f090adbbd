# SPDX-License-Identifier: BSD-3-Clause
"""Offloads against the kernel: two hosts whose only link is `segment` and `coalesce`.

    alice ── TUN ── read ─► segment ─► (one packet may be damaged) ─► coalesce ─► write ── TUN ── bob ── carol

What alice's stack leaves undone, ours must do; what ours leaves undone, bob's stack must do. The judges are a hash over
what an application of bob's (or carol's, for whom bob forwards) received, and their kernels' counters of wrong
checksums.
"""

import fcntl
import hashlib
import os
import selectors
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from random import Random

import pytest

from tests.topology import Host, Topology
from ts4nsnet.uring.coalesce import coalesce
from ts4nsnet.uring.segment import Gso, VnetHeader, segment

# <linux/if_tun.h>
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN_NO_PI_VNET_HDR = 0x0001 | 0x1000 | 0x4000
CSUM_TSO_USO = 0x67
LONGEST_FRAME = 10 + 65536

UDP_SEGMENT = 103  # <linux/udp.h>
DATAGRAM_BYTES = 1200
TRAIN_BYTES = 40 * DATAGRAM_BYTES

DATA = Random(7).randbytes(4 << 20)
DIGEST = hashlib.sha256(DATA).digest()
TIME_LIMIT = 10.0  # seconds without any progress

Damage = Callable[[list[bytes]], list[bytes]]
Move = Callable[["Wire", str], None]


def open_tun(host: Host, addresses: str) -> int:
    with host.entered():
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"tun0", IFF_TUN_NO_PI_VNET_HDR))
    fcntl.ioctl(tun, TUNSETOFFLOAD, CSUM_TSO_USO)
    host.ip(*(f"address add {address} dev tun0 nodad" for address in addresses.split()))
    host.ip("link set tun0 mtu 1420 up")
    return tun


class Wire:
    """Two hosts, and the relay between their TUNs. Counts the frames that it read and wrote by their gso_type."""

    def __init__(self, topology: Topology) -> None:
        self.alice, self.bob = topology.host("alice"), topology.router("bob")
        self.receiver: Host = self.bob
        self.read: Counter[int] = Counter()
        self.written: Counter[int] = Counter()
        self.packets = 0
        self.damage: Damage = list
        one = open_tun(self.alice, "10.0.0.1/24 fd00::1/64")
        two = open_tun(self.bob, "10.0.0.2/24 fd00::2/64")
        self._other = {one: two, two: one}

    def run(self, *work: Callable[[], None]) -> None:
        """Relay until all `work`, each in a thread, is done; what it raises is raised."""
        done = os.eventfd(0)
        with ThreadPoolExecutor(len(work)) as pool, selectors.DefaultSelector() as selector:
            for fd in (*self._other, done):
                selector.register(fd, selectors.EVENT_READ)
            futures = [pool.submit(each) for each in work]
            for future in futures:
                future.add_done_callback(lambda _: os.eventfd_write(done, 1))
            while not all(map(Future.done, futures)):
                ready = [key.fd for key, _ in selector.select(TIME_LIMIT)]
                assert ready, "nothing moves"
                for tun in ready:
                    if tun == done:
                        os.eventfd_read(done)
                    else:
                        self._relay(tun)
            for future in futures:
                future.result()
        os.close(done)

    def _relay(self, tun: int) -> None:
        batch: list[bytes] = []
        with suppress(BlockingIOError):
            while len(batch) < 256:
                frame = os.read(tun, LONGEST_FRAME)
                self.read[VnetHeader.parse(frame).gso_type] += 1
                batch += segment(frame)
        self.packets += len(batch)
        for frame in coalesce(self.damage(batch)):
            assert os.write(self._other[tun], frame) == len(frame)
            self.written[VnetHeader.parse(frame).gso_type] += 1

    def close(self) -> None:
        for tun in self._other:
            os.close(tun)


def csum_errors(host: Host) -> dict[str, int]:
    """How many packets a host's stack dropped for their checksum."""
    ipv4 = [line.split() for line in host.run("cat", "/proc/net/snmp").stdout.splitlines()]
    ipv6 = [line.split() for line in host.run("cat", "/proc/net/snmp6").stdout.splitlines()]
    found = {name: value for name, value in ipv6 if name.endswith("InCsumErrors")}
    for names, values in zip(ipv4[::2], ipv4[1::2], strict=True):  # "Tcp: <names>", "Tcp: <values>"
        found |= {names[0] + name: value for name, value in zip(names, values, strict=True) if name == "InCsumErrors"}
    assert found.keys() >= {"Tcp:InCsumErrors", "Udp:InCsumErrors", "Udp6InCsumErrors"}
    return {name: int(value) for name, value in found.items() if value != "0"}


@pytest.fixture
def wire(topology: Topology) -> Iterator[Wire]:
    made = Wire(topology)
    yield made
    made.close()


def move_by_tcp(wire: Wire, address: str) -> None:
    """Alice sends DATA to the receiver, who answers with its hash."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = wire.receiver.socket(family, socket.SOCK_STREAM)
    listener.bind((address, 5000))
    listener.listen()
    client = wire.alice.socket(family, socket.SOCK_STREAM)

    def send() -> None:
        with client:
            client.connect((address, 5000))
            client.sendall(DATA)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(100) == DIGEST

    def receive() -> None:
        with listener, listener.accept()[0] as server:
            server.settimeout(TIME_LIMIT)
            digest = hashlib.sha256()
            while data := server.recv(1 << 18):
                digest.update(data)
            server.sendall(digest.digest())

    wire.run(send, receive)


def move_by_udp(wire: Wire, address: str) -> None:
    """Alice sends DATA in trains, the next when all datagrams of the last are there; the hash is compared there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    receiver = wire.receiver.socket(family, socket.SOCK_DGRAM)
    receiver.bind((address, 5000))
    sender = wire.alice.socket(family, socket.SOCK_DGRAM)
    sender.connect((address, 5000))
    trains = [DATA[at : at + TRAIN_BYTES] for at in range(0, len(DATA), TRAIN_BYTES)]

    def send() -> None:
        with sender:
            for train in trains:
                sender.sendmsg([train], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", DATAGRAM_BYTES))])
                assert sender.recv(100) == len(train).to_bytes(4, "big")

    def receive() -> None:
        digest = hashlib.sha256()
        with receiver:
            for train in trains:
                received = 0
                while received < len(train):
                    data, source = receiver.recvfrom(2000)
                    assert len(data) == min(DATAGRAM_BYTES, len(train) - received)
                    digest.update(data)
                    received += len(data)
                receiver.sendto(received.to_bytes(4, "big"), source)
        assert digest.digest() == DIGEST

    wire.run(send, receive)


KINDS = [
    pytest.param(move_by_tcp, 4, Gso.TCPV4, id="tcp/ipv4"),
    pytest.param(move_by_tcp, 6, Gso.TCPV6, id="tcp/ipv6"),
    pytest.param(move_by_udp, 4, Gso.UDP_L4, id="udp/ipv4"),
    pytest.param(move_by_udp, 6, Gso.UDP_L4, id="udp/ipv6"),
]


@pytest.mark.parametrize(("move", "version", "gso_type"), KINDS)
def test_all_arrives(wire: Wire, move: Move, version: int, gso_type: Gso) -> None:
    move(wire, {4: "10.0.0.2", 6: "fd00::2"}[version])
    assert csum_errors(wire.alice) == {}
    assert csum_errors(wire.bob) == {}
    assert wire.packets > len(DATA) // 1420
    assert wire.read[gso_type] > 20
    assert wire.written[gso_type] > 20
    assert wire.written.total() < wire.packets // 2


@pytest.mark.parametrize(("move", "version", "gso_type"), KINDS)
def test_all_is_forwarded(topology: Topology, wire: Wire, move: Move, version: int, gso_type: Gso) -> None:
    """Bob's stack must take our frames apart, and finish their checksums, on the way to carol."""
    carol = wire.receiver = topology.host("carol")
    topology.link(carol, "10.1.0.2/24 fd01::2/64", wire.bob, "10.1.0.1/24 fd01::1/64")
    wire.bob.run("ethtool", "-K", "carol", "tx", "off")  # the interface to carol, without any offload
    wire.alice.ip("route add 10.1.0.0/24 dev tun0", "route add fd01::/64 dev tun0")
    move(wire, {4: "10.1.0.2", 6: "fd01::2"}[version])
    assert csum_errors(carol) == {}
    assert wire.written[gso_type] > 20


@pytest.mark.parametrize("address", ["10.0.0.2", "fd00::2"])
def test_the_kernel_finds_what_was_damaged_before_it_came_to_us(wire: Wire, address: str) -> None:
    left = 1

    def damage_one(packets: list[bytes]) -> list[bytes]:
        nonlocal left
        if left and len(packets) > 2:
            left = 0
            packets[1] = packets[1][:-1] + bytes([packets[1][-1] ^ 1])
        return packets

    wire.damage = damage_one
    move_by_tcp(wire, address)  # TCP sends the lost segment again, so the hash is right
    assert left == 0
    assert csum_errors(wire.bob) == {"Tcp:InCsumErrors": 1}
