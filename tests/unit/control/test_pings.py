# SPDX-License-Identifier: BSD-3-Clause
"""Pings of the server, and of peers on its behalf; what the node says of itself."""

import json
from ipaddress import ip_network

import pytest

from tests.unit.control.fake_server import URL, Json, World, b64
from tests.unit.control.polls import endpoint, live, send
from ts4nsnet.control import events, hostinfo
from ts4nsnet.control.hostinfo import EndpointKind, NetInfo, OwnEndpoint

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
