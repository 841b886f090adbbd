# SPDX-License-Identifier: BSD-3-Clause
"""All relays of a node under simulated time: which connections there are, and which way packets take."""

import pytest

from tests.unit.derp.relays import BOB, CAROL, CLIENT, SERVER, START, World, region
from ts4nsnet.derp import regions as regions_module
from ts4nsnet.derp.errors import Drop
from ts4nsnet.derp.events import Connected, Disconnected, HealthChanged, HomeLost, PeerGone, Probed, Received
from ts4nsnet.derp.frames import Health, NotePreferred, Ping, Pong
from ts4nsnet.derp.frames import PeerGone as PeerGoneFrame
from ts4nsnet.derp.map import Map, Region
from ts4nsnet.derp.regions import Regions
from ts4nsnet.keys import PrivateKey, PublicKey

OTHER_KEY = PrivateKey(bytes(range(32)))


def dropped(world: World) -> dict[Drop, int]:
    return {reason: count for reason, count in world.regions.statistics().dropped.items() if count}


# --- home -------------------------------------------------------------------------------------------------------------


def test_home_is_connected_to_at_once_and_told() -> None:
    world = World(home=2)
    assert world.open_regions() == [2]
    assert world.events == [Connected(2, SERVER.public)]
    assert world.relay(2).received == [NotePreferred(True)]
    assert world.relay(2).request["host"] == "2a.example"


def test_home_stays_without_a_write() -> None:
    world = World(home=2)
    world.run_for(3600)
    assert world.open_regions() == [2]
    assert len(world.calls) == 1


def test_a_new_home_is_told_and_so_is_the_old_one_which_then_idles_out() -> None:
    world = World(home=1)
    old = world.relay(1)
    world.run_for(3600)
    world.regions.set_home(2, world.now)
    world.settle()
    assert world.open_regions() == [1, 2]
    assert old.received == [NotePreferred(True), NotePreferred(False)]
    assert world.relay(2).received == [NotePreferred(True)]
    world.run_for(15)
    assert world.open_regions() == [2]


def test_an_open_connection_becomes_home() -> None:
    world = World(home=1)
    world.send(BOB, 2)
    world.regions.set_home(2, world.now)
    world.settle()
    assert world.relay(2).received[-1] == NotePreferred(True)
    assert len(world.calls) == 2


def test_without_a_home_nothing_is_open_until_a_packet_wants_it() -> None:
    world = World()
    assert world.open_regions() == []
    assert world.regions.next_timer() is None
    world.send(BOB, 3)
    assert world.open_regions() == [3]


def test_a_home_that_the_map_does_not_have_yet_is_connected_to_when_it_does() -> None:
    world = World(region(1), home=9)
    assert world.open_regions() == []
    world.regions.set_map(Map.of(region(1), region(9)), world.now)
    world.settle()
    assert world.open_regions() == [9]


def test_who_cannot_measure_has_a_home_by_chance_that_stays() -> None:
    regions = Regions(lambda size: bytes(size - 1) + b"\5")
    assert regions.fallback_home() == 0
    regions.set_map(Map.of(*(region(n) for n in (1, 2, 3)), region(4, no_home=True)), START)
    assert [regions.fallback_home() for _ in range(3)] == [3, 3, 3]  # the seed is 5
    regions.set_home(2, START)
    assert regions.fallback_home() == 2


def test_who_has_no_other_choice_lives_where_nobody_should() -> None:
    regions = Regions(bytes)
    regions.set_map(Map.of(region(4, no_home=True)), START)
    assert regions.fallback_home() == 4


# --- ways -------------------------------------------------------------------------------------------------------------


def test_packets_for_a_peer_go_to_its_home() -> None:
    world = World(home=1)
    world.send(BOB, 2, b"to bob")
    world.send(CAROL, 1, b"to carol")
    assert world.relay(2).packets() == [(BOB, b"to bob")]
    assert world.relay(1).packets() == [(CAROL, b"to carol")]
    assert world.regions.statistics().packets_sent == 2


def test_a_peer_is_answered_where_it_was_heard() -> None:
    world = World(home=1)
    world.deliver(1, BOB)
    assert world.events[-1] == Received(1, BOB, (b"from peer",))
    world.send(BOB, 2)
    assert world.open_regions() == [1]
    assert world.relay(1).packets() == [(BOB, b"packet")]


def test_its_own_home_goes_first_when_that_is_up() -> None:
    world = World(home=1)
    world.send(CAROL, 2)
    world.deliver(1, BOB)
    world.send(BOB, 2)
    assert (BOB, b"packet") in world.relay(2).packets()


def test_a_way_that_is_up_goes_before_a_home_that_is_not() -> None:
    world = World(home=1)
    world.down.add(2)
    world.send(CAROL, 2)
    world.deliver(1, BOB)
    world.send(BOB, 2)
    assert world.relay(1).packets() == [(BOB, b"packet")]


def test_a_peer_whose_home_nobody_knows_is_answered_all_the_same() -> None:
    world = World(home=1)
    world.send(BOB, 0, b"lost")
    assert dropped(world) == {Drop.NO_REGION: 1}
    world.deliver(1, BOB)
    world.send(BOB, 0, b"answer")
    assert world.relay(1).packets() == [(BOB, b"answer")]


@pytest.mark.parametrize("reason", [0, 1, 0xEE])
def test_a_peer_that_is_gone_is_called_at_its_home(reason: int) -> None:
    world = World(home=1)
    world.deliver(1, BOB)
    world.relay(1).say(PeerGoneFrame(BOB, reason))
    world.settle()
    assert world.events[-1] == PeerGone(1, BOB, reason)
    world.send(BOB, 2)
    assert world.open_regions() == [1, 2]
    world.deliver(1, BOB)  # and is known again when it is heard again
    world.send(BOB, 3)
    assert world.open_regions() == [1, 2]


def test_a_peer_gone_elsewhere_is_still_heard_here() -> None:
    world = World(home=1)
    world.send(CAROL, 2)
    world.deliver(1, BOB)
    world.relay(2).say(PeerGoneFrame(BOB, 1))
    world.settle()
    assert world.regions.statistics().routes == 1


def test_the_way_heard_last_is_taken() -> None:
    world = World(home=1)
    world.send(CAROL, 2)
    world.deliver(1, BOB)
    world.deliver(2, BOB)
    world.send(BOB, 3)
    assert world.relay(2).packets()[-1] == (BOB, b"packet")
    assert world.regions.statistics().routes == 1


def test_ways_end_with_their_connection() -> None:
    world = World(home=1)
    world.send(CAROL, 2)
    world.deliver(1, BOB)
    world.deliver(2, CAROL)
    world.end(1)
    world.settle()
    assert world.regions.statistics().routes == 1
    world.run_for(1)
    world.send(BOB, 3)
    assert world.open_regions() == [1, 2, 3]


def test_only_so_many_ways_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions_module, "MAX_ROUTES", 3)
    world = World(home=1)
    peers = [PublicKey(bytes([n]) * 32) for n in range(4)]
    for peer in (*peers[:3], peers[0], peers[3]):
        world.deliver(1, peer)
    assert world.regions.statistics().routes == 3
    world.send(peers[3], 2)
    assert world.open_regions() == [1]
    world.send(peers[0], 2)  # the first one learned has left
    assert world.open_regions() == [1, 2]


# --- idle -------------------------------------------------------------------------------------------------------------


def test_a_region_without_a_write_for_a_minute_is_closed() -> None:
    world = World(home=1)
    world.send(BOB, 2)
    for _ in range(5):  # looked at after 15, 30, 45, 60 s: closed with the fourth look
        assert world.open_regions() == [1, 2]
        world.deliver(2, BOB)  # what comes does not count
        world.run_for(14.9)
    assert world.open_regions() == [1]
    assert not any(isinstance(event, Disconnected) for event in world.events)


def test_a_region_that_is_written_to_stays() -> None:
    world = World(home=1)
    for _ in range(10):
        world.send(BOB, 2)
        world.run_for(50)
    assert len(world.calls) == 2


def test_a_region_that_was_closed_is_dialled_again() -> None:
    world = World(home=1)
    world.send(BOB, 2)
    world.run_for(120)
    world.send(BOB, 2, b"again")
    assert world.relay(2).packets() == [(BOB, b"again")]


def test_a_region_that_is_down_is_given_up_when_idle_with_its_packets() -> None:
    world = World(home=1)
    world.down.add(2)
    world.send(BOB, 2)
    world.run_for(61)
    assert [link.region_id for link in world.regions.statistics().links] == [1]
    assert dropped(world) == {Drop.REGION_CLOSED: 1}


# --- changes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new", [(region(2), region(3)), (region(1, name="moved"), region(2), region(3))])
def test_a_home_redefined_or_removed_is_closed_and_none(new: tuple[Region, ...]) -> None:
    world = World(home=1)
    world.regions.set_map(Map.of(*new), world.now)
    world.settle()
    assert world.events[-1] == HomeLost(1)
    assert world.open_regions() == []
    world.regions.set_home(new[0].region_id, world.now)
    world.settle()
    assert world.open_regions() == [new[0].region_id]


def test_another_region_redefined_is_closed_and_the_same_map_changes_nothing() -> None:
    world = World(home=1)
    world.send(BOB, 2)
    world.regions.set_map(Map.of(region(1), region(2), region(3)), world.now)
    world.settle()
    assert world.open_regions() == [1, 2]
    world.regions.set_map(Map.of(region(1), region(2, nodes=2), region(3)), world.now)
    world.settle()
    assert world.open_regions() == [1]
    world.send(BOB, 2)
    assert world.calls[-1].order.region == region(2, nodes=2)


def test_another_key_closes_all_and_connects_home_as_somebody_else() -> None:
    world = World(home=1)
    world.send(BOB, 2)
    world.regions.set_key(CLIENT, world.now)  # the same
    world.settle()
    assert world.open_regions() == [1, 2]
    world.regions.set_key(OTHER_KEY, world.now)
    world.settle()
    assert world.open_regions() == [1]
    relay = world.relay(1)
    assert relay.client is not None
    assert relay.client.key == OTHER_KEY.public


def test_without_a_key_or_a_network_nothing_is_sent_or_tried() -> None:
    world = World(home=1)
    world.regions.set_online(False, world.now)
    world.send(BOB, 1)
    world.run_for(60)
    assert world.open_regions() == []
    world.regions.set_online(True, world.now)
    world.settle()
    assert world.open_regions() == [1]
    world.regions.set_key(None, world.now)
    world.send(BOB, 1)
    assert world.open_regions() == []
    assert dropped(world) == {Drop.OFFLINE: 2}
    assert len(world.calls) == 2


def test_after_a_change_of_networks_dead_connections_are_replaced() -> None:
    world = World(home=1)
    world.send(BOB, 2)
    world.regions.rebind(["198.51.100.7"], world.now)
    world.settle()
    assert world.open_regions() == [1]  # the home anew, the other one on demand
    assert len(world.calls) == 3


def test_after_a_change_of_networks_living_connections_must_answer() -> None:
    world = World(home=1)
    world.send(BOB, 2)
    world.regions.rebind(["192.0.2.1"], world.now)
    world.settle()
    ping = world.relay(1).received[-1]
    assert isinstance(ping, Ping)
    world.relay(1).say(Pong(ping.data))
    world.settle()
    assert world.events[-1] == Probed(1, 0.0)
    world.run_for(3)
    lost = [event for event in world.events if isinstance(event, Disconnected)]
    assert [(event.region_id, str(event.error)) for event in lost] == [(2, "no answer to a ping within 3 s")]


# --- what can be asked ------------------------------------------------------------------------------------------------


def test_health_is_kept_per_region_until_the_next_connection() -> None:
    world = World(home=1)
    world.relay(1).say(Health("overloaded"))
    world.settle()
    assert world.events[-1] == HealthChanged(1, "overloaded")
    assert world.link(1).health == "overloaded"
    world.end(1)
    assert world.link(1).health == ""


def test_statistics_say_how_it_stands() -> None:
    world = World(home=1)
    world.down.add(2)
    world.send(BOB, 2)
    home, other = world.regions.statistics().links
    assert (home.is_home, home.state, home.node, home.local_address) == (True, "open", "1a", "192.0.2.1")
    assert home.last_frame_at == START
    assert (other.is_home, other.state, other.queued_packets, other.tries) == (False, "waiting", 1, 1)
    assert other.last_frame_at is None
