# SPDX-License-Identifier: BSD-3-Clause
"""Queries as a container makes them, answers as servers do, and how to read what comes out.

All is written and read as text, in the way of dig: `read(answer)` of an address record is `"NOERROR 5 A 100.64.0.2"`.
"""

from collections.abc import Sequence
from ipaddress import ip_address

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

from ts4nsnet.dns import Client, Config, MagicDns, Upstream
from ts4nsnet.dns.upstream import Address

SUFFIX = "tail.example"
CLIENT = Client(bytes([100, 64, 0, 1]), 40000, bytes([10, 0, 2, 3]), 53)
ONE, TWO = Upstream(ip_address("192.0.2.53")), Upstream(ip_address("2001:db8::53"))


def addresses(*texts: str) -> tuple[Address, ...]:
    return tuple(map(ip_address, texts))


HOSTS = {
    "alice.tail.example.": addresses("100.64.0.1", "fd7a:115c:a1e0::1"),
    "Bob.tail.example.": addresses("100.64.0.2", "fd7a:115c:a1e0::2"),
    "six.tail.example.": addresses("fd7a:115c:a1e0::6"),
    "carol.other.example.": addresses("100.64.0.3"),
}
MAGIC = Config(magic_dns=True)


def make_query(name: str, kind: str = "A", number: int = 7, edns_bytes: int = 0) -> bytes:
    """A query; `edns_bytes`: how long an answer may be, 0 for a client that does not say."""
    message = dns.message.make_query(name, kind, use_edns=0 if edns_bytes else False, payload=edns_bytes or 1232)
    message.id = number
    return message.to_wire()


def make_answer(query: bytes, *records: str, rcode: str = "NOERROR") -> bytes:
    """A server's answer: records as `"5 A 192.0.2.1"`."""
    message = dns.message.make_response(dns.message.from_wire(query), recursion_available=True)
    message.set_rcode(dns.rcode.from_text(rcode))
    name = message.question[0].name
    for record in records:
        ttl, kind, data = record.split(" ", 2)
        message.answer.append(dns.rrset.from_text(name, int(ttl), "IN", kind, data))
    return message.to_wire(max_size=65535)


def read(answer: bytes) -> str:
    """The result, records of the answer, and those of the authority section (`|`)."""
    message = dns.message.from_wire(answer)
    assert message.flags & dns.flags.QR
    parts = [dns.rcode.to_text(message.rcode())]
    for mark, section in (("", message.answer), ("| ", message.authority)):
        for rrset in section:
            parts += [f"{mark}{rrset.ttl} {dns.rdatatype.to_text(rrset.rdtype)} {record}" for record in rrset]
    return " ".join(parts)


def resolver(config: Config = MAGIC, upstreams: Sequence[Upstream] = (ONE, TWO)) -> MagicDns:
    """One that knows `HOSTS`; its identifiers count upwards from 1, so that a test can tell them."""
    count = iter(range(1, 1 << 16))
    magic = MagicDns(lambda size: next(count).to_bytes(size, "big"))
    magic.set_config(config, HOSTS, SUFFIX)
    magic.set_upstreams(upstreams)
    return magic


def answers(magic: MagicDns) -> list[str]:
    return [read(answer) for answer, _ in magic.answers_to_send()]
