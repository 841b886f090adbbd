# SPDX-License-Identifier: BSD-3-Clause
"""What the coordination server says: JSON objects, and the frames of a map stream.

A frame is a length (uint32, little-endian) and a MapResponse, as JSON or as a zstd frame of it. Frames do not depend on
each other, so one `Frame` is encoded and compressed once, whoever it is sent to.

Rules of all objects here: names exactly as the Go structs have them; nothing is null, what is unset is left out; no
escapes in any text (requests.py cleans what comes from nodes), so every client can read them.

Source: control.md 5.2 to 5.7, 10.2 to 10.5.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from zstandard import ZstdCompressor

from ts4nsnet.keys import DISCO_PREFIX, MACHINE_PREFIX, NODE_PREFIX, PublicKey
from ts4nsnet.lab.model import EXIT_ROUTES, TAGGED_USER, TAGGED_USER_ID, Hostinfo, Node, Prefix

Json = dict[str, object]

KEEP_ALIVE_TEXT = '{"KeepAlive":true}'  # exactly this: Go's client compares the bytes
# ours: keys do not compress, and higher levels cost more than the bytes that they save (control.md 10.7)
ZSTD_LEVEL = 1

CAPABILITIES: dict[str, list[object]] = {
    "https://tailscale.com/cap/is-admin": [],
    "https://tailscale.com/cap/file-sharing": [],
    "default-auto-update": [False],
}


@dataclass(frozen=True)
class Frame:
    """One MapResponse, encoded for every kind of stream at most once."""

    text: str

    @cached_property
    def plain(self) -> bytes:
        """Length and JSON."""
        body = self.text.encode()
        return len(body).to_bytes(4, "little") + body

    @cached_property
    def compressed(self) -> bytes:
        """Length and zstd frame of the JSON."""
        body = ZstdCompressor(level=ZSTD_LEVEL).compress(self.text.encode())
        return len(body).to_bytes(4, "little") + body


KEEP_ALIVE = Frame(KEEP_ALIVE_TEXT)


def dump(value: object) -> str:
    """JSON without blanks and without escapes for what is not ASCII."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def time_text(wall: float) -> str:
    """Unix seconds as RFC 3339, whole seconds, UTC."""
    return datetime.fromtimestamp(int(wall), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def node_json(node: Node, suffix: str, primary: Iterable[Prefix], wall: float) -> Json:
    """The Node object that peers get.

    Args:
        node: whom it describes.
        suffix: the tailnet's MagicDNS suffix, without dots around it.
        primary: routes that this node, of all that have them, carries.
        wall: Unix seconds.
    """
    own = [str(address) for address in node.addresses]
    carried = sorted(map(str, primary))
    exits = [str(route) for route in node.routes if route in EXIT_ROUTES]
    value: Json = {
        "ID": node.node_id,
        "StableID": stable_id(node),
        "Name": f"{node.label}.{suffix}.",
        "User": node.user_id,
        "Key": node.key.to_text(NODE_PREFIX),
        "Machine": node.machine.to_text(MACHINE_PREFIX),
        "Addresses": own,
        "AllowedIPs": own + carried + exits,
        "Hostinfo": hostinfo_json(node.hostinfo),
        "Created": time_text(node.created_at),
        "Cap": node.version,
        "MachineAuthorized": True,
        "Online": node.online,
    }
    if node.disco:
        value["DiscoKey"] = node.disco.to_text(DISCO_PREFIX)
    if node.endpoints:
        value["Endpoints"] = node.endpoints
    if node.home_derp:
        value |= {"HomeDERP": node.home_derp, "DERP": f"127.3.3.40:{node.home_derp}"}
    if carried:
        value["PrimaryRoutes"] = carried
    if node.tags:
        value["Tags"] = node.tags
    if node.key_expires_at is not None:
        value["KeyExpiry"] = time_text(node.key_expires_at)
        if node.is_expired(wall):
            value["Expired"] = True
    if not node.online:
        value["LastSeen"] = time_text(node.last_seen_at)
    return value


def self_json(value: Json, attributes: Iterable[str]) -> Json:
    """The Node object that the node itself gets: `value`, its peers' view, with capabilities and online."""
    granted: dict[str, list[object]] = {attribute: [] for attribute in attributes}
    return {name: content for name, content in value.items() if name != "LastSeen"} | {
        "Online": True,
        "CapMap": CAPABILITIES | granted,
    }


def hostinfo_json(hostinfo: Hostinfo) -> Json:
    """The public part of a Hostinfo."""
    value: Json = {"Hostname": hostinfo.hostname}
    if hostinfo.os:
        value["OS"] = hostinfo.os
    if hostinfo.version:
        value["IPNVersion"] = hostinfo.version
    if hostinfo.routes:
        value["RoutableIPs"] = [str(route) for route in hostinfo.routes]
    if hostinfo.services:
        value["Services"] = [_service_json(*each) for each in _services(hostinfo)]
    if hostinfo.shields_up:
        value["ShieldsUp"] = True
    if hostinfo.ssh_host_keys:
        value["sshHostKeys"] = hostinfo.ssh_host_keys
    return value


def _services(hostinfo: Hostinfo) -> list[tuple[str, int, str]]:
    return [(each.protocol, each.port, each.description) for each in hostinfo.services]


def _service_json(protocol: str, port: int, description: str) -> Json:
    value: Json = {"Proto": protocol, "Port": port}
    return value | {"Description": description} if description else value


def stable_id(node: Node) -> str:
    """The id that exit-node choices are written with; never changes."""
    return f"n{node.node_id}LAB"


def profile_json(user_id: int, login: str) -> Json:
    """A UserProfile."""
    return {"ID": user_id, "LoginName": login, "DisplayName": login.partition("@")[0]}


def profiles_json(users: Mapping[int, str]) -> list[Json]:
    """UserProfiles of `users`, id to login name."""
    return [profile_json(user_id, login) for user_id, login in sorted(users.items())]


def users_of(nodes: Iterable[Node]) -> dict[int, str]:
    """The owners of `nodes`: id to login name."""
    return {node.user_id: TAGGED_USER if node.user_id == TAGGED_USER_ID else node.login for node in nodes}


def derp_region_json(
    region_id: int, host: str, port: int, certificate_sha256: str, *, stun_port: int, ipv6: bool
) -> Json:
    """A region of one relay that is found by its address and known by its certificate.

    Args:
        region_id: 900 to 999 for private ones.
        host: an IP literal; nothing is looked up, no name is checked.
        port: of TLS.
        certificate_sha256: of the leaf's DER, lower-case hexadecimal.
        stun_port: UDP; -1: none.
        ipv6: the family of `host`; the other one is switched off.
    """
    node: Json = {
        "Name": f"{region_id}a",
        "RegionID": region_id,
        "HostName": host,
        "CertName": f"sha256-raw:{certificate_sha256}",
        "IPv4": "none" if ipv6 else host,
        "IPv6": host if ipv6 else "none",
        "DERPPort": port,
        "STUNPort": stun_port,
    }
    return {"RegionID": region_id, "RegionCode": "lab", "RegionName": "Lab", "Nodes": [node]}


def register_json(user_id: int, login: str, *, expired: bool = False, auth_url: str = "", error: str = "") -> Json:
    """A RegisterResponse: success unless one of the others is set. Every field is there: tailscale-rs wants them."""
    display = login.partition("@")[0]
    return {
        "User": {"ID": user_id, "DisplayName": display},
        "Login": {"ID": user_id, "Provider": "lab", "LoginName": login, "DisplayName": display},
        "NodeKeyExpired": expired,
        "MachineAuthorized": not (expired or auth_url or error),
        "AuthURL": auth_url,
        "Error": error,
    }


def key_document(key: PublicKey) -> Json:
    """The answer to `GET /key`."""
    return {"legacyPublicKey": MACHINE_PREFIX + "0" * 64, "publicKey": key.to_text(MACHINE_PREFIX)}
