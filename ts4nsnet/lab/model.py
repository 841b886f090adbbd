# SPDX-License-Identifier: BSD-3-Clause
"""What the coordination server remembers: nodes, users, auth keys, and the credentials that make auth keys.

Everything here is written to the state file (store.py) and read back; times are Unix seconds. Of a secret we keep its
SHA-256 alone: it has 256 bits of chance in it, so a slow hash would guard nothing.

A node belongs to the machine key that the Noise handshake proved: one node per machine. Its node key may change
(rotation), its NodeID never, and NodeIDs are not used again. A node with tags belongs to no user; the wire wants one
nevertheless, so all tagged nodes share a synthetic user.
"""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from ts4nsnet.keys import PrivateKey, PublicKey
from ts4nsnet.lab.addresses import ipv6_of

Prefix = IPv4Network | IPv6Network

TAGGED_USER_ID = 2147455555  # as headscale has it
TAGGED_USER = "tagged-devices"
DEFAULT_USER = "user@lab"  # the lab's administrator
EXIT_ROUTES: tuple[Prefix, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))


@dataclass(frozen=True, slots=True)
class Service:
    """A port that a node tells others about: its PeerAPI above all."""

    protocol: str
    port: int
    description: str = ""


@dataclass(frozen=True, slots=True)
class Hostinfo:
    """What a node says about its host, as far as others may know it."""

    hostname: str = ""
    os: str = ""
    version: str = ""  # IPNVersion: text
    routes: tuple[Prefix, ...] = ()  # advertised, RoutableIPs
    tags: tuple[str, ...] = ()  # asked for, RequestTags
    services: tuple[Service, ...] = ()
    shields_up: bool = False
    ssh_host_keys: tuple[str, ...] = ()


@dataclass(slots=True)
class Node:
    """One device of the tailnet.

    Args:
        node_id: positive, never used again.
        machine: who it is.
        key: WireGuard's and the relay's.
        user_id: its owner, or `TAGGED_USER_ID`.
        login: the owner's login name, or `TAGGED_USER`.
        label: first label of its MagicDNS name; unique.
        hostname: what the label was made from.
        version: the capability version that it announced last.
        key_expires_at: None: never.
        approved: routes it may have when it advertises them.
        endpoints: "address:port", in its order.
        home_derp: region, 0: none known.
    """

    node_id: int
    machine: PublicKey
    key: PublicKey
    user_id: int
    login: str
    label: str
    ipv4: IPv4Address
    created_at: float
    tags: tuple[str, ...] = ()
    hostname: str = ""
    version: int = 0
    ephemeral: bool = False
    key_expires_at: float | None = None
    hostinfo: Hostinfo = field(default_factory=Hostinfo)
    approved: frozenset[Prefix] = frozenset()
    disco: PublicKey | None = None
    endpoints: tuple[str, ...] = ()
    home_derp: int = 0
    online: bool = False
    last_seen_at: float = 0.0

    @property
    def ipv6(self) -> IPv6Address:
        """The address that goes with `ipv4`."""
        return ipv6_of(self.ipv4)

    @property
    def addresses(self) -> tuple[Prefix, Prefix]:
        """IPv4 and IPv6, in this order."""
        return IPv4Network(self.ipv4), IPv6Network(self.ipv6)

    @property
    def routes(self) -> tuple[Prefix, ...]:
        """Advertised and approved, exit routes included."""
        return tuple(route for route in self.hostinfo.routes if route in self.approved)

    @property
    def is_exit_node(self) -> bool:
        """Whether other nodes may send everything through it."""
        return set(EXIT_ROUTES) <= set(self.routes)

    def is_expired(self, wall: float) -> bool:
        """Whether its key has expired at Unix time `wall`."""
        return self.key_expires_at is not None and self.key_expires_at <= wall


@dataclass(slots=True)
class AuthKey:
    """A pre-auth key: what a node needs to join without a person.

    Args:
        key_id: the part of the key that may be shown.
        digest: SHA-256 of the whole key.
        login: who owns nodes that join with it, unless it has tags.
        expires_at: Unix seconds.
        used: how many nodes have joined with it.
    """

    key_id: str
    digest: bytes = field(repr=False)
    login: str
    created_at: float
    expires_at: float
    reusable: bool = False
    ephemeral: bool = False
    tags: tuple[str, ...] = ()
    description: str = ""
    used: int = 0


@dataclass(slots=True)
class Credential:
    """What makes auth keys: an OAuth client (one secret) or a federated identity (tokens of an issuer we believe).

    Args:
        credential_id: the client id.
        digests: SHA-256 of the secret, or of every token that is accepted.
        federated: whether the digests are those of tokens.
        tags: the nodes' tags; a key asked for has some of them.
    """

    credential_id: str
    digests: tuple[bytes, ...] = field(repr=False)
    federated: bool
    tags: tuple[str, ...]
    created_at: float
    description: str = ""


@dataclass(slots=True)
class State:
    """Everything that survives a restart.

    Args:
        noise_key: the control server's; clients keep it until they end, so it must not change.
        relay_key: the relay's.
        policy: text of the policy file.
    """

    noise_key: PrivateKey
    relay_key: PrivateKey
    policy: str = "{}"
    nodes: list[Node] = field(default_factory=list)
    users: dict[str, int] = field(default_factory=dict)
    keys: list[AuthKey] = field(default_factory=list)
    credentials: list[Credential] = field(default_factory=list)
    last_node_id: int = 0
    last_address: IPv4Address | None = None
