# SPDX-License-Identifier: BSD-3-Clause
"""TS4NSNET_START=now: with a saved state a container has its network at once, whatever the servers do."""

import time
from collections.abc import Callable, Iterator
from signal import SIGCONT, SIGSTOP

import pytest

from tests.system.product import Member, connection, send
from tests.system.tailnet import CONTROL_PORT, World

RELAY_PORT = 444
AT_ONCE = 5.0  # seconds; about one on an idle machine
WAITS = 2.0  # seconds; for what would be there at once
PAYLOAD = bytes(range(256)) * 4000


@pytest.fixture
def pair(world: World) -> Iterator[tuple[Member, Member]]:
    """Two that know each other; the first has saved that, and has left."""
    world.serve(relays=(RELAY_PORT,))
    alice, bob = Member(world, "alice", TS_STATE_DIR=str(world.folder / "state")), Member(world, "bob")
    for member in (bob, alice):  # in this order: what is saved is the first netmap
        member.start()
        member.started.wait_until_ready()
    alice.ping(bob.address)
    assert alice.started.leave() == 0
    yield alice, bob
    for member in (alice, bob):
        member.started.close()


def ready_at_once(alice: Member) -> None:
    began = time.monotonic()
    alice.start(TS4NSNET_START="now", TS_AUTHKEY="").wait_until_ready()
    assert time.monotonic() - began < AT_ONCE


def away(world: World) -> None:
    world.cut(CONTROL_PORT)


def silent(world: World) -> None:
    world.forwarder(CONTROL_PORT).send_signal(SIGSTOP)


@pytest.mark.parametrize("become", [away, silent])
def test_a_start_without_the_control_server(
    world: World, pair: tuple[Member, Member], become: Callable[[World], None]
) -> None:
    """The relay is there, so everything else is, too."""
    alice, bob = pair
    become(world)
    ready_at_once(alice)
    alice.ping(bob.address)
    bob.ping(alice.address)
    with connection(alice, bob) as (ours, theirs):
        send(ours, theirs, PAYLOAD)
        send(theirs, ours, PAYLOAD)
    assert alice.started.leave() == 0


def test_a_start_while_all_servers_are_silent(world: World, pair: tuple[Member, Member]) -> None:
    """Addresses and routes are there, and traffic as soon as there is a way."""
    alice, bob = pair
    for port in (CONTROL_PORT, RELAY_PORT):
        world.forwarder(port).send_signal(SIGSTOP)
    ready_at_once(alice)
    tailnet = {each for each in alice.started.addresses() if each.startswith(("100.64.", "fd7a:"))}
    assert {each.partition("/")[2] for each in tailnet} == {"32", "128"}
    assert "100.64.0.0/10" in alice.started.routes()
    assert "fd7a:115c:a1e0::/48" in alice.started.routes(6)
    for port in (CONTROL_PORT, RELAY_PORT):
        world.forwarder(port).send_signal(SIGCONT)
    alice.ping(bob.address, within=30.0)


def test_without_it_a_start_waits_for_a_way(world: World, pair: tuple[Member, Member]) -> None:
    alice, bob = pair
    world.cut(CONTROL_PORT)
    world.cut(RELAY_PORT)
    alice.start(TS_AUTHKEY="")
    assert not alice.started.is_ready_within(WAITS)
    world.forward(RELAY_PORT)
    alice.started.wait_until_ready()
    alice.ping(bob.address)


def test_it_means_nothing_without_a_saved_state(world: World, pair: tuple[Member, Member]) -> None:
    _, bob = pair
    world.cut(CONTROL_PORT)
    carol = Member(world, "carol", TS_STATE_DIR=str(world.folder / "empty"))
    carol.start(TS4NSNET_START="now")
    assert not carol.started.is_ready_within(WAITS)
    world.forward(CONTROL_PORT)
    carol.started.wait_until_ready()
    carol.ping(bob.address)
    assert carol.started.leave() == 0
