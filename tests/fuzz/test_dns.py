# SPDX-License-Identifier: BSD-3-Clause
"""DNS against bytes from outside: from the container, which may send anything, and from servers, which may as well.

Nothing but `Malformed` leaves the reader of questions, nothing at all leaves a `MagicDns`; whatever it says is a
message, and an answer to who asked."""

from contextlib import suppress

import dns.exception
import dns.flags
import dns.message
from hypothesis import given
from hypothesis import strategies as st

from tests.mutants import mutants
from tests.unit.dns.queries import CLIENT, ONE, TWO, make_answer, make_query, resolver
from ts4nsnet.dns.errors import Malformed
from ts4nsnet.dns.messages import MAX_UDP_BYTES, Question, cut_for, message_id

QUERIES = [
    make_query("bob"),
    make_query("bob.tail.example", "AAAA"),
    make_query("nobody.tail.example", "TXT", edns_bytes=1232),
    make_query("2.0.64.100.in-addr.arpa", "PTR"),
    make_query("example.com", "HTTPS", edns_bytes=4096),
    make_query("a" * 63 + ".example.com", "ANY"),
]
LONG = make_answer(make_query("example.com", edns_bytes=4096), *[f"5 A 192.0.2.{n}" for n in range(250)])
ANSWERS = [
    make_answer(make_query("example.com")),
    make_answer(make_query("example.com"), "5 A 192.0.2.1", "5 CNAME example.org."),
    make_answer(make_query("example.com"), rcode="SERVFAIL"),
    LONG,
]


bad_queries = st.sampled_from(QUERIES).flatmap(mutants) | st.binary(max_size=80)
bad_answers = st.sampled_from(ANSWERS).flatmap(mutants) | st.binary(max_size=80)


@given(bad_queries | bad_answers)
def test_a_question_is_read_or_malformed(data: bytes) -> None:
    with suppress(Malformed):
        Question.parse(data)


@given(st.lists(bad_queries | bad_answers, max_size=5))
def test_whatever_a_container_sends_is_answered_by_a_message_or_not_at_all(queries: list[bytes]) -> None:
    magic = resolver()
    for query in queries:
        magic.receive(query, CLIENT, 0.0)
        for answer, client in magic.answers_to_send():
            message = dns.message.from_wire(answer)
            assert (message.id, client) == (message_id(query), CLIENT)
            assert message.flags & dns.flags.QR


@given(bad_queries, st.lists(st.tuples(bad_answers, st.sampled_from([ONE, TWO])), max_size=5))
def test_whatever_servers_say_each_query_gets_one_answer(query: bytes, said: list[tuple[bytes, object]]) -> None:
    magic = resolver()
    magic.receive(query, CLIENT, 0.0)
    forwarded = magic.statistics().in_flight
    answers = magic.answers_to_send() if not forwarded else []
    for answer, upstream in said:
        # under the identifier that it has, and under that of the query in flight
        for each in (answer, b"\0\1" + answer[2:]):
            magic.receive_answer(each, upstream)  # type: ignore[arg-type]
    magic.handle_timer(100.0)
    answers += magic.answers_to_send()
    assert len(answers) <= 1
    assert len(answers) >= forwarded
    assert all(answer[:2] == query[:2] for answer, _ in answers)


@given(st.sampled_from(QUERIES).flatmap(mutants), mutants(LONG))
def test_any_answer_is_cut_for_any_client(query: bytes, answer: bytes) -> None:
    with suppress(Malformed):
        question = Question.parse(query)
        if len(answer) > 12:
            cut = cut_for(query, question, answer)
            assert len(cut) <= MAX_UDP_BYTES
            with suppress(dns.exception.DNSException):
                Question.parse(cut)
