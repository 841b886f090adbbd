# SPDX-License-Identifier: BSD-3-Clause
"""Names of the tailnet: what is answered without asking anybody.

    PTR          an address of a node, or in an extra record      its name
    symbolic     magicdns.localhost-tailscale-daemon              MagicDNS's own addresses
    exact        an extra record, else a node                     its address
    one label    a node below the tailnet's suffix                its address, if MagicDNS is on
    in a zone    any other name at or below a zone of ours        NXDOMAIN, at its apex no record
    .onion, Bonjour's way of asking for domains                   NXDOMAIN: no business of any server
    else                                                          None: a server is to be asked, see `route`

A zone of ours is a route without resolvers. If MagicDNS is on, the tailnet's suffix and the reverse zones of its
addresses are such; so is each extra record that no other route covers.

**IPv6.** An AAAA query for a node that has IPv4 too finds no record unless the policy gives this node the attribute
`magicdns-aaaa` (`aaaa`). So it is with every client of the tailnet: programs prefer an IPv6 address once they have one,
while services and rules of a tailnet are often written for IPv4 alone; and a container may have IPv6 off. A node that
has no IPv4 itself is given IPv6 addresses only.

Where we are stricter than the reference: the apex of a zone exists, since names below it do (RFC 8020).

Names are compared in the form of `normal_name`, as text. Ten thousand nodes are a dictionary; the one for addresses is
made when first an address is looked up.

Source: notes dns-filter.md A2 to A5; tailscale, net/dns/resolver (tsdns.go), ipn/ipnlocal (dnsConfigForNetmap).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address

from dns.rcode import Rcode
from dns.rdataclass import RdataClass
from dns.rdatatype import RdataType

from ts4nsnet.dns.config import Config, normal_name
from ts4nsnet.dns.upstream import SERVICE_ADDRESSES, Address, Upstream, usable

SYMBOLIC_NAME = "magicdns.localhost-tailscale-daemon"
REVERSE_ZONES = (
    *(f"{octet}.100.in-addr.arpa" for octet in range(64, 128)),  # 100.64.0.0/10
    "0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa",  # fd7a:115c:a1e0::/48
)
_BONJOUR = tuple(f"{label}._dns-sd._udp." for label in ("b", "db", "r", "dr", "lb"))
_UNSUPPORTED = {RdataType.NS, RdataType.SOA, RdataType.AXFR, RdataType.HINFO}
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_IPV6_NIBBLES = 32


@dataclass(frozen=True, slots=True)
class Local:
    """An answer of our own.

    Attributes:
        rcode: its result.
        record: the one record in it: an address (A or AAAA), a name (PTR), or none.
        zone: without a record: whose SOA says for how long that holds; None: nobody's.
    """

    rcode: Rcode = Rcode.NOERROR
    record: Address | str | None = None
    zone: str | None = None


class Names:
    """What the tailnet's names are, as of one netmap. It does not change.

    Args:
        config: the coordination server's.
        hosts: nodes by name, ourselves included, and their addresses in order of preference.
        suffix: the tailnet's; empty: none.
        aaaa: nodes that have IPv4 are answered with IPv6, too.
        ipv6_only: we have no IPv4 address.
    """

    def __init__(
        self, config: Config, hosts: Mapping[str, Sequence[Address]], suffix: str, *, aaaa: bool, ipv6_only: bool
    ) -> None:
        self._suffix = normal_name(suffix) if config.magic_dns else ""
        self._aaaa = aaaa
        self._ipv6_only = ipv6_only
        self._hosts = {normal_name(name): tuple(addresses) for name, addresses in hosts.items()}
        self._extra: dict[str, tuple[Address, ...]] = {}
        for record in filter(lambda record: record.name, config.extra_records):  # the root is nobody's name
            self._extra[record.name] = (*self._extra.get(record.name, ()), record.address)
        self._routes = self._all_routes(config)

    def _all_routes(self, config: Config) -> dict[str, tuple[Upstream, ...]]:
        """Whom to ask for names at or below a suffix; nobody: the zone is ours."""
        routes: dict[str, tuple[Upstream, ...]] = {}
        if self._suffix:
            routes.update(dict.fromkeys((self._suffix, *REVERSE_ZONES), ()))
        for suffix, resolvers in config.routes.items():
            upstreams = usable(resolvers)
            if upstreams or (suffix and not resolvers):  # the root is not ours
                routes[suffix] = upstreams
        covered = [any(suffix in routes for suffix in _suffixes(name)) for name in self._extra]
        routes.update((name, ()) for name, is_covered in zip(self._extra, covered, strict=True) if not is_covered)
        return routes

    def find(self, name: str, kind: RdataType, rdclass: RdataClass = RdataClass.IN) -> Local | None:
        """The answer to a question; None: a server is to be asked.

        Args:
            name: normal form.
            kind: the record's type.
            rdclass: in others than the internet's we know nothing.
        """
        found = self._known(name, kind) if rdclass == RdataClass.IN else None
        if found is not None:
            return found
        if name.endswith(".onion") or name.startswith(_BONJOUR):
            return Local(Rcode.NXDOMAIN)
        zone = next((suffix for suffix in _suffixes(name) if suffix in self._routes), None)
        if zone is None or self._routes[zone]:
            return None
        return Local(Rcode.NOERROR if name == zone else Rcode.NXDOMAIN, zone=zone)

    def route(self, name: str) -> tuple[Upstream, ...]:
        """Whom to ask for a name: the servers of the longest suffix that there is a route for; empty: no such route."""
        return next((self._routes[suffix] for suffix in _suffixes(name) if suffix in self._routes), ())

    def _known(self, name: str, kind: RdataType) -> Local | None:
        if kind == RdataType.PTR:
            pointed = reverse_address(name)
            target = None if pointed is None else self._by_address.get(pointed)
            if target is not None and _HOST_NAME.fullmatch(target):
                return Local(record=target)
        if name == SYMBOLIC_NAME:
            return self._answer(name, kind, SERVICE_ADDRESSES)
        addresses = self._extra.get(name) or self._addresses(name)
        return None if addresses is None else self._answer(name, kind, addresses)

    def _addresses(self, name: str) -> Sequence[Address] | None:
        """The addresses of a node that may be told, if any; None: there is no such node."""
        addresses = self._hosts.get(name)
        if addresses is None and self._suffix and "." not in name:
            addresses = self._hosts.get(f"{name}.{self._suffix}")
        if addresses is None:
            return None
        if self._ipv6_only:
            return [address for address in addresses if address.version == 6]
        ipv4 = [address for address in addresses if address.version == 4]
        return addresses if self._aaaa or not ipv4 else ipv4

    def _answer(self, name: str, kind: RdataType, addresses: Sequence[Address]) -> Local:
        if kind in _UNSUPPORTED:
            return Local(Rcode.NOTIMP)
        if kind not in {RdataType.A, RdataType.AAAA, RdataType.ANY}:
            return Local()
        family = {RdataType.A: IPv4Address, RdataType.AAAA: IPv6Address}.get(kind, IPv4Address | IPv6Address)
        record = next((address for address in addresses if isinstance(address, family)), None)
        if record is not None:
            return Local(record=record)
        return Local(zone=next((suffix for suffix in _suffixes(name) if self._routes.get(suffix) == ()), name))

    @cached_property
    def _by_address(self) -> dict[Address, str]:
        names: dict[Address, str] = dict.fromkeys(SERVICE_ADDRESSES, SYMBOLIC_NAME)
        for table in (self._hosts, self._extra):
            for name, addresses in table.items():
                for address in addresses:
                    names.setdefault(address, name)
        return names


def _suffixes(name: str) -> Iterator[str]:
    """The name itself, its parent and so on, at last the root."""
    while name:
        yield name
        name = name.partition(".")[2]
    yield ""


def reverse_address(name: str) -> Address | None:
    """The address that a name below in-addr.arpa or ip6.arpa, in normal form, stands for; None: it stands for none."""
    labels = name.split(".")
    top, labels = labels[-2:], labels[:-2]
    try:
        if top == ["in-addr", "arpa"]:
            return IPv4Address(".".join(reversed(labels)))
        if top == ["ip6", "arpa"] and len(labels) == _IPV6_NIBBLES and all(len(label) == 1 for label in labels):
            return IPv6Address(bytes.fromhex("".join(reversed(labels))))
    except ValueError:
        pass
    return None
