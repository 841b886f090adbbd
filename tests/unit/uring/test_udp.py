# SPDX-License-Identifier: BSD-3-Clause
"""The UDP socket, over the loopback of whatever machine this is, without privileges."""

import errno
import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.unit.uring.sockets import OldKernel, Refusing, WithoutIPv6
from ts4nsnet.endpoint import to_endpoint
from ts4nsnet.sockets import SOCKET_BUFFER_BYTES, open_socket
from ts4nsnet.uring.counters import Counters, Drop
from ts4nsnet.uring.offloads import IN_USE, REFUSED, Offload, OffloadRefused, Offloads, OffloadsSet
from ts4nsnet.uring.trains import MAX_TRAIN_BYTES, Train, form_trains
from ts4nsnet.uring.udp import MAX_BATCH_BYTES, MAX_BATCH_TRAINS, UdpPort

IPV6_MTU = 24  # <linux/in6.h>
TIME_LIMIT = 10.0


class Port:
    """A socket with its `UdpPort`."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.counters = Counters()
        self.lost: list[OffloadRefused] = []
        self.offloads = Offloads(self.lost.append)
        self.udp = UdpPort(sock, self.counters, self.offloads)

    @classmethod
    def open(cls, kind: type[socket.socket] = socket.socket) -> "Port":
        """At a free port of all addresses; a socket of class `kind`."""
        sock = open_socket(0)
        return cls(kind(sock.family, sock.type, sock.proto, sock.detach()))

    def at(self, host: str) -> bytes:
        """The endpoint by which others reach it."""
        return to_endpoint((host, self.sock.getsockname()[1]))

    def receive(self, datagrams: int) -> list[Train]:
        """The trains that bring so many datagrams."""
        trains: list[Train] = []
        while sum(train.datagram_count for train in trains) < datagrams:
            assert select.select([self.sock], [], [], TIME_LIMIT)[0], f"only {trains}"
            trains += [kept(train) for train in self.udp.receive()]
        return trains

    @property
    def dropped(self) -> dict[Drop, int]:
        return dict(self.counters.statistics().dropped)


def kept(train: Train) -> Train:
    """The train with bytes of its own: those that `receive` gave are overwritten by the next."""
    return train._replace(payload=[bytes(piece) for piece in train.payload])


def lone(payload: bytes, endpoint: bytes) -> Train:
    return Train((payload,), len(payload), 1, endpoint)


def train_of(sizes: list[int], endpoint: bytes) -> Train:
    (train,) = form_trains([bytes([number % 256]) * size for number, size in enumerate(sizes)], endpoint)
    return train


def datagrams(trains: list[Train]) -> list[bytes]:
    return [bytes(datagram) for train in trains for datagram in train.datagrams()]


@pytest.fixture
def ports() -> Iterator[Callable[..., Port]]:
    made: list[Port] = []

    def make(kind: type[socket.socket] = socket.socket) -> Port:
        made.append(Port.open(kind))
        return made[-1]

    yield make
    for port in made:
        port.sock.close()


# --- the socket -----------------------------------------------------------------------------------------------


def test_without_ipv6_the_socket_is_one_of_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", WithoutIPv6)
        sock = open_socket(0)
    with sock:
        port = Port(sock)
        assert sock.family == socket.AF_INET
        train = train_of([1200, 1200, 80], port.at("127.0.0.1"))
        assert port.udp.send(train) is None
        trains = port.receive(3)
        assert datagrams(trains) == list(train.payload)
        assert trains[0].endpoint == port.at("127.0.0.1")
        assert port.udp.send(train_of([1200, 1200], to_endpoint(("::1", 9)))) is None
        assert port.dropped == {Drop.SEND_FAILED: 2}


def test_an_old_kernel_and_no_privilege_make_a_socket_that_carries_datagrams_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", OldKernel)
        sock = open_socket(0)
    with sock:
        port = Port(sock)
        port.udp.use_offloads()
        lacking = REFUSED + errno.ENOPROTOOPT
        assert [port.offloads.states[each] for each in (Offload.UDP_GSO, Offload.UDP_GRO)] == [lacking, lacking]
        assert 0 < sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= 2 * SOCKET_BUFFER_BYTES
        train = train_of([1200, 1200, 80], port.at("::1"))
        assert port.udp.send(train) is None
        trains = port.receive(3)
        assert [each.datagram_count for each in trains] == [1, 1, 1]
        assert datagrams(trains) == list(train.payload)


# --- there and back -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize(
    "sizes",
    [[1], [1452], [1452] * 2, [1452] * 44 + [700], [80] * 64, [32, 1]],
    ids=["a byte", "one", "two", "a full train", "64 small ones", "a short tail"],
)
def test_a_train_arrives_as_it_was_sent(ports: Callable[..., Port], host: str, sizes: list[int]) -> None:
    alice, bob = ports(), ports()
    sent = train_of(sizes, bob.at(host))
    assert alice.udp.send(sent) is None
    trains = bob.receive(len(sizes))
    assert datagrams(trains) == list(sent.payload)
    assert {train.endpoint for train in trains} == {alice.at(host)}
    assert len(trains) == 1  # in one receive, as in one send
    assert alice.dropped == {}
    bob.udp.send(lone(b"back", trains[0].endpoint))
    assert datagrams(alice.receive(1)) == [b"back"]


def test_the_longest_train_and_the_longest_datagram_arrive(ports: Callable[..., Port]) -> None:
    alice, bob = ports(), ports()
    longest = train_of([MAX_TRAIN_BYTES // 2] * 2, bob.at("127.0.0.1"))
    whole = lone(bytes(MAX_TRAIN_BYTES), bob.at("127.0.0.1"))
    assert alice.udp.send(longest) is None
    assert alice.udp.send(whole) is None
    assert datagrams(bob.receive(3)) == [*longest.payload, *whole.payload]


def test_an_empty_datagram_arrives_as_one(ports: Callable[..., Port]) -> None:
    alice, bob = ports(), ports()
    alice.sock.sendto(b"", bob.sock.getsockname())
    assert datagrams(bob.receive(1)) == [b""]


def test_a_batch_ends_so_that_the_other_direction_gets_its_turn(ports: Callable[..., Port]) -> None:
    alice, bob = ports(), ports()
    for number in range(MAX_BATCH_TRAINS + 3):
        alice.udp.send(lone(bytes([number]) * (number + 1), bob.at("::1")))
    assert [train.segment_bytes for train in bob.udp.receive()] == list(range(1, MAX_BATCH_TRAINS + 1))
    assert len(list(bob.udp.receive())) == 3
    assert list(bob.udp.receive()) == []


def test_a_batch_of_long_trains_ends_earlier(ports: Callable[..., Port]) -> None:
    alice, bob = ports(), ports()
    for _ in range(9):
        alice.udp.send(train_of([MAX_BATCH_BYTES // 8] * 2, bob.at("::1")))
    assert [len(list(bob.udp.receive())) for _ in range(3)] == [5, 4, 0]


# --- what the kernel refuses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("host", "size"), [("127.0.0.1", 65508), ("::1", 65528)])
def test_a_datagram_that_fits_no_packet_is_counted(ports: Callable[..., Port], host: str, size: int) -> None:
    alice, bob = ports(), ports()
    assert alice.udp.send(lone(bytes(size), bob.at(host))) is None
    assert alice.dropped == {Drop.SEND_TOO_BIG: 1}


def test_what_cannot_be_sent_at_all_is_counted_by_the_datagram(ports: Callable[..., Port]) -> None:
    alice = ports()
    assert alice.udp.send(train_of([100, 100, 100], to_endpoint(("::1", 0)))) is None
    assert alice.udp.send(lone(b"x", to_endpoint(("::1", 0)))) is None
    assert alice.dropped == {Drop.SEND_FAILED: 4}


def test_a_datagram_that_must_stay_whole_arrives_so_or_not_at_all(ports: Callable[..., Port]) -> None:
    alice, bob = ports(), ports()
    for host in ("::1", "127.0.0.1"):
        alice.udp.send_whole(bytes(60_000), bob.at(host))
    alice.sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU, 1280)
    alice.udp.send_whole(bytes(1300), bob.at("::1"))
    assert alice.udp.send(lone(b"taken to pieces".ljust(1300), bob.at("::1"))) is None
    assert datagrams(bob.receive(3)) == [bytes(60_000)] * 2 + [b"taken to pieces".ljust(1300)]
    assert alice.dropped == {}


def test_without_trains_nothing_can_be_kept_whole(ports: Callable[..., Port]) -> None:
    alice, bob = ports(OldKernel), ports()
    alice.udp.send_whole(bytes(1300), bob.at("127.0.0.1"))
    assert alice.udp.send(lone(b"the last", bob.at("127.0.0.1"))) is None
    assert datagrams(bob.receive(1)) == [b"the last"]


def test_datagrams_longer_than_the_path_s_mtu_go_one_by_one_until_they_fit_again(ports: Callable[..., Port]) -> None:
    alice, bob = ports(), ports()
    alice.sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU, 1280)
    long = train_of([1452, 1452, 1452, 100], bob.at("::1"))
    assert alice.udp.send(long) is None
    trains = bob.receive(4)
    assert datagrams(trains) == list(long.payload)
    assert len(trains) == 4
    assert alice.udp.send(train_of([1000, 1000], bob.at("::1"))) is None
    assert len(bob.receive(2)) == 1
    assert alice.dropped == {}


@pytest.mark.parametrize(("number", "for_good"), [(errno.EMSGSIZE, False), (errno.EINVAL, False), (errno.EIO, True)])
def test_a_refused_train_goes_one_by_one(ports: Callable[..., Port], number: int, for_good: bool) -> None:
    alice, bob = ports(Refusing), ports()
    calls: list[int] = []

    def refuse(pieces: list[Any]) -> int:
        calls.append(len(pieces))
        return number if len(pieces) > 1 else 0

    alice.sock.refuse = refuse  # type: ignore[attr-defined]
    train = train_of([500, 500, 200], bob.at("::1"))
    for _ in range(2):
        assert alice.udp.send(train) is None
        assert datagrams(bob.receive(3)) == list(train.payload)
    assert calls == [3, 1, 1, 1, *([] if for_good else [3]), 1, 1, 1]
    assert alice.dropped == {}
    assert alice.lost == ([OffloadRefused(Offload.UDP_GSO, errno.EIO)] if for_good else [])
    assert alice.offloads.states[Offload.UDP_GSO] == (REFUSED + errno.EIO if for_good else IN_USE)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EPERM, Drop.SEND_FORBIDDEN),
        (errno.ENOBUFS, Drop.SEND_NO_BUFFERS),
        (errno.ENETUNREACH, Drop.SEND_FAILED),
    ],
)
def test_a_train_that_nobody_takes_is_counted_by_the_reason(
    ports: Callable[..., Port], number: int, reason: Drop
) -> None:
    alice, bob = ports(Refusing), ports()
    answers = iter([number, 0])
    alice.sock.refuse = lambda _: next(answers)  # type: ignore[attr-defined]
    train = train_of([500, 500, 200], bob.at("::1"))
    assert alice.udp.send(train) is None
    assert alice.udp.send(train) is None
    assert datagrams(bob.receive(3)) == list(train.payload)
    assert alice.dropped == {reason: 3}


def test_trains_are_switched_both_ways_while_they_come(ports: Callable[..., Port]) -> None:
    alice, bob = ports(), ports()
    train = train_of([500, 500, 200], bob.at("::1"))
    lengths = []
    for off in ((), (Offload.UDP_GSO,), (Offload.UDP_GRO,), ()):
        for port in (alice, bob):
            port.offloads.switch(OffloadsSet(frozenset(off)))
            port.udp.use_offloads()
        assert alice.udp.send(train) is None
        trains = bob.receive(3)
        assert datagrams(trains) == list(train.payload)
        lengths.append(len(trains))
    assert lengths == [1, 3, 3, 1]
    assert alice.lost == bob.lost == []


def test_one_by_one_the_refused_datagrams_alone_are_lost(ports: Callable[..., Port]) -> None:
    alice, bob = ports(Refusing), ports()
    answers = iter([errno.EMSGSIZE, 0, errno.EPERM, errno.EMSGSIZE, 0])
    alice.sock.refuse = lambda _: next(answers)  # type: ignore[attr-defined]
    train = train_of([500, 500, 500, 200], bob.at("::1"))
    assert alice.udp.send(train) is None
    assert datagrams(bob.receive(2)) == [train.payload[0], train.payload[3]]
    assert alice.dropped == {Drop.SEND_FORBIDDEN: 1, Drop.SEND_TOO_BIG: 1}


@pytest.mark.parametrize("sizes", [[500], [500, 500, 200]], ids=["one", "a train"])
def test_what_a_full_socket_does_not_take_is_given_back(ports: Callable[..., Port], sizes: list[int]) -> None:
    alice, bob = ports(Refusing), ports()
    answers = iter([errno.EAGAIN, 0])
    alice.sock.refuse = lambda _: next(answers)  # type: ignore[attr-defined]
    train = train_of(sizes, bob.at("::1"))
    left = alice.udp.send(train)
    assert left == train
    assert alice.udp.send(left) is None
    assert datagrams(bob.receive(len(sizes))) == list(train.payload)
    assert alice.dropped == {}


def test_a_socket_that_gets_full_within_a_train_gives_the_rest_back(ports: Callable[..., Port]) -> None:
    alice, bob = ports(Refusing), ports()
    answers = iter([errno.EIO, 0, errno.EAGAIN, 0, errno.EAGAIN, 0])
    alice.sock.refuse = lambda _: next(answers)  # type: ignore[attr-defined]
    train = train_of([500, 500, 200], bob.at("::1"))
    left = alice.udp.send(train)
    assert left == train._replace(payload=train.payload[1:], datagram_count=2)
    left = alice.udp.send(left)
    assert left == train._replace(payload=train.payload[2:], datagram_count=1)
    assert alice.udp.send(left) is None
    assert datagrams(bob.receive(3)) == list(train.payload)
    assert alice.dropped == {}


def test_an_icmp_error_about_what_was_sent_is_passed_over(ports: Callable[..., Port]) -> None:
    alice, bob = ports(), ports()
    gone = ports()
    alice.sock.connect(gone.sock.getsockname())  # only a connected socket hears of such errors
    where = gone.at("::1")
    gone.sock.close()
    alice.udp.send(lone(b"into the void", where))
    assert select.select([alice.sock], [], [], TIME_LIMIT)[0]  # the error has come
    alice.sock.connect(bob.sock.getsockname())
    bob.udp.send(lone(b"alive", alice.at("::1")))
    assert [bytes(train.payload[0]) for train in alice.udp.receive()] == [b"alive"]
    assert alice.dropped == {}
