# SPDX-License-Identifier: BSD-3-Clause
"""The map poll and the updates beside it: what is asked and what comes, against a fake server."""

import pytest

from tests.unit.control.fake_server import MAP, Json, World, peer
from tests.unit.control.polls import EMPTY, endpoint, live, send
from ts4nsnet.control import State, events, hostinfo
from ts4nsnet.control.hostinfo import EndpointKind, NetInfo, OwnEndpoint


def key(world: World) -> str:
    return world.node.public.to_text("nodekey:")


# --- what is asked --------------------------------------------------------------------------------------------


def test_a_poll_says_everything_and_an_update_as_well() -> None:
    world = World()
    world.start()
    poll, update = (request.json for request in world.server.requests[1:])
    for request in (poll, update):
        assert request["Version"] == 130
        assert request["Compress"] == "zstd"
        assert request["NodeKey"] == key(world)
        assert request["DiscoKey"] == world.disco.public.to_text("discokey:")
        assert request["Hostinfo"]["IPNVersion"] == "1.80.0-ts4nsnet"
        assert "Endpoints" not in request  # not known yet: the server keeps what it has
    assert poll["Stream"] is True
    assert poll["KeepAlive"] is True
    assert "OmitPeers" not in poll
    assert update["OmitPeers"] is True
    assert "Stream" not in update


def test_changes_are_told_to_the_server_at_once_and_once() -> None:
    world = World()
    client = world.start()
    own = [OwnEndpoint(endpoint("192.0.2.1:41641"), EndpointKind.STUN)]
    client.set_endpoints(own, world.now)
    world.run()
    client.set_endpoints(list(own), world.now)
    world.run()
    host = hostinfo.OwnHostinfo("other", "1.80.0", net_info=NetInfo(preferred_derp=3))
    client.set_host(host, world.now)
    client.set_host(host, world.now)
    world.run()
    assert len(world.server.updates) == 3
    assert world.server.updates[1]["Endpoints"] == ["192.0.2.1:41641"]
    assert world.server.updates[2]["Hostinfo"]["NetInfo"] == {"PreferredDERP": 3}
    assert client.status().updates == 3
    client.set_endpoints([], world.now)
    world.run()
    assert world.server.updates[3]["Endpoints"] == []


def test_a_change_during_an_update_is_told_after_it() -> None:
    world = World()
    client = world.start()
    world.server.say(MAP, None)
    client.check_in(world.now)
    world.run()
    client.set_endpoints([OwnEndpoint(endpoint("192.0.2.1:1"), EndpointKind.LOCAL)], world.now)
    world.run()
    assert len(world.server.updates) == 2
    world.server.requests[-1].answer(200)
    world.run()
    assert len(world.server.updates) == 3
    assert world.server.updates[-1]["Endpoints"] == ["192.0.2.1:1"]


def test_an_update_that_fails_is_sent_again() -> None:
    world = World()
    client = world.start()
    world.server.say(MAP, (500, b"no\n"), (501, b""))
    client.check_in(world.now)
    world.run()
    assert "update: got status 500" in client.status().last_error
    world.later(1.0)
    assert len(world.server.updates) == 4
    assert client.status().state is State.ONLINE


def test_an_update_waits_as_long_as_the_server_asks_for() -> None:
    world = World()
    client = world.start()
    world.server.say(MAP, lambda request: request.answer(429, b"", {"retry-after": "40"}))
    client.check_in(world.now)
    world.run()
    world.later(39.0)
    assert len(world.server.updates) == 2
    world.later(2.0)
    assert len(world.server.updates) == 3


def test_a_long_answer_to_an_update_is_not_kept() -> None:
    world = World()
    client = world.start()
    world.server.say(MAP, (200, bytes(3 << 20)))
    client.check_in(world.now)
    world.run()
    assert client.status().updates == 2


def test_an_update_goes_out_every_few_minutes() -> None:
    world = World()
    world.start()
    live(world, 1800.0)
    assert 7 <= len(world.server.updates) <= 11


def test_an_update_that_is_lost_with_its_connection_is_sent_again() -> None:
    world = World()
    client = world.start()
    world.server.say(MAP, None)
    client.check_in(world.now)
    world.run()
    world.break_connection()
    world.later(1.0)
    assert len(world.server.updates) == 3


# --- what comes -----------------------------------------------------------------------------------------------


def test_peers_come_change_and_go() -> None:
    world = World()
    world.start()
    assert len(world.netmap.peers) == 0  # the first message has no Peers
    send(world, {"PeersChanged": [peer(2), peer(3)]})
    send(world, {"PeersChangedPatch": [{"NodeID": 2, "Online": True}]})
    send(world, {"PeersRemoved": [3]})
    changes = world.events(events.NetMapChanged)
    assert [node.id for node in changes[1].delta.added] == [2, 3]
    assert [after.online for _, after in changes[2].delta.changed] == [True]
    assert [node.id for node in changes[3].delta.removed] == [3]
    assert len(changes[1].netmap.peers) == 2  # an older one stays as it was


@pytest.mark.parametrize("message", [EMPTY, {"ControlTime": "2027-01-15T08:00:00Z"}, {"PeersRemoved": [77]}, {}])
def test_a_message_that_changes_nothing_tells_nothing(message: Json) -> None:
    world = World()
    world.start()
    before = len(world.told)
    send(world, message)
    assert len(world.told) == before
    assert world.client.status().map_messages == 2


def test_a_delta_that_comes_twice_is_harmless() -> None:
    world = World()
    world.start()
    for _ in range(2):
        send(world, {"PeersChanged": [peer(2)]})
        send(world, {"PeersRemoved": [2, 3]})
    assert [len(event.netmap.peers) for event in world.events(events.NetMapChanged)] == [0, 1, 0, 1, 0]


def test_keep_alives_may_come_before_the_first_message() -> None:
    world = World()
    world.server.messages = [EMPTY, EMPTY, world.server.first_message(key(world))]
    world.start()
    assert world.client.status().state is State.ONLINE


@pytest.mark.parametrize(
    "message", [{"PeersChanged": [peer(2)]}, {"Node": {"Key": "x"}}, {"Node": 3}, {"Peers": [{"ID": "x"}]}]
)
def test_a_message_that_cannot_be_read_ends_the_poll_and_it_is_opened_again(message: Json) -> None:
    world = World()
    world.server.messages = [message]
    world.start()
    assert world.client.status().state is State.CONNECTING
    assert "map poll: " in world.client.status().last_error
    assert world.server.poll.request.gone
    world.server.messages = []
    world.later(1.0)
    assert world.client.status().state is State.ONLINE
    assert len(world.server.hosts) == 1  # the connection was no part of it


def test_a_page_for_the_user_is_told_once() -> None:
    world = World()
    world.start()
    for url in ("https://a", "https://a", "https://b"):
        send(world, {"KeepAlive": True, "PopBrowserURL": url})
    assert [event.url for event in world.events(events.BrowserUrlReceived)] == ["https://a", "https://b"]


def test_the_server_may_make_us_look_away() -> None:
    world = World()
    world.start()
    send(world, {"Debug": {"SleepSeconds": 200}})
    send(world, {"PeersChanged": [peer(2)]})
    world.later(199.0)
    assert len(world.netmap.peers) == 0
    world.later(2.0)
    assert len(world.netmap.peers) == 1
    assert len(world.server.polls) == 1


def test_a_server_may_not_flood_us_while_we_look_away() -> None:
    world = World()
    world.start()
    send(world, {"Debug": {"SleepSeconds": 300}})
    poll = world.server.poll.request
    for _ in range(17):
        poll.session.send_data(poll.stream, bytes(4 << 20))
        world.run()
    assert poll.gone
    assert "while we sleep" in world.client.status().last_error
