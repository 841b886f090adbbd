# SPDX-License-Identifier: BSD-3-Clause
"""A recorded session, broken in every place: the client always comes back, and nothing but its own errors is raised.

The record is what the server sends from the first byte of the upgrade on: handshake, early payload, registration, a
first map, deltas, a ping, the end of the poll and another one. Everything random is seeded, so each run repeats it up
to the place where it is broken.
"""

from functools import cache

import pytest

from tests.unit.control.fake_server import URL, World, peer
from ts4nsnet.control import State

SLICES = 16  # the places are dealt out to so many tests, so that a failing one is short


def play(world: World) -> None:
    """The session that is recorded."""
    world.start()
    world.later(0.5)
    messages = (
        {"PeersChanged": [peer(2), peer(3)]},
        {"KeepAlive": True, "PingRequest": {"URL": f"{URL}/p", "URLIsNoise": True}},
        {"PeersChangedPatch": [{"NodeID": 2, "Online": True}]},
    )
    for message in messages:
        if world.server.polls:
            world.server.poll.send(message)
            world.run()
            world.later(0.5)
    if world.server.polls:
        world.server.poll.end()
        world.run()
        world.later(0.5)


@cache
def recorded_bytes() -> int:
    world = World()
    play(world)
    assert len(world.server.hosts) == 1
    assert len(world.server.polls) == 2
    return sum(map(len, world.received))


def comes_back(world: World) -> None:
    """After all of it the client is where it would have been."""
    world.later(200.0)  # a length that has grown is noticed by a watchdog only
    assert world.client.status().state is State.ONLINE
    assert world.netmap.self_node.host_name == "box"
    world.server.poll.send({"PeersChanged": [peer(9)]})
    world.run()
    assert 9 in world.netmap.peers


@pytest.mark.parametrize("part", range(SLICES))
def test_cut_at_every_byte(part: int) -> None:
    for place in range(part, recorded_bytes(), SLICES):
        world = World()
        world.cut_at = place
        play(world)
        world.later(5.0)
        assert len(world.server.hosts) <= 2
        comes_back(world)


@pytest.mark.parametrize("part", range(SLICES))
def test_spoilt_at_every_third_byte(part: int) -> None:
    for place in range(3 * part, recorded_bytes(), 3 * SLICES):
        world = World()
        world.spoil_at = place
        play(world)
        comes_back(world)


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 7, 100])
def test_in_small_pieces(piece_bytes: int) -> None:
    world = World()
    world.piece_bytes = piece_bytes
    play(world)
    assert len(world.server.hosts) == 1
    comes_back(world)
