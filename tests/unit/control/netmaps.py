# SPDX-License-Identifier: BSD-3-Clause
"""Netmaps made of messages as a server writes them, with what tests need of tailnets."""

import json
from datetime import UTC, datetime
from typing import Any

from ts4nsnet.control.netmap import NetMap, NetMapDelta
from ts4nsnet.control.wire import read_map_response

WALL = 1.8e9  # unix seconds, in 2027
ONE = {"ID": 1, "Name": "one.tail.example.", "Addresses": ["100.64.0.1/32"]}
TWO = {"ID": 2, "Name": "two.tail.example.", "Addresses": ["100.64.0.2/32"]}
SELF = {"ID": 9, "Name": "Self.Tail.Example.", "User": 1}
ALLOW_ALL = {"SrcIPs": ["*"], "DstPorts": [{"IP": "*", "Ports": {"First": 0, "Last": 65535}}]}
ALLOW_WEB = {"SrcIPs": ["100.64.0.7"], "DstPorts": [{"IP": "100.64.0.9", "Ports": {"First": 80, "Last": 80}}]}
DISCO = "discokey:" + "0f" * 32


def text(at: float) -> str:
    """A point in time, unix seconds, as a server writes it."""
    return datetime.fromtimestamp(at, UTC).isoformat()


def first(**members: Any) -> NetMap:
    """The netmap after a first message with these members."""
    return NetMap.first(read_map_response(json.dumps({"Node": SELF} | members).encode()), WALL)


def apply(netmap: NetMap, **members: Any) -> tuple[NetMap, NetMapDelta]:
    """The netmap after a later message."""
    return netmap.apply(read_map_response(json.dumps(members).encode()), WALL)
