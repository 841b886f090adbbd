# SPDX-License-Identifier: BSD-3-Clause
"""What the coordination server says about one node, one user, one problem: values, independent of the JSON.

A tailnet may have ten thousand nodes, of which the server sends 800 bytes each, so a `Node` keeps what a client can do
something with; of the host's description (Hostinfo) that is little. Times are unix seconds by the server's clock.

Source: tailcfg.Node, Hostinfo, UserProfile, DisplayMessage of tailscale; notes control.md 5.4, 5.7, 5.8.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from types import MappingProxyType

from ts4nsnet.dns import Resolver
from ts4nsnet.keys import ZERO_KEY, PublicKey

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network
Endpoint = tuple[Address, int]
# name → values, each a JSON text, verbatim
Capabilities = Mapping[str, tuple[str, ...]]
NO_CAPABILITIES: Capabilities = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Hostinfo:
    """What a node says about itself.

    Attributes:
        host_name: as its host calls itself; the name in the tailnet is `Node.name`.
        os: `linux`, `windows`, …
        peer_api_v4, peer_api_v6: TCP ports on its tailnet addresses; 0: none.
        peer_api_dns: its PeerAPI resolves names for those who use it as exit node.
    """

    host_name: str = ""
    os: str = ""
    peer_api_v4: int = 0
    peer_api_v6: int = 0
    peer_api_dns: bool = False


NO_HOSTINFO = Hostinfo()


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the tailnet: we, or a peer.

    Attributes:
        id: not 0, on some servers negative; never used for another node.
        stable_id: the same, as text for the outside: settings name exit nodes by it.
        name: with the tailnet's suffix and a final dot; empty: none.
        user, sharer: ids of user profiles: who owns it; who shared it with us, or 0.
        key: WireGuard's; zero: none.
        key_expiry: None: never.
        key_signature: tailnet lock's; empty: none.
        disco_key: zero: none (yet).
        addresses: its own in the tailnet.
        allowed_ips: what leads to it: its own addresses, approved routes, addresses of services.
        endpoints: where it may be reached by UDP; may name one twice.
        home_derp: region where it can be reached through a relay; 0: unknown.
        cap: capability version it announced (headscale: the one that we did).
        tags: as `tag:web`.
        primary_routes: those of its routes that lead to it and to no other; for display.
        last_seen: None: unknown, or it is there now.
        online: connected to the server; None: unknown.
        machine_authorized: False: somebody has still to approve it.
        capabilities: node attributes and what the policy grants. Unknown ones are kept.
        unsigned_peer_api_only: not covered by the tailnet's lock: only its PeerAPI may be used.
        expired: the server says that its key is; see also `NetMap.is_expired`.
        masquerade_v4, masquerade_v6: the source address it wants to see of us.
        wireguard_only: knows neither disco nor relays.
        jailed: may not open connections to us.
        exit_node_resolvers: whom to ask for names when it is our exit node and WireGuard-only.
    """

    id: int
    stable_id: str = ""
    name: str = ""
    user: int = 0
    sharer: int = 0
    key: PublicKey = ZERO_KEY
    key_expiry: float | None = None
    key_signature: bytes = b""
    disco_key: PublicKey = ZERO_KEY
    addresses: tuple[Address, ...] = ()
    allowed_ips: tuple[Prefix, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    home_derp: int = 0
    hostinfo: Hostinfo = NO_HOSTINFO
    created: float | None = None
    cap: int = 0
    tags: tuple[str, ...] = ()
    primary_routes: tuple[Prefix, ...] = ()
    last_seen: float | None = None
    online: bool | None = None
    machine_authorized: bool = False
    capabilities: Capabilities = field(default_factory=lambda: NO_CAPABILITIES)
    unsigned_peer_api_only: bool = False
    expired: bool = False
    masquerade_v4: Address | None = None
    masquerade_v6: Address | None = None
    wireguard_only: bool = False
    jailed: bool = False
    exit_node_resolvers: tuple[Resolver, ...] = ()

    @property
    def host_name(self) -> str:
        """The first label of its name."""
        return self.name.partition(".")[0]

    @property
    def is_reachable(self) -> bool:
        """Whether there is any way to it: disco, a relay, or plain WireGuard."""
        return not self.disco_key.is_zero or self.home_derp != 0 or self.wireguard_only


@dataclass(frozen=True, slots=True)
class UserProfile:
    """Who owns nodes; tagged nodes have one in common."""

    id: int
    login_name: str = ""
    display_name: str = ""
    picture_url: str = ""


@dataclass(frozen=True, slots=True)
class DisplayMessage:
    """Something the server wants people to know.

    Attributes:
        title, text: a few words; some sentences.
        severity: `high`, `medium`, `low`, or what a newer server may send.
        impacts_connectivity: it is why something does not work.
        action_url, action_label: what to do about it; empty: nothing.
    """

    title: str = ""
    text: str = ""
    severity: str = ""
    impacts_connectivity: bool = False
    action_url: str = ""
    action_label: str = ""
