# SPDX-License-Identifier: BSD-3-Clause
"""From the JSON of a map stream to values: every member, older and newer forms, and what is malformed."""

import json
from ipaddress import ip_address
from typing import Any

import pytest

from ts4nsnet.control.errors import Malformed
from ts4nsnet.control.messages import DialCandidate, MapResponse, PingRequest, RuleSet
from ts4nsnet.control.node import DisplayMessage, Node, UserProfile
from ts4nsnet.control.wire import parse_map_response, read_map_response
from ts4nsnet.filter import Rule, parse_ranges

HEX = "0f" * 32


def read(**members: Any) -> MapResponse:
    return read_map_response(json.dumps(members).encode())


def test_an_empty_message_says_nothing() -> None:
    assert read() == MapResponse()


def test_null_says_nothing_either() -> None:
    names = [
        *("KeepAlive", "MapSessionHandle", "Seq", "PingRequest", "PopBrowserURL", "Node", "DERPMap", "Peers", "Domain"),
        *("PeersChanged", "PeersRemoved", "PeersChangedPatch", "PeerSeenChange", "OnlineChange", "DNSConfig", "Debug"),
        *("PacketFilter", "PacketFilters", "UserProfiles", "Health", "DisplayMessages", "ControlTime"),
        *("ControlDialPlan", "SSHPolicy", "TKAInfo", "CollectServices", "ClientVersion"),
    ]
    assert read(**dict.fromkeys(names)) == MapResponse()


def test_what_keeps_the_stream_going() -> None:
    response = read(
        KeepAlive=True,
        MapSessionHandle="abc",
        Seq=7,
        PopBrowserURL="https://login.example/a",
        ControlTime="2026-11-23T06:16:14Z",
    )
    assert response == MapResponse(
        keep_alive=True,
        session_handle="abc",
        sequence=7,
        pop_browser_url="https://login.example/a",
        control_time=1795414574.0,
    )


@pytest.mark.parametrize(("seconds", "time"), [(1.5, 1.5), (0, 0.0), (-1, 0.0), (301, 300.0), (1e300, 300.0)])
def test_a_server_can_ask_for_silence_but_not_for_ever(seconds: float, time: float) -> None:
    assert read(Debug={"SleepSeconds": seconds, "Exit": 1, "DisableLogTail": True}).sleep_time == time


def test_ping_requests() -> None:
    assert read(PingRequest={"URL": "https://a/b"}).ping_request == PingRequest("https://a/b")
    full = {"URL": "/c", "URLIsNoise": True, "Log": True, "Types": "disco,TSMP", "IP": "100.64.0.1", "Payload": "AAE="}
    assert read(PingRequest=full).ping_request == PingRequest(
        "/c", url_is_noise=True, log=True, types="disco,TSMP", ip=ip_address("100.64.0.1"), payload=b"\0\1"
    )


def test_a_dial_plan_holds_the_candidates_that_have_an_address() -> None:
    candidates = [
        {"IP": "192.0.2.1", "DialStartDelaySec": 0.5, "DialTimeoutSec": 10, "Priority": 2},
        {"ACEHost": "ace.example", "Priority": 3},
        {"IP": "2001:db8::1", "DialStartDelaySec": -1},
    ]
    assert read(ControlDialPlan={"Candidates": candidates}).dial_plan == (
        DialCandidate(ip_address("192.0.2.1"), 0.5, 10.0, 2),
        DialCandidate(ip_address("2001:db8::1")),
    )
    assert read(ControlDialPlan={}).dial_plan == ()


def test_an_empty_list_of_all_peers_says_nothing() -> None:
    assert read(Peers=[]).peers is None
    assert read(Peers=[{"ID": 1}]).peers == (Node(1),)


def test_changes_of_peers() -> None:
    response = read(
        PeersChanged=[{"ID": 1}],
        PeersRemoved=[2, 0, -3],
        PeerSeenChange={"3": True, "4": False},
        OnlineChange={"5": True, "-6": False},
        UserProfiles=[{"ID": 7, "LoginName": "a", "DisplayName": "b", "ProfilePicURL": "c", "Groups": ["d"]}],
    )
    assert response == MapResponse(
        peers_changed=(Node(1),),
        peers_removed=(2, 0, -3),
        seen={3: True, 4: False},
        online={5: True, -6: False},
        user_profiles=(UserProfile(7, "a", "b", "c"),),
    )


def test_named_filters_and_their_removal() -> None:
    filters = read(PacketFilters={"*": None, "base": [], "web": [{"SrcIPs": ["*"]}], "gone": None}).filters
    assert filters == {"*": None, "base": RuleSet(), "web": RuleSet((Rule(parse_ranges("*")),)), "gone": None}


def test_messages_for_people() -> None:
    full = {
        "Title": "t",
        "Text": "u",
        "Severity": "catastrophic",
        "ImpactsConnectivity": True,
        "PrimaryAction": {"URL": "v", "Label": "w"},
    }
    response = read(Health=["a", "b"], DisplayMessages={"*": None, "x": full, "y": {}, "z": None})
    assert response.health == ("a", "b")
    assert response.display_messages == {
        "*": None,
        "x": DisplayMessage("t", "u", "catastrophic", True, "v", "w"),
        "y": DisplayMessage(),
        "z": None,
    }
    assert read(Health=[]).health == ()


def test_what_no_client_needs_may_have_any_form() -> None:
    names = ["SSHPolicy", "TKAInfo", "ClientVersion", "CollectServices", "DefaultAutoUpdate", "SomethingNew"]
    assert read(**{name: [{"x": 1}] for name in names}) == MapResponse()


def test_no_part_of_the_model_depends_on_the_json() -> None:
    peers = [{"ID": 1, "CapMap": {"a": [{"b": 1}]}, "Tags": ["x"]}]
    message = {"Peers": peers, "PeersRemoved": [1], "Health": ["y"]}
    response = parse_map_response(message)
    message.clear()
    assert response.peers == (Node(1, capabilities={"a": ('{"b":1}',)}, tags=("x",)),)
    assert peers == [None]  # taken apart


MALFORMED: list[tuple[str, dict[str, Any]]] = [
    ("KeepAlive", {"KeepAlive": 1}),
    ("Seq", {"Seq": "1"}),
    ("Node", {"Node": []}),
    ("Node.ID", {"Node": {}}),
    ("Node.ID", {"Node": {"ID": 0}}),
    ("Node.Key", {"Node": {"ID": 1, "Key": "mkey:" + HEX}}),
    ("Node.Addresses[1]", {"Node": {"ID": 1, "Addresses": ["100.64.0.1/32", "100.64.0.1"]}}),
    ("Node.AllowedIPs[0]", {"Node": {"ID": 1, "AllowedIPs": [1]}}),
    ("Node.Endpoints[0]", {"Node": {"ID": 1, "Endpoints": ["192.0.2.1"]}}),
    ("Node.Endpoints[0]", {"Node": {"ID": 1, "Endpoints": ["192.0.2.1:65536"]}}),
    ("Node.Endpoints[0]", {"Node": {"ID": 1, "Endpoints": ["2001:db8::1:1"]}}),
    ("Node.Endpoints[0]", {"Node": {"ID": 1, "Endpoints": ["[192.0.2.1]:1"]}}),
    ("Node.Endpoints[0]", {"Node": {"ID": 1, "Endpoints": ["[fe80::1%eth0]:1"]}}),
    ("Node.Hostinfo", {"Node": {"ID": 1, "Hostinfo": "x"}}),
    ("Node.Hostinfo.Services[0].Port", {"Node": {"ID": 1, "Hostinfo": {"Services": [{"Port": 70000}]}}}),
    ("Node.CapMap", {"Node": {"ID": 1, "CapMap": {"a": {}}}}),
    ("Node.CapMap", {"Node": {"ID": 1, "CapMap": {"a": [float("inf")]}}}),
    ("Node.HomeDERP", {"Node": {"ID": 1, "HomeDERP": -1}}),
    ("Node.Online", {"Node": {"ID": 1, "Online": "yes"}}),
    ("Node.KeyExpiry", {"Node": {"ID": 1, "KeyExpiry": "never"}}),
    ("Peers", {"Peers": {}}),
    ("Peers[0]", {"Peers": [None]}),
    ("Peers[1].Name", {"Peers": [{"ID": 1}, {"ID": 2, "Name": 1}]}),
    ("PeersChanged[0].Tags[0]", {"PeersChanged": [{"ID": 1, "Tags": [None]}]}),
    ("PeersRemoved", {"PeersRemoved": ["1"]}),
    ("PeersChangedPatch[0].NodeID", {"PeersChangedPatch": [{"NodeID": True}]}),
    ("PeersChangedPatch[0].Key", {"PeersChangedPatch": [{"NodeID": 1, "Key": ""}]}),
    ("PeerSeenChange", {"PeerSeenChange": {"x": True}}),
    ("PeerSeenChange", {"PeerSeenChange": {"9" * 30: True}}),
    ("OnlineChange[3]", {"OnlineChange": {"3": None}}),
    ("DERPMap.Regions", {"DERPMap": {"Regions": {"0": {}}}}),
    ("DERPMap.Regions[1]", {"DERPMap": {"Regions": {"1": []}}}),
    ("DERPMap.Regions[1].Nodes[0].DERPPort", {"DERPMap": {"Regions": {"1": {"Nodes": [{"DERPPort": -1}]}}}}),
    ("DERPMap.HomeParams.RegionScore[1]", {"DERPMap": {"HomeParams": {"RegionScore": {"1": "x"}}}}),
    ("DNSConfig.Resolvers[0].Addr", {"DNSConfig": {"Resolvers": [{"Addr": 1}]}}),
    ("DNSConfig.Routes.a[0]", {"DNSConfig": {"Routes": {"a": [1]}}}),
    ("DNSConfig.Routes.a", {"DNSConfig": {"Routes": {"a": {}}}}),
    ("PacketFilter[0].SrcIPs[0]", {"PacketFilter": [{"SrcIPs": [1]}]}),
    ("PacketFilter[0].IPProto", {"PacketFilter": [{"IPProto": [True]}]}),
    ("PacketFilter[0].DstPorts[0].Ports.First", {"PacketFilter": [{"DstPorts": [{"Ports": {"First": 65536}}]}]}),
    ("PacketFilters.a[0].CapGrant[0].Dsts[0]", {"PacketFilters": {"a": [{"CapGrant": [{"Dsts": ["x"]}]}]}}),
    ("UserProfiles[0].ID", {"UserProfiles": [{"ID": "1"}]}),
    ("Health[0]", {"Health": [{}]}),
    ("DisplayMessages.a", {"DisplayMessages": {"a": 1}}),
    ("DisplayMessages.a.PrimaryAction", {"DisplayMessages": {"a": {"PrimaryAction": 1}}}),
    ("ControlTime", {"ControlTime": 1}),
    ("Debug.SleepSeconds", {"Debug": {"SleepSeconds": "1"}}),
    ("PingRequest.IP", {"PingRequest": {"IP": "x"}}),
    ("ControlDialPlan.Candidates[0].IP", {"ControlDialPlan": {"Candidates": [{"IP": "x"}]}}),
]


@pytest.mark.parametrize(("path", "message"), MALFORMED)
def test_what_is_malformed_is_named_by_its_path(path: str, message: dict[str, Any]) -> None:
    with pytest.raises(Malformed) as raised:
        parse_map_response(message)
    assert raised.value.path == path


def test_capabilities_nested_too_deep_to_be_written_again_are_malformed() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(Malformed, match=r"Node\.CapMap: got a list, want"):
        parse_map_response({"Node": {"ID": 1, "CapMap": {"a": value}}})


def test_the_path_of_an_error_can_be_shown_whatever_the_keys_are() -> None:
    with pytest.raises(Malformed) as raised:
        parse_map_response({"PacketFilters": {"\ud800" * 1000: 1}})
    assert len(str(raised.value).encode()) < 300
