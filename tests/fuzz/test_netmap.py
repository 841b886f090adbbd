# SPDX-License-Identifier: BSD-3-Clause
"""Damaged messages of the map stream: recorded ones with something of the wrong kind in some place, and broken bytes.

A message is taken from the recorded streams, or is one with every member that the recorded ones do not have; one to
three places in it get another value (of another type, too great, nested too deep, no Unicode), a member more, one less,
or one twice; or its bytes are damaged. It is then read and applied, to nothing and to what there was. It either counts
or is `Malformed`, whose text can be shown; a netmap that came about can be asked everything.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import Any

from ts4nsnet.control.errors import Malformed
from ts4nsnet.control.netmap import NetMap, NetMapDelta
from ts4nsnet.control.wire import read_map_response

CASES = 500_000 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 10_000
FOLDER = Path(__file__).parents[1] / "vectors" / "headscale"
WALL = 1.8e9

# members that are in no recorded message
RARE: dict[str, Any] = {
    "KeepAlive": False,
    "MapSessionHandle": "x",
    "Seq": 1,
    "PingRequest": {"URL": "https://a/b", "URLIsNoise": True, "Types": "c2n", "IP": "100.64.0.1", "Payload": "AAE="},
    "PopBrowserURL": "https://a/b",
    "Node": {
        "ID": 9,
        "Name": "x.y.",
        "DERP": "127.3.3.40:1",
        "Capabilities": ["a"],
        "CapMap": {"a": [{"b": [1, None]}], "c": None},
        "SelfNodeV4MasqAddrForThisPeer": "100.64.0.1",
        "ExitNodeDNSResolvers": [{"Addr": "1.1.1.1", "BootstrapResolution": ["1.1.1.1"]}],
        "Tags": ["tag:a"],
        "KeySignature": "AAE=",
        "UnsignedPeerAPIOnly": True,
    },
    "PeersChanged": [{"ID": 1, "Addresses": ["100.64.0.1/32"], "UnsignedPeerAPIOnly": True}],
    "PeersChangedPatch": [
        {"NodeID": 1, "Online": True, "LastSeen": "2026-11-23T06:16:14.1+01:00", "CapMap": {"a": [1]}}
    ],
    "PeerSeenChange": {"1": True},
    "OnlineChange": {"2": False},
    "DERPMap": {"Regions": {"1": {"Nodes": [{"Name": "a"}]}, "2": None}, "HomeParams": {"RegionScore": {"1": 0.5}}},
    "DNSConfig": {
        "Resolvers": [{"Addr": "1.1.1.1", "UseWithExitNode": True}],
        "Routes": {"a.": [{"Addr": "x:y"}]},
        "ExtraRecords": [{"Name": "a", "Type": "A", "Value": "1.1.1.1"}],
        "CertDomains": ["a"],
        "ExitNodeFilteredSet": [".a"],
    },
    "PacketFilter": [
        {"SrcIPs": ["cap:a", "1.1.1.1-2.2.2.2"], "IPProto": [6], "DstPorts": [{"IP": "::/0", "Ports": {}}]}
    ],
    "PacketFilters": {"*": None, "a": [{"SrcIPs": ["*"], "CapGrant": [{"Dsts": ["::/0"], "CapMap": {"a": [1]}}]}]},
    "Health": ["a"],
    "DisplayMessages": {"a": {"Title": "b", "PrimaryAction": {"URL": "c"}}, "*": None},
    "Debug": {"SleepSeconds": 1.5},
    "ControlDialPlan": {"Candidates": [{"IP": "192.0.2.1", "DialStartDelaySec": 0.5, "Priority": 1}]},
}

# as JSON, since Python's own values cannot be all of these
JUNK = [
    *(b"null", b"true", b"false", b"0", b"-1", b"1", b"1.5", b"1e999", b"-0", b"1" * 30, b"9" * 5000, b"NaN"),
    *(
        b'""',
        b'"x"',
        b'"*"',
        b'"\\ud800"',
        b'"\\udfff\\ud800x"',
        b'"\xff\xfe"',
        b'"\\u0000"',
        b'"' + b"x" * 5000 + b'"',
    ),
    *(b"[]", b"{}", b"[null]", b"[[]]", b"[{}]", b'{"":null}', b'{"x":[]}', b'{"\\ud800":1}', b'{"-1":true}'),
    *(b"[" * 400 + b"]" * 400, b"[" * 20_000 + b"]" * 20_000, b'{"a":' * 400 + b"1" + b"}" * 400, b"[" * 50),
    *(
        b'"0001-01-01T00:00:00Z"',
        b'"9999-12-31T23:59:59.9-23:59"',
        b'"fe80::1%eth0/64"',
        b'"::1/0128"',
        b'"1.1.1.1:+1"',
    ),
    *(b'"1.2.3.4/32"', b'"\xd9\xa0.0.0.0"', b'"[::]:0"', b'"127.3.3.40:999999999"', b'"cap:"', b'"1.1.1.1-"', b'"/"'),
]
MARK = "@the damage@"


def corpus() -> list[dict[str, Any]]:
    lines = [line for path in sorted(FOLDER.glob("*.jsonl")) for line in path.read_text().splitlines()]
    assert len(lines) > 50
    return [json.loads(line)["response"] for line in lines] + [RARE] * 20


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in the message, with each of its keys or indices."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from places(value[key])


def damaged(random: Random, message: dict[str, Any]) -> bytes:
    """The message with one to three places changed."""
    message = json.loads(json.dumps(message))
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        every = list(places(message))
        if not every:
            break
        container, key = random.choice(every)
        kind = random.randrange(6)
        if kind == 0:
            del container[key]
        elif kind == 1:
            other, at = random.choice(every)
            container[key] = json.loads(json.dumps(other[at]))
        elif kind == 2 and isinstance(container, dict):
            container[f"{MARK}{key}"] = container[key]  # twice, once the mark is gone
        else:
            container[key] = MARK
    data = json.dumps(message).encode()
    while f'"{MARK}"'.encode() in data:
        data = data.replace(f'"{MARK}"'.encode(), random.choice(JUNK), 1)
    data = data.replace(MARK.encode(), b"")
    return broken(random, data) if random.random() < 0.1 else data


def broken(random: Random, data: bytes) -> bytes:
    """Some bytes other, fewer, or more."""
    at = random.randrange(len(data) + 1)
    more = random.randbytes(random.randrange(3))
    return data[:at] + more + data[at + random.choice([0, 1, 1, 1, 100, 100_000]) :]


def ask_everything(netmap: NetMap) -> None:
    assert netmap.magic_dns_suffix is not None
    assert NetMapDelta.between(None, netmap)
    assert netmap.next_expiry(WALL) is None or netmap.next_expiry(WALL)
    for node in (netmap.self_node, *netmap.peers.values()):
        assert netmap.is_expired(node, WALL) in {True, False}
        assert f"{node.name}{node.host_name}{node.hostinfo.host_name}{node.tags}".encode()
        assert all(ip_address(str(address)) for address in node.addresses)
        assert all(json.loads(value) is not MARK for values in node.capabilities.values() for value in values)
    assert str(netmap.dns).encode()
    assert str(netmap.derp_map).encode()


def test_damaged_messages_count_or_are_malformed() -> None:
    random = Random(77)
    messages = corpus()
    netmap = NetMap.first(read_map_response(json.dumps(messages[0]).encode()), WALL)
    outcomes: Counter[str] = Counter()
    for case in range(CASES):
        data = damaged(random, random.choice(messages))
        try:
            response = read_map_response(data)
            after, delta = netmap.apply(response, WALL)
            assert bool(delta) in {True, False}
            ask_everything(after)
            if random.random() < 0.1 and len(after.peers) < 50:
                netmap = after
            ask_everything(NetMap.first(response, WALL))
        except Malformed as malformed:
            text = str(malformed)
            outcomes["malformed" if len(text.encode()) < 600 else f"too long: {text}"] += 1
        except Exception as error:
            raise AssertionError(f"case {case}: {data[:2000]!r}") from error
        else:
            outcomes["first"] += 1
    assert set(outcomes) == {"malformed", "first"}
    assert outcomes["malformed"] > CASES / 4
    assert outcomes["first"] > CASES / 20
