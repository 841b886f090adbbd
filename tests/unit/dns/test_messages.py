# SPDX-License-Identifier: BSD-3-Clause
"""Messages: what is read of a query, what our own answers look like, how a long answer is cut."""

from ipaddress import ip_address

import dns.flags
import dns.message
import dns.opcode
import pytest
from dns.rcode import Rcode
from dns.rdataclass import RdataClass
from dns.rdatatype import RdataType
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.dns.queries import make_answer, make_query, read
from ts4nsnet.dns.errors import Malformed
from ts4nsnet.dns.messages import (
    MAX_UDP_BYTES,
    MIN_UDP_BYTES,
    Question,
    cut_for,
    failure,
    format_error,
    is_answer,
    local_answer,
    message_id,
    rcode,
    with_id,
)
from ts4nsnet.dns.names import Local

QUERY = make_query("Bob.Tail.Example", "AAAA", number=0x1234)
# each is 16 bytes in an answer
MANY = [f"5 A 192.0.2.{n}" for n in range(100)]


def question(query: bytes) -> Question:
    return Question.parse(query)


def test_a_question_is_read_in_normal_form() -> None:
    found = question(QUERY)
    assert (found.name, found.kind, found.rdclass) == ("bob.tail.example", RdataType.AAAA, RdataClass.IN)


def test_what_follows_the_question_need_not_make_sense() -> None:
    query = QUERY[:10] + b"\0\1" + QUERY[12:] + b"\xff" * 5
    assert question(query).name == "bob.tail.example"


@pytest.mark.parametrize(
    "data",
    [
        QUERY[:11],
        QUERY[:-1],
        QUERY[:4] + b"\0\0" + QUERY[6:12],
        QUERY[:4] + b"\0\2" + QUERY[6:] + QUERY[12:],
        QUERY[:12] + b"\x40" + QUERY[13:],
        QUERY[:12] + b"\xc0\x0c\0\1\0\1",
        b"",
    ],
    ids=["header cut", "question cut", "no question", "two", "label type", "pointer to itself", "nothing"],
)
def test_what_has_not_one_question_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed, match="want"):
        question(data)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (make_query("BOB.tail.example", "AAAA", number=1), True),
        (make_query("bob.tail.example", "A"), False),
        (make_query("rob.tail.example", "AAAA"), False),
        (make_query("bob.tail.example", "AAAA").replace(b"\0\x1c\0\1", b"\0\x1c\0\3"), False),
    ],
    ids=["same", "type", "name", "class"],
)
def test_same_questions(other: bytes, same: bool) -> None:
    assert question(QUERY).is_same(question(other)) is same


@given(st.binary(min_size=2, max_size=40), st.integers(0, 0xFFFF))
def test_another_identifier_is_all_that_changes(data: bytes, number: int) -> None:
    changed = with_id(data, number)
    assert message_id(changed) == number
    assert changed[2:] == data[2:]


# --- our own answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("local", "text"),
    [
        (Local(record=ip_address("100.64.0.2")), "NOERROR 5 A 100.64.0.2"),
        (Local(record=ip_address("fd7a::2")), "NOERROR 5 AAAA fd7a::2"),
        (Local(record="bob.tail.example"), "NOERROR 5 PTR bob.tail.example."),
        (Local(), "NOERROR"),
        (Local(Rcode.NOTIMP), "NOTIMP"),
        (
            Local(Rcode.NXDOMAIN, zone="tail.example"),
            "NXDOMAIN | 10 SOA tail.example. tail.example. 1 10 10 10 10",
        ),
    ],
)
def test_what_names_has_found_is_said(local: Local, text: str) -> None:
    assert read(local_answer(question(make_query("x.example")), local)) == text


def test_an_answer_of_ours_is_like_its_query() -> None:
    answer = dns.message.from_wire(local_answer(question(QUERY), Local(record=ip_address("fd7a::2"))))
    assert answer.id == 0x1234
    assert answer.question[0].name.to_text() == "Bob.Tail.Example."
    assert answer.answer[0].name.to_text() == "Bob.Tail.Example."
    assert dns.flags.to_text(answer.flags) == "QR AA RD RA"


@pytest.mark.parametrize(
    ("asked", "answered"),
    [(0x0000, "QR AA"), (0x0100, "QR AA RD RA"), (0x0130, "QR AA RD RA CD"), (0x0020, "QR AA")],
    ids=["nothing", "recursion", "checking disabled", "authentic data"],
)
def test_flags_of_an_answer(asked: int, answered: str) -> None:
    query = QUERY[:2] + asked.to_bytes(2, "big") + QUERY[4:]
    message = dns.message.from_wire(local_answer(question(query), Local()))
    assert dns.flags.to_text(message.flags) == answered


def test_a_failure_is_no_authority() -> None:
    message = dns.message.from_wire(failure(question(QUERY)))
    assert (message.rcode(), dns.flags.to_text(message.flags)) == (Rcode.SERVFAIL, "QR RD RA")


def test_a_query_that_cannot_be_read_is_answered_by_its_header() -> None:
    answer = format_error(b"\x12\x34" + b"\x29\x7f" + b"\xff" * 20)
    assert answer == b"\x12\x34" + b"\xa9\x11" + bytes(8)  # opcode, RD and CD are kept
    assert is_answer(answer)
    assert rcode(answer) == Rcode.FORMERR


# --- long answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edns_bytes", "limit"),
    [(0, MIN_UDP_BYTES), (100, MIN_UDP_BYTES), (1232, 1232), (65535, MAX_UDP_BYTES)],
)
def test_an_answer_is_cut_between_two_records(edns_bytes: int, limit: int) -> None:
    query = make_query("bob.tail.example", edns_bytes=edns_bytes)
    long = make_answer(query, *MANY, *[f"5 A 198.51.100.{n}" for n in range(250)])
    cut = cut_for(query, question(query), long)
    assert limit - 16 < len(cut) <= limit
    message = dns.message.from_wire(cut)
    assert message.flags & dns.flags.TC
    assert set(message.answer[0]) < set(dns.message.from_wire(long).answer[0])


@pytest.mark.parametrize("edns_bytes", [0, 4096])
def test_an_answer_that_fits_is_handed_on_as_it_is(edns_bytes: int) -> None:
    query = make_query("bob.tail.example", edns_bytes=edns_bytes)
    fits = make_answer(query, *MANY[: 100 if edns_bytes else 20])
    assert cut_for(query, question(query), fits) is fits


def test_a_long_answer_that_makes_no_sense_is_cut_to_nothing() -> None:
    nonsense = with_id(make_answer(QUERY, *MANY), 0x1234)[:-3]
    cut = dns.message.from_wire(cut_for(QUERY, question(QUERY), nonsense))
    assert (cut.id, dns.flags.to_text(cut.flags), cut.answer) == (0x1234, "QR TC RD RA", [])


def test_a_query_whose_rest_makes_no_sense_takes_512_bytes() -> None:
    query = QUERY[:10] + b"\0\1" + QUERY[12:] + b"\xff"
    assert len(cut_for(query, question(query), make_answer(QUERY, *MANY))) <= MIN_UDP_BYTES
