# SPDX-License-Identifier: BSD-3-Clause
"""The nodes of the tailnet: found by machine key and node key, changed in one place each, and what changed.

Whatever changes a node goes through here, and leaves a note in `changes` for the map streams (fanout.py):

    ENTRY        peers need the whole Node object
    DISCO, ENDPOINTS, HOME, ONLINE, KEY_EXPIRY      a patch does
    MATCH        the rules that concern it may be others: who sees whom, packet filters

A prefix that several nodes advertise is carried by one of them, its *primary*: the one that had it, as long as it is
online, else the online one with the lowest NodeID. Exit routes have no primary; clients choose.

Node keys that are no longer valid (rotated, logged out, expired, removed) are in `retired`, for the relay: it checks
a key once, when its owner connects.

Source: control.md 5.5, 9.1, 9.2, 10.6.
"""

import heapq
from dataclasses import dataclass, replace
from enum import Flag, auto
from ipaddress import IPv4Address

from ts4nsnet.keys import PublicKey
from ts4nsnet.lab.addresses import free_label, label_of, next_address
from ts4nsnet.lab.errors import Refused
from ts4nsnet.lab.model import EXIT_ROUTES, TAGGED_USER, TAGGED_USER_ID, Hostinfo, Node, Prefix, State
from ts4nsnet.lab.policy import parse_policy
from ts4nsnet.lab.responses import Json, dump, node_json
from ts4nsnet.lab.rules import Match, Rules, sees


class Change(Flag):
    """What of a node peers do not know yet."""

    NOTHING = 0
    ENTRY = auto()
    DISCO = auto()
    ENDPOINTS = auto()
    HOME = auto()
    ONLINE = auto()
    KEY_EXPIRY = auto()
    MATCH = auto()


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a node is: a user's, or its tags' alone."""

    login: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A node as its peers see it."""

    json: Json
    text: str


class Directory:
    """All nodes.

    Args:
        state: what is saved; its nodes stay the same objects.
        suffix: MagicDNS suffix, without dots around it.
        key_time: seconds until a user's node must log in again; None: never.
    """

    def __init__(self, state: State, suffix: str, key_time: float | None) -> None:
        self.state = state
        self.suffix = suffix
        self.nodes: dict[int, Node] = {node.node_id: node for node in state.nodes}
        self.rules = Rules(parse_policy(state.policy))
        self.changes: dict[int, Change] = {}
        self.removed: set[int] = set()
        self.affected_bits = 0  # rules whose sources are no longer what they were
        self.policy_changed = False
        self.retired: list[PublicKey] = []
        self.is_saved = True
        self._key_time = key_time
        self._by_machine = {node.machine: node for node in state.nodes}
        self._by_key = {node.key: node for node in state.nodes}
        self._labels = {node.label for node in state.nodes}
        self._matches: dict[int, Match] = {}
        self._entries: dict[int, Entry] = {}
        self._primaries: dict[Prefix, int] = {}
        self._routes_changed = True
        # when keys expire, and whose; what was changed meanwhile stays in until its time
        self._expiries = [(node.key_expires_at, node.node_id) for node in state.nodes if node.key_expires_at]
        heapq.heapify(self._expiries)

    # --- finding ------------------------------------------------------------------------------------------------------

    def of_machine(self, machine: PublicKey) -> Node | None:
        """The node of a machine."""
        return self._by_machine.get(machine)

    def of_key(self, key: PublicKey) -> Node | None:
        """The node that has this node key now."""
        return self._by_key.get(key)

    def find(self, machine: PublicKey, key: PublicKey) -> Node:
        """The node that asks; raises `Refused` (404) when its key is not known, or not its own."""
        node = self._by_key.get(key)
        if node is None:
            raise Refused(404, "node not found")
        if node.machine != machine:
            raise Refused(404, "node key in request does not match the one associated with this machine key")
        return node

    def match(self, node: Node) -> Match:
        """The rules that concern a node."""
        if node.node_id not in self._matches:
            self._matches[node.node_id] = self.rules.match(node)
        return self._matches[node.node_id]

    def sees(self, one: Node, other: Node) -> bool:
        """Whether two nodes know each other."""
        return sees(one, self.match(one), other, self.match(other))

    def entry(self, node: Node, wall: float) -> Entry:
        """A node as its peers see it."""
        if node.node_id not in self._entries:
            value = node_json(node, self.suffix, self.carried(node), wall)
            self._entries[node.node_id] = Entry(value, dump(value))
        return self._entries[node.node_id]

    def carried(self, node: Node) -> tuple[Prefix, ...]:
        """The subnet routes that a node carries: approved, and nobody else's turn."""
        return tuple(route for route in node.routes if self._primaries.get(route) == node.node_id)

    # --- changing -----------------------------------------------------------------------------------------------------

    def touch(self, node: Node, change: Change) -> None:
        """Note that something of a node has changed."""
        self.is_saved = False
        self._entries.pop(node.node_id, None)
        self.changes[node.node_id] = self.changes.get(node.node_id, Change.NOTHING) | change
        if Change.MATCH in change:
            self._forget_match(node)

    def create(self, machine: PublicKey, key: PublicKey, owner: Owner, hostinfo: Hostinfo, wall: float) -> Node:
        """A new node; raises `Refused` when no address is free."""
        used = {node.ipv4 for node in self.nodes.values()}
        address: IPv4Address = next_address(self.state.last_address, used)
        self.state.last_node_id += 1
        self.state.last_address = address
        node = Node(
            node_id=self.state.last_node_id,
            machine=machine,
            key=key,
            user_id=0,
            login="",
            label="",
            ipv4=address,
            created_at=wall,
            last_seen_at=wall,
        )
        self.nodes[node.node_id] = self._by_machine[machine] = self._by_key[key] = node
        self.state.nodes.append(node)
        self.set_owner(node, owner)
        self.renew(node, wall)
        self._rename(node, hostinfo.hostname)
        self.set_hostinfo(node, hostinfo)
        self.touch(node, Change.ENTRY | Change.MATCH)
        return node

    def set_key(self, node: Node, key: PublicKey) -> None:
        """Rotate a node's key; its disco key and endpoints belonged to the old process."""
        if key == node.key:
            return
        self._retire(node)
        del self._by_key[node.key]
        node.key, node.disco, node.endpoints = key, None, ()
        self._by_key[key] = node
        self.touch(node, Change.ENTRY)

    def set_owner(self, node: Node, owner: Owner) -> None:
        """Give a node to a user, or to its tags."""
        if owner.tags:
            user_id, login = TAGGED_USER_ID, TAGGED_USER
            node.key_expires_at = None
        else:
            user_id, login = self.state.users.setdefault(owner.login, len(self.state.users) + 1), owner.login
        if (node.user_id, node.tags) != (user_id, owner.tags):
            node.user_id, node.login, node.tags = user_id, login, owner.tags
            self.touch(node, Change.ENTRY | Change.MATCH)
            self._approve(node)

    def renew(self, node: Node, wall: float) -> None:
        """Start the life of a node's key anew."""
        self.set_expiry(node, None if node.tags or self._key_time is None else wall + self._key_time)

    def set_expiry(self, node: Node, expires_at: float | None) -> None:
        """Set when a node's key expires, Unix seconds; None: never."""
        if expires_at != node.key_expires_at:
            node.key_expires_at = expires_at
            if expires_at is not None:
                heapq.heappush(self._expiries, (expires_at, node.node_id))
            self.touch(node, Change.ENTRY)  # a patch cannot take an expiry back

    def expire(self, node: Node, wall: float) -> None:
        """A node's key has expired just now."""
        if not node.is_expired(wall):
            node.key_expires_at = wall
        self._retire(node)
        self.touch(node, Change.KEY_EXPIRY)

    def next_expiry(self) -> float | None:
        """When, in Unix seconds, `expire_due` may have something to do."""
        return self._expiries[0][0] if self._expiries else None

    def expire_due(self, wall: float) -> None:
        """Expire the keys whose time has come."""
        while self._expiries and self._expiries[0][0] <= wall:
            expires_at, node_id = heapq.heappop(self._expiries)
            node = self.nodes.get(node_id)
            if node is not None and node.key_expires_at == expires_at:
                self.expire(node, wall)

    def set_hostinfo(self, node: Node, hostinfo: Hostinfo) -> None:
        """Take what a node says about its host: name, routes, and the tags that it may ask for."""
        before = node.hostinfo
        if hostinfo == before:
            return
        node.hostinfo = hostinfo
        if hostinfo.routes != before.routes:
            self.touch(node, Change.MATCH)
            self._routes_changed = True
            self._approve(node)
        if hostinfo.tags and hostinfo.tags != node.tags and self.may_have(node, hostinfo.tags):
            self.set_owner(node, Owner(node.login, hostinfo.tags))
        if hostinfo.hostname and hostinfo.hostname != node.hostname:
            self._rename(node, hostinfo.hostname)
        self.touch(node, Change.NOTHING if replace(before, tags=hostinfo.tags) == hostinfo else Change.ENTRY)

    def may_have(self, node: Node, tags: tuple[str, ...]) -> bool:
        """Whether a node may ask for all of these tags."""
        return all(self.rules.may_have_tag(node.login, node.tags, tag) for tag in tags)

    def set_disco(self, node: Node, disco: PublicKey) -> None:
        """Take a node's disco key; a new one means a new process, whose endpoints are not known."""
        if disco != node.disco:
            node.disco = disco
            self.touch(node, Change.DISCO)
            self.set_endpoints(node, ())

    def set_endpoints(self, node: Node, endpoints: tuple[str, ...]) -> None:
        """Take a node's endpoints."""
        if endpoints != node.endpoints:
            node.endpoints = endpoints
            self.touch(node, Change.ENDPOINTS)

    def set_home(self, node: Node, home_derp: int) -> None:
        """Take a node's home region."""
        if home_derp != node.home_derp:
            node.home_derp = home_derp
            self.touch(node, Change.HOME)

    def set_version(self, node: Node, version: int) -> None:
        """Take a node's capability version."""
        if version != node.version:
            node.version = version
            self.touch(node, Change.ENTRY)

    def set_online(self, node: Node, online: bool, wall: float) -> None:
        """A node's stream has come, or has been gone for long enough."""
        node.last_seen_at = wall
        if online != node.online:
            node.online = online
            self._routes_changed = self._routes_changed or bool(node.routes)
            self.touch(node, Change.ONLINE)

    def approve_routes(self, node: Node, routes: frozenset[Prefix]) -> None:
        """Set which routes a node may have when it advertises them."""
        if routes != node.approved:
            before = node.routes
            node.approved = routes
            if node.routes != before:
                self._routes_changed = True
                self.touch(node, Change.ENTRY | Change.MATCH)
        self.is_saved = False

    def remove(self, node: Node) -> None:
        """Forget a node; everybody who knows it is told."""
        self._retire(node)
        self._forget_match(node)
        self._routes_changed = self._routes_changed or bool(node.routes)
        del self.nodes[node.node_id], self._by_machine[node.machine], self._by_key[node.key]
        self.state.nodes.remove(node)
        self._labels.discard(node.label)
        self._entries.pop(node.node_id, None)
        self.changes.pop(node.node_id, None)
        self.removed.add(node.node_id)
        self.is_saved = False

    def set_policy(self, text: str) -> None:
        """Put another policy in force; raises `PolicyError`, and the old one stays."""
        self.rules = Rules(parse_policy(text))
        self.state.policy = text
        self.is_saved = False
        self.policy_changed = True
        self._matches.clear()
        for node in self.nodes.values():
            self._approve(node)

    def elect(self) -> None:
        """Find the primary of every route, where something of it has changed."""
        if not self._routes_changed:
            return
        self._routes_changed = False
        candidates: dict[Prefix, list[Node]] = {}
        for node in self.nodes.values():
            for route in node.routes:
                if route not in EXIT_ROUTES:
                    candidates.setdefault(route, []).append(node)
        before, self._primaries = self._primaries, {}
        for route, nodes in candidates.items():
            had = before.get(route)
            best = min(nodes, key=lambda node: (not node.online, node.node_id != had, node.node_id))
            self._primaries[route] = best.node_id
        for route in before.keys() | self._primaries.keys():
            holders = {before.get(route), self._primaries.get(route)}
            for node_id in holders if len(holders) > 1 else ():
                if node_id in self.nodes:
                    self.touch(self.nodes[node_id], Change.ENTRY)

    def _rename(self, node: Node, hostname: str) -> None:
        node.hostname = hostname
        wanted = label_of(hostname)
        self._labels.discard(node.label)
        label = free_label(wanted, self._labels)
        self._labels.add(label)
        if label != node.label:
            node.label = label
            self.touch(node, Change.ENTRY)

    def _approve(self, node: Node) -> None:
        approved = {route for route in node.hostinfo.routes if self.rules.approves(node, route)}
        self.approve_routes(node, node.approved | approved)

    def _retire(self, node: Node) -> None:
        self.retired.append(node.key)

    def _forget_match(self, node: Node) -> None:
        self.rules.nodes_changed()
        before = self._matches.pop(node.node_id, None)
        if before is not None:
            self.affected_bits |= before.sources | before.own_sources
