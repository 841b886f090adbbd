# SPDX-License-Identifier: BSD-3-Clause
"""A node and its peers as Tailscale's LocalAPI writes them, so that programs made for it read ours.

    View ─► status_json    ipnstate.Status           one PeerStatus for us, one for each peer
         └► whois_json     apitype.WhoIsResponse     tailcfg.Node, tailcfg.UserProfile, what the policy grants

Go's forms are kept: a time that is not known is the year 1, members that Go leaves out when they are empty are left
out, numbers as names of members are texts. Members for what we do not have at all (SSH keys, Taildrop) are absent,
which reads as empty. `Engine` is our own, which others pass over.

Source: ipn/ipnstate, client/tailscale/apitype, tailcfg, ipn/ipnlocal (updateStatusLocked, WhoIs) of tailscale.
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import ts4nsnet
from ts4nsnet.control import NetMap, Node
from ts4nsnet.control.node import Address, UserProfile
from ts4nsnet.filter import Rule
from ts4nsnet.keys import DISCO_PREFIX, NODE_PREFIX, PublicKey
from ts4nsnet.node.view import PeerState, View
from ts4nsnet.uring.counters import FIELDS

Json = dict[str, Any]

RUNNING = "Running"
STARTING = "Starting"
STOPPED = "Stopped"
NEEDS_LOGIN = "NeedsLogin"
NEEDS_MACHINE_AUTH = "NeedsMachineAuth"
_NO_TIME = "0001-01-01T00:00:00Z"
_NO_STATE = PeerState()


def backend_state(view: View) -> str:
    """The node in a word, one of ipn.State's."""
    if view.leaving:
        return STOPPED
    if view.login_url:
        return NEEDS_LOGIN
    if view.netmap is not None and not view.netmap.self_node.machine_authorized:
        return NEEDS_MACHINE_AUTH
    return RUNNING if view.ready else STARTING


def status_json(view: View, *, peers: bool = True) -> Json:
    """`/localapi/v0/status`: an ipnstate.Status.

    Args:
        view: the node.
        peers: False: without them and without the users that own them.
    """
    netmap = view.netmap
    status: Json = {
        "Version": ts4nsnet.__version__,
        "TUN": True,
        "BackendState": backend_state(view),
        "HaveNodeKey": not view.node_key.is_zero,
        "AuthURL": view.login_url,
        "TailscaleIPs": [],
        "Self": _self(view),
        "Health": _health(view),
        "MagicDNSSuffix": "",
        "CurrentTailnet": None,
        "CertDomains": [],
        "ExtraRecords": [],
        "Peer": {},
        "User": {},
        "ClientVersion": None,
        "Engine": _engine(view),
    }
    return status if netmap is None else status | _tailnet(view, netmap, peers=peers)


def find(view: View, address: Address) -> Node | None:
    """The node that has an address in the tailnet: a peer, or we."""
    if view.netmap is None:
        return None
    nodes = (view.netmap.self_node, *view.netmap.peers.values())
    return next((node for node in nodes if address in node.addresses), None)


def find_key(view: View, key: PublicKey) -> Node | None:
    """The node that has a node key: a peer, or we."""
    if view.netmap is None or key.is_zero:
        return None
    nodes = (view.netmap.self_node, *view.netmap.peers.values())
    return next((node for node in nodes if node.key == key), None)


def whois_json(view: View, node: Node) -> Json | None:
    """`/localapi/v0/whois`: an apitype.WhoIsResponse; None where it is not known whose the node is."""
    user = view.netmap.user_profiles.get(node.user) if view.netmap else None
    if view.netmap is None or user is None:
        return None
    return {"Node": _node(node), "UserProfile": _user(user), "CapMap": _values(_granted(view.netmap, node))}


def _tailnet(view: View, netmap: NetMap, *, peers: bool) -> Json:
    """What a status says when there is a netmap."""
    own = netmap.self_node
    owners = netmap.user_profiles.values() if peers else filter(None, [netmap.user_profiles.get(own.user)])
    tailnet: Json = {
        "TailscaleIPs": _texts(own.addresses),
        "MagicDNSSuffix": netmap.magic_dns_suffix,
        "CurrentTailnet": {
            "Name": netmap.domain,
            "MagicDNSSuffix": netmap.magic_dns_suffix,
            "MagicDNSEnabled": netmap.dns.magic_dns,
        },
        "CertDomains": list(netmap.dns.cert_domains),
        "ExtraRecords": [{"Name": each.name, "Value": str(each.address)} for each in netmap.dns.extra_records],
        "User": {str(user.id): _user(user) for user in owners},
    }
    if peers:
        tailnet["Peer"] = {node.key.to_text(NODE_PREFIX): _peer(view, netmap, node) for node in netmap.peers.values()}
    exit_node = None if view.exit_node is None else netmap.peers.get(view.exit_node)
    if exit_node is not None:
        tailnet["ExitNodeStatus"] = {
            "ID": exit_node.stable_id,
            "Online": bool(exit_node.online),
            "TailscaleIPs": _prefixes(exit_node),
        }
    return tailnet


def _health(view: View) -> list[str]:
    """What we, and what the server knows that does not work."""
    texts = list(view.health)
    if view.netmap is not None:
        texts += view.netmap.health
        texts += (f"{each.title}: {each.text}" for each in view.netmap.display_messages.values())
    return texts


def _engine(view: View) -> Json:
    """What carries the packets; Tailscale's clients know nothing of it, and pass it over."""
    counted = view.counted
    if counted is None:
        return {"Name": view.engine, "Offloads": {}, "Counters": {}, "Dropped": {}}
    return {
        "Name": view.engine,
        "Offloads": dict(view.offloads),
        "Counters": {name: getattr(counted, name) for name in FIELDS},
        "Dropped": dict(counted.dropped),
    }


def _self(view: View) -> Json:
    node = Node(0) if view.netmap is None else view.netmap.self_node
    return _node_status(node, view.netmap, view.at) | {
        "PublicKey": view.node_key.to_text(NODE_PREFIX),
        "HostName": view.hostname,
        "OS": "linux",
        "Addrs": list(view.endpoints),
        "Relay": _region_code(view.netmap, view.home_region),
        "Online": view.online,
        "LastSeen": _NO_TIME,
        "InNetworkMap": view.netmap is not None,
    }


def _peer(view: View, netmap: NetMap, node: Node) -> Json:
    state = view.peers.get(node.key)
    status = _node_status(node, netmap, view.at, state or _NO_STATE)
    status["ExitNode"] = node.id == view.exit_node
    status["InMagicSock"] = status["InEngine"] = state is not None
    return status


def _node_status(node: Node, netmap: NetMap | None, at: float, state: PeerState = _NO_STATE) -> Json:
    """An ipnstate.PeerStatus of what is known of us as of others."""
    status: Json = {
        "ID": node.stable_id,
        "NodeID": node.id,
        "PublicKey": node.key.to_text(NODE_PREFIX),
        "HostName": node.hostinfo.host_name,
        "DNSName": node.name,
        "OS": node.hostinfo.os,
        "UserID": node.user,
        "TailscaleIPs": _texts(node.addresses),
        "Addrs": [_endpoint(*endpoint) for endpoint in dict.fromkeys(node.endpoints)],
        "CurAddr": state.cur_addr,
        "Relay": _region_code(netmap, node.home_derp),
        "PeerRelay": "",
        "RxBytes": state.rx_bytes,
        "TxBytes": state.tx_bytes,
        "Created": _time(node.created),
        "LastWrite": _time(state.last_write),
        "LastSeen": _time(node.last_seen),
        "LastHandshake": _time(state.last_handshake),
        "Online": bool(node.online),
        "ExitNode": False,
        "ExitNodeOption": any(prefix.prefixlen == 0 for prefix in node.allowed_ips),
        "Active": state.active,
        "PeerAPIURL": _peer_api_urls(node),
        "InNetworkMap": True,
        "InMagicSock": False,
        "InEngine": False,
    }
    return status | _present(
        AltSharerUserID=node.sharer,
        AllowedIPs=_texts(node.allowed_ips),
        Tags=list(node.tags),
        PrimaryRoutes=_texts(node.primary_routes),
        Capabilities=sorted(node.capabilities),
        CapMap=_values(node.capabilities),
        Expired=netmap is not None and netmap.is_expired(node, at),
        KeyExpiry=None if node.key_expiry is None else _time(node.key_expiry),
    )


def _node(node: Node) -> Json:
    """A tailcfg.Node."""
    return {
        "ID": node.id,
        "StableID": node.stable_id,
        "Name": node.name,
        "User": node.user,
        "Key": node.key.to_text(NODE_PREFIX),
        "Addresses": _prefixes(node),
        "AllowedIPs": _texts(node.allowed_ips),
        "Hostinfo": _present(Hostname=node.hostinfo.host_name, OS=node.hostinfo.os),
    } | _present(
        Sharer=node.sharer,
        KeyExpiry=None if node.key_expiry is None else _time(node.key_expiry),
        DiscoKey="" if node.disco_key.is_zero else node.disco_key.to_text(DISCO_PREFIX),
        Endpoints=[_endpoint(*endpoint) for endpoint in node.endpoints],
        HomeDERP=node.home_derp,
        Created=None if node.created is None else _time(node.created),
        Cap=node.cap,
        Tags=list(node.tags),
        PrimaryRoutes=_texts(node.primary_routes),
        LastSeen=None if node.last_seen is None else _time(node.last_seen),
        MachineAuthorized=node.machine_authorized,
        Capabilities=sorted(node.capabilities),
        CapMap=_values(node.capabilities),
        ComputedName=node.host_name,
        Expired=node.expired,
        IsWireGuardOnly=node.wireguard_only,
        IsJailed=node.jailed,
    ) | ({} if node.online is None else {"Online": node.online})  # fmt: skip


def _user(user: UserProfile) -> Json:
    """A tailcfg.UserProfile."""
    profile: Json = {"ID": user.id, "LoginName": user.login_name, "DisplayName": user.display_name}
    return profile | _present(ProfilePicURL=user.picture_url)


def _granted(netmap: NetMap, node: Node) -> Mapping[str, tuple[str, ...]]:
    """What the policy lets a node do with us, beyond packets: capabilities and their values."""
    granted: dict[str, tuple[str, ...]] = {}
    for address in node.addresses[:1]:  # as the reference: where the first reaches us, in its family
        own = [each for each in netmap.self_node.addresses if each.version == address.version][:1]
        rules = (rule for rule in netmap.packet_filter if _is_source(rule, node, address))
        for grant in chain.from_iterable(rule.grants for rule in rules):
            if any(each in prefix for each in own for prefix in grant.destinations):
                for name, values in grant.capabilities.items():
                    granted[name] = granted.get(name, ()) + values
    return granted


def _is_source(rule: Rule, node: Node, address: Address) -> bool:
    number = int(address)
    return any(each in node.capabilities for each in rule.source_capabilities) or any(
        each.version == address.version and each.first <= number <= each.last for each in rule.sources
    )


def _peer_api_urls(node: Node) -> list[str]:
    ports = {4: node.hostinfo.peer_api_v4, 6: node.hostinfo.peer_api_v6}
    first = {address.version: address for address in reversed(node.addresses)}
    return [f"http://{_endpoint(first[version], port)}" for version, port in ports.items() if port and version in first]


def _region_code(netmap: NetMap | None, region_id: int) -> str:
    region = netmap.derp_map.regions.get(region_id) if netmap else None
    return region.code if region else ""


def _values(capabilities: Mapping[str, tuple[str, ...]]) -> Json:
    return {name: [json.loads(value) for value in values] for name, values in capabilities.items()}


def _prefixes(node: Node) -> list[str]:
    return [f"{address}/{address.max_prefixlen}" for address in node.addresses]


def _endpoint(address: Address, port: int) -> str:
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


def _texts(values: Iterable[object]) -> list[str]:
    return [str(value) for value in values]


def _time(at: float | None) -> str:
    """Unix seconds as Go writes a time: RFC 3339; the year 1 for none."""
    if at is not None:
        with suppress(ValueError):  # a server's "9999-12-31T23:59:59-12:00" is in a year that there is no way to write
            return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
    return _NO_TIME


def _present(**members: object) -> Json:
    """Only the members that are not empty: Go's `omitempty`."""
    return {name: value for name, value in members.items() if value}
