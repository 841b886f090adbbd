# SPDX-License-Identifier: BSD-3-Clause
"""Nodes from JSON: every member, older and newer forms; and patches."""

import json
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from ts4nsnet.control.messages import MapResponse
from ts4nsnet.control.node import Hostinfo, Node
from ts4nsnet.control.wire import read_map_response
from ts4nsnet.dns import Resolver
from ts4nsnet.keys import PublicKey

HEX = "0f" * 32
KEY = PublicKey(bytes.fromhex(HEX))


def read(**members: Any) -> MapResponse:
    return read_map_response(json.dumps(members).encode())


def node(**members: Any) -> Node:
    parsed = read(Node={"ID": 1} | members).node
    assert parsed is not None
    return parsed


def test_the_least_node_is_its_id() -> None:
    assert node() == Node(1)


def test_every_member_of_a_node() -> None:
    assert node(
        ID=5,
        StableID="n5",
        Name="host.tail.example.",
        User=3,
        Sharer=4,
        Key=f"nodekey:{HEX}",
        KeyExpiry="1970-01-01T00:00:09Z",
        KeySignature="AAE=",
        Machine=f"mkey:{HEX}",
        DiscoKey=f"discokey:{HEX}",
        Addresses=["100.64.0.5/32", "fd7a::5/128"],
        AllowedIPs=["100.64.0.5/32", "fd7a::5/128", "192.0.2.0/24"],
        Endpoints=["192.0.2.9:41641", "[2001:db8::9]:1", "192.0.2.9:41641"],
        HomeDERP=900,
        Hostinfo={
            "Hostname": "Host",
            "OS": "linux",
            "Services": [
                {"Proto": "peerapi4", "Port": 4},
                {"Proto": "peerapi6", "Port": 6},
                {"Proto": "peerapi-dns-proxy", "Port": 1},
                {"Proto": "tcp", "Port": 22, "Description": "ssh"},
                {"Proto": "something new"},
            ],
            "NetInfo": {"PreferredDERP": "unread"},
        },
        Created="1970-01-01T00:00:01Z",
        Cap=131,
        Tags=["tag:web"],
        PrimaryRoutes=["192.0.2.0/24"],
        LastSeen="1970-01-01T00:00:02Z",
        Online=False,
        MachineAuthorized=True,
        Capabilities=["older", "https://tailscale.com/cap/ssh"],
        CapMap={
            "https://tailscale.com/cap/ssh": [1],
            "funnel": None,
            "service-host": [{"svc:x": ["100.100.1.1"]}, "ä"],
        },
        Expired=True,
        SelfNodeV4MasqAddrForThisPeer="100.64.9.9",
        SelfNodeV6MasqAddrForThisPeer="fd7a::99",
        IsWireGuardOnly=True,
        IsJailed=True,
        ExitNodeDNSResolvers=[{"Addr": "10.64.0.1"}],
        ComputedName=1,
        DataPlaneAuditLogID=1,
        SomethingNew={"a": 1},
    ) == Node(
        id=5,
        stable_id="n5",
        name="host.tail.example.",
        user=3,
        sharer=4,
        key=KEY,
        key_expiry=9.0,
        key_signature=b"\0\1",
        disco_key=KEY,
        addresses=(ip_address("100.64.0.5"), ip_address("fd7a::5")),
        allowed_ips=(ip_network("100.64.0.5/32"), ip_network("fd7a::5/128"), ip_network("192.0.2.0/24")),
        endpoints=(
            (ip_address("192.0.2.9"), 41641),
            (ip_address("2001:db8::9"), 1),
            (ip_address("192.0.2.9"), 41641),
        ),
        home_derp=900,
        hostinfo=Hostinfo("Host", "linux", 4, 6, True),
        created=1.0,
        cap=131,
        tags=("tag:web",),
        primary_routes=(ip_network("192.0.2.0/24"),),
        last_seen=2.0,
        online=False,
        machine_authorized=True,
        capabilities={
            "older": (),
            "https://tailscale.com/cap/ssh": ("1",),
            "funnel": (),
            "service-host": ('{"svc:x":["100.100.1.1"]}', '"\\u00e4"'),
        },
        expired=True,
        masquerade_v4=ip_address("100.64.9.9"),
        masquerade_v6=ip_address("fd7a::99"),
        wireguard_only=True,
        jailed=True,
        exit_node_resolvers=(Resolver("10.64.0.1"),),
    )


def test_what_a_node_is_called_and_whether_it_can_be_reached() -> None:
    assert node(Name="host.tail.example.").host_name == "host"
    assert not node().is_reachable
    assert node(HomeDERP=1).is_reachable
    assert node(DiscoKey=f"discokey:{HEX}").is_reachable
    assert node(IsWireGuardOnly=True).is_reachable


@pytest.mark.parametrize(
    ("members", "home"),
    [
        ({"DERP": "127.3.3.40:900"}, 900),
        ({"DERP": "127.3.3.40:900", "HomeDERP": 901}, 901),
        ({"DERP": "127.3.3.40:900", "HomeDERP": 0}, 900),
        ({"DERP": "127.3.3.41:900"}, 0),
        ({"DERP": "127.3.3.40:x"}, 0),
        ({"DERP": "127.3.3.40:" + "9" * 20}, 0),
        ({"DERP": ""}, 0),
    ],
)
def test_the_home_region_in_its_older_form(members: dict[str, Any], home: int) -> None:
    assert node(**members).home_derp == home


ADDRESSES = ["100.64.0.1/32", "fd7a::1/128"]
OWN = tuple(map(ip_network, ADDRESSES))


@pytest.mark.parametrize(
    ("members", "allowed_ips"),
    [
        ({}, OWN),
        ({"AllowedIPs": None}, OWN),
        ({"AllowedIPs": ADDRESSES}, OWN),
        ({"AllowedIPs": []}, ()),
        ({"AllowedIPs": ["192.0.2.0/24"]}, (ip_network("192.0.2.0/24"),)),
        ({"AllowedIPs": ["192.0.2.1/24", "0.0.0.0/0"]}, (ip_network("0.0.0.0/0"),)),
        ({"AllowedIPs": ["100.100.1.1/32", *ADDRESSES]}, (ip_network("100.100.1.1/32"), *OWN)),
        ({"AllowedIPs": ["0.0.0.0/0"], "UnsignedPeerAPIOnly": True}, OWN),
    ],
)
def test_allowed_ips_are_the_addresses_when_absent_or_not_to_be_trusted(
    members: dict[str, Any], allowed_ips: tuple[object, ...]
) -> None:
    assert node(Addresses=ADDRESSES, **members).allowed_ips == allowed_ips


def test_an_address_of_a_node_is_a_single_one() -> None:
    parsed = node(Addresses=["10.0.0.0/8", "100.64.0.1/32", "10.0.0.1/8"])
    assert parsed.addresses == (ip_address("100.64.0.1"),)


def test_a_patch_sets_what_is_in_it() -> None:
    (patch,) = read(
        PeersChangedPatch=[
            {
                "NodeID": 5,
                "DERPRegion": 3,
                "Cap": 140,
                "CapMap": {"a": [1]},
                "Endpoints": ["192.0.2.1:1"],
                "Key": f"nodekey:{HEX}",
                "KeySignature": "AAE=",
                "DiscoKey": f"discokey:{HEX}",
                "Online": False,
                "LastSeen": "1970-01-01T00:00:02Z",
                "KeyExpiry": "0001-01-01T00:00:00Z",
                "SomethingNew": 1,
            }
        ]
    ).peers_patched
    assert patch.id == 5
    assert patch.values == {
        "home_derp": 3,
        "cap": 140,
        "capabilities": {"a": ("1",)},
        "endpoints": ((ip_address("192.0.2.1"), 1),),
        "key": KEY,
        "key_signature": b"\0\1",
        "disco_key": KEY,
        "online": False,
        "last_seen": 2.0,
        "key_expiry": None,
    }


def test_a_patch_leaves_alone_what_is_absent_null_or_zero() -> None:
    names = ["Endpoints", "Key", "KeySignature", "DiscoKey", "Online", "LastSeen", "KeyExpiry", "CapMap"]
    (patch,) = read(PeersChangedPatch=[{"NodeID": 5, "DERPRegion": 0, "Cap": 0} | dict.fromkeys(names)]).peers_patched
    assert patch.values == {}


def test_a_patch_can_empty_what_is_a_list() -> None:
    (patch,) = read(PeersChangedPatch=[{"NodeID": 5, "Endpoints": [], "CapMap": {}}]).peers_patched
    assert patch.values == {"endpoints": (), "capabilities": {}}
