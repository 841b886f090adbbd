# SPDX-License-Identifier: BSD-3-Clause
"""Relay map, DNS and packet filter from JSON."""

import json
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from ts4nsnet.control.messages import MapResponse, RuleSet
from ts4nsnet.control.wire import read_map_response
from ts4nsnet.derp.map import Node as DerpNode
from ts4nsnet.derp.map import Region
from ts4nsnet.dns import Config, ExtraRecord, Resolver
from ts4nsnet.filter import DEFAULT_PROTOCOLS, Destination, Grant, Rule, parse_ranges

HEX = "0f" * 32


def read(**members: Any) -> MapResponse:
    return read_map_response(json.dumps(members).encode())


def rules(*items: dict[str, Any]) -> RuleSet:
    parsed = read(PacketFilter=list(items)).base_filter
    assert parsed is not None
    return parsed


def test_a_relay_map_with_all_its_defaults() -> None:
    response = read(
        DERPMap={
            "Regions": {
                "900": {"RegionID": 900, "Nodes": [{"Name": "900a", "RegionID": 900, "HostName": "derp.example"}]},
                "7": {},
                "8": None,
            },
            "omitDefaultRegions": True,
        }
    )
    assert response.derp_regions == {
        900: Region(900, nodes=(DerpNode("900a", 900, "derp.example"),)),
        7: Region(7),
    }
    assert response.region_scores is None


def test_a_relay_map_with_everything() -> None:
    relay = {
        "Name": "1a",
        "RegionID": 1,
        "HostName": "a.example",
        "CertName": f"sha256-raw:{HEX}",
        "IPv4": "192.0.2.1",
        "IPv6": "none",
        "STUNPort": -1,
        "STUNOnly": True,
        "DERPPort": 8443,
        "InsecureForTests": True,
        "STUNTestIP": "127.0.0.1",
        "CanPort80": True,
    }
    region = {
        "RegionCode": "x",
        "RegionName": "X",
        "NoMeasureNoHome": True,
        "Nodes": [relay],
        "Latitude": 1.5,
        "Avoid": 1,
    }
    response = read(DERPMap={"Regions": {"1": region}, "HomeParams": {"RegionScore": {"1": 0.5, "2": 3}}})
    assert response.derp_regions == {
        1: Region(
            region_id=1,
            code="x",
            name="X",
            no_measure_no_home=True,
            nodes=(
                DerpNode(
                    "1a",
                    1,
                    "a.example",
                    cert_name=f"sha256-raw:{HEX}",
                    ipv4="192.0.2.1",
                    ipv6="none",
                    stun_port=None,
                    stun_only=True,
                    derp_port=8443,
                    insecure_for_tests=True,
                    can_port_80=True,
                ),
            ),
        )
    }
    assert response.region_scores == {1: 0.5, 2: 3.0}


@pytest.mark.parametrize(
    ("derp_map", "regions", "scores"),
    [
        ({}, None, None),
        ({"Regions": {}}, {}, None),
        ({"HomeParams": {}}, None, None),
        ({"HomeParams": {"RegionScore": {}}}, None, {}),
    ],
)
def test_parts_of_a_relay_map(derp_map: dict[str, Any], regions: object, scores: object) -> None:
    response = read(DERPMap=derp_map)
    assert response.derp_regions == regions
    assert response.region_scores == scores


def test_dns_with_everything_and_resolvers_nobody_knows() -> None:
    response = read(
        DNSConfig={
            "Resolvers": [{"Addr": "1.1.1.1"}, {"Addr": "https://dns.example/q", "BootstrapResolution": ["192.0.2.1"]}],
            "Routes": {
                "Corp.Example.": [{"Addr": "app-connector:7", "UseWithExitNode": True}],
                "64.100.in-addr.arpa": [],
                "older.example": None,
                ".": [{"Addr": "http://100.64.0.1:80/dns-query"}],
            },
            "FallbackResolvers": [{"Addr": "9.9.9.9:53"}],
            "Domains": ["Tail.Example", "corp.example."],
            "Proxied": True,
            "Nameservers": ["8.8.8.8"],
            "CertDomains": ["host.tail.example"],
            "ExtraRecords": [
                {"Name": "A.Example.", "Value": "192.0.2.1"},
                {"Name": "b", "Type": "A", "Value": "192.0.2.2"},
                {"Name": "c", "Type": "AAAA", "Value": "2001:db8::1"},
                {"Name": "d", "Type": "TXT", "Value": "192.0.2.3"},
                {"Name": "e", "Type": "A", "Value": "no address"},
            ],
            "ExitNodeFilteredSet": [".Internal", "x.example"],
            "TempCorpIssue13969": 1,
        }
    )
    assert response.dns == Config(
        resolvers=(Resolver("1.1.1.1"), Resolver("https://dns.example/q", ("192.0.2.1",))),
        routes={
            "corp.example": (Resolver("app-connector:7", use_with_exit_node=True),),
            "64.100.in-addr.arpa": (),
            "older.example": (),
            "": (Resolver("http://100.64.0.1:80/dns-query"),),
        },
        fallback_resolvers=(Resolver("9.9.9.9:53"),),
        search_domains=("tail.example", "corp.example"),
        magic_dns=True,
        cert_domains=("host.tail.example",),
        extra_records=(
            ExtraRecord("a.example", ip_address("192.0.2.1")),
            ExtraRecord("b", ip_address("192.0.2.2")),
            ExtraRecord("c", ip_address("2001:db8::1")),
        ),
        exit_node_filtered=(".internal", "x.example"),
    )
    assert read(DNSConfig={}).dns == Config()


ANYWHERE = parse_ranges("*")
PORT_80 = {"IP": "*", "Ports": {"First": 80, "Last": 80}}


def test_a_rule_that_allows_everything() -> None:
    item = {"SrcIPs": ["*"], "DstPorts": [{"IP": "*", "Ports": {"First": 0, "Last": 65535}}]}
    assert rules(item) == RuleSet((Rule(sources=ANYWHERE, destinations=tuple(map(Destination, ANYWHERE))),))


def test_sources_in_every_form() -> None:
    (rule,) = rules({"SrcIPs": ["100.64.0.1", "10.0.0.0/8", "fd7a::1-fd7a::9", "cap:web"], "DstPorts": [PORT_80]}).rules
    assert rule.sources == (
        *parse_ranges("100.64.0.1"),
        *parse_ranges("10.0.0.0/8"),
        *parse_ranges("fd7a::1-fd7a::9"),
    )
    assert rule.source_capabilities == ("web",)


def test_sets_that_cannot_be_read_are_left_out_and_the_rest_holds() -> None:
    (rule,) = rules(
        {
            "SrcIPs": ["10.0.0.1/8", "", "host.example", "100.64.0.1"],
            "DstPorts": [{"IP": "cap:web", "Ports": {"First": 1, "Last": 2}}, {"IP": "no"}, PORT_80],
        }
    ).rules
    assert rule.sources == parse_ranges("100.64.0.1")
    assert rule.destinations == tuple(Destination(each, 80, 80) for each in ANYWHERE)


@pytest.mark.parametrize(
    ("numbers", "protocols"),
    [(None, DEFAULT_PROTOCOLS), ([], DEFAULT_PROTOCOLS), ([47, 6, 47], (47, 6)), ([-1, 6, 256], (6,)), ([999], ())],
)
def test_protocols(numbers: list[int] | None, protocols: tuple[int, ...]) -> None:
    (rule,) = rules({"SrcIPs": ["*"], "IPProto": numbers}).rules
    assert rule.protocols == protocols


def test_ports_that_are_absent_are_port_zero() -> None:
    (rule,) = rules({"SrcIPs": ["*"], "DstPorts": [{"IP": "192.0.2.1"}]}).rules
    assert rule.destinations == (Destination(parse_ranges("192.0.2.1")[0], 0, 0),)


def test_grants_keep_what_they_grant_verbatim() -> None:
    (rule,) = rules(
        {
            "SrcIPs": ["100.64.0.1"],
            "CapGrant": [{"Dsts": ["100.64.0.2/32"], "Caps": ["a", "b"], "CapMap": {"b": [{"x": 1.50}], "c": []}}],
        }
    ).rules
    assert rule.destinations == ()
    assert rule.grants == (Grant((ip_network("100.64.0.2/32"),), {"a": (), "b": ('{"x":1.5}',), "c": ()}),)


@pytest.mark.parametrize(
    ("item", "legacy"),
    [
        ({"SrcIPs": ["*"], "SrcBits": [32]}, True),
        ({"SrcIPs": ["*"], "SrcBits": []}, False),
        ({"SrcIPs": ["*"], "SrcBits": None}, False),
        ({"SrcIPs": ["*"], "DstPorts": [PORT_80, {"IP": "10.0.0.0", "Bits": 8}]}, True),
        ({"SrcIPs": ["*"], "DstPorts": [PORT_80, {"IP": "10.0.0.0", "Bits": None}]}, False),
    ],
)
def test_rules_of_a_form_no_longer_in_use_discard_all_of_their_set(item: dict[str, Any], legacy: bool) -> None:
    parsed = rules({"SrcIPs": ["*"], "DstPorts": [PORT_80]}, item)
    assert parsed.legacy is legacy
    assert len(parsed.rules) == (0 if legacy else 2)
