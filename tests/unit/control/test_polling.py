# SPDX-License-Identifier: BSD-3-Clause
"""The map poll and what goes on beside it: reconnecting, watchdogs, updates, pings; against a fake server."""

import json
from ipaddress import ip_address, ip_network
from itertools import pairwise

import pytest

from tests.unit.control.fake_server import URL, Json, World, b64
from ts4nsnet.control import State, events, hostinfo
from ts4nsnet.control.fields import Endpoint
from ts4nsnet.control.hostinfo import EndpointKind, NetInfo, OwnEndpoint
from ts4nsnet.keys import PrivateKey

MAP = "/machine/map"
EMPTY = {"KeepAlive": True}


def key(world: World) -> str:
    return world.node.public.to_text("nodekey:")


def peer(number: int, **members: object) -> Json:
    return {
        "ID": number,
        "StableID": f"n{number}",
        "Name": f"peer{number}.tail.example.com.",
        "User": 1,
        "Key": f"nodekey:{number:064x}",
        "DiscoKey": f"discokey:{number:064x}",
        "Addresses": [f"100.64.1.{number}/32"],
        **members,
    }


def endpoint(text: str) -> Endpoint:
    address, _, port = text.rpartition(":")
    return ip_address(address.strip("[]")), int(port)


def send(world: World, message: Json) -> None:
    world.server.poll.send(message)
    world.run()


def live(world: World, seconds: float, messages: float = 50.0) -> None:
    """Let time pass on a poll that gets its keep-alives."""
    while seconds > 0:
        step = min(seconds, messages)
        world.later(step)
        send(world, EMPTY)
        seconds -= step


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
    world.later(1.0)
    assert world.client.status().state is State.ONLINE
    assert len(world.server.fetches) == 2
    assert "closed after the upgrade" in world.events(events.Disconnected)[-1].reason or world.events(events.Connected)


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


# --- pings ----------------------------------------------------------------------------------------------------


def test_a_ping_is_answered_by_a_head_of_its_url() -> None:
    world = World()
    world.start()
    ping = {"URL": f"{URL}/machine/ping-response?id=1"}
    send(world, {"PingRequest": ping, "ControlTime": "2027-01-15T08:00:00Z"})
    send(world, {"PingRequest": ping})  # twice the same is one
    heads = [fetch for fetch in world.server.fetches if fetch.method == "HEAD"]
    assert [head.url for head in heads] == [f"{URL}/machine/ping-response?id=1"]
    assert (world.client.status().pings_answered, world.client.status().pings_ignored) == (1, 1)


def test_a_ping_over_the_channel_on_a_keep_alive() -> None:
    world = World()
    world.start()
    send(world, {"KeepAlive": True, "PingRequest": {"URL": "https://unused/p?x=1", "URLIsNoise": True}})
    request = world.server.requests[-1]
    assert (request.method, request.path) == ("HEAD", "/p?x=1")


def test_c2n_is_answered_over_the_channel() -> None:
    world = World()
    world.start()
    payload = b64(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
    send(world, {"PingRequest": {"URL": f"{URL}/c/1", "Types": "c2n", "Payload": payload}})
    request = world.server.requests[-1]
    assert (request.method, request.path) == ("POST", "/c/1")
    assert request.body.startswith(b"HTTP/1.1 200 OK\r\n")
    assert request.body.endswith(b"\r\n\r\nhi")


@pytest.mark.parametrize("by_channel", [True, False])
def test_a_ping_of_a_peer_is_made_by_the_node(by_channel: bool) -> None:
    world = World()
    world.start()
    ping = {"URL": f"{URL}/p", "URLIsNoise": by_channel, "Types": "disco,TSMP", "IP": "100.64.1.2"}
    send(world, {"PingRequest": ping})
    (asked,) = world.events(events.PingRequested)
    assert (asked.kinds, str(asked.address)) == (("disco", "TSMP"), "100.64.1.2")
    result = events.PingResult("disco", "100.64.1.2", latency_time=0.01, endpoint="192.0.2.2:1")
    world.client.answer_ping(asked.number, result, world.now)
    world.client.answer_ping(asked.number, result, world.now)
    world.run()
    wanted = {"Type": "disco", "IP": "100.64.1.2", "LatencySeconds": 0.01, "Endpoint": "192.0.2.2:1"}
    if by_channel:
        assert world.server.requests[-1].json == wanted
    else:
        assert json.loads(world.server.fetches[-1].body) == wanted


@pytest.mark.parametrize(
    "ping", [{"URL": ""}, {"URL": "ftp://x/"}, {"URL": f"{URL}/p", "Types": "disco"}, {"URL": "https://[/"}]
)
def test_a_ping_without_a_use_is_ignored(ping: Json) -> None:
    world = World()
    world.start()
    before = len(world.actions), len(world.server.requests), len(world.told)
    send(world, {"PingRequest": ping})
    assert (len(world.actions), len(world.server.requests), len(world.told)) == before
    assert world.client.status().pings_ignored == 1


def test_an_answer_that_the_server_does_not_take_is_given_up_alone() -> None:
    world = World()
    world.start()
    world.server.say("/p", None)
    send(world, {"KeepAlive": True, "PingRequest": {"URL": "https://unused/p", "URLIsNoise": True}})
    live(world, 65.0)
    assert world.server.requests[-1].gone
    assert len(world.server.hosts) == 1


def test_of_many_pings_that_wait_the_oldest_is_forgotten() -> None:
    world = World()
    world.start()
    for number in range(9):
        send(world, {"PingRequest": {"URL": f"{URL}/{number}", "Types": "disco", "IP": "100.64.1.2"}})
    first, *_, last = world.events(events.PingRequested)
    before = len(world.server.fetches)
    world.client.answer_ping(first.number, events.PingResult("disco", "100.64.1.2"), world.now)
    world.client.answer_ping(last.number, events.PingResult("disco", "100.64.1.2"), world.now)
    world.run()
    assert len(world.server.fetches) == before + 1


# --- what we say of ourselves ---------------------------------------------------------------------------------


def test_hostinfo_as_the_server_reads_it() -> None:
    info = hostinfo.OwnHostinfo(
        "box",
        "1.80.0",
        os_version="6.1",
        machine="x86_64",
        userspace=False,
        routable_ips=(ip_network("::/0"), ip_network("10.0.0.0/8"), ip_network("10.0.0.0/8")),
        tags=("tag:b", "tag:a"),
        services=(hostinfo.Service("peerapi4", 1234),),
        net_info=NetInfo(preferred_derp=1, derp_latency={"1-v4": 0.5}, working_udp=True, upnp=False),
    )
    assert info.to_json() == {
        "Hostname": "box",
        "IPNVersion": "1.80.0",
        "OS": "linux",
        "OSVersion": "6.1",
        "Machine": "x86_64",
        "Userspace": False,
        "RoutableIPs": ["10.0.0.0/8", "::/0"],
        "RequestTags": ["tag:a", "tag:b"],
        "Services": [{"Proto": "peerapi4", "Port": 1234}],
        "NetInfo": {"PreferredDERP": 1, "DERPLatency": {"1-v4": 0.5}, "WorkingUDP": True, "UPnP": False},
    }


def test_endpoints_are_named_once() -> None:
    own = [
        OwnEndpoint(endpoint("192.0.2.1:1"), EndpointKind.STUN),
        OwnEndpoint(endpoint("192.0.2.1:1"), EndpointKind.LOCAL),
        OwnEndpoint(endpoint("[2001:db8::1]:2"), EndpointKind.EXPLICIT),
    ]
    assert hostinfo.endpoints_to_json(own) == {
        "Endpoints": ["192.0.2.1:1", "[2001:db8::1]:2"],
        "EndpointTypes": [2, 5],
    }
