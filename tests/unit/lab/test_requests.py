# SPDX-License-Identifier: BSD-3-Clause
"""What clients may send: read without regard to case, cleaned, and refused with the path when it is wrong."""

import copy
import json
from contextlib import suppress
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.lab.tailnet import FakeTailnet
from ts4nsnet.lab.errors import Refused
from ts4nsnet.lab.model import Service
from ts4nsnet.lab.requests import MAX_ENDPOINTS, MAX_TEXT_CHARACTERS, MapRequest, RegisterRequest, clean

NODE_KEY = "nodekey:" + "11" * 32
VALID: dict[str, Any] = {
    "Version": 130,
    "NodeKey": NODE_KEY,
    "OldNodeKey": "nodekey:" + "00" * 32,
    "DiscoKey": "discokey:" + "22" * 32,
    "Auth": {"AuthKey": "tskey-auth-x"},
    "Expiry": "2030-01-01T00:00:00.123456789Z",
    "Stream": True,
    "Hostinfo": {
        "Hostname": "alice",
        "OS": "linux",
        "IPNVersion": "1.2.3",
        "RoutableIPs": ["10.0.0.1/8", "10.0.0.0/8", "::/0"],
        "RequestTags": ["tag:web", "tag:web"],
        "Services": [{"Proto": "peerapi4", "Port": 40000, "Description": "x"}],
        "ShieldsUp": False,
        "sshHostKeys": ['ssh-ed25519 "A"'],
        "NetInfo": {"PreferredDERP": 900, "DERPLatency": {"900-v4": 0.001}},
    },
    "Endpoints": ["192.0.2.1:41641", "[2001:DB8::1]:41641", "192.0.2.1:41641"],
    "EndpointTypes": [1, 2],
}


def parse(value: object) -> tuple[RegisterRequest, MapRequest]:
    body = json.dumps(value).encode()
    return RegisterRequest.parse(body), MapRequest.parse(body)


def lower(value: Any) -> Any:
    """The same with all names in lower case."""
    if isinstance(value, dict):
        return {name.lower(): lower(content) for name, content in value.items()}
    return [lower(each) for each in value] if isinstance(value, list) else value


def test_everything_is_read() -> None:
    register, request = parse(VALID)
    assert register.node_key == request.node_key
    assert register.old_node_key is None
    assert register.expiry_at == 1_893_456_000.123456
    assert request.home_derp == 900
    assert request.endpoints == ("192.0.2.1:41641", "[2001:db8::1]:41641")
    hostinfo = request.hostinfo
    assert hostinfo is not None
    assert hostinfo == register.hostinfo
    assert hostinfo.routes == (ip_network("10.0.0.0/8"), ip_network("::/0"))
    assert hostinfo.tags == ("tag:web",)
    assert hostinfo.services == (Service("peerapi4", 40000, "x"),)
    assert hostinfo.ssh_host_keys == ("ssh-ed25519 A",)
    assert "tskey" not in repr(register)


def test_case_of_names_does_not_matter() -> None:
    assert parse(lower(VALID)) == parse(VALID)


def test_absent_is_unchanged() -> None:
    _, request = parse({"Version": 130, "NodeKey": NODE_KEY, "Hostinfo": None, "Endpoints": None, "DiscoKey": None})
    assert (request.hostinfo, request.home_derp, request.endpoints, request.disco) == (None, None, None, None)


def test_endpoints_are_bounded() -> None:
    _, request = parse(VALID | {"Endpoints": [f"192.0.2.1:{port}" for port in range(100)]})
    assert request.endpoints is not None
    assert len(request.endpoints) == MAX_ENDPOINTS


@pytest.mark.parametrize(
    ("text", "shown"),
    [('a"b\\c', "abc"), ("a\nb\x7f", "ab"), ("\ud800x", "x"), ("ü", "ü"), ("y" * 300, "y" * MAX_TEXT_CHARACTERS)],
)
def test_text_for_others_is_cleaned(text: str, shown: str) -> None:
    assert clean(text) == shown


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("Endpoints", ["x"], "Endpoints: got 'x', want address:port"),
        ("Endpoints", ["192.0.2.1:x"], "want address:port"),
        ("Endpoints", ["192.0.2.1:65536"], "want address:port"),
        ("Endpoints", ['fe80::1%"x":1'], "want address:port"),
        ("Endpoints", [1], "Endpoints: got list, want a list of texts"),
        ("Endpoints", ["x" * 300], "Endpoints: got list, want a list of texts"),
        ("Endpoints", ["1.1.1.1:1"] * 1025, "want a list of at most 1024"),
        ("Hostinfo", {"RoutableIPs": ["x"]}, "RoutableIPs: got 'x', want an address prefix"),
        ("Hostinfo", {"RoutableIPs": ["fe80::%x/64"]}, "want an address prefix"),
        ("Hostinfo", {"Services": [3]}, "Services[0]: got int, want an object"),
        ("Hostinfo", {"Services": [{"Port": "x"}]}, "Services[0].Port: got 'x', want a whole number"),
        ("Hostinfo", {"ShieldsUp": 1}, "Hostinfo.ShieldsUp: got int, want true or false"),
        ("Hostinfo", {"NetInfo": {"PreferredDERP": -1}}, "Hostinfo.NetInfo.PreferredDERP: got int"),
        ("Hostinfo", {"NetInfo": 7}, "Hostinfo.NetInfo: got int, want an object"),
        ("DiscoKey", "x", "DiscoKey: got 'x', want discokey:"),
        ("Stream", "yes", "Stream: got 'yes', want true or false"),
        ("Compress", "br", "Compress: got 'br', want zstd"),
        ("Compress", "x" * 300, "Compress: got '"),
        ("NodeKey", 'nodekey:"\n', "NodeKey: got 'nodekey:'"),
    ],
)
def test_wrong_field_is_named(name: str, value: object, message: str) -> None:
    with pytest.raises(Refused) as caught:
        MapRequest.parse(json.dumps(VALID | {name: value}).encode())
    assert caught.value.status == 400
    assert message in str(caught.value)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in a JSON value."""
    found = [path] if path else []
    names = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for name in names:
        found += paths(value[name], (*path, name))
    return found


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(paths(VALID)), ANY)
def test_mutant_is_read_or_refused(path: tuple[Any, ...], replacement: object) -> None:
    value = copy.deepcopy(VALID)
    place = value
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = replacement
    body = json.dumps(value).encode()
    net = FakeTailnet()
    machine = net.key().public
    good = VALID | {"Auth": {"AuthKey": net.auth_key()}}
    net.server.register(machine, json.dumps(good).encode(), net.now)
    watcher = net.join("watcher")
    with suppress(Refused):
        net.server.map(machine, body, net.now)
    with suppress(Refused):
        net.server.register(machine, body, net.now)
    net.after(1.0)
    watcher.messages()


@given(st.binary(max_size=50), st.integers(0, 500))
def test_damaged_text_is_read_or_refused(noise: bytes, where: int) -> None:
    body = json.dumps(VALID).encode()
    with suppress(Refused):
        MapRequest.parse(body[:where] + noise + body[where:])


def test_mutant_of_a_known_node_leaves_readable_maps() -> None:
    net = FakeTailnet()
    alice, bob = net.joined("alice", "bob")
    bob.hostname = '"q\\u\x00\ud800' + "z" * 300
    bob.hostinfo = {"OS": '"\\', "IPNVersion": "\x01", "Services": [{"Proto": '"', "Port": 1, "Description": "\\"}]}
    bob.update()
    net.after(0.1)
    [message] = alice.messages()
    assert message["PeersChanged"][0]["Hostinfo"]["Services"] == [{"Proto": "", "Port": 1}]
