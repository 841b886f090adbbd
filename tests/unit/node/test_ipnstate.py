# SPDX-License-Identifier: BSD-3-Clause
"""What programs made for Tailscale's LocalAPI find in ours."""

import json
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

import ts4nsnet
from tests.unit.control.netmaps import first
from tests.unit.node.views import ALICE, ALICE_KEY, BOB, BOB_KEY, MEMBERS, OWN_KEY, SELF, USERS, view
from ts4nsnet.keys import NODE_PREFIX, ZERO_KEY, PublicKey
from ts4nsnet.node.ipnstate import backend_state, find, find_key, status_json, whois_json
from ts4nsnet.node.view import View
from ts4nsnet.uring.counters import Counters, Drop

NO_TIME = "0001-01-01T00:00:00Z"
ALICE_TEXT, BOB_TEXT = (key.to_text(NODE_PREFIX) for key in (ALICE_KEY, BOB_KEY))


def whois(shown: View, address: str) -> Any:
    node = find(shown, ip_address(address))
    assert node
    return whois_json(shown, node)


# --- status ---------------------------------------------------------------------------------------------------------


def test_a_node_without_a_netmap_has_a_status() -> None:
    status = status_json(View(1.8e9, "web", login_url="https://example.com/a/1", health=("no relay",)))
    assert status["BackendState"] == "NeedsLogin"
    assert status["AuthURL"] == "https://example.com/a/1"
    assert status["HaveNodeKey"] is False
    assert status["Health"] == ["no relay"]
    assert status["Self"]["HostName"] == "web"
    assert status["Self"]["PublicKey"] == "nodekey:" + "00" * 32
    assert status["Self"]["InNetworkMap"] is False
    assert (status["TailscaleIPs"], status["Peer"], status["User"], status["CurrentTailnet"]) == ([], {}, {}, None)


def test_a_status_says_which_tailnet_it_is() -> None:
    status = status_json(view(health=("ours",)))
    assert status["Version"] == ts4nsnet.__version__
    assert status["TUN"] is status["HaveNodeKey"] is True
    assert status["BackendState"] == "Running"
    assert status["TailscaleIPs"] == ["100.64.0.9", "fd7a:115c:a1e0::9"]
    assert status["MagicDNSSuffix"] == "tail.example"
    tailnet = {"Name": "example.com", "MagicDNSSuffix": "tail.example", "MagicDNSEnabled": True}
    assert status["CurrentTailnet"] == tailnet
    assert status["CertDomains"] == ["web.tail.example"]
    assert status["ExtraRecords"] == [{"Name": "x.example", "Value": "100.64.0.5"}]
    assert status["Health"] == ["ours", "the server is tired", "Key: expires soon"]
    assert "ExitNodeStatus" not in status


def test_a_status_says_what_carries_the_packets() -> None:
    counters = Counters(read_frames=3, dropped=Counter({Drop.SEND_FORBIDDEN: 2}))
    shown = view(engine="epoll", offloads={"udp-gso": "in use"}, counted=counters.statistics())
    engine = json.loads(json.dumps(status_json(shown)["Engine"]))
    assert (engine["Name"], engine["Offloads"], engine["Dropped"]) == (
        "epoll",
        {"udp-gso": "in use"},
        {"send forbidden": 2},
    )
    assert (engine["Counters"]["read_frames"], engine["Counters"]["sent_trains"]) == (3, 0)
    assert status_json(View(1.8e9, "web"))["Engine"] == {"Name": "", "Offloads": {}, "Counters": {}, "Dropped": {}}


def test_a_status_says_who_owns_the_nodes() -> None:
    assert status_json(view())["User"] == {str(user["ID"]): user for user in USERS}


def test_a_status_says_who_we_are() -> None:
    own = status_json(view())["Self"]
    assert own["ID"] == "n9"
    assert own["PublicKey"] == OWN_KEY.to_text(NODE_PREFIX)
    assert (own["HostName"], own["DNSName"], own["OS"]) == ("web", "web.tail.example.", "linux")
    assert own["Addrs"] == ["192.0.2.9:41641"]
    assert (own["Relay"], own["CurAddr"]) == ("lab", "")
    assert own["Online"] is own["InNetworkMap"] is True
    assert own["Created"] == "2027-01-15T07:59:00Z"
    assert own["LastSeen"] == NO_TIME


def test_a_peer_in_use_has_its_path_and_its_traffic() -> None:
    alice = status_json(view())["Peer"][ALICE_TEXT]
    assert (alice["ID"], alice["NodeID"], alice["UserID"], alice["AltSharerUserID"]) == ("n1", 1, 1, 3)
    assert (alice["HostName"], alice["DNSName"]) == ("Alice's", "alice.tail.example.")
    assert alice["TailscaleIPs"] == ["100.64.0.1", "fd7a:115c:a1e0::1"]
    assert alice["AllowedIPs"] == ALICE["AllowedIPs"]
    assert alice["PrimaryRoutes"] == ["192.0.2.0/24"]
    assert alice["Addrs"] == ["198.51.100.1:41641", "[2001:db8::1]:41641"]
    assert (alice["CurAddr"], alice["Relay"], alice["PeerRelay"]) == ("198.51.100.1:41641", "lab", "")
    assert (alice["RxBytes"], alice["TxBytes"]) == (1000, 2000)
    assert alice["LastHandshake"] == "2027-01-15T07:59:30Z"
    assert alice["LastWrite"] == "2027-01-15T07:59:59Z"
    assert alice["KeyExpiry"] == "2027-01-15T08:01:00Z"
    assert alice["PeerAPIURL"] == ["http://100.64.0.1:1234", "http://[fd7a:115c:a1e0::1]:1235"]
    assert alice["CapMap"] == {"https://example.com/cap": [{"a": 1}, "b"], "empty": []}
    assert alice["Capabilities"] == ["empty", "https://example.com/cap"]
    assert alice["Online"] is alice["Active"] is alice["InEngine"] is alice["InMagicSock"] is True
    assert (alice["ExitNodeOption"], alice["ExitNode"]) == (True, False)
    assert "Expired" not in alice


def test_a_peer_of_which_nothing_is_known_is_shown_too() -> None:
    bob = status_json(view())["Peer"][BOB_TEXT]
    assert bob["Tags"] == ["tag:db"]
    assert bob["LastSeen"] == "2027-01-15T06:00:00Z"
    assert bob["LastHandshake"] == bob["LastWrite"] == bob["Created"] == NO_TIME
    assert (bob["CurAddr"], bob["Relay"], bob["RxBytes"], bob["TxBytes"]) == ("", "", 0, 0)
    assert bob["Expired"] is True
    for member in ("Online", "Active", "InEngine", "InMagicSock", "ExitNode", "ExitNodeOption"):
        assert bob[member] is False
    assert not {"AltSharerUserID", "PrimaryRoutes", "CapMap", "Capabilities"} & bob.keys()


def test_a_status_may_leave_the_peers_out() -> None:
    status = status_json(view(), peers=False)
    assert status["Peer"] == {}
    assert status["User"] == {"1": USERS[0]}
    assert status["Self"] == status_json(view())["Self"]


def test_the_exit_node_is_named() -> None:
    status = status_json(view(exit_node=1))
    exit_node = {"ID": "n1", "Online": True, "TailscaleIPs": ["100.64.0.1/32", "fd7a:115c:a1e0::1/128"]}
    assert status["ExitNodeStatus"] == exit_node
    assert [peer["ID"] for peer in status["Peer"].values() if peer["ExitNode"]] == ["n1"]


def test_an_exit_node_that_has_left_is_not() -> None:
    assert "ExitNodeStatus" not in status_json(view(exit_node=7))


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "Running"),
        ({"ready": False}, "Starting"),
        ({"netmap": None, "ready": False}, "Starting"),
        ({"netmap": None, "login_url": "https://example.com"}, "NeedsLogin"),
        ({"netmap": first(Node=SELF | {"MachineAuthorized": False})}, "NeedsMachineAuth"),
        ({"leaving": True}, "Stopped"),
    ],
)
def test_a_word_for_each_state(changes: dict[str, Any], state: str) -> None:
    assert backend_state(view(**changes)) == state


def test_a_time_in_no_year_is_no_time() -> None:
    peer = BOB | {"LastSeen": "9999-12-31T23:59:59-12:00"}
    status = status_json(view(netmap=first(**MEMBERS | {"Peers": [peer]})))
    assert status["Peer"][BOB_TEXT]["LastSeen"] == NO_TIME


def test_a_status_is_json() -> None:
    for shown in (view(), view(exit_node=1), View(0.0, "web")):
        assert json.loads(json.dumps(status_json(shown), allow_nan=False)) == status_json(shown)


# --- whois ----------------------------------------------------------------------------------------------------------


def test_a_node_is_found_by_its_addresses_and_its_key() -> None:
    shown = view()
    assert shown.netmap
    for address, number in (("100.64.0.1", 1), ("fd7a:115c:a1e0::1", 1), ("100.64.0.2", 2), ("100.64.0.9", 9)):
        node = find(shown, ip_address(address))
        assert node
        assert node.id == number
    assert find_key(shown, BOB_KEY) == shown.netmap.peers[2]
    assert find_key(shown, OWN_KEY) == shown.netmap.self_node


def test_who_is_not_there_is_not_found() -> None:
    assert find(view(), ip_address("192.0.2.7")) is None
    assert find(view(), ip_address("100.64.0.3")) is None
    assert find(view(netmap=None), ip_address("100.64.0.1")) is None
    assert find_key(view(), PublicKey(bytes([7]) * 32)) is None
    assert find_key(view(netmap=None), BOB_KEY) is None
    assert find_key(view(netmap=first(Node={"ID": 9})), ZERO_KEY) is None


def test_whois_tells_a_node_and_its_owner() -> None:
    found = whois(view(), "100.64.0.1")
    assert found["UserProfile"] == USERS[0]
    capabilities = {"Capabilities": ["empty", "https://example.com/cap"], "ComputedName": "alice"}
    changed = {"CapMap": {"https://example.com/cap": [{"a": 1}, "b"], "empty": []}, "KeyExpiry": "2027-01-15T08:01:00Z"}
    hostinfo = {"Hostinfo": {"Hostname": "Alice's", "OS": "linux"}}
    assert found["Node"] == ALICE | capabilities | changed | hostinfo


def test_whois_of_a_node_that_is_away() -> None:
    node = whois(view(), "100.64.0.2")["Node"]
    assert node["Online"] is False
    assert node["LastSeen"] == "2027-01-15T06:00:00Z"
    assert node["Tags"] == ["tag:db"]
    assert not {"HomeDERP", "DiscoKey", "Endpoints", "Created", "Sharer", "MachineAuthorized"} & node.keys()


def test_nobodys_node_is_not_told() -> None:
    assert whois(view(netmap=first(**MEMBERS | {"UserProfiles": []})), "100.64.0.1") is None
    shown = view()
    assert shown.netmap
    assert whois_json(replace(shown, netmap=None), shown.netmap.self_node) is None


GRANT = {"SrcIPs": ["100.64.0.1"], "CapGrant": [{"Dsts": ["100.64.0.9/32"], "CapMap": {"read": [{"db": "a"}]}}]}
ELSEWHERE = {"SrcIPs": ["*"], "CapGrant": [{"Dsts": ["100.64.0.8/32", "fd7a:115c:a1e0::9/128"], "CapMap": {"no": []}}]}
OTHERS = {"SrcIPs": ["100.64.0.7"], "CapGrant": [{"Dsts": ["0.0.0.0/0"], "CapMap": {"no": []}}]}
OTHER_FAMILY = {"SrcIPs": ["::/0"], "CapGrant": [{"Dsts": ["0.0.0.0/0"], "CapMap": {"no": []}}]}
BY_CAPABILITY = {
    "SrcIPs": ["cap:https://example.com/cap"],
    "CapGrant": [{"Dsts": ["100.64.0.0/10"], "CapMap": {"read": [{"db": "b"}], "write": None}}],
}


def test_whois_tells_what_the_policy_grants_a_node_at_ours() -> None:
    rules = [GRANT, ELSEWHERE, OTHERS, OTHER_FAMILY, BY_CAPABILITY]
    shown = view(netmap=first(**MEMBERS | {"PacketFilter": rules}))
    assert whois(shown, "100.64.0.1")["CapMap"] == {"read": [{"db": "a"}, {"db": "b"}], "write": []}
    assert whois(shown, "100.64.0.2")["CapMap"] == {}


def test_a_node_with_ipv6_alone_is_granted_what_holds_at_our_ipv6_address() -> None:
    peer = BOB | {"Addresses": ["fd7a:115c:a1e0::2/128"]}
    rule = {"SrcIPs": ["fd7a:115c:a1e0::/48"], "CapGrant": [{"Dsts": ["fd7a:115c:a1e0::9/128"], "CapMap": {"a": [1]}}]}
    shown = view(netmap=first(**MEMBERS | {"Peers": [peer], "PacketFilter": [rule]}))
    assert whois(shown, "fd7a:115c:a1e0::2")["CapMap"] == {"a": [1]}
