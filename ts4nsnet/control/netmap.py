# SPDX-License-Identifier: BSD-3-Clause
"""The netmap: what a node knows of its tailnet; and how one message of the server makes the next one of it.

    poll opened      first message            later messages
        │                 │                       │ │ │
        ▼                 ▼                       ▼ ▼ ▼
     nothing ──► NetMap.first(response) ──► netmap.apply(response) ──► (NetMap, NetMapDelta) ──► …

Each new poll starts from nothing: its first message carries everything there is. Then each message changes some of it.
A NetMap is a value that is never changed; making the next one costs what the message says, not what the tailnet holds,
since peers and users are persistent maps. The delta tells a listener what to do over, in the same proportion. Servers
repeat themselves (headscale sends all peers whenever one comes or goes): what is equal is no change.

The order within a message is the reference's (notes control.md 5.4): all peers; or those removed, those changed, seen,
online, patches; then ourselves, users, relays, packet filter, DNS. Ids nobody knows are passed by.

The packet filter is a dictionary of named rule sets (5.6), and what holds is all of them together, or nothing at all:
where one is in a form that is not to be understood by halves, and where it would let in a peer that the tailnet's lock
does not cover (8.4). `packet_filter_discarded` then says why.

Time: the server's clock rules over expiry. When it is more than a minute off ours, `clock_skew` is the difference.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from operator import itemgetter
from types import MappingProxyType
from typing import TypeVar

from ts4nsnet.control.errors import Malformed
from ts4nsnet.control.messages import CLEAR, MapResponse, NodePatch, RuleSet
from ts4nsnet.control.node import DisplayMessage, Node, UserProfile
from ts4nsnet.control.persistent import PersistentMap
from ts4nsnet.derp import Map as DerpMap
from ts4nsnet.dns import Config as DnsConfig
from ts4nsnet.dns import normal_name
from ts4nsnet.filter import Range, Rule

MIN_CLOCK_SKEW = 60.0  # seconds; tailscale, ipn/ipnlocal/expiry.go
# unix seconds, in January 2023; the same: by an earlier clock than this nothing is called expired
EARLIEST_TIME = 1673373066.0
BASE_FILTER = "base"

LEGACY_RULES = "the server sent rules in a form that is no longer in use (SrcBits)"
UNSIGNED_PEER = "a rule lets in a peer that the tailnet's lock does not cover"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NetMapDelta:
    """What is different in a netmap from the one before. False when nothing is.

    Attributes:
        added, removed: peers, by ascending id.
        changed: peers, before and after.
        self_node, packet_filter, dns, derp_map, user_profiles, messages, domain: whether that part is different.
    """

    added: tuple[Node, ...] = ()
    changed: tuple[tuple[Node, Node], ...] = ()
    removed: tuple[Node, ...] = ()
    self_node: bool = False
    packet_filter: bool = False
    dns: bool = False
    derp_map: bool = False
    user_profiles: bool = False
    messages: bool = False
    domain: bool = False

    @classmethod
    def between(cls, before: "NetMap | None", after: "NetMap") -> "NetMapDelta":
        """Compare two netmaps whole, as after a new poll's first message; None: there was none."""
        peers = PersistentMap[Node]() if before is None else before.peers
        return _delta(before, after, sorted(after.peers.differences(peers), key=itemgetter(0)))

    def __bool__(self) -> bool:
        return self != _NO_DELTA


_NO_DELTA = NetMapDelta()


@dataclass(frozen=True, slots=True)
class NetMap:
    """Everything a node knows of its tailnet.

    Attributes:
        self_node: we.
        peers: by id.
        derp_map: the relays.
        dns: names.
        filters: the packet filter as it came, by name.
        packet_filter: what comes in from the tailnet; no rule: nothing.
        packet_filter_discarded: why there is no rule although the server sent some; else empty.
        domain: the tailnet's name, for display; not its DNS suffix.
        user_profiles: by id.
        health: problems as the server sees them, in the older form.
        display_messages: and in the newer form, by id.
        clock_skew: seconds that the server's clock is ahead of ours; 0 for less than a minute either way.
    """

    self_node: Node
    peers: PersistentMap[Node] = field(default_factory=PersistentMap)
    derp_map: DerpMap = field(default_factory=DerpMap)
    dns: DnsConfig = field(default_factory=DnsConfig)
    filters: Mapping[str, RuleSet] = field(default_factory=lambda: MappingProxyType({}))
    packet_filter: tuple[Rule, ...] = ()
    packet_filter_discarded: str = ""
    domain: str = ""
    user_profiles: PersistentMap[UserProfile] = field(default_factory=PersistentMap)
    health: tuple[str, ...] = ()
    display_messages: Mapping[str, DisplayMessage] = field(default_factory=lambda: MappingProxyType({}))
    clock_skew: float = 0.0
    _unsigned: frozenset[int] = frozenset()  # ids of the peers that the tailnet's lock does not cover

    @classmethod
    def first(cls, response: MapResponse, wall: float) -> "NetMap":
        """The netmap after the first message of a poll.

        Args:
            response: no keep-alive.
            wall: our clock, unix seconds.

        Raises:
            Malformed: the message does not say who we are, as a first one must.
        """
        if response.node is None:
            raise Malformed("Node", None, "the node itself in the first message of a map stream")
        return cls(response.node).apply(response, wall)[0]

    def apply(self, response: MapResponse, wall: float) -> tuple["NetMap", NetMapDelta]:
        """The netmap after a later message of the same poll, and what is new in it.

        Args:
            response: a keep-alive changes nothing but the clock skew.
            wall: our clock, unix seconds.
        """
        skew = _skew(self.clock_skew, response.control_time, wall)
        if response.keep_alive:
            return replace(self, clock_skew=skew), _NO_DELTA
        changes = _peer_changes(self.peers, response, wall)
        filters = _filters_after(self.filters, response)
        new = replace(
            self,
            self_node=_kept(self.self_node, response.node),
            peers=self.peers.updated({number: after for number, _, after in changes}),
            derp_map=_kept(self.derp_map, self.derp_map.updated(response.derp_regions, response.region_scores)),
            dns=_kept(self.dns, response.dns),
            filters=filters,
            domain=response.domain or self.domain,
            user_profiles=_users_after(self.user_profiles, response.user_profiles),
            health=_kept(self.health, response.health),
            display_messages=_messages_after(self.display_messages, response.display_messages),
            clock_skew=skew,
            _unsigned=_unsigned_after(self._unsigned, changes),
        )
        if filters is not self.filters or new._unsigned or self._unsigned:
            rules, discarded = _effective_filter(new)
            new = replace(new, packet_filter=_kept(self.packet_filter, rules), packet_filter_discarded=discarded)
        return new, _delta(self, new, changes)

    @property
    def magic_dns_suffix(self) -> str:
        """The tailnet's DNS suffix, without dots around: our own name less its first label."""
        return normal_name(self.self_node.name).partition(".")[2]

    def is_expired(self, node: Node, wall: float) -> bool:
        """Whether a node's key has expired, so that it is not to be spoken to; by the server's clock."""
        now = wall + self.clock_skew
        return node.expired or (node.key_expiry is not None and now >= EARLIEST_TIME and node.key_expiry <= now)

    def next_expiry(self, wall: float) -> float | None:
        """When, by our clock, the next key (ours or a peer's) expires; asks every peer."""
        now = wall + self.clock_skew
        if now < EARLIEST_TIME:
            return None
        coming = [
            node.key_expiry
            for node in (self.self_node, *self.peers.values())
            if node.key_expiry is not None and node.key_expiry > now and not node.expired
        ]
        return min(coming) - self.clock_skew if coming else None


# id, before, after; None: there is none
_Change = tuple[int, Node | None, Node | None]


def _peer_changes(peers: PersistentMap[Node], response: MapResponse, wall: float) -> list[_Change]:
    """What the message does to the peers, without what comes to nothing."""
    edits: dict[int, Node | None] = {}
    if response.peers is not None:
        edits.update(dict.fromkeys(peers))
        edits.update((node.id, node) for node in response.peers)
    else:
        edits.update(dict.fromkeys(response.peers_removed))
        edits.update((node.id, node) for node in response.peers_changed)
        _edit_fields(edits, peers, _patches(peers, response, wall))
    changes = []
    for number, after in sorted(edits.items()):
        before = peers.get(number)
        if before != after:
            changes.append((number, before, after))
    return changes


def _patches(peers: PersistentMap[Node], response: MapResponse, wall: float) -> Iterable[NodePatch]:
    for number, seen in response.seen.items():
        yield NodePatch(number, {"last_seen": wall if seen else None})
    for number, online in response.online.items():
        yield NodePatch(number, {"online": online})
    for patch in response.peers_patched:
        if not _is_stale(patch, peers.get(patch.id)):
            yield patch


def _edit_fields(edits: dict[int, Node | None], peers: PersistentMap[Node], patches: Iterable[NodePatch]) -> None:
    for patch in patches:
        node = edits[patch.id] if patch.id in edits else peers.get(patch.id)
        if node is not None:
            edits[patch.id] = replace(node, **patch.values)


def _is_stale(patch: NodePatch, node: Node | None) -> bool:
    """Whether a patch brings the disco key of a peer that has since been seen with another, perhaps (notes, 5.5)."""
    if node is None or node.last_seen is None or "disco_key" not in patch.values:
        return False
    last_seen = patch.values.get("last_seen")
    return patch.values.get("online") is False and last_seen is not None and last_seen <= node.last_seen


def _unsigned_after(unsigned: frozenset[int], changes: list[_Change]) -> frozenset[int]:
    now = {number for number, _, after in changes if after is not None and after.unsigned_peer_api_only}
    if not unsigned and not now:
        return unsigned
    return (unsigned - {number for number, _, _ in changes}) | now


def _users_after(users: PersistentMap[UserProfile], new: tuple[UserProfile, ...]) -> PersistentMap[UserProfile]:
    by_id = {user.id: user for user in new}
    return users.updated({number: user for number, user in by_id.items() if users.get(number) != user})


def _filters_after(filters: Mapping[str, RuleSet], response: MapResponse) -> Mapping[str, RuleSet]:
    after = dict(filters)
    if response.base_filter is not None:
        after[BASE_FILTER] = response.base_filter
    _patch_names(after, response.filters)
    return filters if after == filters else MappingProxyType(after)


def _messages_after(
    messages: Mapping[str, DisplayMessage], patch: Mapping[str, DisplayMessage | None] | None
) -> Mapping[str, DisplayMessage]:
    after = dict(messages)
    _patch_names(after, patch)
    return messages if after == messages else MappingProxyType(after)


def _patch_names(named: dict[str, T], patch: Mapping[str, T | None] | None) -> None:
    if patch is None:
        return
    if CLEAR in patch and patch[CLEAR] is None:
        named.clear()
    for name, value in patch.items():
        if name == CLEAR:
            continue
        if value is None:
            named.pop(name, None)
        else:
            named[name] = value


def _effective_filter(netmap: NetMap) -> tuple[tuple[Rule, ...], str]:
    """The rules that hold, and why there are none."""
    sets = [netmap.filters[name] for name in sorted(netmap.filters)]
    if any(each.legacy for each in sets):
        return (), LEGACY_RULES
    rules = tuple(rule for each in sets for rule in each.rules)
    unsigned = [Range.of(prefix) for number in netmap._unsigned for prefix in netmap.peers[number].allowed_ips]
    opened = [source for rule in rules if rule.destinations for source in rule.sources]
    if any(source.overlaps(peer) for peer in unsigned for source in opened):
        return (), UNSIGNED_PEER
    return rules, ""


def _skew(skew: float, control_time: float | None, wall: float) -> float:
    if control_time is None:
        return skew
    new = control_time - wall
    return new if abs(new) > MIN_CLOCK_SKEW else 0.0


def _kept(before: T, after: T | None) -> T:
    """What is after; but if that is nothing, or equal, the very object there was before."""
    return before if after is None or before == after else after


def _delta(before: NetMap | None, after: NetMap, changes: list[_Change]) -> NetMapDelta:
    def differs(*names: str) -> bool:
        return any(before is None or getattr(before, name) != getattr(after, name) for name in names)

    return NetMapDelta(
        added=tuple(new for _, old, new in changes if old is None and new is not None),
        changed=tuple((old, new) for _, old, new in changes if old is not None and new is not None),
        removed=tuple(old for _, old, new in changes if old is not None and new is None),
        self_node=differs("self_node"),
        packet_filter=differs("packet_filter", "packet_filter_discarded"),
        dns=differs("dns"),
        derp_map=differs("derp_map"),
        user_profiles=differs("user_profiles"),
        messages=differs("health", "display_messages"),
        domain=differs("domain"),
    )
