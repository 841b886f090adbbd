# SPDX-License-Identifier: BSD-3-Clause
"""One container that sends to many: a relay or a peer that takes nothing costs the others none of their traffic.

alice ─┬─ direct ─► bob
       └─ relay ──► carol, dave
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from signal import SIGCONT, SIGSTOP
from socket import AF_INET, SOCK_DGRAM, SOL_UDP

import pytest

from tests.system.product import Member, connection, send
from tests.system.tailnet import World, serving

RELAY_PORT = 444
PAYLOAD = os.urandom(2_000_000)
UDP_SEGMENT = 103  # SOL_UDP option, include/uapi/linux/udp.h
FLOOD_BYTES = 40 * 1200  # in each millisecond: more than a relay takes


@dataclass(frozen=True)
class Four:
    """They know each other, and alice has sessions with all."""

    world: World
    alice: Member
    bob: Member
    carol: Member
    dave: Member


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Four]:
    with serving(tmp_path_factory.mktemp("shared"), relays=(RELAY_PORT,)) as made:
        members = [Member(made, name, udp=name in ("alice", "bob")) for name in ("alice", "bob", "carol", "dave")]
        for member in members:
            member.start()
        for member in members:
            member.started.wait_until_ready()
        for other in members[1:]:
            members[0].ping(other.address)
        yield Four(made, *members)
        for member in members:
            assert member.started.leave() == 0


@contextmanager
def flood(sender: Member, receiver: Member) -> Iterator[None]:
    """Datagrams from one to the other, whoever takes them."""
    enough = threading.Event()

    def run() -> None:
        while not enough.wait(0.001):
            sock.sendto(bytes(FLOOD_BYTES), (receiver.address, 9))

    with sender.box.socket(AF_INET, SOCK_DGRAM) as sock:
        sock.setsockopt(SOL_UDP, UDP_SEGMENT, 1200)
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            enough.set()
            thread.join()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing meanwhile."""
    os.kill(pid, SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, SIGCONT)


def test_a_direct_flow_goes_on_while_the_relay_takes_nothing(four: Four) -> None:
    relay = four.world.forwarder(RELAY_PORT)
    with stopped(relay.pid), flood(four.alice, four.carol), connection(four.alice, four.bob) as ends:
        send(*ends, PAYLOAD)
        four.alice.ping(four.bob.address)


def test_a_relayed_flow_goes_on_beside_a_flood_for_a_peer_that_is_frozen(four: Four) -> None:
    with stopped(four.dave.node), flood(four.alice, four.dave), connection(four.alice, four.carol) as ends:
        send(*ends, PAYLOAD)
        four.alice.ping(four.carol.address)
