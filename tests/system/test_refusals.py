# SPDX-License-Identifier: BSD-3-Clause
"""What the kernel refuses on a busy or broken host, to each compiled engine: a socket that is full.

Two ports in this process, on a host with nothing but a loopback interface, which the test spoils.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from socket import SO_SNDBUF, SOL_SOCKET

import pytest

from tests.topology import Host, Topology
from tests.unit.uring.ports import End, Ends, skip_unless_it_works
from tests.unit.uring.test_reference import ALICE, BOB, tcp_superpacket

TIME_LIMIT = 20.0  # seconds; catches a hang


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """A host without a network."""
    topology = Topology()
    try:
        yield topology.host("alone")
    finally:
        topology.close()


@pytest.fixture(params=["epoll", "uring"])
def ends(request: pytest.FixtureRequest, host: Host) -> Iterator[Ends]:
    """Two ports with a session."""
    skip_unless_it_works(request.param)
    with ExitStack() as opened:
        with host.entered():
            made = Ends(request.param, opened)
        yield made


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
