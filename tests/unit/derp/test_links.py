# SPDX-License-Identifier: BSD-3-Clause
"""Links under simulated time: their queues, their tries, one connection at a time, and what always holds."""

from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.unit.derp.relays import BOB, CAROL, CLIENT, SERVER, START, FakeRelay, World, region
from ts4nsnet.derp.client import Phase
from ts4nsnet.derp.errors import Drop, Lost
from ts4nsnet.derp.events import Connected, Disconnected
from ts4nsnet.derp.frames import NotePreferred, Restarting
from ts4nsnet.derp.links import MAX_QUEUED_BYTES, MAX_URGENT_BYTES
from ts4nsnet.derp.map import Map, Node, Region
from ts4nsnet.derp.regions import MAX_FULL_WRITE_BYTES, MAX_WRITE_BYTES, Regions
from ts4nsnet.fair import ENTRY_BYTES
from ts4nsnet.keys import PublicKey


def dropped(world: World) -> dict[Drop, int]:
    return {reason: count for reason, count in world.regions.statistics().dropped.items() if count}


# --- queues -----------------------------------------------------------------------------------------------------------


def test_packets_wait_for_the_connection_and_leave_with_the_hello_in_order() -> None:
    world = World()
    world.down.add(2)
    for n in range(10):
        world.send(BOB, 2, bytes([n]))
    assert world.link(2).queued_packets == 10
    world.down.clear()
    world.run_for(1)
    assert world.relay(2).packets() == [(BOB, bytes([n])) for n in range(10)]
    assert [where for where, _ in world.writes] == [2, 2]  # the request; then hello and all packets in one


def test_a_relay_that_never_reads_costs_nobody_but_its_oldest_packets() -> None:
    world = World(home=1)
    world.send(BOB, 2, b"arrives")
    world.stuck.add(2)
    for n in range(1000):
        world.send(BOB, 2, n.to_bytes(1000, "big"))
        world.send(CAROL, 1, n.to_bytes(2, "big"))
    kept = MAX_QUEUED_BYTES // (1000 + ENTRY_BYTES)
    assert len(world.relay(1).packets()) == 1000
    assert world.link(2).queued_packets == kept
    assert dropped(world) == {Drop.QUEUE_FULL: 1000 - kept}
    world.stuck.clear()
    world.settle()
    last = [n.to_bytes(1000, "big") for n in range(1000 - kept, 1000)]
    assert world.relay(2).packets() == [(BOB, packet) for packet in (b"arrives", *last)]


def test_a_peer_that_is_sent_much_to_costs_and_delays_no_other_peer_of_its_relay() -> None:
    world = World(home=1)
    world.stuck.add(1)
    carols = [n.to_bytes(1000, "big") for n in range(MAX_QUEUED_BYTES // 2 // 1100)]
    for n in range(1000):
        world.regions.send(BOB, 1, (n.to_bytes(1000, "big"),), world.now)
        if n < len(carols):
            world.regions.send(CAROL, 1, (carols[n],), world.now)
    world.stuck.clear()
    world.settle()
    packets = world.relay(1).packets()
    assert [packet for peer, packet in packets if peer == CAROL] == carols
    assert packets[-1] == (BOB, (999).to_bytes(1000, "big"))
    assert CAROL in {peer for peer, _ in packets[: MAX_WRITE_BYTES // 1000]}


def test_handshakes_and_disco_go_before_the_rest_and_are_bounded_too() -> None:
    world = World(home=1)
    world.stuck.add(1)
    for n in range(1000):
        world.regions.send(BOB, 1, (bytes(1000),), world.now)
        world.regions.send(CAROL, 1, (n.to_bytes(148, "big"),), world.now, urgent=True)
    kept = MAX_URGENT_BYTES // (148 + ENTRY_BYTES)
    bulk = MAX_QUEUED_BYTES // (1000 + ENTRY_BYTES)
    assert world.link(1).queued_bytes <= MAX_QUEUED_BYTES + MAX_URGENT_BYTES
    assert dropped(world) == {Drop.QUEUE_FULL: 2000 - kept - bulk}
    world.stuck.clear()
    world.settle()
    packets = world.relay(1).packets()
    assert packets[:kept] == [(CAROL, n.to_bytes(148, "big")) for n in range(1000 - kept, 1000)]
    assert packets[kept:] == [(BOB, bytes(1000))] * bulk


def test_large_packets_are_spread_over_writes() -> None:
    world = World(home=1)
    world.stuck.add(1)
    for _ in range(6):
        world.send(BOB, 1, bytes(30_000))
    world.writes.clear()
    world.stuck.clear()
    world.settle()
    sizes = [len(data) for _, data in world.writes]
    assert sum(sizes) >= 180_000
    assert max(sizes) < MAX_WRITE_BYTES + 2 * 30_037


@pytest.mark.parametrize(("count", "first"), [(70, MAX_WRITE_BYTES), (140, MAX_FULL_WRITE_BYTES)])
def test_a_write_is_longer_where_many_packets_wait(count: int, first: int) -> None:
    world = World(home=1)
    world.writes.clear()
    packets = [n.to_bytes(2, "big") * 650 for n in range(count + 7)]
    world.regions.send(BOB, 1, packets[:count], world.now)
    world.settle()
    sizes = [len(data) for _, data in world.writes]
    assert first - 2 * 1337 < sizes[0] <= first
    assert max(sizes[2:]) <= MAX_WRITE_BYTES
    assert world.relay(1).packets() == [(BOB, packet) for packet in packets[:count]]


def test_of_a_train_longer_than_the_queue_the_first_packets_leave() -> None:
    world = World(home=1)
    kept = MAX_QUEUED_BYTES // (1000 + ENTRY_BYTES)
    packets = [n.to_bytes(1000, "big") for n in range(kept + 5)]
    world.regions.send(BOB, 1, packets, world.now)
    world.settle()
    assert world.relay(1).packets() == [(BOB, packet) for packet in packets[5:]]
    assert dropped(world) == {Drop.QUEUE_FULL: 5}


def test_what_a_connection_has_dropped_is_remembered() -> None:
    world = World(home=1)
    world.send(BOB, 1, bytes(70_000))
    assert dropped(world) == {Drop.PACKET_TOO_LARGE: 1}
    world.send(BOB, 1)
    world.deliver(1, BOB)
    world.end(1)
    world.run_for(1)
    statistics = world.regions.statistics()
    assert dropped(world) == {Drop.PACKET_TOO_LARGE: 1}
    assert (statistics.packets_sent, statistics.packets_received) == (1, 1)


# --- tries ------------------------------------------------------------------------------------------------------------


def test_a_relay_that_is_down_is_tried_for_ever_with_growing_pauses() -> None:
    world = World()
    world.down.add(1)
    world.regions.set_home(1, world.now)
    world.run_for(600)
    times = [call.at for call in world.calls]
    pauses = [after - before for before, after in pairwise(times)]
    for n, pause in enumerate(pauses, start=1):
        want = min(n * n * 0.010, 5.0)
        assert 0.5 * want - 0.002 <= pause <= 1.5 * want + 0.002
    assert 80 < len(pauses) < 250
    assert len({round(pause, 3) for pause in pauses[-20:]}) > 10  # chance keeps nodes apart
    assert world.link(1).error == "unreachable"
    assert world.link(1).state == "waiting"


def test_a_relay_that_comes_back_is_found_within_ten_seconds() -> None:
    world = World(home=1)
    world.run_for(100)
    world.down.add(1)
    world.end(1)
    world.run_for(30)
    assert world.open_regions() == []
    lost = [event for event in world.events if isinstance(event, Disconnected)]
    assert len(lost) > 10
    world.down.clear()
    world.run_for(10)
    assert world.link(1).state == Phase.OPEN.value
    assert world.link(1).error == ""
    assert world.events[-1] == Connected(1, SERVER.public)
    assert world.relay(1).received == [NotePreferred(True)]


def test_a_connection_that_has_lasted_is_replaced_at_once() -> None:
    world = World(home=1)
    for _ in range(20):
        world.run_for(6)
        world.end(max(world.live))
        world.run_for(0.016)
        assert world.open_regions() == [1]
    assert world.link(1).tries == 1


def test_a_relay_that_drops_us_at_once_is_spared() -> None:
    world = World(home=1)
    for _ in range(30):
        world.end(max(world.live))
        while not world.live:
            world.run_for(0.5)
    assert world.link(1).tries == 30
    assert world.now - START > 30


def test_a_relay_that_does_not_want_us_is_tried_with_pauses() -> None:
    world = World(region(1, nodes=2))
    world.make_relay = lambda: FakeRelay(admits=False)
    world.regions.set_home(1, world.now)
    world.settle()
    world.regions.receive(max(world.live), b"", world.now)
    world.settle()
    (event,) = world.events
    assert isinstance(event, Disconnected)
    assert "is this node registered?" in str(event.error)
    world.run_for(1)
    assert world.calls[1].order.avoid == "1a"  # where the hello failed
    assert world.relay(1).request["ideal-node"] == "1a"


def test_a_relay_that_restarts_is_left_alone_for_as_long_as_it_asks() -> None:
    world = World(home=1)
    world.relay(1).say(Restarting(4.0, 5.0))
    world.settle()
    world.end(1)
    world.run_for(3.9)
    assert len(world.calls) == 1
    world.run_for(0.2)
    assert world.open_regions() == [1]


def test_a_restart_that_did_not_come_is_forgotten() -> None:
    world = World(home=1)
    world.relay(1).say(Restarting(4.0, 5.0))
    world.run_for(60)
    world.end(1)
    world.run_for(0.1)
    assert world.open_regions() == [1]


def test_nobody_may_send_us_away_for_long() -> None:
    world = World(home=1)
    world.relay(1).say(Restarting(4e6, 0.0))
    world.settle()
    world.end(1)
    world.run_for(10.1)
    assert world.open_regions() == [1]
    world.end(max(world.live))  # and it was said once
    world.run_for(0.1)
    assert world.open_regions() == [1]


def test_a_silent_relay_is_left_after_two_minutes() -> None:
    world = World(home=1)
    world.run_for(119.9, keep_alive=False)
    assert len(world.calls) == 1
    world.run_for(1, keep_alive=False)
    assert len(world.calls) == 2
    assert world.open_regions() == [1]
    assert any(isinstance(event, Disconnected) and "120 s" in str(event.error) for event in world.events)


def test_a_relay_that_cannot_even_be_asked_is_tried_again() -> None:
    nameless = Region(1, nodes=(Node("1a", 1, "not a\r\nname"),))
    world = World(nameless, home=1)
    world.run_for(1)
    assert len(world.calls) > 3
    assert "relay's host or node name" in world.link(1).error


@pytest.mark.parametrize(
    ("node", "host"),
    [
        (Node("1a", 1, "one.example"), "one.example"),
        (Node("1a", 1, "one.example", derp_port=8443), "one.example:8443"),
        (Node("1a", 1, "2001:db8::1"), "[2001:db8::1]"),
        (Node("1a", 1, "2001:db8::1", derp_port=8443), "[2001:db8::1]:8443"),
    ],
)
def test_http_names_the_host_with_a_port_that_is_not_443(node: Node, host: str) -> None:
    assert World(Region(1, nodes=(node,)), home=1).relay(1).request["host"] == host


# --- one at a time ----------------------------------------------------------------------------------------------------


def test_a_region_is_dialled_again_only_when_its_old_connection_has_ended() -> None:
    world = World(home=1)
    world.slow_to_end = True
    world.regions.rebind([], world.now)
    world.settle()
    world.run_for(5)
    assert world.open_regions() == []
    assert world.regions.next_timer() is None
    world.end_given_up()
    world.settle()
    assert world.open_regions() == [1]


def test_what_is_said_of_a_connection_given_up_has_no_effect() -> None:
    world = World(home=1)
    world.slow_to_end = True
    world.regions.rebind([], world.now)
    world.settle()
    (connection,) = world.given_up
    world.regions.opened(connection, Node("1a", 1, "x"), None, "", world.now)
    world.regions.receive(connection, b"late", world.now)
    assert not world.regions.wants_write(connection)
    assert world.regions.data_to_send(connection, world.now) == b""
    assert world.events == [Connected(1, SERVER.public)]
    world.end_given_up()
    world.settle()
    fresh = max(world.live)
    world.regions.opened(fresh, Node("1a", 1, "x"), None, "", world.now)  # a second time
    world.regions.ended(connection, Lost("twice"), world.now)
    assert world.open_regions() == [1]


def test_bytes_before_the_stream_is_there_have_no_effect() -> None:
    regions = Regions(bytes)
    regions.set_map(Map.of(region(1)), START)
    regions.set_key(CLIENT, START)
    regions.set_home(1, START)
    regions.receive(1, b"early", START)
    assert not regions.wants_write(1)
    regions.rebind([], START)
    assert regions.next_event() is None
    assert regions.statistics().links[0].state == "dialling"
    assert regions.next_timer() is None


# --- what always holds ------------------------------------------------------------------------------------------------


class Anything(RuleBasedStateMachine):
    """Whatever happens in whatever order."""

    @initialize()
    def start(self) -> None:
        self.world = World(home=1)

    @rule(region_id=st.integers(0, 5), peer=st.sampled_from([BOB, CAROL]))
    def send(self, region_id: int, peer: PublicKey) -> None:
        self.world.send(peer, region_id)

    @rule(region_id=st.integers(0, 5))
    def move(self, region_id: int) -> None:
        self.world.regions.set_home(region_id, self.world.now)
        self.world.settle()

    @rule(ids=st.sets(st.integers(1, 5)), name=st.sampled_from(["", "moved"]))
    def change_map(self, ids: set[int], name: str) -> None:
        self.world.regions.set_map(Map.of(*(region(n, name=name) for n in ids)), self.world.now)
        self.world.settle()

    @rule(down=st.sets(st.integers(1, 5)), stuck=st.sets(st.integers(1, 5)), slow=st.booleans())
    def misbehave(self, down: set[int], stuck: set[int], slow: bool) -> None:
        self.world.down, self.world.stuck, self.world.slow_to_end = down, stuck, slow
        self.world.settle()

    @rule(data=st.data())
    def hear(self, data: st.DataObject) -> None:
        if self.world.live:
            call = self.world.live[data.draw(st.sampled_from(sorted(self.world.live)))]
            self.world.deliver(call.region_id, data.draw(st.sampled_from([BOB, CAROL])))

    @rule(data=st.data())
    def break_one(self, data: st.DataObject) -> None:
        if self.world.live:
            self.world.end(data.draw(st.sampled_from(sorted(self.world.live))))
            self.world.settle()

    @rule(online=st.booleans())
    def switch(self, online: bool) -> None:
        self.world.regions.set_online(online, self.world.now)
        self.world.settle()

    @rule(seconds=st.sampled_from([0.1, 5.0, 70.0, 200.0]))
    def wait(self, seconds: float) -> None:
        self.world.run_for(seconds)

    @invariant()
    def no_region_has_two_connections(self) -> None:
        places = [call.region_id for call in self.world.live.values()]
        assert len(places) == len(set(places))

    @invariant()
    def queues_are_bounded(self) -> None:
        links = self.world.regions.statistics().links
        assert all(link.queued_bytes <= MAX_QUEUED_BYTES + MAX_URGENT_BYTES for link in links)

    @invariant()
    def every_connection_has_its_link_and_the_timer_is_not_late(self) -> None:
        links = {link.region_id: link for link in self.world.regions.statistics().links}
        assert all(links[place].state not in {"waiting", "closed"} for place in self.world.open_regions())
        timer = self.world.regions.next_timer()
        assert timer is None or timer >= self.world.now


Anything.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestAnything = Anything.TestCase
