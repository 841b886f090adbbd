# SPDX-License-Identifier: BSD-3-Clause
"""What a policy means for the nodes that there are: who sees whom, and each node's packet filter.

Every rule gets a bit. A node's `Match` has two numbers: the rules it is a source of, and those it is a destination of.
So whether A and B see each other is one AND of integers:

    A sees B   ⇔   A.sources & B.destinations, or B.sources & A.destinations

`autogroup:self` is a rule between the devices of one user alone; its bits are kept apart and count only for two nodes
of the same user.

A node is sent only those destinations that concern it: its own addresses, its approved routes. Sources that are named
by user or tag become the addresses of these nodes, so a node that joins may change the filters of others; `member_bits`
says by which rules.

Source: control.md 8.1, 9.5 and 10.6; the public documentation of the policy file.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses

from ts4nsnet.lab.model import DEFAULT_USER, EXIT_ROUTES, Node, Prefix
from ts4nsnet.lab.policy import Destination, Kind, Policy, Rule, Selector

RuleJson = dict[str, object]

_PRIVATE_IPV4 = ("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16")


@dataclass(frozen=True, slots=True)
class Match:
    """The rules that concern a node, a bit each."""

    sources: int = 0
    destinations: int = 0
    own_sources: int = 0  # rules to autogroup:self
    own_destinations: int = 0


class Rules:
    """A policy in force."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.member_bits = 0  # rules whose sources are named by user, tag or role
        self._sources: dict[int, list[str]] = {}  # of rules, as the wire has them; until the nodes change
        for number, rule in enumerate(policy.rules):
            if any(selector.kind not in (Kind.EVERYTHING, Kind.PREFIX) for selector in rule.sources):
                self.member_bits |= 1 << number
            if any(destination.selector.kind is Kind.SELF for destination in rule.destinations):
                self.member_bits |= 1 << number

    def nodes_changed(self) -> None:
        """A node has come, gone, or changed what rules see of it."""
        self._sources.clear()

    def match(self, node: Node) -> Match:
        """The rules that concern `node`, as it is now."""
        sources = destinations = own_sources = own_destinations = 0
        for number, rule in enumerate(self.policy.rules):
            bit = 1 << number
            kinds = {destination.selector.kind for destination in rule.destinations}
            if any(_picks(selector, node) for selector in rule.sources):
                sources |= bit if kinds - {Kind.SELF} else 0
                own_sources |= bit if Kind.SELF in kinds and not node.tags else 0
            if any(_reached(each.selector, node) for each in rule.destinations if each.selector.kind is not Kind.SELF):
                destinations |= bit
            own_destinations |= bit if Kind.SELF in kinds and not node.tags else 0
        return Match(sources, destinations, own_sources, own_destinations)

    def packet_filter(self, node: Node, match: Match, nodes: Mapping[int, Node]) -> list[RuleJson]:
        """What `node` lets in, as the wire has it; `nodes` are all that there are."""
        rules: list[RuleJson] = []
        for number, rule in enumerate(self.policy.rules):
            if match.destinations >> number & 1:
                others = (each for each in rule.destinations if each.selector.kind is not Kind.SELF)
                if number not in self._sources:
                    self._sources[number] = _sources(rule, nodes.values())
                rules += _rule_json(rule, self._sources[number], others, node)
            if match.own_destinations >> number & 1:
                own = (each for each in nodes.values() if not each.tags and each.user_id == node.user_id)
                mine = (each for each in rule.destinations if each.selector.kind is Kind.SELF)
                rules += _rule_json(rule, _sources(rule, own, members_only=True), mine, node)
        return rules

    def approves(self, node: Node, route: Prefix) -> bool:
        """Whether the policy approves a route that `node` advertises."""
        if route in EXIT_ROUTES:
            return any(_picks(owner, node) for owner in self.policy.exit_approvers)
        return any(
            _is_within(route, prefix) and any(_picks(owner, node) for owner in owners)
            for prefix, owners in self.policy.route_approvers
        )

    def may_have_tag(self, login: str, tags: Sequence[str], tag: str) -> bool:
        """Whether a node of the user `login`, or one that has `tags` and no user, may ask for `tag`."""
        if tag in tags:
            return True
        owners = self.policy.tag_owners.get(tag)
        if owners is None:
            return False
        if tags:
            return any(Selector(Kind.TAG, own) in owners for own in tags)
        return login == DEFAULT_USER or not {Selector(Kind.USER, login), Selector(Kind.MEMBER)}.isdisjoint(owners)

    def attributes(self, node: Node) -> list[str]:
        """The node attributes that the policy gives to `node`."""
        return [
            attribute
            for targets, attributes in self.policy.attributes
            if any(_picks(target, node) for target in targets)
            for attribute in attributes
        ]


def sees(one: Node, one_match: Match, other: Node, other_match: Match) -> bool:
    """Whether two nodes know each other."""
    if one_match.sources & other_match.destinations or other_match.sources & one_match.destinations:
        return True
    if one.tags or other.tags or one.user_id != other.user_id:
        return False
    return bool(
        one_match.own_sources & other_match.own_destinations or other_match.own_sources & one_match.own_destinations
    )


def _internet() -> tuple[Prefix, ...]:
    left: list[IPv4Network] = [IPv4Network("0.0.0.0/0")]
    for private in map(IPv4Network, _PRIVATE_IPV4):
        left = [
            part
            for network in left
            for part in (network.address_exclude(private) if private.subnet_of(network) else (network,))
        ]
    return *sorted(collapse_addresses(left)), IPv6Network("2000::/3")


INTERNET: tuple[Prefix, ...] = _internet()


def _picks(selector: Selector, node: Node) -> bool:
    """Whether `node` is among the sources, owners or targets that `selector` names."""
    match selector.kind:
        case Kind.EVERYTHING:
            return True
        case Kind.USER:
            return not node.tags and node.login == selector.name
        case Kind.TAG:
            return selector.name in node.tags
        case Kind.MEMBER:
            return not node.tags
        case Kind.TAGGED:
            return bool(node.tags)
        case Kind.ADMIN:
            return not node.tags and node.login == DEFAULT_USER
        case Kind.PREFIX:
            return bool(_concerned(selector.prefix, node))
        case _:
            return False


def _reached(selector: Selector, node: Node) -> bool:
    """Whether `node` is among the destinations that `selector` names."""
    return node.is_exit_node if selector.kind is Kind.INTERNET else _picks(selector, node)


def _concerned(prefix: Prefix | None, node: Node) -> list[Prefix]:
    """What of `prefix` is `node`, or lies behind it."""
    if prefix is None:
        return []
    own = [address for address in node.addresses if _is_within(address, prefix)]
    subnets = [route for route in node.routes if route not in EXIT_ROUTES]
    inside = [route for route in subnets if _is_within(route, prefix)]
    around = [prefix for route in subnets if route not in inside and _is_within(prefix, route)]
    return own + inside + around


def _is_within(inner: Prefix, outer: Prefix) -> bool:
    if isinstance(inner, IPv4Network) and isinstance(outer, IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, IPv6Network) and isinstance(outer, IPv6Network):
        return inner.subnet_of(outer)
    return False


def _sources(rule: Rule, nodes: Iterable[Node], *, members_only: bool = False) -> list[str]:
    """The rule's sources as the wire has them; `members_only`: the addresses of `nodes`, whatever selects them."""
    if not members_only and any(selector.kind is Kind.EVERYTHING for selector in rule.sources):
        return ["*"]
    prefixes = [] if members_only else [str(each.prefix) for each in rule.sources if each.kind is Kind.PREFIX]
    members = [each for each in rule.sources if members_only or each.kind is not Kind.PREFIX]
    for node in nodes:
        if any(_picks(selector, node) for selector in members):
            prefixes += (str(node.ipv4), str(node.ipv6))
    return list(dict.fromkeys(prefixes))


def _rule_json(rule: Rule, sources: list[str], destinations: Iterable[Destination], node: Node) -> list[RuleJson]:
    """At most one rule: none where nothing is left of it."""
    ports = [
        {"IP": target, "Ports": {"First": first, "Last": last}}
        for destination in destinations
        for target in _targets(destination.selector, node)
        for first, last in destination.ports
    ]
    if not sources or not ports:
        return []
    value: RuleJson = {"SrcIPs": sources, "DstPorts": ports}
    return [value | {"IPProto": list(rule.protocols)} if rule.protocols else value]


def _targets(selector: Selector, node: Node) -> list[str]:
    """What of a destination concerns `node`."""
    match selector.kind:
        case Kind.EVERYTHING:
            return ["*"]
        case Kind.INTERNET:
            return [str(prefix) for prefix in INTERNET] if node.is_exit_node else []
        case Kind.PREFIX:
            return [str(prefix) for prefix in _concerned(selector.prefix, node)]
        case Kind.SELF:
            return [str(node.ipv4), str(node.ipv6)]
        case _:
            return [str(node.ipv4), str(node.ipv6)] if _picks(selector, node) else []
