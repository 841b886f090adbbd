# SPDX-License-Identifier: BSD-3-Clause
"""The policy file: who may reach whom, in the terms of Tailscale's public policy file.

    {"groups":    {"group:dev": ["alice@lab"]},
     "hosts":     {"printer": "10.0.0.5", "office": "10.0.0.0/24"},
     "tagOwners": {"tag:web": ["group:dev"]},
     "acls":      [{"action": "accept", "src": ["group:dev"], "proto": "tcp", "dst": ["tag:web:80,443", "office:*"]}],
     "grants":    [{"src": ["*"], "dst": ["tag:web"], "ip": ["tcp:443", "udp:*"]}],
     "autoApprovers": {"routes": {"10.0.0.0/8": ["tag:router"]}, "exitNode": ["tag:exit"]},
     "nodeAttrs": [{"target": ["*"], "attr": ["magicdns-aaaa"]}]}

This module reads and checks the text; rules.py finds out what it means for the nodes that there are. Comments and
commas before a closing bracket are allowed (HuJSON). Without `acls` and `grants` everybody may do everything; an empty
list of them allows nothing. What we would have to ignore (`ssh`, `grants[].app`, postures) is an error, so that nobody
believes in a rule that is not there.

Source: the public documentation of the policy file's syntax; control.md 8.1.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_network

from ts4nsnet.lab.errors import PolicyError

Prefix = IPv4Network | IPv6Network

ALL_PORTS = (0, 65535)
PROTOCOLS: Mapping[str, tuple[int, ...]] = {
    "icmp": (1, 58),
    "igmp": (2,),
    "ipv4": (4,),
    "tcp": (6,),
    "udp": (17,),
    "gre": (47,),
    "esp": (50,),
    "ah": (51,),
    "ipv6-icmp": (58,),
    "sctp": (132,),
}
WITH_PORTS = {6, 17, 132}
TAG = re.compile(r"tag:[a-zA-Z][a-zA-Z0-9-]*")

_SECTIONS = ("groups", "hosts", "tagOwners", "acls", "grants", "autoApprovers", "nodeAttrs")
_COMMENT_OR_TEXT = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_COMMA_OR_TEXT = re.compile(r'"(?:\\.|[^"\\])*"|,(?=\s*[\]}])')


class Kind(Enum):
    """How a selector picks."""

    EVERYTHING = "*"
    USER = "user"  # by login name: devices that carry no tag
    TAG = "tag"
    PREFIX = "prefix"
    MEMBER = "autogroup:member"  # devices that carry no tag
    TAGGED = "autogroup:tagged"
    ADMIN = "autogroup:admin"
    SELF = "autogroup:self"  # destinations: the source user's own devices
    INTERNET = "autogroup:internet"  # destinations: what lies behind an exit node


@dataclass(frozen=True, slots=True)
class Selector:
    """One entry of a `src`, `dst`, owner or target list; groups and hosts are replaced by what they stand for."""

    kind: Kind
    name: str = ""  # USER: login name; TAG: with "tag:"
    prefix: Prefix | None = None  # PREFIX


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a rule leads: hosts and ports on them."""

    selector: Selector
    ports: tuple[tuple[int, int], ...] = (ALL_PORTS,)  # first and last


@dataclass(frozen=True, slots=True)
class Rule:
    """Traffic that is allowed. `protocols` empty: TCP, UDP and ICMP."""

    sources: tuple[Selector, ...]
    destinations: tuple[Destination, ...]
    protocols: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy file that was checked.

    Args:
        rules: of `acls` and of `grants`.
        tag_owners: who may ask for a tag.
        route_approvers: whose advertised routes below a prefix need no approval.
        exit_approvers: whose offer to be an exit node needs none.
        attributes: node attributes, and whose they are.
        text: the file as it was given.
    """

    rules: tuple[Rule, ...]
    tag_owners: Mapping[str, tuple[Selector, ...]] = field(default_factory=dict)
    route_approvers: tuple[tuple[Prefix, tuple[Selector, ...]], ...] = ()
    exit_approvers: tuple[Selector, ...] = ()
    attributes: tuple[tuple[tuple[Selector, ...], tuple[str, ...]], ...] = ()
    text: str = "{}"


def parse_policy(text: str) -> Policy:
    """Read a policy file; raises `PolicyError`, whose text begins with the place."""
    plain = _COMMENT_OR_TEXT.sub(lambda match: match[0] if match[0].startswith('"') else " ", text)
    plain = _COMMA_OR_TEXT.sub(lambda match: match[0] if match[0].startswith('"') else "", plain)
    try:
        value = json.loads(plain)
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"policy: not JSON: {error}") from None
    sections = _members(value, "policy", _SECTIONS)
    names = _Names(sections)
    rules = names.acls(sections.get("acls", [])) + names.grants(sections.get("grants", []))
    if "acls" not in sections and "grants" not in sections:
        rules = (ALLOW_ALL,)
    approvers = _members(sections.get("autoApprovers", {}), "autoApprovers", ("routes", "exitNode"))
    routes = _members(approvers.get("routes", {}), "autoApprovers.routes")
    return Policy(
        rules=rules,
        tag_owners=names.tag_owners,
        route_approvers=tuple(
            (_prefix(prefix, "autoApprovers.routes"), names.owners(owners, f"autoApprovers.routes[{prefix}]"))
            for prefix, owners in routes.items()
        ),
        exit_approvers=names.owners(approvers.get("exitNode", []), "autoApprovers.exitNode"),
        attributes=names.attributes(sections.get("nodeAttrs", [])),
        text=text,
    )


ALLOW_ALL = Rule((Selector(Kind.EVERYTHING),), (Destination(Selector(Kind.EVERYTHING)),))

_ROLES = {kind.value: kind for kind in (Kind.MEMBER, Kind.TAGGED, Kind.ADMIN)} | {"autogroup:owner": Kind.ADMIN}


class _Names:
    """What the names of a policy stand for, and the readers of the sections that use them."""

    def __init__(self, sections: Mapping[str, object]) -> None:
        groups = _members(sections.get("groups", {}), "groups")
        self._groups = {name: _texts(users, f"groups[{name}]") for name, users in groups.items()}
        for name, users in self._groups.items():
            if not name.startswith("group:"):
                raise PolicyError(f"groups[{name}]: the name must begin with group:")
            for user in users:
                if "@" not in user:
                    raise PolicyError(f"groups[{name}]: got {user!r}, want login names; groups do not nest")
        hosts = _members(sections.get("hosts", {}), "hosts")
        self._hosts = {name: _prefix(address, f"hosts[{name}]") for name, address in hosts.items()}
        owners = _members(sections.get("tagOwners", {}), "tagOwners")
        self._tags = set(owners)
        for tag in owners:
            if not TAG.fullmatch(tag):
                raise PolicyError(f"tagOwners[{tag}]: want tag: and letters, digits, hyphens")
        self.tag_owners = {tag: self.owners(names, f"tagOwners[{tag}]") for tag, names in owners.items()}

    def acls(self, value: object) -> tuple[Rule, ...]:
        rules: list[Rule] = []
        for number, entry in enumerate(_list(value, "acls")):
            place = f"acls[{number}]"
            acl = _members(entry, place, ("action", "src", "dst", "proto"))
            if acl.get("action") != "accept":
                raise PolicyError(f"{place}.action: got {acl.get('action')!r}, want accept")
            protocols = _protocols(acl["proto"], f"{place}.proto") if "proto" in acl else ()
            destinations: list[Destination] = []
            for text in _texts(acl.get("dst"), f"{place}.dst"):
                host, _, ports = text.rpartition(":")
                parsed = _ports(ports, f"{place}.dst: {text}")
                _check_ports(protocols, parsed, f"{place}.dst: {text}")
                destinations += (Destination(each, parsed) for each in self.select(host, f"{place}.dst", to=True))
            rules.append(Rule(self._sources(acl, place), tuple(destinations), protocols))
        return tuple(rules)

    def grants(self, value: object) -> tuple[Rule, ...]:
        rules: list[Rule] = []
        for number, entry in enumerate(_list(value, "grants")):
            place = f"grants[{number}]"
            grant = _members(entry, place, ("src", "dst", "ip"))
            sources = self._sources(grant, place)
            hosts = [
                selector
                for text in _texts(grant.get("dst"), f"{place}.dst")
                for selector in self.select(text, f"{place}.dst", to=True)
            ]
            ports_of: dict[tuple[int, ...], tuple[tuple[int, int], ...]] = {}
            for text in _texts(grant.get("ip"), f"{place}.ip"):
                protocol, _, ports = text.rpartition(":")
                protocols = _protocols(protocol, f"{place}.ip") if protocol else ()
                parsed = _ports(ports, f"{place}.ip")
                _check_ports(protocols, parsed, f"{place}.ip: {text}")
                ports_of[protocols] = ports_of.get(protocols, ()) + parsed
            for protocols, parsed in ports_of.items():
                rules.append(Rule(sources, tuple(Destination(host, parsed) for host in hosts), protocols))
        return tuple(rules)

    def attributes(self, value: object) -> tuple[tuple[tuple[Selector, ...], tuple[str, ...]], ...]:
        found: list[tuple[tuple[Selector, ...], tuple[str, ...]]] = []
        for number, entry in enumerate(_list(value, "nodeAttrs")):
            place = f"nodeAttrs[{number}]"
            members = _members(entry, place, ("target", "attr"))
            targets = self._all(_texts(members.get("target"), f"{place}.target"), f"{place}.target")
            found.append((targets, _texts(members.get("attr"), f"{place}.attr")))
        return tuple(found)

    def owners(self, value: object, place: str) -> tuple[Selector, ...]:
        """Who may do something: no addresses among them."""
        selectors = self._all(_texts(value, place), place)
        if any(selector.kind in (Kind.PREFIX, Kind.EVERYTHING) for selector in selectors):
            raise PolicyError(f"{place}: want users, groups, tags or autogroups")
        return selectors

    def select(self, text: str, place: str, *, to: bool) -> tuple[Selector, ...]:
        """What one entry stands for; `to`: as a destination."""
        if text == "*":
            return (Selector(Kind.EVERYTHING),)
        if text in _ROLES:
            return (Selector(_ROLES[text]),)
        if to and text in (Kind.SELF.value, Kind.INTERNET.value):
            return (Selector(Kind(text)),)
        if text.startswith("group:") and text in self._groups:
            return tuple(Selector(Kind.USER, user) for user in self._groups[text])
        if text in self._tags:
            return (Selector(Kind.TAG, text),)
        if text.startswith(("group:", "tag:", "autogroup:")):
            raise PolicyError(f"{place}: {text!r} is not defined in this policy, or not allowed here")
        if text in self._hosts:
            return (Selector(Kind.PREFIX, prefix=self._hosts[text]),)
        if "@" in text:
            return (Selector(Kind.USER, text),)
        return (Selector(Kind.PREFIX, prefix=_prefix(text.removeprefix("[").removesuffix("]"), place)),)

    def _sources(self, entry: Mapping[str, object], place: str) -> tuple[Selector, ...]:
        return self._all(_texts(entry.get("src"), f"{place}.src"), f"{place}.src")

    def _all(self, texts: Sequence[str], place: str) -> tuple[Selector, ...]:
        return tuple(selector for text in texts for selector in self.select(text, place, to=False))


def _members(value: object, place: str, known: Sequence[str] = ()) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise PolicyError(f"{place}: got {_shown(value)}, want an object")
    for name in value:
        if known and name not in known:
            raise PolicyError(f"{place}: {name!r} is not supported here; known are {', '.join(known)}")
    return value


def _shown(value: object) -> str:
    return repr(value)[:60] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def _list(value: object, place: str) -> Sequence[object]:
    if not isinstance(value, list):
        raise PolicyError(f"{place}: got {_shown(value)}, want a list")
    return value


def _texts(value: object, place: str) -> tuple[str, ...]:
    texts = tuple(text for text in _list(value, place) if isinstance(text, str))
    if len(texts) != len(_list(value, place)):
        raise PolicyError(f"{place}: want a list of texts")
    return texts


def _prefix(value: object, place: str) -> Prefix:
    if isinstance(value, str):
        try:
            return ip_network(value)
        except ValueError:
            pass
    raise PolicyError(f"{place}: got {_shown(value)}, want an address, a prefix without host bits, or a defined name")


def _protocols(value: object, place: str) -> tuple[int, ...]:
    if isinstance(value, str) and value in PROTOCOLS:
        return PROTOCOLS[value]
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 3 and int(value) <= 255:
        return (int(value),)
    raise PolicyError(f"{place}: got {_shown(value)}, want a protocol: {', '.join(PROTOCOLS)} or a number to 255")


def _ports(text: str, place: str) -> tuple[tuple[int, int], ...]:
    if text == "*":
        return (ALL_PORTS,)
    ranges: list[tuple[int, int]] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        numbers = [first, last] if dash else [first, first]
        if not all(each.isascii() and each.isdigit() and len(each) <= 5 for each in numbers):
            raise PolicyError(f"{place}: got ports {part!r}, want *, a number or first-last")
        low, high = map(int, numbers)
        if not low <= high <= ALL_PORTS[1]:
            raise PolicyError(f"{place}: got ports {part!r}, want rising numbers to 65535")
        ranges.append((low, high))
    return tuple(ranges)


def _check_ports(protocols: tuple[int, ...], ports: tuple[tuple[int, int], ...], place: str) -> None:
    if ports != (ALL_PORTS,) and not WITH_PORTS.issuperset(protocols):
        raise PolicyError(f"{place}: this protocol has no ports, want *")
