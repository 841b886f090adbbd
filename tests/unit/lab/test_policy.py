# SPDX-License-Identifier: BSD-3-Clause
"""Policy files: what they mean for nodes, and which are refused."""

import json
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ts4nsnet.filter import parse_ranges
from ts4nsnet.keys import PublicKey
from ts4nsnet.lab.errors import PolicyError
from ts4nsnet.lab.model import EXIT_ROUTES, TAGGED_USER, TAGGED_USER_ID, Hostinfo, Node
from ts4nsnet.lab.policy import parse_policy
from ts4nsnet.lab.rules import INTERNET, Rules, sees


def node(number: int, login: str = "alice@lab", tags: tuple[str, ...] = (), routes: tuple[str, ...] = ()) -> Node:
    prefixes = tuple(map(ip_network, routes))
    user_id, owner = (TAGGED_USER_ID, TAGGED_USER) if tags else (sum(login.encode()), login)
    key = PublicKey(bytes([number]) * 32)
    return Node(
        node_id=number,
        machine=key,
        key=key,
        user_id=user_id,
        login=owner,
        label=f"n{number}",
        ipv4=IPv4Address("100.64.0.0") + number,
        created_at=0.0,
        tags=tags,
        hostinfo=Hostinfo(routes=prefixes),
        approved=frozenset(prefixes),
    )


NODES = {
    "alice": node(1),
    "laptop": node(2),
    "bob": node(3, "bob@lab"),
    "web": node(4, tags=("tag:web",)),
    "router": node(5, "bob@lab", routes=("10.0.0.0/16",)),
    "exit": node(6, "bob@lab", routes=("0.0.0.0/0", "::/0")),
    "admin": node(7, "user@lab"),
}

NAMES = {
    "groups": {"group:dev": ["alice@lab"]},
    "hosts": {"printer": "10.0.0.5", "office": "10.0.0.0/8"},
    "tagOwners": {"tag:web": ["group:dev"]},
}


def rules_of(**sections: Any) -> Rules:
    return Rules(parse_policy(json.dumps(NAMES | sections)))


def acl(src: str, *dst: str, **fields: str) -> dict[str, Any]:
    return {"acls": [{"action": "accept", "src": [src], "dst": list(dst)} | fields]}


def filter_of(rules: Rules, name: str) -> list[dict[str, Any]]:
    every = {each.node_id: each for each in NODES.values()}
    return rules.packet_filter(NODES[name], rules.match(NODES[name]), every)


def known_to(rules: Rules, name: str) -> set[str]:
    """Whom a node sees."""
    own = NODES[name]
    return {
        other
        for other, each in NODES.items()
        if each is not own and sees(own, rules.match(own), each, rules.match(each))
    }


EVERYBODY = set(NODES)
SELF_WEB = ["100.64.0.4", "fd7a:115c:a1e0::4"]


@pytest.mark.parametrize(
    ("sections", "name", "known"),
    [
        ({}, "alice", EVERYBODY - {"alice"}),
        ({"acls": []}, "alice", set()),
        ({"grants": []}, "alice", set()),
        (acl("group:dev", "tag:web:80"), "alice", {"web"}),
        (acl("group:dev", "tag:web:80"), "web", {"alice", "laptop"}),
        (acl("group:dev", "tag:web:80"), "bob", set()),
        (acl("alice@lab", "printer:631"), "alice", {"router"}),
        (acl("alice@lab", "10.0.0.0/24:*"), "alice", {"router"}),
        (acl("alice@lab", "192.168.0.0/24:*"), "alice", set()),
        (acl("office", "tag:web:*"), "web", {"router"}),
        (acl("100.64.0.1", "tag:web:*"), "web", {"alice"}),
        (acl("autogroup:member", "autogroup:tagged:*"), "web", EVERYBODY - {"web"}),
        (acl("autogroup:member", "autogroup:tagged:*"), "alice", {"web"}),
        (acl("autogroup:admin", "tag:web:*"), "web", {"admin"}),
        (acl("alice@lab", "autogroup:internet:*"), "alice", {"exit"}),
        (acl("autogroup:member", "autogroup:self:*"), "alice", {"laptop"}),
        (acl("autogroup:member", "autogroup:self:*"), "bob", {"router", "exit"}),
        (acl("autogroup:member", "autogroup:self:*"), "web", set()),
        (acl("*", "[fd7a:115c:a1e0::4]:22"), "alice", {"web"}),
    ],
)
def test_who_knows_whom(sections: dict[str, Any], name: str, known: set[str]) -> None:
    assert known_to(rules_of(**sections), name) == known


def ports(first: int, last: int) -> dict[str, int]:
    return {"First": first, "Last": last}


@pytest.mark.parametrize(
    ("sections", "name", "rules"),
    [
        ({}, "web", [{"SrcIPs": ["*"], "DstPorts": [{"IP": "*", "Ports": ports(0, 65535)}]}]),
        ({"acls": []}, "web", []),
        (
            acl("group:dev", "tag:web:80,8000-8080", proto="tcp"),
            "web",
            [
                {
                    "SrcIPs": ["100.64.0.1", "fd7a:115c:a1e0::1", "100.64.0.2", "fd7a:115c:a1e0::2"],
                    "DstPorts": [
                        {"IP": ip, "Ports": span} for ip in SELF_WEB for span in (ports(80, 80), ports(8000, 8080))
                    ],
                    "IPProto": [6],
                }
            ],
        ),
        (acl("group:dev", "tag:web:80"), "bob", []),
        (
            acl("office", "printer:631"),
            "router",
            [{"SrcIPs": ["10.0.0.0/8"], "DstPorts": [{"IP": "10.0.0.5/32", "Ports": ports(631, 631)}]}],
        ),
        (
            acl("*", "office:*", proto="icmp"),
            "router",
            [{"SrcIPs": ["*"], "DstPorts": [{"IP": "10.0.0.0/16", "Ports": ports(0, 65535)}], "IPProto": [1, 58]}],
        ),
        (
            acl("autogroup:member", "autogroup:self:22"),
            "alice",
            [
                {
                    "SrcIPs": ["100.64.0.1", "fd7a:115c:a1e0::1", "100.64.0.2", "fd7a:115c:a1e0::2"],
                    "DstPorts": [
                        {"IP": "100.64.0.1", "Ports": ports(22, 22)},
                        {"IP": "fd7a:115c:a1e0::1", "Ports": ports(22, 22)},
                    ],
                }
            ],
        ),
        (
            {"grants": [{"src": ["bob@lab"], "dst": ["tag:web"], "ip": ["tcp:443", "tcp:80", "udp:*", "22"]}]},
            "web",
            [
                {
                    "SrcIPs": [
                        *("100.64.0.3", "fd7a:115c:a1e0::3", "100.64.0.5", "fd7a:115c:a1e0::5"),
                        *("100.64.0.6", "fd7a:115c:a1e0::6"),
                    ],
                    "DstPorts": [{"IP": ip, "Ports": span} for ip in SELF_WEB for span in spans],
                }
                | ({"IPProto": protocols} if protocols else {})
                for spans, protocols in (
                    ((ports(443, 443), ports(80, 80)), [6]),
                    ((ports(0, 65535),), [17]),
                    ((ports(22, 22),), []),
                )
            ],
        ),
        (acl("tag:web", "autogroup:internet:*"), "bob", []),
        (
            acl("printer", "*:*"),
            "web",
            [{"SrcIPs": ["10.0.0.5/32"], "DstPorts": [{"IP": "*", "Ports": ports(0, 65535)}]}],
        ),
    ],
)
def test_packet_filter(sections: dict[str, Any], name: str, rules: list[dict[str, Any]]) -> None:
    assert filter_of(rules_of(**sections), name) == rules


def test_rule_to_the_internet_is_for_exit_nodes() -> None:
    [rule] = filter_of(rules_of(**acl("alice@lab", "autogroup:internet:*")), "exit")
    assert [each["IP"] for each in rule["DstPorts"]] == [str(prefix) for prefix in INTERNET]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("0.0.0.0", True),  # noqa: S104  (by which clients test whether an exit node may resolve names for them)
        *(("8.8.8.8", True), ("255.255.255.255", True), ("11.0.0.0", True), ("2001:db8::1", True)),
        *(("10.1.2.3", False), ("192.168.1.1", False), ("172.31.255.255", False), ("169.254.169.254", False)),
        *(("100.64.0.1", False), ("127.0.0.1", False), ("fd7a:115c:a1e0::1", False), ("fe80::1", False)),
    ],
)
def test_internet_is_what_is_public(address: str, public: bool) -> None:
    assert any(ip_address(address) in prefix for prefix in INTERNET) == public


def test_filters_are_what_clients_can_read() -> None:
    for sections in (acl("*", "*:*"), acl("office", "autogroup:internet:*"), acl("autogroup:member", "office:*")):
        for name in NODES:
            for rule in filter_of(rules_of(**sections), name):
                assert all(parse_ranges(text) for text in rule["SrcIPs"])
                assert all(parse_ranges(each["IP"]) for each in rule["DstPorts"])


@pytest.mark.parametrize(
    ("approvers", "route", "approved"),
    [
        ({"routes": {"10.0.0.0/8": ["bob@lab"]}}, "10.1.0.0/16", True),
        ({"routes": {"10.0.0.0/8": ["bob@lab"]}}, "10.0.0.0/8", True),
        ({"routes": {"10.0.0.0/8": ["alice@lab"]}}, "10.1.0.0/16", False),
        ({"routes": {"10.0.0.0/8": ["bob@lab"]}}, "192.168.0.0/16", False),
        ({"routes": {"fd00::/8": ["bob@lab"]}}, "fd00:1::/64", True),
        ({"routes": {"0.0.0.0/0": ["bob@lab"]}}, "0.0.0.0/0", False),
        ({"exitNode": ["autogroup:member"]}, "0.0.0.0/0", True),
        ({"exitNode": ["tag:web"]}, "::/0", False),
    ],
)
def test_automatic_approval(approvers: dict[str, Any], route: str, approved: bool) -> None:
    assert rules_of(autoApprovers=approvers).approves(NODES["bob"], ip_network(route)) == approved


def test_node_attributes() -> None:
    rules = rules_of(nodeAttrs=[{"target": ["tag:web"], "attr": ["a", "b"]}, {"target": ["*"], "attr": ["c"]}])
    assert rules.attributes(NODES["web"]) == ["a", "b", "c"]
    assert rules.attributes(NODES["bob"]) == ["c"]


def test_comments_and_final_commas_are_allowed() -> None:
    text = """{ // who may
        /* all, "really" */ "acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"],},],
        "hosts": {"a//b": "10.0.0.1", "c,]": "10.0.0.2"},
    }"""
    assert len(parse_policy(text).rules) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "policy: not JSON"),
        ("[" * 100_000, "policy: not JSON"),
        ("[]", "policy: got a list, want an object"),
        ('{"ssh": []}', "policy: 'ssh' is not supported here; known are groups"),
        ('{"groups": {"dev": []}}', "groups[dev]: the name must begin with group:"),
        ('{"groups": {"group:a": ["group:b"]}}', "groups[group:a]: got 'group:b', want login names"),
        ('{"hosts": {"a": "b"}}', "hosts[a]: got 'b', want an address"),
        ('{"hosts": {"a": 7}}', "hosts[a]: got 7, want an address"),
        ('{"tagOwners": {"web": []}}', "tagOwners[web]: want tag:"),
        ('{"tagOwners": {"tag:web": ["10.0.0.1"]}}', "tagOwners[tag:web]: want users"),
        ('{"acls": {}}', "acls: got a dict, want a list"),
        ('{"acls": [3]}', "acls[0]: got 3, want an object"),
        ('{"acls": [{"action": "drop"}]}', "acls[0].action: got 'drop', want accept"),
        ('{"acls": [{"action": "accept", "src": "*", "dst": []}]}', "acls[0].src: got '*', want a list"),
        ('{"acls": [{"action": "accept", "src": [1], "dst": []}]}', "acls[0].src: want a list of texts"),
        ('{"acls": [{"action": "accept", "src": ["tag:x"], "dst": []}]}', "acls[0].src: 'tag:x' is not defined"),
        ('{"acls": [{"action": "accept", "src": ["autogroup:self"], "dst": []}]}', "'autogroup:self' is not defined"),
        ('{"acls": [{"action": "accept", "src": ["*"], "dst": ["*"]}]}', "acls[0].dst: got '', want an address"),
        ('{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:x"]}]}', "acls[0].dst: *:x: got ports 'x'"),
        ('{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:9-1"]}]}', "want rising numbers to 65535"),
        ('{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:65536"]}]}', "want rising numbers to 65535"),
        ('{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"], "proto": "x"}]}', "acls[0].proto: got 'x'"),
        (
            '{"acls": [{"action": "accept", "src": ["*"], "dst": ["*:1"], "proto": "icmp"}]}',
            "this protocol has no ports",
        ),
        ('{"acls": [{"action": "accept", "src": ["10.0.0.1/8"], "dst": []}]}', "without host bits"),
        ('{"acls": [{"action": "accept", "src": ["*"], "dst": [], "users": []}]}', "'users' is not supported here"),
        ('{"grants": [{"src": ["*"], "dst": ["*"], "app": {}}]}', "'app' is not supported here"),
        ('{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["gre:1"]}]}', "this protocol has no ports"),
        ('{"autoApprovers": {"routes": {"x": []}}}', "autoApprovers.routes: got 'x'"),
        ('{"nodeAttrs": [{"target": ["nobody"], "attr": []}]}', "nodeAttrs[0].target: got 'nobody'"),
    ],
)
def test_policy_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("protocol", ["6", "255", "gre", "sctp"])
def test_protocol_numbers_and_names(protocol: str) -> None:
    assert rules_of(**acl("*", "*:*", proto=protocol)).policy.rules[0].protocols


VALID = json.dumps(NAMES | acl("group:dev", "tag:web:80,8000-8080") | {"autoApprovers": {"exitNode": ["tag:web"]}})


@given(st.integers(0, len(VALID)), st.integers(0, 20), st.text(max_size=10))
def test_damaged_policy_raises_nothing_else(where: int, size: int, text: str) -> None:
    with suppress(PolicyError):
        parse_policy(VALID[:where] + text + VALID[where + size :])


def test_exit_routes_are_both_families() -> None:
    half = node(9, routes=("0.0.0.0/0",))
    assert not half.is_exit_node
    assert NODES["exit"].is_exit_node
    assert {route.version for route in EXIT_ROUTES} == {4, 6}
    assert IPv4Network("0.0.0.0/0") in EXIT_ROUTES
