# SPDX-License-Identifier: BSD-3-Clause
"""JSON to model, nodes: tailcfg.Node, its Hostinfo, and patches of it.

This is the part that runs ten thousand times for one message. What nodes have in common is one object: an empty tuple,
the prefixes of the addresses where the routes to a node are no more than these, names of operating systems.

Older forms become the newer ones here (notes control.md 5.7): `DERP` is `HomeDERP`; absent `AllowedIPs` are
`Addresses`; names in `Capabilities` are in `CapMap`.
"""

import json
import re
import sys
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from ts4nsnet import dns
from ts4nsnet.control.errors import Malformed
from ts4nsnet.control.fields import Fields, clean, parse_endpoint
from ts4nsnet.control.messages import NodePatch
from ts4nsnet.control.node import NO_CAPABILITIES, NO_HOSTINFO, Capabilities, Hostinfo, Node
from ts4nsnet.keys import DISCO_PREFIX, NODE_PREFIX

_LEGACY_DERP = re.compile(r"127\.3\.3\.40:(\d{1,9})", re.ASCII)
_ENDPOINT = "an address with a port"
_NUMBER_MAX = 2**31 - 1


def parse_node(value: object, path: str) -> Node:
    """One node; raises `Malformed`."""
    fields = Fields(value, path)
    own = fields.prefixes("Addresses") or ()
    unsigned = fields.flag("UnsignedPeerAPIOnly")
    # a server must not give a peer that the tailnet's lock does not cover more than its own addresses
    same = unsigned or "AllowedIPs" not in fields or fields.items("AllowedIPs") == fields.items("Addresses")
    return Node(
        id=fields.identity("ID"),
        stable_id=fields.text("StableID"),
        name=fields.text("Name"),
        user=fields.integer("User"),
        sharer=fields.integer("Sharer"),
        key=fields.key("Key", NODE_PREFIX),
        key_expiry=fields.time("KeyExpiry"),
        key_signature=fields.data("KeySignature") or b"",
        disco_key=fields.key("DiscoKey", DISCO_PREFIX),
        # others than single addresses are none that a node has, and nobody knows what to do with them
        addresses=tuple(prefix.network_address for prefix in own if prefix.prefixlen == prefix.max_prefixlen),
        allowed_ips=own if same else fields.prefixes("AllowedIPs") or (),
        endpoints=fields.parsed("Endpoints", parse_endpoint, _ENDPOINT) or (),
        home_derp=fields.integer("HomeDERP", 0, _NUMBER_MAX) or _legacy_derp(fields),
        hostinfo=_hostinfo(fields.object("Hostinfo")),
        created=fields.time("Created"),
        cap=fields.integer("Cap"),
        tags=fields.texts("Tags") or (),
        primary_routes=fields.prefixes("PrimaryRoutes") or (),
        last_seen=fields.time("LastSeen"),
        online=fields.maybe_flag("Online"),
        machine_authorized=fields.flag("MachineAuthorized"),
        capabilities=_capabilities(fields),
        unsigned_peer_api_only=unsigned,
        expired=fields.flag("Expired"),
        masquerade_v4=fields.address("SelfNodeV4MasqAddrForThisPeer"),
        masquerade_v6=fields.address("SelfNodeV6MasqAddrForThisPeer"),
        wireguard_only=fields.flag("IsWireGuardOnly"),
        jailed=fields.flag("IsJailed"),
        exit_node_resolvers=parse_resolvers(fields, "ExitNodeDNSResolvers"),
    )


# wire name → attribute of Node, and how to read it; a patch can change no others
_PATCHES: dict[str, tuple[str, Callable[[Fields], Any]]] = {
    "Key": ("key", lambda fields: fields.key("Key", NODE_PREFIX)),
    "KeySignature": ("key_signature", lambda fields: fields.data("KeySignature")),
    "DiscoKey": ("disco_key", lambda fields: fields.key("DiscoKey", DISCO_PREFIX)),
    "Endpoints": ("endpoints", lambda fields: fields.parsed("Endpoints", parse_endpoint, _ENDPOINT)),
    "Online": ("online", lambda fields: fields.maybe_flag("Online")),
    "LastSeen": ("last_seen", lambda fields: fields.time("LastSeen")),
    "KeyExpiry": ("key_expiry", lambda fields: fields.time("KeyExpiry")),
    "CapMap": ("capabilities", lambda fields: parse_capabilities(fields, "CapMap")),
}


def parse_patch(fields: Fields) -> NodePatch:
    """tailcfg.PeerChange; raises `Malformed`."""
    values = {name: read(fields) for wire, (name, read) in _PATCHES.items() if wire in fields}
    for wire, name in (("DERPRegion", "home_derp"), ("Cap", "cap")):
        number = fields.integer(wire, 0, _NUMBER_MAX)
        if number:
            values[name] = number
    return NodePatch(fields.integer("NodeID"), values)


def parse_capabilities(fields: Fields, name: str) -> Capabilities:
    """A CapMap: null for the values is none, the values are kept as JSON texts."""
    members = fields.members(name)
    if not members:
        return NO_CAPABILITIES
    path = fields.path_of(name)
    return MappingProxyType({clean(capability): _texts(values, path) for capability, values in members.items()})


def parse_resolvers(fields: Fields, name: str) -> tuple[dns.Resolver, ...]:
    """A list of tailcfg.DNSResolver, with addresses of any form."""
    return tuple(
        dns.Resolver(
            address=each.text("Addr"),
            bootstrap=each.texts("BootstrapResolution") or (),
            use_with_exit_node=each.flag("UseWithExitNode"),
        )
        for each in fields.objects(name) or ()
    )


def _texts(values: object, path: str) -> tuple[str, ...]:
    if values is None:
        return ()
    if not isinstance(values, list):
        raise Malformed(path, values, "lists of values by capability")
    try:
        return tuple(json.dumps(value, allow_nan=False, separators=(",", ":")) for value in values)
    except (ValueError, RecursionError):
        raise Malformed(path, values, "values that can be written again") from None


def _capabilities(fields: Fields) -> Capabilities:
    capabilities = parse_capabilities(fields, "CapMap")
    older = fields.texts("Capabilities")
    if older:
        capabilities = MappingProxyType(dict.fromkeys(older, ()) | dict(capabilities))
    return capabilities


def _legacy_derp(fields: Fields) -> int:
    match = _LEGACY_DERP.fullmatch(fields.text("DERP"))
    return int(match[1]) if match else 0


def _hostinfo(fields: Fields | None) -> Hostinfo:
    if fields is None:
        return NO_HOSTINFO
    ports = {service.text("Proto"): service.integer("Port", 0, 65535) for service in fields.objects("Services") or ()}
    return Hostinfo(
        host_name=fields.text("Hostname"),
        os=sys.intern(fields.text("OS")),
        peer_api_v4=ports.get("peerapi4", 0),
        peer_api_v6=ports.get("peerapi6", 0),
        peer_api_dns=ports.get("peerapi-dns-proxy", 0) != 0,
    )
