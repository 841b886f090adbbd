# SPDX-License-Identifier: BSD-3-Clause
"""JSON to model, what is not about one node: relay map, DNS, packet filter.

A server may get single rules wrong, and the rest of them holds: sets of addresses that cannot be read are left out, as
in the reference client. That never opens more than the rest does, as there are only rules that allow. What has the
wrong JSON type is malformed, here as everywhere.

Source: tailcfg.DERPMap, DNSConfig, FilterRule of tailscale; notes control.md 6, 7, 8.1.
"""

from typing import Any

from ts4nsnet import derp, dns
from ts4nsnet.control.errors import Malformed
from ts4nsnet.control.fields import Fields, clean, finite, parse_address
from ts4nsnet.control.messages import RuleSet
from ts4nsnet.control.wire_node import parse_capabilities, parse_resolvers
from ts4nsnet.filter import DEFAULT_PROTOCOLS, Destination, FilterError, Grant, Range, Rule, parse_ranges

# what 0 stands for in a DERPNode; -1: no STUN
_DERP_PORT = 443
_STUN_PORT = 3478
_NO_STUN = -1
_REGION_MAX = 2**31 - 1
_CAPABILITY_SOURCE = "cap:"


def parse_id(text: str, path: str, low: int, high: int) -> int:
    """An id as the key of an object: decimal digits, behind a minus where it is negative."""
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdecimal() and len(digits) <= 19 and low <= int(text) <= high:
        return int(text)
    raise Malformed(path, text, f"keys from {low} to {high} in digits")


def parse_derp_regions(fields: Fields) -> dict[int, derp.Region] | None:
    """The regions of a DERPMap; None: as before. A region that is null does not exist (older headscale)."""
    members = fields.members("Regions")
    if members is None:
        return None
    path = fields.path_of("Regions")
    regions = {}
    for key, value in members.items():
        region_id = parse_id(key, path, 1, _REGION_MAX)
        if value is not None:
            regions[region_id] = _region(region_id, Fields(value, f"{path}[{region_id}]"))
    return regions


def parse_region_scores(fields: Fields) -> dict[int, float] | None:
    """The scores of a DERPMap; None: as before."""
    home = fields.object("HomeParams")
    members = None if home is None else home.members("RegionScore")
    if home is None or members is None:
        return None
    path = home.path_of("RegionScore")
    return {
        parse_id(key, path, 0, _REGION_MAX): finite(value, f"{path}[{clean(key)}]") for key, value in members.items()
    }


def _region(region_id: int, fields: Fields) -> derp.Region:
    return derp.Region(
        region_id=region_id,
        code=fields.text("RegionCode"),
        name=fields.text("RegionName"),
        nodes=tuple(_derp_node(region_id, node) for node in fields.objects("Nodes") or ()),
        no_measure_no_home=fields.flag("NoMeasureNoHome"),
    )


def _derp_node(region_id: int, fields: Fields) -> derp.Node:
    stun_port = fields.integer("STUNPort", _NO_STUN, 65535)
    return derp.Node(
        name=fields.text("Name"),
        region_id=region_id,
        host_name=fields.text("HostName"),
        cert_name=fields.text("CertName"),
        ipv4=fields.text("IPv4"),
        ipv6=fields.text("IPv6"),
        stun_port=None if stun_port == _NO_STUN else stun_port or _STUN_PORT,
        stun_only=fields.flag("STUNOnly"),
        derp_port=fields.integer("DERPPort", 0, 65535) or _DERP_PORT,
        insecure_for_tests=fields.flag("InsecureForTests"),
        can_port_80=fields.flag("CanPort80"),
    )


def parse_dns(fields: Fields) -> dns.Config:
    """A DNSConfig, which replaces the one before as a whole."""
    routes = fields.object("Routes") or Fields({})
    return dns.Config(
        resolvers=parse_resolvers(fields, "Resolvers"),
        # null instead of a list is none, here as everywhere
        routes={dns.normal_name(clean(suffix)): parse_resolvers(routes, suffix) for suffix in routes.names()},
        fallback_resolvers=parse_resolvers(fields, "FallbackResolvers"),
        search_domains=tuple(map(dns.normal_name, fields.texts("Domains") or ())),
        magic_dns=fields.flag("Proxied"),
        cert_domains=tuple(map(dns.normal_name, fields.texts("CertDomains") or ())),
        extra_records=tuple(filter(None, map(_extra_record, fields.objects("ExtraRecords") or ()))),
        exit_node_filtered=tuple(map(dns.normal_name, fields.texts("ExitNodeFilteredSet") or ())),
    )


def _extra_record(fields: Fields) -> dns.ExtraRecord | None:
    name, kind, value = fields.text("Name"), fields.text("Type"), fields.text("Value")
    if kind not in {"", "A", "AAAA"}:
        return None
    try:
        return dns.ExtraRecord(dns.normal_name(name), parse_address(value))
    except ValueError:
        return None


def parse_rules(items: list[Any], path: str) -> RuleSet:
    """A list of FilterRule."""
    every = [Fields(item, f"{path}[{number}]") for number, item in enumerate(items)]
    legacy = any(_is_legacy(rule) for rule in every)
    return RuleSet((), legacy=True) if legacy else RuleSet(tuple(map(_rule, every)))


def _is_legacy(rule: Fields) -> bool:
    if rule.items("SrcBits"):
        return True
    return any("Bits" in destination for destination in rule.objects("DstPorts") or ())


def _rule(fields: Fields) -> Rule:
    sources: list[Range] = []
    capabilities = []
    for text in fields.texts("SrcIPs") or ():
        if text.startswith(_CAPABILITY_SOURCE):
            capabilities.append(text.removeprefix(_CAPABILITY_SOURCE))
        else:
            sources += _ranges(text)
    return Rule(
        sources=tuple(sources),
        source_capabilities=tuple(capabilities),
        destinations=tuple(each for item in fields.objects("DstPorts") or () for each in _destinations(item)),
        protocols=_protocols(fields),
        grants=tuple(map(_grant, fields.objects("CapGrant") or ())),
    )


def _ranges(text: str) -> tuple[Range, ...]:
    try:
        return parse_ranges(text)
    except FilterError:
        return ()


def _destinations(fields: Fields) -> list[Destination]:
    ports = fields.object("Ports") or Fields({})
    first, last = ports.integer("First", 0, 65535), ports.integer("Last", 0, 65535)
    return [Destination(each, first, last) for each in _ranges(fields.text("IP"))]


def _protocols(fields: Fields) -> tuple[int, ...]:
    numbers = fields.items("IPProto")
    if not numbers:
        return DEFAULT_PROTOCOLS
    if not all(type(number) is int for number in numbers):
        raise fields.malformed("IPProto", "a list of whole numbers")
    return tuple(dict.fromkeys(number for number in numbers if 0 <= number <= 255))


def _grant(fields: Fields) -> Grant:
    names = fields.texts("Caps") or ()
    capabilities = dict.fromkeys(names, ()) | dict(parse_capabilities(fields, "CapMap"))
    return Grant(fields.prefixes("Dsts") or (), capabilities)
