# SPDX-License-Identifier: BSD-3-Clause
"""The coordination server by direct calls: what each node is told, and when."""

from typing import Any

import pytest

from tests.unit.lab.tailnet import VERSION, WALL, FakeTailnet, Message, body, decoded, merged
from ts4nsnet.lab.control import Ping, Ready
from ts4nsnet.lab.errors import PolicyError, Refused
from ts4nsnet.lab.fanout import MAX_QUEUED_BYTES, MapStream
from ts4nsnet.lab.responses import time_text


@pytest.fixture
def net() -> FakeTailnet:
    return FakeTailnet()


def names(nodes: list[dict[str, Any]]) -> list[str]:
    return [node["Name"].partition(".")[0] for node in nodes]


# --- the first map ----------------------------------------------------------------------------------------------------


def test_first_map_has_everything(net: FakeTailnet) -> None:
    net.join("alice")
    bob = net.node("bob")
    bob.register(net.auth_key())
    [first] = bob.poll()
    assert set(first) == {
        *("Node", "Peers", "DERPMap", "DNSConfig", "Domain", "CollectServices", "PacketFilters"),
        *("UserProfiles", "ControlTime", "Debug"),
    }
    node = first["Node"]
    assert node["Name"] == "bob.lab.internal."
    assert node["Addresses"] == ["100.64.0.2/32", "fd7a:115c:a1e0::2/128"]
    assert node["AllowedIPs"] == node["Addresses"]
    assert node["MachineAuthorized"] is True
    assert node["Online"] is True
    assert node["KeyExpiry"] > time_text(net.wall)
    assert first["DNSConfig"] == {"Proxied": True, "Domains": ["lab.internal"]}
    assert first["Debug"] == {"DisableLogTail": True}
    [alice] = first["Peers"]
    assert alice["Endpoints"] == ["192.0.2.1:41641"]
    assert alice["HomeDERP"] == 900
    assert alice["DERP"] == "127.3.3.40:900"
    assert "LastSeen" not in alice
    assert {profile["ID"] for profile in first["UserProfiles"]} == {node["User"], alice["User"]}


def test_peers_are_left_out_when_there_are_none(net: FakeTailnet) -> None:
    alice = net.node("alice")
    alice.register(net.auth_key())
    [first] = alice.poll()
    assert "Peers" not in first


def test_frames_are_zstd_for_who_asks(net: FakeTailnet) -> None:
    alice = net.node("alice", compressed=True)
    alice.register(net.auth_key())
    [first] = alice.poll()
    assert first["Node"]["ID"] == alice.number


def test_one_shot_request_gets_one_full_map(net: FakeTailnet) -> None:
    alice = net.join("alice")
    net.join("bob")
    answer = alice.map()
    assert isinstance(answer, bytes)
    assert names(decoded(answer)["Peers"]) == ["bob"]


def test_read_only_request_changes_nothing(net: FakeTailnet) -> None:
    alice = net.join("alice")
    bob = net.join("bob")
    alice.map(ReadOnly=True, OmitPeers=True, Endpoints=["198.51.100.1:1"])
    net.after(1.0)
    assert bob.messages() == []


def test_new_poll_ends_the_old_one(net: FakeTailnet) -> None:
    alice = net.join("alice")
    old = alice.stream
    alice.poll()
    assert old is not None
    assert old.ended
    net.server.close_stream(old, net.now)
    net.after(60.0)
    assert net.server.directory.nodes[alice.number].online


# --- deltas -----------------------------------------------------------------------------------------------------------


def test_node_that_joins_is_one_message_to_the_others(net: FakeTailnet) -> None:
    alice = net.join("alice")
    bob = net.node("bob")
    bob.register(net.auth_key())
    bob.poll()
    bob.update(Endpoints=["192.0.2.9:1", "192.0.2.9:1", "[2001:db8::1]:2"])
    net.after(0.1)
    [delta] = alice.messages()
    [entry] = delta["PeersChanged"]
    assert entry["Endpoints"] == ["192.0.2.9:1", "[2001:db8::1]:2"]
    assert entry["Online"] is True
    assert [profile["ID"] for profile in delta["UserProfiles"]] == [entry["User"]]
    assert set(delta) == {"PeersChanged", "UserProfiles"}


def test_delta_is_encoded_once_for_all(net: FakeTailnet) -> None:
    nodes = net.joined("a", "b", "c", "d")
    nodes[0].update(Endpoints=["198.51.100.1:1"])
    net.after(0.1)
    streams = [node.stream for node in nodes[1:]]
    frames = [frame for stream in streams if stream for frame in stream.take()]
    assert len(frames) == 3
    assert frames[0] is frames[1] is frames[2]


@pytest.mark.parametrize(
    ("change", "patch"),
    [
        ({"Endpoints": ["198.51.100.1:1"]}, {"Endpoints": ["198.51.100.1:1"]}),
        ({"Hostinfo": {"Hostname": "bob", "NetInfo": {"PreferredDERP": 901}}}, {"DERPRegion": 901}),
        (
            {"DiscoKey": "discokey:" + "ab" * 32, "Endpoints": ["198.51.100.1:1"]},
            {"DiscoKey": "discokey:" + "ab" * 32, "Endpoints": ["198.51.100.1:1"]},
        ),
    ],
    ids=["endpoints", "home", "new process"],
)
def test_small_change_is_a_patch(net: FakeTailnet, change: dict[str, Any], patch: dict[str, Any]) -> None:
    alice, bob = net.joined("alice", "bob")
    bob.update(**change)
    net.after(0.1)
    assert alice.messages() == [{"PeersChangedPatch": [{"NodeID": bob.number} | patch]}]


@pytest.mark.parametrize(
    "change",
    [
        {"Endpoints": []},
        {"DiscoKey": "discokey:" + "ab" * 32},
        {"Hostinfo": {"Hostname": "bob", "ShieldsUp": True, "sshHostKeys": ["ssh-ed25519 A"]}},
        {"Hostinfo": {"Hostname": "bob", "NetInfo": {"PreferredDERP": 0}}},
    ],
    ids=["no endpoint", "new disco key, no endpoint", "hostinfo", "no home"],
)
def test_what_a_patch_cannot_say_is_a_whole_entry(net: FakeTailnet, change: dict[str, Any]) -> None:
    alice, bob = net.joined("alice", "bob")
    bob.update(**change)
    net.after(0.1)
    [message] = alice.messages()
    [entry] = message["PeersChanged"]
    assert entry["ID"] == bob.number
    assert ("HomeDERP" in entry) == ("NetInfo" not in change.get("Hostinfo", {})), "without NetInfo the home stays"
    assert ("Endpoints" in entry) == ("Hostinfo" in change)


def test_new_process_after_an_absence_is_a_whole_entry(net: FakeTailnet) -> None:
    alice, bob = net.joined("alice", "bob")
    bob.close()
    net.after(11.0)
    alice.messages()
    bob.disco = net.key()
    bob.poll()
    net.after(0.1)
    [message] = alice.messages()
    [entry] = message["PeersChanged"]
    assert (entry["Online"], entry["DiscoKey"]) == (True, "discokey:" + bob.disco.public.raw.hex())


def test_unknown_node_is_refused(net: FakeTailnet) -> None:
    with pytest.raises(Refused, match="no node has this id"):
        net.server.delete(7, net.now)


def test_unchanged_update_says_nothing(net: FakeTailnet) -> None:
    alice, bob = net.joined("alice", "bob")
    bob.update()
    net.after(0.1)
    assert alice.messages() == bob.messages() == []


def test_poll_only_adds(net: FakeTailnet) -> None:
    alice, bob = net.joined("alice", "bob")
    bob.poll(Endpoints=[], Hostinfo={"Hostname": "bob"}, DiscoKey="discokey:" + "00" * 32)
    net.after(0.1)
    assert "PeersChanged" not in merged(alice.messages())


def test_host_name_change_renames(net: FakeTailnet) -> None:
    alice, bob = net.joined("alice", "bob")
    bob.hostname = "carol"
    bob.update()
    net.after(0.1)
    assert names(merged(alice.messages())["PeersChanged"]) == ["carol"]
    assert bob.messages()[-1]["Node"]["Name"] == "carol.lab.internal."


def test_second_of_a_name_gets_a_suffix_and_keeps_it(net: FakeTailnet) -> None:
    first, second = net.join("x"), net.join("X")
    assert names([second.poll()[0]["Node"]]) == ["x-1"]
    first.log_out()
    second.update()
    assert names([second.poll()[0]["Node"]]) == ["x-1"]


def test_slow_reader_is_cut(net: FakeTailnet) -> None:
    alice, bob = net.joined("alice", "bob")
    stream = alice.stream
    assert stream is not None
    large: Message = {"Health": ["x" * (MAX_QUEUED_BYTES // 2)]}
    net.server.send(alice.number, large, net.now)
    before = stream.overrun
    net.server.send(alice.number, large, net.now)
    assert (before, stream.overrun) == (False, True)
    assert bob.messages() == []


# --- online, keep-alive -----------------------------------------------------------------------------------------------


def test_lost_stream_is_offline_after_the_grace(net: FakeTailnet) -> None:
    alice, bob = net.joined("alice", "bob")
    bob.close()
    net.after(9.9)
    assert alice.messages() == []
    net.after(0.2)
    [message] = alice.messages()
    [patch] = message["PeersChangedPatch"]
    assert patch == {"NodeID": bob.number, "Online": False, "LastSeen": patch["LastSeen"]}
    bob.poll()
    net.after(0.1)
    assert alice.messages() == [{"PeersChangedPatch": [{"NodeID": bob.number, "Online": True}]}]


def test_stream_that_comes_back_in_time_is_not_noticed(net: FakeTailnet) -> None:
    alice, bob = net.joined("alice", "bob")
    bob.close()
    net.after(5.0)
    bob.poll()
    net.after(20.0)
    assert alice.messages() == []


def test_silent_stream_gets_keep_alives(net: FakeTailnet) -> None:
    alice = net.join("alice")
    assert alice.stream is not None
    for _ in range(3):
        net.after(56.0)
        [frame] = alice.stream.take()
        assert frame[4:] == b'{"KeepAlive":true}'


def test_restart_does_not_call_everybody_offline(net: FakeTailnet) -> None:
    alice, bob = net.joined("alice", "bob")
    del bob
    alice.net = net.restarted()
    [first] = alice.poll()
    assert [peer["Online"] for peer in first["Peers"]] == [True]
    alice.net.after(14.0)
    assert alice.messages() == []
    alice.net.after(2.0)
    assert merged(alice.messages())["PeersChangedPatch"][0]["Online"] is False


def test_known_node_needs_no_register_after_a_restart(net: FakeTailnet) -> None:
    alice = net.join("alice")
    before = alice.poll()[0]["Node"]
    alice.net = net.restarted()
    after = alice.poll()[0]["Node"]
    assert {name: after[name] for name in ("ID", "Name", "Addresses")} == {
        name: before[name] for name in ("ID", "Name", "Addresses")
    }


# --- expiry, removal --------------------------------------------------------------------------------------------------


def test_expiry_is_pushed_at_its_moment() -> None:
    net = FakeTailnet(key_time=3600.0)
    alice, bob = net.join("alice", net.auth_key(tags=("tag:x",))), net.join("bob")
    net.retired()
    net.after(3598.9)
    assert net.server.admits(bob.key.public, net.now)
    for node in (alice, bob):
        node.messages()
    net.after(0.2)
    assert [name for message in bob.messages() for name in message] == ["Node"]
    [message] = alice.messages()
    [patch] = message["PeersChangedPatch"]
    assert patch["KeyExpiry"] <= time_text(net.wall)
    assert net.retired() == [bob.key.public]
    assert not net.server.admits(bob.key.public, net.now)


def test_expired_node_can_be_brought_back_on_its_stream(net: FakeTailnet) -> None:
    alice, bob = net.joined("alice", "bob")
    net.server.expire(bob.number, net.wall - 1, net.now)
    net.after(0.1)
    assert bob.messages()[-1]["Node"]["KeyExpiry"] <= time_text(net.wall)
    alice.messages()
    net.server.expire(bob.number, None, net.now)
    net.after(0.1)
    assert "KeyExpiry" not in bob.messages()[-1]["Node"]
    [entry] = alice.messages()[-1]["PeersChanged"]
    assert "KeyExpiry" not in entry
    assert "Expired" not in entry
    assert net.server.admits(bob.key.public, net.now)


def test_deleted_node_is_told_by_its_key_expiry(net: FakeTailnet) -> None:
    alice, bob = net.joined("alice", "bob")
    number = bob.number
    net.retired()
    net.server.delete(number, net.now)
    [message] = bob.messages()
    assert message["Node"]["KeyExpiry"] < time_text(net.wall)
    assert bob.stream is not None
    assert bob.stream.ended
    net.after(0.1)
    assert alice.messages() == [{"PeersRemoved": [number]}]
    assert net.retired() == [bob.key.public]
    with pytest.raises(Refused, match="node not found") as caught:
        bob.map(OmitPeers=True)
    assert caught.value.status == 404


def test_ephemeral_node_is_removed_when_it_stays_away(net: FakeTailnet) -> None:
    alice = net.join("alice")
    bob = net.join("bob", net.auth_key(ephemeral=True))
    number = bob.number
    bob.close()
    net.after(119.0)
    assert number in net.server.directory.nodes
    alice.messages()
    net.after(1.1)
    assert alice.messages() == [{"PeersRemoved": [number]}]


def test_ephemeral_node_that_comes_back_stays(net: FakeTailnet) -> None:
    bob = net.join("bob", net.auth_key(ephemeral=True))
    bob.close()
    net.after(100.0)
    bob.poll()
    net.after(300.0)
    assert bob.number


def test_ephemeral_node_that_never_polled_is_removed(net: FakeTailnet) -> None:
    net.node("bob").register(net.auth_key(ephemeral=True))
    net.after(121.0)
    assert net.server.directory.nodes == {}


def test_ephemeral_nodes_have_their_time_after_a_restart(net: FakeTailnet) -> None:
    net.join("bob", net.auth_key(ephemeral=True))
    again = net.restarted()
    again.after(119.0)
    assert len(again.server.directory.nodes) == 1
    again.after(2.0)
    assert again.server.directory.nodes == {}


def test_ephemeral_by_request(net: FakeTailnet) -> None:
    bob = net.node("bob")
    bob.register(net.auth_key(), Ephemeral=True)
    bob.log_out()
    assert net.server.directory.nodes == {}


def test_logout_removes_an_ephemeral_node_at_once(net: FakeTailnet) -> None:
    alice = net.join("alice")
    bob = net.join("bob", net.auth_key(ephemeral=True))
    number = bob.number
    alice.messages()
    assert bob.log_out()["NodeKeyExpired"] is True
    net.after(0.1)
    assert alice.messages() == [{"PeersRemoved": [number]}]
    assert names([net.join("bob").poll()[0]["Node"]]) == ["bob"], "the name is free again"


# --- who sees whom ----------------------------------------------------------------------------------------------------


POLICY = """{"tagOwners": {"tag:web": [], "tag:db": []},
             "acls": [{"action": "accept", "src": ["tag:web"], "dst": ["tag:db:5432"]}]}"""


def test_nodes_that_no_rule_connects_do_not_know_each_other(net: FakeTailnet) -> None:
    net.server.set_policy(POLICY, net.now)
    web = net.join("web", net.auth_key(tags=("tag:web",)))
    db = net.join("db", net.auth_key(tags=("tag:db",)))
    net.join("other")
    assert names(web.poll()[0]["Peers"]) == ["db"]
    first = db.poll()[0]
    assert names(first["Peers"]) == ["web"]
    assert first["PacketFilters"]["base"] == [
        {
            "SrcIPs": ["100.64.0.1", "fd7a:115c:a1e0::1"],
            "DstPorts": [
                {"IP": "100.64.0.2", "Ports": {"First": 5432, "Last": 5432}},
                {"IP": "fd7a:115c:a1e0::2", "Ports": {"First": 5432, "Last": 5432}},
            ],
        }
    ]
    assert web.poll()[0]["PacketFilters"] == {"base": []}


def test_member_that_joins_changes_the_filters_it_is_in(net: FakeTailnet) -> None:
    net.server.set_policy(POLICY, net.now)
    db = net.join("db", net.auth_key(tags=("tag:db",)))
    other = net.join("other")
    web = net.join("web", net.auth_key(tags=("tag:web",)))
    update = merged(db.messages())
    assert update["PacketFilters"]["base"][0]["SrcIPs"] == ["100.64.0.3", "fd7a:115c:a1e0::3"]
    assert names(update["PeersChanged"])[0] == "web"
    assert other.messages() == []
    net.server.delete(web.number, net.now)
    net.after(0.1)
    assert db.messages() == [{"PacketFilters": {"base": []}}, {"PeersRemoved": [3]}]


def test_policy_change_tells_everybody_what_it_means(net: FakeTailnet) -> None:
    alice, bob = net.joined("alice", "bob")
    net.server.set_policy('{"acls": []}', net.now)
    net.after(0.1)
    assert alice.messages() == [{"PacketFilters": {"base": []}}, {"PeersRemoved": [bob.number]}]
    net.server.set_policy("{}", net.now)
    net.after(0.1)
    back = merged(alice.messages())
    assert names(back["PeersChanged"]) == ["bob"]
    assert back["PacketFilters"]["base"][0]["SrcIPs"] == ["*"]


def test_bad_policy_leaves_the_old_one(net: FakeTailnet) -> None:
    with pytest.raises(PolicyError):
        net.server.set_policy('{"acls": [{}]}', net.now)
    assert net.server.state.policy == "{}"


def test_node_attributes_are_capabilities_of_the_node_itself(net: FakeTailnet) -> None:
    net.server.set_policy('{"nodeAttrs": [{"target": ["*"], "attr": ["magicdns-aaaa"]}]}', net.now)
    alice, _ = net.join("alice"), net.join("bob")
    [first] = alice.poll()
    assert first["Node"]["CapMap"]["magicdns-aaaa"] == []
    assert "CapMap" not in first["Peers"][0]


# --- routes -----------------------------------------------------------------------------------------------------------


ROUTER: dict[str, Any] = {"RoutableIPs": ["10.1.0.0/16", "0.0.0.0/0", "::/0"]}


def allowed(node: dict[str, Any]) -> list[str]:
    return [prefix for prefix in node["AllowedIPs"] if prefix not in node["Addresses"]]


def test_routes_wait_for_approval(net: FakeTailnet) -> None:
    alice = net.join("alice")
    router = net.join("router", **ROUTER)
    assert allowed(alice.poll()[0]["Peers"][0]) == []
    approved = net.server.directory.nodes[router.number].hostinfo.routes
    net.server.approve_routes(router.number, frozenset(approved), net.now)
    net.after(0.1)
    [entry] = alice.messages()[-1]["PeersChanged"]
    assert allowed(entry) == ["10.1.0.0/16", "0.0.0.0/0", "::/0"]
    assert entry["PrimaryRoutes"] == ["10.1.0.0/16"]
    assert allowed(router.messages()[-1]["Node"]) == ["10.1.0.0/16", "0.0.0.0/0", "::/0"]


def test_policy_approves_routes_by_itself(net: FakeTailnet) -> None:
    net.server.set_policy(
        """{"tagOwners": {"tag:router": []}, "autoApprovers":
            {"routes": {"10.0.0.0/8": ["tag:router"]}, "exitNode": ["user@lab"]}}""",
        net.now,
    )
    tagged = net.join("tagged", net.auth_key(tags=("tag:router",)), **ROUTER)
    owned = net.join("owned", **ROUTER)
    assert allowed(tagged.poll()[0]["Node"]) == ["10.1.0.0/16"]
    assert allowed(owned.poll()[0]["Node"]) == ["0.0.0.0/0", "::/0"]


def test_subnet_moves_to_the_other_router_when_one_goes_offline(net: FakeTailnet) -> None:
    net.server.set_policy('{"autoApprovers": {"routes": {"10.0.0.0/8": ["autogroup:member"]}}}', net.now)
    alice = net.join("alice")
    one, two = net.join("one", RoutableIPs=["10.1.0.0/16"]), net.join("two", RoutableIPs=["10.1.0.0/16"])
    assert {peer["ID"]: allowed(peer) for peer in alice.poll()[0]["Peers"]} == {
        one.number: ["10.1.0.0/16"],
        two.number: [],
    }
    one.close()
    net.after(11.0)
    moved = {peer["ID"]: allowed(peer) for peer in merged(alice.messages())["PeersChanged"]}
    assert moved == {one.number: [], two.number: ["10.1.0.0/16"]}
    one.poll()
    net.after(1.0)
    assert "PeersChanged" not in merged(alice.messages()), "who carries it keeps it"


# --- odds and ends ----------------------------------------------------------------------------------------------------


def test_request_of_another_machine_is_refused(net: FakeTailnet) -> None:
    alice, mallory = net.join("alice"), net.join("mallory")
    mallory.key = alice.key
    with pytest.raises(Refused, match="does not match") as caught:
        mallory.map(OmitPeers=True)
    assert caught.value.status == 404


def test_old_client_is_refused(net: FakeTailnet) -> None:
    with pytest.raises(Refused, match="unsupported client version: 112"):
        net.join("alice").map(Version=112)


def test_ping_is_asked_and_answered(net: FakeTailnet) -> None:
    alice = net.join("alice")
    net.events()
    ping = net.server.ping(alice.number, net.now, types="c2n", payload=b"GET /echo HTTP/1.1\r\n\r\n", address="::1")
    [message] = alice.messages()
    request = message["PingRequest"]
    assert request["URLIsNoise"] is True
    assert request["IP"] == "::1"
    path = request["URL"].removeprefix("https://127.0.0.1:8443")
    with pytest.raises(Refused):
        net.server.answer_ping(path, net.key().public, b"")
    net.server.answer_ping(path, alice.machine.public, b"HTTP/1.1 200 OK\r\n\r\n")
    assert ping.answer == b"HTTP/1.1 200 OK\r\n\r\n"
    assert [event.outlet for event in net.events() if isinstance(event, Ready)][-1] is ping
    assert isinstance(ping, Ping)
    with pytest.raises(Refused):
        net.server.answer_ping(path, alice.machine.public, b"")


def test_ping_of_a_node_without_stream_is_refused(net: FakeTailnet) -> None:
    alice = net.join("alice")
    alice.close()
    with pytest.raises(Refused, match="no open map stream"):
        net.server.ping(alice.number, net.now)


def test_relay_map_and_dns_can_be_pushed(net: FakeTailnet) -> None:
    alice = net.join("alice")
    net.server.set_derp_map({"Regions": {}}, net.now)
    net.server.set_dns({"Resolvers": [{"Addr": "1.1.1.1"}]}, net.now)
    assert alice.messages() == [
        {"DERPMap": {"Regions": {}}},
        {"DNSConfig": {"Proxied": True, "Domains": ["lab.internal"], "Resolvers": [{"Addr": "1.1.1.1"}]}},
    ]
    assert "Resolvers" in alice.poll()[0]["DNSConfig"]


def test_clock_of_the_machine_is_followed(net: FakeTailnet) -> None:
    net.server.set_clock(net.now, WALL)
    assert net.server.wall(net.now + 1.0) == WALL + 1.0


def test_names_of_requests_are_matched_without_case(net: FakeTailnet) -> None:
    alice, rust = net.join("alice"), net.node("rust")
    hostinfo = {"Hostname": "rust", "Os": "linux", "IpnVersion": "0.5", "RoutableIps": ["10.0.0.0/24"]}
    request = {"Version": VERSION, "NodeKey": rust.key_text, "Hostinfo": hostinfo}
    request["Auth"] = {"AuthKey": net.auth_key()}
    net.server.register(rust.machine.public, body(request), net.now)
    rust.map(Stream=True, Hostinfo=None, HostInfo=hostinfo | {"NetInfo": {"PreferredDerp": 900}})
    net.after(0.1)
    [entry] = alice.messages()[-1]["PeersChanged"]
    assert entry["HomeDERP"] == 900
    assert entry["Hostinfo"] == {
        "Hostname": "rust",
        "OS": "linux",
        "IPNVersion": "0.5",
        "RoutableIPs": ["10.0.0.0/24"],
    }


def test_stream_is_named_when_there_is_something_to_send(net: FakeTailnet) -> None:
    alice = net.join("alice")
    net.events()
    net.join("bob")
    assert isinstance(alice.stream, MapStream)
    assert alice.stream in [event.outlet for event in net.events() if isinstance(event, Ready)]
