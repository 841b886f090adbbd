# SPDX-License-Identifier: BSD-3-Clause
"""JSON to model: a message of the map stream (tailcfg.MapResponse) as a `MapResponse`.

    bytes ── fields.load ──► JSON ── here, wire_node, wire_config ──► MapResponse ── NetMap.apply ──► NetMap

Nothing but `Malformed` is raised, with the path of what was wrong; then nothing of the message counts. What no part of
a client needs is not read, and may have any form: SSHPolicy, TKAInfo, ClientVersion, and what newer servers will send.

Source: notes control.md, sections 0 and 5.4.
"""

from typing import Any

from ts4nsnet.control.errors import Malformed
from ts4nsnet.control.fields import ID_MAX, Fields, clean, load
from ts4nsnet.control.messages import DialCandidate, MapResponse, PingRequest, RuleSet
from ts4nsnet.control.node import DisplayMessage, Node, UserProfile
from ts4nsnet.control.wire_config import parse_derp_regions, parse_dns, parse_id, parse_region_scores, parse_rules
from ts4nsnet.control.wire_node import parse_node, parse_patch

MAX_SLEEP_TIME = 300.0  # seconds; tailscale, control/controlclient: longer would look like a dead node


def read_map_response(data: bytes) -> MapResponse:
    """Read one message of the map stream, decompressed; raises `Malformed`."""
    return parse_map_response(load(data))


def parse_map_response(value: object) -> MapResponse:
    """Read one message of the map stream.

    Args:
        value: as `fields.load` made it. It is taken apart on the way, so that of 10,000 peers never both the JSON and
            the model are in memory; do not use it again.

    Raises:
        Malformed: a member that is not what it should be.
    """
    fields = Fields(value)
    debug = fields.object("Debug")
    derp_map = fields.object("DERPMap")
    dns_config = fields.object("DNSConfig")
    return MapResponse(
        keep_alive=fields.flag("KeepAlive"),
        session_handle=fields.text("MapSessionHandle"),
        sequence=fields.integer("Seq"),
        ping_request=_ping_request(fields.object("PingRequest")),
        pop_browser_url=fields.text("PopBrowserURL"),
        sleep_time=0.0 if debug is None else min(max(0.0, debug.number("SleepSeconds")), MAX_SLEEP_TIME),
        dial_plan=_dial_plan(fields.object("ControlDialPlan")),
        control_time=fields.time("ControlTime"),
        node=None if (node := fields.members("Node")) is None else parse_node(node, "Node"),
        peers=_nodes(fields, "Peers") or None,
        peers_changed=_nodes(fields, "PeersChanged"),
        peers_removed=_ids(fields, "PeersRemoved"),
        peers_patched=tuple(map(parse_patch, fields.objects("PeersChangedPatch") or ())),
        seen=_flags_by_id(fields, "PeerSeenChange"),
        online=_flags_by_id(fields, "OnlineChange"),
        derp_regions=None if derp_map is None else parse_derp_regions(derp_map),
        region_scores=None if derp_map is None else parse_region_scores(derp_map),
        dns=None if dns_config is None else parse_dns(dns_config),
        base_filter=_rules(fields.items("PacketFilter"), "PacketFilter"),
        filters=_filters(fields),
        user_profiles=tuple(map(_user_profile, fields.objects("UserProfiles") or ())),
        domain=fields.text("Domain"),
        health=fields.texts("Health"),
        display_messages=_display_messages(fields),
    )


def _nodes(fields: Fields, name: str) -> tuple[Node, ...]:
    items = fields.items(name) or []
    path = fields.path_of(name)
    nodes = []
    for number, item in enumerate(items):
        items[number] = None
        nodes.append(parse_node(item, f"{path}[{number}]"))
    return tuple(nodes)


def _ids(fields: Fields, name: str) -> tuple[int, ...]:
    items = fields.items(name) or []
    if not all(type(item) is int for item in items):
        raise fields.malformed(name, "a list of whole numbers")
    return tuple(items)


def _flags_by_id(fields: Fields, name: str) -> dict[int, bool]:
    path = fields.path_of(name)
    flags = {}
    for key, value in (fields.members(name) or {}).items():
        node = parse_id(key, path, -ID_MAX, ID_MAX)
        if not isinstance(value, bool):
            raise Malformed(f"{path}[{node}]", value, "true or false")
        flags[node] = value
    return flags


def _rules(items: list[Any] | None, path: str) -> RuleSet | None:
    return None if items is None else parse_rules(items, path)


def _filters(fields: Fields) -> dict[str, RuleSet | None] | None:
    named = fields.object("PacketFilters")
    if named is None:
        return None
    return {clean(name): _rules(named.items(name), named.path_of(name)) for name in named.names()}


def _display_messages(fields: Fields) -> dict[str, DisplayMessage | None] | None:
    named = fields.object("DisplayMessages")
    return None if named is None else {clean(name): _display_message(named.object(name)) for name in named.names()}


def _display_message(fields: Fields | None) -> DisplayMessage | None:
    if fields is None:
        return None
    action = fields.object("PrimaryAction") or Fields({})
    return DisplayMessage(
        title=fields.text("Title"),
        text=fields.text("Text"),
        severity=fields.text("Severity"),
        impacts_connectivity=fields.flag("ImpactsConnectivity"),
        action_url=action.text("URL"),
        action_label=action.text("Label"),
    )


def _user_profile(fields: Fields) -> UserProfile:
    return UserProfile(
        id=fields.integer("ID"),
        login_name=fields.text("LoginName"),
        display_name=fields.text("DisplayName"),
        picture_url=fields.text("ProfilePicURL"),
    )


def _ping_request(fields: Fields | None) -> PingRequest | None:
    if fields is None:
        return None
    return PingRequest(
        url=fields.text("URL"),
        url_is_noise=fields.flag("URLIsNoise"),
        log=fields.flag("Log"),
        types=fields.text("Types"),
        ip=fields.address("IP"),
        payload=fields.data("Payload") or b"",
    )


def _dial_plan(fields: Fields | None) -> tuple[DialCandidate, ...] | None:
    if fields is None:
        return None
    candidates = [(each, each.address("IP")) for each in fields.objects("Candidates") or ()]
    # without an address it is a host of the reference's own kind (ACEHost), which is not for us
    return tuple(_dial_candidate(each, address) for each, address in candidates if address is not None)


def _dial_candidate(fields: Fields, address: Any) -> DialCandidate:
    return DialCandidate(
        address=address,
        start_delay_time=max(0.0, fields.number("DialStartDelaySec")),
        give_up_time=max(0.0, fields.number("DialTimeoutSec")),
        priority=fields.integer("Priority"),
    )
