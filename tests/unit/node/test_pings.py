# SPDX-License-Identifier: BSD-3-Clause
"""Pings for the control server: who is asked, and what is answered."""

from ipaddress import ip_address

import pytest
from trio.testing import MockClock

from ts4nsnet import derp
from ts4nsnet.control import NetMap, Node
from ts4nsnet.control.events import PingRequested, PingResult
from ts4nsnet.control.persistent import PersistentMap
from ts4nsnet.endpoint import ip_endpoint
from ts4nsnet.keys import PublicKey
from ts4nsnet.magicsock import Path, Pinged
from ts4nsnet.node.pings import Pings

KEY = PublicKey(bytes(31) + b"\1")
HOST, ADDRESS = ip_address("192.0.2.1"), ip_address("100.64.0.2")
PEER = Node(2, name="bob.tail.ts.net.", key=KEY, addresses=(ADDRESS,))
REGIONS = derp.Map(regions={7: derp.Region(7, "fra", "Frankfurt", ())})
NETMAP = NetMap(Node(1), peers=PersistentMap[Node]().updated({2: PEER}), derp_map=REGIONS)


class World:
    """A transport that knows one peer, and a control client that remembers what it is told."""

    def __init__(self) -> None:
        self.pinged: list[PublicKey] = []
        self.answers: list[tuple[int, PingResult]] = []
        self.woken = 0
        self.pings = Pings(self, self, self)

    def path(self, key: PublicKey) -> Path | None:
        return Path(ip_endpoint(HOST, 1), True, 0.001, True) if key == KEY else None

    def ping(self, key: PublicKey, now: float) -> None:
        self.pinged.append(key)

    def answer_ping(self, number: int, result: PingResult, now: float) -> None:
        self.answers.append((number, result))

    def set(self) -> None:
        self.woken += 1


@pytest.fixture
async def world(mock_clock: MockClock) -> World:
    return World()


async def test_a_direct_answer_says_from_where(world: World) -> None:
    world.pings.asked(PingRequested(5, ("disco",), ADDRESS), NETMAP)
    world.pings.asked(PingRequested(6, ("TSMP", "disco"), ADDRESS), NETMAP)
    assert world.pinged == [KEY, KEY]
    world.pings.answered(Pinged(KEY, ip_endpoint(HOST, 41641), 0.25), NETMAP)
    want = PingResult("disco", str(ADDRESS), str(ADDRESS), "bob.tail.ts.net", "", 0.25, "192.0.2.1:41641")
    assert world.answers == [(5, want), (6, want)]
    assert world.woken == 2


async def test_an_answer_by_a_relay_says_which(world: World) -> None:
    world.pings.asked(PingRequested(5, ("disco",), ADDRESS), NETMAP)
    world.pings.answered(Pinged(KEY, derp.to_endpoint(7, KEY), 0.5), NETMAP)
    ((_, result),) = world.answers
    assert (result.derp_region_id, result.derp_region_code, result.endpoint) == (7, "fra", "")


async def test_silence_is_an_error(world: World) -> None:
    world.pings.asked(PingRequested(5, ("disco",), ADDRESS), NETMAP)
    world.pings.answered(Pinged(KEY, derp.to_endpoint(7, KEY), None), None)
    assert [result.error for _, result in world.answers] == ["no answer"]


@pytest.mark.parametrize(
    ("request_", "netmap", "error"),
    [
        (PingRequested(5, ("ICMP",), ADDRESS), NETMAP, "pings by disco only"),
        (PingRequested(5, ("disco",), ip_address("100.64.0.9")), NETMAP, "no such peer"),
        (PingRequested(5, ("disco",), ADDRESS), None, "no such peer"),
    ],
)
async def test_what_cannot_be_pinged_is_told_at_once(
    world: World, request_: PingRequested, netmap: NetMap | None, error: str
) -> None:
    world.pings.asked(request_, netmap)
    ((number, result),) = world.answers
    assert number == 5
    assert error in result.error
    assert world.pinged == []


async def test_an_answer_that_nobody_waits_for_is_nothing(world: World) -> None:
    world.pings.answered(Pinged(KEY, ip_endpoint(HOST, 41641), 0.25), NETMAP)
    assert world.answers == []
