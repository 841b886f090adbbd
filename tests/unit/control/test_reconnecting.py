# SPDX-License-Identifier: BSD-3-Clause
"""Everything that can end a poll, and how it comes back, against a fake server in simulated time."""

from itertools import pairwise

import pytest

from tests.unit.control.fake_server import MAP, Json, World, peer
from ts4nsnet.control import State, events
from ts4nsnet.keys import PrivateKey

EMPTY = {"KeepAlive": True}


def key(world: World) -> str:
    return world.node.public.to_text("nodekey:")


def send(world: World, message: Json) -> None:
    world.server.poll.send(message)
    world.run()


# --- reconnecting ---------------------------------------------------------------------------------------------


def test_a_poll_that_the_server_ends_is_opened_again_on_the_same_connection() -> None:
    world = World()
    world.start()
    world.server.poll.end()
    world.run()
    assert [event.reason for event in world.events(events.Disconnected)] == ["the server has ended the map poll"]
    world.later(0.02)
    assert len(world.server.polls) == 2
    assert len(world.server.hosts) == 1
    assert len(world.server.registers) == 1
    assert len(world.events(events.Connected)) == 2


def test_a_poll_that_the_server_resets_is_opened_again() -> None:
    world = World()
    world.start()
    world.server.poll.reset()
    world.run()
    world.later(0.02)
    assert len(world.server.polls) == 2


def test_the_netmap_stays_while_nothing_is_connected_and_differences_are_told() -> None:
    world = World()
    world.start()
    send(world, {"PeersChanged": [peer(2), peer(3)]})
    before = world.netmap
    world.server.messages = [{**world.server.first_message(key(world)), "Peers": [peer(3), peer(4)]}]
    world.break_connection()
    assert world.netmap is before
    world.later(1.0)
    delta = world.events(events.NetMapChanged)[-1].delta
    assert [node.id for node in delta.added] == [4]
    assert [node.id for node in delta.removed] == [2]
    assert delta.changed == ()


def test_an_early_payload_is_not_needed() -> None:
    world = World()
    world.server.early = False
    world.start()
    assert world.client.status().state is State.ONLINE


def test_a_server_with_another_key_is_asked_for_it() -> None:
    world = World()
    world.start()
    world.server.key = PrivateKey(bytes(range(32)))
    world.break_connection()
    world.later(0.02)
    assert "closed after the upgrade" in world.client.status().last_error
    world.later(1.0)
    assert world.client.status().state is State.ONLINE
    assert len(world.server.fetches) == 2


def test_500_on_a_poll_drops_the_connection() -> None:
    world = World()
    world.start()
    world.server.say(MAP, (500, b"shutting down\n"))
    world.server.poll.end()
    world.run()
    world.later(1.0)
    assert len(world.server.hosts) == 2
    assert world.client.status().state is State.ONLINE


@pytest.mark.parametrize("status", [400, 403])
def test_other_errors_of_a_poll_are_waited_for(status: int) -> None:
    world = World()
    world.start()
    world.server.say(MAP, (status, b"no\n"))
    world.server.poll.end()
    world.run()
    world.later(0.02)
    assert f"map poll: got status {status}" in world.client.status().last_error
    world.later(1.0)
    assert world.client.status().state is State.ONLINE
    assert len(world.server.hosts) == 1


def test_429_on_a_poll_is_heeded() -> None:
    world = World()
    world.start()
    world.server.say(MAP, lambda request: request.answer(429, b"busy\n", {"retry-after": "30"}))
    world.server.poll.end()
    world.run()
    world.later(29.0)
    assert len(world.server.polls) == 1
    world.later(2.0)
    assert len(world.server.polls) == 2


def test_120_s_without_a_message_drop_the_connection_though_updates_are_answered() -> None:
    world = World()
    world.start()
    for _ in range(11):
        world.later(10.0)
        world.client.check_in(world.now)
        world.run()
    assert len(world.server.polls) == 1
    world.later(10.1)
    assert len(world.server.polls) == 2
    assert len(world.server.hosts) == 2
    assert world.events(events.Disconnected)[-1].reason == "no map message for 120 s"


def test_120_s_of_silence_are_noticed_whatever_other_timers_run() -> None:
    world = World()
    world.start()
    world.later(119.9)  # an HTTP/2 ping was answered meanwhile
    assert len(world.server.hosts) == 1
    world.later(0.2)
    assert len(world.server.hosts) == 2


def test_a_network_that_swallows_everything_is_noticed() -> None:
    world = World(credential=None)
    world.start()  # waits for a login, so no watchdog of the poll
    world.silence()
    world.later(91.0)
    assert len(world.server.hosts) == 2
    assert world.server.registers[-1]["Followup"] == world.events(events.LoginUrlReceived)[0].url


def test_a_request_that_is_never_answered_drops_the_connection() -> None:
    world = World()
    world.server.say("/machine/register", None)
    world.start()
    world.later(61.0)
    assert len(world.server.hosts) == 2
    assert world.client.status().state is State.ONLINE


def test_a_connection_that_stands_but_does_not_speak_is_given_up() -> None:
    world = World()
    world.server.up = False
    world.start()
    assert world.events(events.Disconnected)[0].reason == "the server's key: connection refused"
    assert world.client.status().state is State.REGISTERING
    world.server.up = True
    world.later(1.0)
    world.server.up = False
    world.break_connection()
    world.later(1.0)
    assert "connection refused" in world.client.status().last_error


def test_back_off_grows_and_is_bounded() -> None:
    world = World()
    world.start()
    world.server.up = False
    world.break_connection()
    tries: list[float] = []
    while len(tries) < 100:
        timer = world.client.next_timer()
        assert timer is not None
        before = len(world.actions)
        world.later(timer - world.now)
        if len(world.actions) > before:
            tries.append(world.now)
    gaps = [b - a for a, b in pairwise(tries)]
    for number, gap in enumerate(gaps, start=2):
        base = min(number**2 * 0.01, 30.0)
        assert base * 0.499 <= gap <= base * 1.501
    assert len({round(gap / 30.0, 3) for gap in gaps[-20:]}) > 10  # jittered


def test_resuming_a_session_by_its_handle() -> None:
    world = World()
    world.server.messages = [{**world.server.first_message(key(world)), "MapSessionHandle": "h", "Seq": 1}]
    world.start()
    assert "MapSessionHandle" not in world.server.poll.request.json
    send(world, {"PeersChanged": [peer(2)], "Seq": 2})
    world.server.messages = [{"MapSessionHandle": "h", "Seq": 3, "PeersChanged": [peer(3)]}]
    world.break_connection()
    world.later(1.0)
    asked = world.server.poll.request.json
    assert (asked["MapSessionHandle"], asked["MapSessionSeq"]) == ("h", 2)
    assert sorted(world.netmap.peers) == [2, 3]
    assert [node.id for node in world.events(events.NetMapChanged)[-1].delta.added] == [3]
    # and a server that has forgotten the session begins another one
    world.server.messages = [{**world.server.first_message(key(world)), "MapSessionHandle": "i", "Seq": 1}]
    world.break_connection()
    world.later(1.0)
    assert world.server.poll.request.json["MapSessionSeq"] == 3
    assert sorted(world.netmap.peers) == []


def test_a_dial_plan_is_followed_the_best_first() -> None:
    world = World()
    world.start()
    plan = [{"IP": "192.0.2.1", "Priority": 1}, {"IP": "2001:db8::1", "Priority": 2}]
    send(world, {"KeepAlive": True, "ControlDialPlan": {"Candidates": plan}})
    world.break_connection()
    world.later(1.0)
    dials = [action.addresses for action in world.actions if isinstance(action, events.Dial)]
    assert dials == [(), ("2001:db8::1", "192.0.2.1")]
    send(world, {"ControlDialPlan": {}})
    world.break_connection()
    world.later(1.0)
    dials = [action.addresses for action in world.actions if isinstance(action, events.Dial)]
    assert dials[-1] == ()


# --- a netmap from an earlier run -----------------------------------------------------------------------------


def test_a_snapshot_is_a_netmap_while_the_server_is_away() -> None:
    world = World()
    world.start()
    (first,) = world.events(events.NetMapChanged)
    again = World(snapshot=first.snapshot, registered=True)
    again.server.up = False
    again.start()
    assert again.netmap == first.netmap
    again.server.up = True
    again.later(5.0)
    assert not again.events(events.NetMapChanged)[-1].delta
    assert again.client.status().state is State.ONLINE


@pytest.mark.parametrize("snapshot", [b"{", b"{}", b"\xff"])
def test_a_snapshot_that_cannot_be_read_is_passed_over(snapshot: bytes) -> None:
    world = World(snapshot=snapshot)
    world.start()
    assert len(world.events(events.NetMapChanged)) == 1
