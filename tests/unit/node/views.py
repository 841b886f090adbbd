# SPDX-License-Identifier: BSD-3-Clause
"""A node of a tailnet as the LocalAPI sees it: netmaps as a server writes them, and what the data plane adds."""

from typing import Any

from tests.unit.control.netmaps import WALL, first, text
from ts4nsnet.keys import NODE_PREFIX, PublicKey
from ts4nsnet.node.view import PeerState, View

OWN_KEY, ALICE_KEY, BOB_KEY = (PublicKey(bytes([number]) * 32) for number in (9, 1, 2))
SELF = {
    "ID": 9,
    "StableID": "n9",
    "Name": "web.tail.example.",
    "User": 1,
    "Key": OWN_KEY.to_text(NODE_PREFIX),
    "Addresses": ["100.64.0.9/32", "fd7a:115c:a1e0::9/128"],
    "AllowedIPs": ["100.64.0.9/32", "fd7a:115c:a1e0::9/128"],
    "MachineAuthorized": True,
    "Hostinfo": {"Hostname": "web", "OS": "linux"},
    "Created": text(WALL - 60),
}
ALICE = {
    "ID": 1,
    "StableID": "n1",
    "Name": "alice.tail.example.",
    "User": 1,
    "Sharer": 3,
    "Key": ALICE_KEY.to_text(NODE_PREFIX),
    "DiscoKey": "discokey:" + "0f" * 32,
    "Addresses": ["100.64.0.1/32", "fd7a:115c:a1e0::1/128"],
    "AllowedIPs": ["100.64.0.1/32", "fd7a:115c:a1e0::1/128", "0.0.0.0/0", "::/0"],
    "PrimaryRoutes": ["192.0.2.0/24"],
    "Endpoints": ["198.51.100.1:41641", "[2001:db8::1]:41641", "198.51.100.1:41641"],
    "HomeDERP": 900,
    "Cap": 130,
    "KeyExpiry": text(WALL + 60),
    "Online": True,
    "MachineAuthorized": True,
    "CapMap": {"https://example.com/cap": [{"a": 1}, "b"], "empty": None},
    "Hostinfo": {
        "Hostname": "Alice's",
        "OS": "linux",
        "Services": [{"Proto": "peerapi4", "Port": 1234}, {"Proto": "peerapi6", "Port": 1235}],
    },
}
BOB = {
    "ID": 2,
    "StableID": "n2",
    "Name": "bob.tail.example.",
    "User": 2,
    "Key": BOB_KEY.to_text(NODE_PREFIX),
    "Addresses": ["100.64.0.2/32"],
    "AllowedIPs": ["100.64.0.2/32"],
    "Tags": ["tag:db"],
    "Online": False,
    "LastSeen": text(WALL - 7200),
    "KeyExpiry": text(WALL - 60),
}
USERS = [
    {"ID": 1, "LoginName": "ann@example.com", "DisplayName": "Ann", "ProfilePicURL": "https://example.com/ann.png"},
    {"ID": 2, "LoginName": "tagged-devices", "DisplayName": "Tagged Devices"},
    {"ID": 3, "LoginName": "sue@example.org", "DisplayName": "Sue"},
]
MEMBERS: dict[str, Any] = {
    "Node": SELF,
    "Peers": [ALICE, BOB],
    "UserProfiles": USERS,
    "DERPMap": {"Regions": {"900": {"RegionID": 900, "RegionCode": "lab"}}},
    "DNSConfig": {
        "Proxied": True,
        "CertDomains": ["web.tail.example"],
        "ExtraRecords": [{"Name": "x.example", "Value": "100.64.0.5"}],
    },
    "Domain": "example.com",
    "Health": ["the server is tired"],
    "DisplayMessages": {"m": {"Title": "Key", "Text": "expires soon"}},
}


def view(**changes: Any) -> View:
    """The node `web`, which runs, with the direct path to alice in use; `changes` as in `View`."""
    alice = PeerState("198.51.100.1:41641", 1000, 2000, WALL - 30, WALL - 1, active=True)
    values: dict[str, Any] = {
        "at": WALL,
        "hostname": "web",
        "node_key": OWN_KEY,
        "netmap": first(**MEMBERS),
        "ready": True,
        "online": True,
        "home_region": 900,
        "endpoints": ("192.0.2.9:41641",),
        "peers": {ALICE_KEY: alice},
    }
    return View(**(values | changes))
