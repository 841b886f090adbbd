# SPDX-License-Identifier: BSD-3-Clause
"""Which names are the tailnet's, and what is known of them: a table per netmap."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from dns.rcode import Rcode
from dns.rdataclass import RdataClass
from dns.rdatatype import RdataType
from dns.reversename import from_address
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.dns.queries import HOSTS, MAGIC, SUFFIX, addresses
from ts4nsnet.dns import Config, ExtraRecord, Resolver, Upstream, normal_name
from ts4nsnet.dns.names import Local, Names, reverse_address

SERVER = Resolver("192.0.2.53")
EXTRA = (
    ExtraRecord("db.corp.example", ip_address("198.51.100.1")),
    ExtraRecord("db.corp.example", ip_address("2001:db8::1")),
    ExtraRecord("alice.tail.example", ip_address("198.51.100.9")),
    ExtraRecord("web.corp.example", ip_address("100.64.0.2")),
    ExtraRecord("", ip_address("198.51.100.10")),
)


def names(config: Config = MAGIC, suffix: str = SUFFIX, *, aaaa: bool = False, ipv6_only: bool = False) -> Names:
    return Names(config, HOSTS, suffix, aaaa=aaaa, ipv6_only=ipv6_only)


def ask(table: Names, question: str) -> str:
    """The answer to "name TYPE", as text: what is said, and whose SOA with it."""
    name, kind = question.split()
    local = table.find(normal_name(name), RdataType[kind])
    if local is None:
        return "ask"
    text = local.rcode.name if local.record is None else str(local.record)
    return text if local.zone is None else f"{text} {local.zone}"


MAGIC_CASES = [
    # nodes, with and without suffix, in any case
    ("alice.tail.example A", "100.64.0.1"),
    ("ALICE.Tail.example. A", "100.64.0.1"),
    ("bob A", "100.64.0.2"),
    ("carol.other.example A", "100.64.0.3"),
    ("carol A", "ask"),  # below another tailnet's suffix
    ("x.bob A", "ask"),
    # what they have no record of
    ("bob AAAA", "NOERROR bob"),
    ("bob.tail.example AAAA", "NOERROR tail.example"),
    ("six A", "NOERROR six"),
    ("six AAAA", "fd7a:115c:a1e0::6"),
    ("bob ANY", "100.64.0.2"),
    ("bob TXT", "NOERROR"),
    ("bob HTTPS", "NOERROR"),
    ("bob PTR", "NOERROR"),
    ("bob NS", "NOTIMP"),
    ("bob SOA", "NOTIMP"),
    ("bob HINFO", "NOTIMP"),
    ("bob AXFR", "NOTIMP"),
    # zones of ours
    ("nobody.tail.example A", "NXDOMAIN tail.example"),
    ("x.bob.tail.example TXT", "NXDOMAIN tail.example"),
    ("tail.example A", "NOERROR tail.example"),
    ("nottail.example A", "ask"),
    ("example A", "ask"),
    (". NS", "ask"),
    ("nobody A", "ask"),  # a single label that is no node
    # addresses
    ("2.0.64.100.in-addr.arpa PTR", "bob.tail.example"),
    (f"{from_address('fd7a:115c:a1e0::2')} PTR", "bob.tail.example"),
    (f"{from_address('fd7a:115c:a1e0::2')} A", "NXDOMAIN 0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa"),
    ("9.9.127.100.in-addr.arpa PTR", "NXDOMAIN 127.100.in-addr.arpa"),
    ("9.9.63.100.in-addr.arpa PTR", "ask"),
    ("1.2.0.192.in-addr.arpa PTR", "ask"),
    (f"{from_address('fd7a:115c:a1e0::99')} PTR", "NXDOMAIN 0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa"),
    # MagicDNS itself
    ("magicdns.localhost-tailscale-daemon A", "100.100.100.100"),
    ("magicdns.localhost-tailscale-daemon AAAA", "fd7a:115c:a1e0::53"),
    ("100.100.100.100.in-addr.arpa PTR", "magicdns.localhost-tailscale-daemon"),
    (f"{from_address('fd7a:115c:a1e0::53')} PTR", "magicdns.localhost-tailscale-daemon"),
    # no server's business
    ("hidden.onion A", "NXDOMAIN"),
    ("b._dns-sd._udp.0.2.0.192.in-addr.arpa PTR", "NXDOMAIN"),
    ("lb._dns-sd._udp.lan PTR", "NXDOMAIN"),
    ("db._dns-sd._udp.lan TXT", "NXDOMAIN"),
    ("a._dns-sd._udp.lan PTR", "ask"),
]


@pytest.mark.parametrize(("question", "answer"), MAGIC_CASES)
def test_the_tailnets_names_are_known(question: str, answer: str) -> None:
    assert ask(names(), question) == answer


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("bob.tail.example A", "100.64.0.2"),
        ("bob A", "ask"),
        ("2.0.64.100.in-addr.arpa PTR", "bob.tail.example"),
        ("nobody.tail.example A", "ask"),
        ("tail.example A", "ask"),
        ("9.9.127.100.in-addr.arpa PTR", "ask"),
    ],
)
def test_without_magic_dns_whole_names_are_known_and_no_zone_is_ours(question: str, answer: str) -> None:
    assert ask(names(Config()), question) == answer


@pytest.mark.parametrize(
    ("aaaa", "ipv6_only", "question", "answer"),
    [
        (True, False, "bob A", "100.64.0.2"),
        (True, False, "bob AAAA", "fd7a:115c:a1e0::2"),
        (False, True, "bob A", "NOERROR bob"),
        (False, True, "bob AAAA", "fd7a:115c:a1e0::2"),
        (True, True, "bob ANY", "fd7a:115c:a1e0::2"),
        (False, True, "carol.other.example A", "NOERROR carol.other.example"),  # it has nothing that we could reach
        (False, True, "magicdns.localhost-tailscale-daemon A", "100.100.100.100"),
    ],
)
def test_the_families_that_a_node_is_answered_with(aaaa: bool, ipv6_only: bool, question: str, answer: str) -> None:
    assert ask(names(aaaa=aaaa, ipv6_only=ipv6_only), question) == answer


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("db.corp.example A", "198.51.100.1"),
        ("db.corp.example AAAA", "2001:db8::1"),
        ("x.db.corp.example A", "NXDOMAIN db.corp.example"),
        ("corp.example A", "ask"),
        ("alice.tail.example A", "198.51.100.9"),  # before the node of that name
        ("1.100.51.198.in-addr.arpa PTR", "db.corp.example"),
        ("2.0.64.100.in-addr.arpa PTR", "bob.tail.example"),  # not the record for bob's address
        ("10.100.51.198.in-addr.arpa PTR", "ask"),  # the root has no name
        ("org A", "ask"),
    ],
)
def test_extra_records(question: str, answer: str) -> None:
    assert ask(names(Config(magic_dns=True, extra_records=EXTRA)), question) == answer


def test_an_extra_record_below_a_route_makes_no_zone() -> None:
    table = names(Config(extra_records=EXTRA, routes={"corp.example": (SERVER,)}))
    assert ask(table, "db.corp.example A") == "198.51.100.1"
    assert ask(table, "x.db.corp.example A") == "ask"


ROUTES = {
    "corp.example": (SERVER,),
    "lab.corp.example": (Resolver("192.0.2.54"),),
    "ours.corp.example": (),
    "https.corp.example": (Resolver("https://dns.example/dns-query"),),
    "": (Resolver("192.0.2.55"),),
}


@pytest.mark.parametrize(
    ("name", "server"),
    [
        ("corp.example", "192.0.2.53"),
        ("x.corp.example", "192.0.2.53"),
        ("xcorp.example", "192.0.2.55"),
        ("x.lab.corp.example", "192.0.2.54"),
        ("x.https.corp.example", "192.0.2.53"),  # no server that we can ask: the next route
        ("org", "192.0.2.55"),
        ("", "192.0.2.55"),
    ],
)
def test_the_longest_route_counts(name: str, server: str) -> None:
    table = names(Config(routes=ROUTES))
    assert table.route(name) == (Upstream(ip_address(server), tailnet=True),)
    assert table.find(name, RdataType.A) is None


def test_a_route_without_resolvers_is_a_zone_of_ours() -> None:
    assert ask(names(Config(routes=ROUTES)), "x.ours.corp.example A") == "NXDOMAIN ours.corp.example"
    assert ask(names(Config(routes={"": ()})), "org A") == "ask"


def test_a_route_of_the_server_goes_before_our_own_zone() -> None:
    assert ask(names(Config(magic_dns=True, routes={SUFFIX: (SERVER,)})), "nobody.tail.example A") == "ask"


def test_without_a_route_nobody_is_named() -> None:
    assert names().route("example.com") == ()


def test_without_a_suffix_no_zone_is_ours() -> None:
    assert ask(names(suffix=""), "nobody A") == "ask"


def test_other_classes_have_no_records_and_leave_no_zone() -> None:
    assert names().find("bob", RdataType.A, RdataClass.CH) is None
    found = names().find("bob.tail.example", RdataType.A, RdataClass.CH)
    assert found == Local(Rcode.NXDOMAIN, zone=SUFFIX)


def test_an_address_is_not_answered_by_what_is_no_host_name() -> None:
    table = Names(MAGIC, {"what is this.example": addresses("192.0.2.9")}, SUFFIX, aaaa=False, ipv6_only=False)
    assert ask(table, "9.2.0.192.in-addr.arpa PTR") == "ask"


def test_hosts_are_copied() -> None:
    hosts = {"x.tail.example": addresses("100.64.0.9")}
    table = Names(MAGIC, hosts, SUFFIX, aaaa=False, ipv6_only=False)
    hosts.clear()
    assert ask(table, "x A") == "100.64.0.9"


# --- names of addresses -----------------------------------------------------------------------------------------------


@given(st.ip_addresses())
def test_the_name_of_an_address_gives_the_address_back(address: IPv4Address | IPv6Address) -> None:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None  # dnspython names these as IPv4
    assert reverse_address(normal_name(from_address(str(address)).to_text())) == (mapped or address)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "in-addr.arpa",
        "1.0.0.in-addr.arpa",
        "1.1.0.0.10.in-addr.arpa",
        "01.0.0.10.in-addr.arpa",
        "256.0.0.10.in-addr.arpa",
        "x.0.0.10.in-addr.arpa",
        "1.0.0.10.in-addr.example",
        "1.0.0.10.example.arpa",
        "ip6.arpa",
        ".".join("0" * 31) + ".ip6.arpa",
        ".".join("0" * 33) + ".ip6.arpa",
        ".".join("0" * 31) + ".g.ip6.arpa",
        ".".join("0" * 30) + ".00.0.ip6.arpa",
    ],
)
def test_what_is_no_whole_address_is_none(name: str) -> None:
    assert reverse_address(name) is None


@given(st.text("0123456789abcdefg._-\\", max_size=80), st.sampled_from(["in-addr.arpa", "ip6.arpa", "arpa", ""]))
def test_any_name_is_an_address_or_not(name: str, top: str) -> None:
    reverse_address(f"{name}.{top}")
