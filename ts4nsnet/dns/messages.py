# SPDX-License-Identifier: BSD-3-Clause
"""DNS messages, by dnspython: the question of a query, our own answers, what an answer answers, cutting one.

Of a query only the header and the question are read: whatever else is in it is for the server that it goes to, and
need not make sense to us. Likewise an answer is passed on as the bytes it is; it is read again only if it is too long
for the client, to be cut between two records.

`parse` is the door for untrusted bytes: it raises `Malformed`, nothing else.

Source: RFC 1035 4.1, 2308, 6891, 9619; notes dns-filter.md A2, A3, A6.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Self

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rrset
from dns.rcode import Rcode
from dns.rdataclass import RdataClass
from dns.rdatatype import RdataType

from ts4nsnet.dns.config import normal_name
from ts4nsnet.dns.errors import Malformed
from ts4nsnet.dns.names import Local
from ts4nsnet.dns.upstream import Address

HEADER_BYTES = 12
MIN_UDP_BYTES = 512  # that every client takes; RFC 1035 4.2.1
# the longest answer that we hand on, whatever the client takes, as in the reference
MAX_UDP_BYTES = 4095
POSITIVE_TTL = 5  # seconds
NEGATIVE_TTL = 10
_ID = struct.Struct("!H")
_SOA = struct.Struct("!5I")  # behind the names: serial, refresh, retry, expire, minimum
_KEPT_FLAGS = dns.flags.RD | dns.flags.CD


@dataclass(frozen=True, slots=True)
class Question:
    """The question of a message.

    Attributes:
        message: header and questions.
        name: normal form; what is no letter, digit, hyphen or underscore may be escaped in it.
        kind: type of record.
        rdclass: the internet, normally.
    """

    message: dns.message.Message
    name: str
    kind: RdataType
    rdclass: RdataClass

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a query's or an answer's header and question; raises `Malformed`."""
        if data[4:6] != b"\0\1":  # RFC 9619; dnspython would read thousands of questions, too
            raise Malformed("message", got=f"{int.from_bytes(data[4:6], 'big')} questions", want="one")
        try:
            message = dns.message.from_wire(data, question_only=True, ignore_trailing=True)
        except (dns.exception.DNSException, ValueError) as error:
            raise Malformed(
                "message", got=str(error) or type(error).__name__, want="a header and a question"
            ) from error
        first = message.question[0]
        return cls(message, normal_name(first.name.to_text()), first.rdtype, first.rdclass)

    def is_same(self, other: "Question") -> bool:
        """Whether both ask for the same."""
        return (self.name, self.kind, self.rdclass) == (other.name, other.kind, other.rdclass)


def message_id(data: bytes) -> int:
    """The identifier of a message of at least 2 bytes."""
    return int(_ID.unpack_from(data)[0])


def with_id(data: bytes, number: int) -> bytes:
    """The same message with another identifier."""
    return _ID.pack(number) + data[2:]


def is_answer(data: bytes) -> bool:
    """Whether the QR bit of a message with a whole header is set."""
    return data[2] & 0x80 != 0


def rcode(data: bytes) -> Rcode:
    """The result that an answer with a whole header gives, without EDNS's bits."""
    return Rcode(data[3] & 0x0F)


def format_error(query: bytes) -> bytes:
    """FORMERR for a query of which no more than its header can be read."""
    flags = dns.flags.QR | (int.from_bytes(query[2:4], "big") & (0x7800 | _KEPT_FLAGS)) | Rcode.FORMERR
    return query[:2] + flags.to_bytes(2, "big") + bytes(8)


def failure(question: Question, result: Rcode = Rcode.SERVFAIL) -> bytes:
    """An answer that says no more than that there is none."""
    return _response(question, result).to_wire()


def local_answer(question: Question, local: Local) -> bytes:
    """The answer that `Names` has found."""
    response = _response(question, local.rcode)
    response.flags |= dns.flags.AA
    if local.record is not None:
        owner = question.message.question[0].name
        response.answer.append(_record(owner, POSITIVE_TTL, *_record_data(local.record)))
    elif local.zone is not None:
        zone = dns.name.from_text(local.zone)
        # nobody transfers the zone, so its serial number need not count
        soa = zone.to_digestable() * 2 + _SOA.pack(1, *[NEGATIVE_TTL] * 4)
        response.authority.append(_record(zone, NEGATIVE_TTL, RdataType.SOA, soa))
    return response.to_wire()


def _record(owner: dns.name.Name, ttl: int, kind: RdataType, data: bytes) -> dns.rrset.RRset:
    return dns.rrset.from_rdata(owner, ttl, dns.rdata.from_wire(RdataClass.IN, kind, data, 0, len(data)))


def _record_data(value: Address | str) -> tuple[RdataType, bytes]:
    match value:
        case IPv4Address():
            return RdataType.A, value.packed
        case IPv6Address():
            return RdataType.AAAA, value.packed
    return RdataType.PTR, dns.name.from_text(value).to_digestable()


def _response(question: Question, result: Rcode) -> dns.message.Message:
    query = question.message
    response = dns.message.Message(id=query.id)
    response.flags = dns.flags.Flag(dns.flags.QR | (query.flags & _KEPT_FLAGS))
    if query.flags & dns.flags.RD:
        response.flags |= dns.flags.RA
    response.set_opcode(query.opcode())
    response.set_rcode(result)
    response.question.append(query.question[0])
    return response


def cut_for(query: bytes, question: Question, answer: bytes) -> bytes:
    """The answer, cut between two records and marked (TC) if it is longer than the client of `query` takes."""
    if len(answer) <= MIN_UDP_BYTES or len(answer) <= (size := _client_bytes(query)):
        return answer
    try:
        message = dns.message.from_wire(answer, one_rr_per_rrset=True)
        return message.to_wire(max_size=size, prefer_truncation=True)
    except (dns.exception.DNSException, ValueError):
        response = _response(question, rcode(answer))
        response.flags |= dns.flags.TC
        return response.to_wire()


def _client_bytes(query: bytes) -> int:
    """How long an answer over UDP may be: what the query's EDNS says, within reason."""
    try:
        payload = dns.message.from_wire(query).payload
    except (dns.exception.DNSException, ValueError):
        return MIN_UDP_BYTES
    return min(max(payload, MIN_UDP_BYTES), MAX_UDP_BYTES)
