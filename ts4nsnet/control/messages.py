# SPDX-License-Identifier: BSD-3-Clause
"""One message of the map stream as values: what `wire` read, and what `NetMap.apply` takes.

None is "not in the message", which leaves things as they are; empty is empty. Source: tailcfg.MapResponse, PeerChange,
PingRequest, ControlDialPlan of tailscale; notes control.md 3.6, 5.4, 5.5.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ts4nsnet.control.node import Address, DisplayMessage, Node, UserProfile
from ts4nsnet.derp import Region
from ts4nsnet.dns import Config as DnsConfig
from ts4nsnet.filter import Rule

CLEAR = "*"  # as a name, with None: first forget all names there are


@dataclass(frozen=True, slots=True)
class NodePatch:
    """Some fields of a peer.

    Attributes:
        id: which peer.
        values: by the names of `Node`'s attributes.
    """

    id: int
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The packet filter's rules under one name.

    Attributes:
        rules: see `filter.Rule`.
        legacy: a rule is in the form of servers before 2020, which is not to be understood by halves: as long as this
            set is there, nothing comes in.
    """

    rules: tuple[Rule, ...] = ()
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class PingRequest:
    """The server asks whether we are there, or whether a peer is.

    Attributes:
        url: where to answer.
        url_is_noise: over the control connection, not plainly.
        log: tell the user.
        types: kinds of pings with commas between; empty: only answer; `c2n`: `payload` is an HTTP request.
        ip: whom to ping.
        payload: for `c2n`.
    """

    url: str
    url_is_noise: bool = False
    log: bool = False
    types: str = ""
    ip: Address | None = None
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class DialCandidate:
    """One way to the control server; the greatest priority that answers is taken. Times are seconds."""

    address: Address
    start_delay_time: float = 0.0
    give_up_time: float = 0.0
    priority: int = 0


@dataclass(frozen=True, slots=True)
class MapResponse:
    """One message of the map stream.

    For whoever keeps the stream:

    Attributes:
        keep_alive: the server is still there; nothing else of the netmap is in it.
        session_handle, sequence: for resuming the stream; empty, 0: not offered.
        ping_request: to be answered.
        pop_browser_url: to be shown once; empty: none.
        sleep_time: seconds to do nothing, at most 300.
        dial_plan: how to reach the server from now on; empty: by DNS.
        control_time: the server's clock, unix seconds.

    For `NetMap.apply`, each named after what it changes:

    Attributes:
        node: we.
        peers: all peers there are; never empty, as an empty list says nothing.
        peers_changed, peers_removed, peers_patched: new or whole nodes; ids; fields.
        seen, online: by id; seen: True: now, False: not known any more.
        derp_regions, region_scores: see `derp.Map.updated`.
        base_filter, filters: see `NetMap.filters`; None as a value removes the name, `CLEAR` all.
        display_messages: by id; None as a value removes it, `CLEAR` all.
    """

    keep_alive: bool = False
    session_handle: str = ""
    sequence: int = 0
    ping_request: PingRequest | None = None
    pop_browser_url: str = ""
    sleep_time: float = 0.0
    dial_plan: tuple[DialCandidate, ...] | None = None
    control_time: float | None = None

    node: Node | None = None
    peers: tuple[Node, ...] | None = None
    peers_changed: tuple[Node, ...] = ()
    peers_removed: tuple[int, ...] = ()
    peers_patched: tuple[NodePatch, ...] = ()
    seen: Mapping[int, bool] = field(default_factory=dict)
    online: Mapping[int, bool] = field(default_factory=dict)
    derp_regions: Mapping[int, Region] | None = None
    region_scores: Mapping[int, float] | None = None
    dns: DnsConfig | None = None
    base_filter: RuleSet | None = None
    filters: Mapping[str, RuleSet | None] | None = None
    user_profiles: tuple[UserProfile, ...] = ()
    domain: str = ""
    health: tuple[str, ...] | None = None
    display_messages: Mapping[str, DisplayMessage | None] | None = None
