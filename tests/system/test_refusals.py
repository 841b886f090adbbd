# SPDX-License-Identifier: BSD-3-Clause
"""What a kernel, a firewall or a queue refuses, to each compiled engine: packets arrive all the same, or are counted.

Two ports in this process, on a host with nothing but a loopback interface, which the test spoils. What this kernel does
not refuse by itself is refused by a seccomp filter, or by a socket of another kind: UDP-Lite has no UDP_SEGMENT (EIO),
like UDP on a path with IPsec.
"""

import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from socket import AF_INET6, IPPROTO_IPV6, SO_SNDBUF, SOCK_DGRAM, SOL_SOCKET, SOL_UDP, socket

import pytest

from tests.seccomp import Refusal, in_child
from tests.topology import Host, Topology
from tests.unit.packets import frame, superpacket
from tests.unit.uring.ports import End, Ends, skip_unless_it_works
from tests.unit.uring.test_reference import ALICE, BOB, tcp_superpacket, udp
from ts4nsnet.packet import UDP, IPv4
from ts4nsnet.sockets import UDP_GRO
from ts4nsnet.uring.counters import Drop
from ts4nsnet.uring.events import Unsealed
from ts4nsnet.uring.offloads import IN_USE, MAX_REFUSALS, REFUSED, Offload, OffloadRefused
from ts4nsnet.uring.segment import Gso, segment
from ts4nsnet.uring.udp import UDP_SEGMENT

TIME_LIMIT = 20.0  # seconds; catches a hang
IPPROTO_UDPLITE = 136
UDP_NO_CHECK6_TX, UDP_NO_CHECK6_RX = 101, 102  # <linux/udp.h>
IPV6_MTU_DISCOVER, IPV6_MTU, IPV6_RECVERR, IPV6_PMTUDISC_DO = 23, 24, 25, 2  # <linux/in6.h>
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0  # <linux/if_tun.h>
IFF_TUN_NO_PI, IFF_VNET_HDR = 0x1001, 0x4000
BULK = tcp_superpacket(ALICE, BOB, 10_000, 1000)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """A host without a network."""
    topology = Topology()
    try:
        yield topology.host("alone")
    finally:
        topology.close()


@pytest.fixture(params=["epoll", "uring"])
def engine(request: pytest.FixtureRequest) -> str:
    """Each compiled engine."""
    name: str = request.param
    skip_unless_it_works(name)
    return name


@pytest.fixture
def opened(host: Host) -> Iterator[ExitStack]:
    """What is closed at the end, on the host."""
    with host.entered(), ExitStack() as stack:
        yield stack


@pytest.fixture
def ends(engine: str, opened: ExitStack) -> Ends:
    """Two ports with a session."""
    return Ends(engine, opened)


def passes(ends: Ends, packet: bytes = BULK) -> list[object]:
    """What alice's container sends bob's gets; returns what the nodes are told."""
    ends.alice.container.send(packet)
    ends.carry()
    assert ends.bob.written() == segment(packet)
    return [*events(ends.alice), *events(ends.bob)]


def states(end: End) -> dict[Offload, int]:
    """Those that are not in use, as anybody sees them who maps the counters."""
    return {offload: state for offload, state in end.port.counters.offloads.items() if state != IN_USE}


def events(end: End) -> list[object]:
    """What the node is told."""
    return list(iter(end.port.next_event, None))


# --- UDP ------------------------------------------------------------------------------------------------------------


def test_a_path_that_has_no_trains_gets_none_for_good(engine: str, opened: ExitStack) -> None:
    try:
        ends = Ends(engine, opened, open_sock=lite_socket)
    except OSError as error:
        pytest.skip(f"this kernel has no UDP-Lite: {error}")
    told = [passes(ends) for _ in range(3)]
    assert states(ends.alice) == {Offload.UDP_GSO: REFUSED + errno.EIO} | states(ends.bob)
    assert told == [[OffloadRefused(Offload.UDP_GSO, errno.EIO)], [], []]
    assert ends.alice.port.counters.sent_trains == 1 + 1 + 10 + 10
    assert not ends.alice.port.counters.dropped


def lite_socket() -> socket:
    sock = socket(AF_INET6, SOCK_DGRAM, IPPROTO_UDPLITE)
    sock.bind(("::", 0))
    sock.setblocking(False)
    return sock


def test_a_train_that_is_refused_goes_by_the_datagram_and_the_next_one_is_tried(ends: Ends) -> None:
    for end, option in ((ends.alice, UDP_NO_CHECK6_TX), (ends.bob, UDP_NO_CHECK6_RX)):
        end.sock.setsockopt(SOL_UDP, option, 1)  # no checksum, no train: EINVAL
    passes(ends)
    ends.alice.sock.setsockopt(SOL_UDP, UDP_NO_CHECK6_TX, 0)
    passes(ends)
    assert ends.bob.port.counters.received_trains == 1 + 10 + 1
    assert (states(ends.alice), ends.alice.port.counters.dropped) == ({}, {})


def test_what_is_too_long_for_the_path_is_counted_where_nobody_may_cut_it(ends: Ends) -> None:
    ends.alice.sock.setsockopt(IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO)
    ends.alice.sock.setsockopt(IPPROTO_IPV6, IPV6_MTU, 1280)
    ends.alice.container.send(tcp_superpacket(ALICE, BOB, 12_280, 1228))
    ends.carry()
    passes(ends)
    assert ends.alice.port.counters.dropped == {Drop.SEND_TOO_BIG: 10}
    assert states(ends.alice) == {}


def test_what_a_firewall_drops_is_counted_and_the_rest_goes_on(ends: Ends, host: Host) -> None:
    host.nft("add table inet wall", "add chain inet wall out { type filter hook output priority 0; policy drop; }")
    ends.alice.container.send(BULK)
    ends.carry()
    host.nft("delete table inet wall")
    passes(ends)
    assert ends.alice.port.counters.dropped == {Drop.SEND_FORBIDDEN: 10}
    assert states(ends.alice) == {}


def test_what_finds_no_buffers_is_counted_and_the_rest_goes_on(ends: Ends, host: Host) -> None:
    ends.alice.sock.setsockopt(IPPROTO_IPV6, IPV6_RECVERR, 1)  # or the kernel keeps it to itself
    tc(host, "qdisc add dev lo root tbf rate 8kbit burst 10kb limit 1b")
    ends.alice.container.send(frame(udp(ALICE, BOB)))
    ends.carry()
    tc(host, "qdisc del dev lo root")
    passes(ends)
    assert ends.alice.port.counters.dropped == {Drop.SEND_NO_BUFFERS: 1}


def test_an_old_kernel_has_no_trains_either_way(engine: str, opened: ExitStack) -> None:
    def check() -> None:
        ends = Ends(engine, opened)
        assert passes(ends) == []
        lacking = REFUSED + errno.ENOPROTOOPT
        assert states(ends.alice) == states(ends.bob) == {Offload.UDP_GSO: lacking, Offload.UDP_GRO: lacking}
        assert ends.bob.port.counters.received_trains == 1 + 10

    in_child(
        Refusal("getsockopt", errno.ENOPROTOOPT, equal=((1, SOL_UDP), (2, UDP_SEGMENT))),
        Refusal("setsockopt", errno.ENOPROTOOPT, equal=((1, SOL_UDP), (2, UDP_GRO))),
        do=check,
    )


def give(end: End, packet: bytes) -> bool:
    """Have the container send a frame; False where there is no room for it, nor would be if its engine read."""
    end.container.setblocking(False)
    for _ in range(2):
        try:
            end.container.send(packet)
        except BlockingIOError:
            end.port.carry(0)
        else:
            end.port.carry(0)
            return True
    return False


def tc(host: Host, words: str) -> None:
    host.run("tc", *words.split())


def test_what_waited_for_a_full_socket_goes_on_however_much_it_is(ends: Ends, host: Host) -> None:
    """Frames of tiny segments need more of the arena than there is, so not all that waited fit into one batch."""
    alice, given = ends.alice, 0
    alice.sock.setsockopt(SOL_SOCKET, SO_SNDBUF, 1)
    tc(host, "qdisc add dev lo root tbf rate 8kbit burst 10kb limit 100mb")
    while not alice.port.blocked:
        given += give(alice, tcp_superpacket(ALICE, BOB, 60_000, 1228))
    while give(alice, tcp_superpacket(ALICE, BOB, 64_000, 20)):
        given += 1
    tc(host, "qdisc del dev lo root")  # and what is in it
    give_up_at = time.monotonic() + TIME_LIMIT
    while alice.port.counters.read_frames < given and time.monotonic() < give_up_at:
        alice.port.carry(0)
    assert alice.port.counters.read_frames == given
    assert not alice.port.blocked


# --- the TUN --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "offload"),
    [
        (BULK, Offload.TUN_TCP_GRO),
        (superpacket(IPv4(ALICE, BOB, 0), UDP(1, 2, bytes(5000)), Gso.UDP_L4, 1000), Offload.TUN_UDP_GRO),
    ],
)
def test_superpackets_that_are_refused_are_written_by_the_packet_and_soon_not_made(
    opened: ExitStack, packet: bytes, offload: Offload
) -> None:
    """A call with several pieces fails; io_uring makes no such call, so this is epoll's alone."""

    def check() -> None:
        ends = Ends("epoll", opened)
        told = [passes(ends, packet) for _ in range(MAX_REFUSALS - 1)]
        assert (told, states(ends.bob)) == ([[]] * (MAX_REFUSALS - 1), {})
        assert passes(ends, packet) == [OffloadRefused(offload, errno.EINVAL)]
        assert passes(ends, packet) == []
        assert states(ends.bob) == {offload: REFUSED + errno.EINVAL}
        assert not ends.bob.port.counters.dropped

    in_child(Refusal("writev", errno.EINVAL, at_least=((2, 2),)), do=check)


def open_tun(name: str, *, vnet_hdr: bool, offloads: int = 0) -> int:
    """A TUN of the host that the test's thread is on."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    flags = IFF_TUN_NO_PI | (IFF_VNET_HDR if vnet_hdr else 0)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    if vnet_hdr:
        fcntl.ioctl(tun, TUNSETOFFLOAD, offloads)
    return tun


def test_a_tun_that_takes_nothing_gets_no_superpackets_any_more(engine: str, opened: ExitStack, host: Host) -> None:
    """To one without a virtio_net_hdr, frames that begin with one are nonsense (EINVAL)."""
    tun = open_tun(f"broken-{engine}", vnet_hdr=False)
    opened.callback(os.close, tun)
    ends = Ends(engine, opened, tun)
    host.ip(f"link set broken-{engine} up")
    told: list[object] = []
    for _ in range(MAX_REFUSALS + 1):
        ends.alice.container.send(BULK)
        ends.carry()
        told += events(ends.bob)
    assert ends.bob.port.counters.dropped == {Drop.WRITE_FAILED: 10 * (MAX_REFUSALS + 1)}
    assert states(ends.bob) == {Offload.TUN_TCP_GRO: REFUSED + errno.EINVAL}
    assert told == [OffloadRefused(Offload.TUN_TCP_GRO, errno.EINVAL)]


@pytest.mark.parametrize(
    ("vnet_hdr", "offloads"), [(False, 0), (True, 0), (True, 0x07)], ids=["no header", "no offloads", "no USO"]
)
def test_whatever_the_tun_can_datagrams_go_both_ways(
    engine: str, opened: ExitStack, topology: Topology, *, vnet_hdr: bool, offloads: int
) -> None:
    host = topology.host("own")  # a ring that ends lets go of its TUN a little later
    with host.entered():
        tun = open_tun("tun0", vnet_hdr=vnet_hdr, offloads=offloads)
        opened.callback(os.close, tun)
        end = End(engine, opened, BOB, tun=tun, vnet_hdr=vnet_hdr)
    assert len(events(end)) == (0 if vnet_hdr else 2)  # what such a TUN does not have
    host.ip("address add 10.0.0.1/24 dev tun0", "link set tun0 mtu 1420 up")
    with closing(host.socket()) as sock:
        sock.settimeout(TIME_LIMIT)
        sock.bind(("10.0.0.1", 2))
        sock.setsockopt(SOL_UDP, UDP_SEGMENT, 1000)
        sock.sendto(bytes(2500), ("10.0.0.2", 1))
        assert [len(packet) for packet in unsealed(end, 3)] == [1028, 1028, 528]
        end.port.write([udp(BOB, ALICE, b"back")])
        assert sock.recv(100) == b"back"


def unsealed(end: End, count: int) -> list[bytes]:
    """So many UDP packets of the container's, which has no session."""
    packets: list[bytes] = []
    give_up_at = time.monotonic() + TIME_LIMIT
    while len(packets) < count and time.monotonic() < give_up_at:
        end.port.carry(100)
        for event in events(end):
            assert isinstance(event, Unsealed)
            packets += (packet for packet in event.packets if packet[0] >> 4 == 4)
    return packets
