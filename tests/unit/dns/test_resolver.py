# SPDX-License-Identifier: BSD-3-Clause
"""A `MagicDns` under simulated time: what it answers itself, whom it asks, which answer wins."""

from ipaddress import ip_address

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.unit.dns.queries import (
    CLIENT,
    HOSTS,
    MAGIC,
    ONE,
    SUFFIX,
    TWO,
    addresses,
    answers,
    make_answer,
    make_query,
    read,
    resolver,
)
from ts4nsnet.dns import Client, Config, Drop, MagicDns, Resolver, Upstream
from ts4nsnet.dns.forwarder import GIVE_UP_TIME, MAX_QUERIES, MAX_UPSTREAMS, RESEND_TIME
from ts4nsnet.dns.messages import message_id, with_id
from ts4nsnet.dns.resolver import MAX_QUERY_BYTES

QUERY = make_query("example.com")
THREE = Upstream(ip_address("192.0.2.99"))
T = 1000.0  # seconds; when a test begins


def asked(magic: MagicDns) -> list[Upstream]:
    return [query.upstream for query in magic.queries_to_send()]


def in_flight(magic: MagicDns, query: bytes = QUERY) -> bytes:
    """Begin a query that servers are asked; what they are sent."""
    magic.receive(query, CLIENT, T)
    sent = magic.queries_to_send()
    assert {each.upstream for each in sent} == {ONE, TWO}
    assert len({each.data for each in sent}) == 1
    return sent[0].data


def dropped(magic: MagicDns) -> dict[Drop, int]:
    return dict(magic.statistics().dropped)


# --- our own ----------------------------------------------------------------------------------------------------------


def test_a_peers_name_is_answered_to_who_asked() -> None:
    magic = resolver()
    magic.receive(make_query("bob"), CLIENT, T)
    [(answer, client)] = magic.answers_to_send()
    assert (read(answer), client) == ("NOERROR 5 A 100.64.0.2", CLIENT)
    assert magic.answers_to_send() == []
    assert magic.queries_to_send() == []
    assert magic.next_timer() is None


def test_an_unknown_name_of_the_tailnet_is_asked_of_nobody() -> None:
    magic = resolver()
    magic.receive(make_query("nobody.tail.example"), CLIENT, T)
    assert answers(magic) == ["NXDOMAIN | 10 SOA tail.example. tail.example. 1 10 10 10 10"]
    assert asked(magic) == []


def test_the_next_netmap_counts_at_once() -> None:
    magic = resolver()
    magic.set_config(MAGIC, {"dave.tail.example.": addresses("100.64.0.4")}, SUFFIX, aaaa=True)
    for name in ("dave", "bob.tail.example"):
        magic.receive(make_query(name), CLIENT, T)
    assert [answer.split(" |")[0] for answer in answers(magic)] == ["NOERROR 5 A 100.64.0.4", "NXDOMAIN"]


def test_before_the_first_netmap_nobody_is_asked() -> None:
    magic = MagicDns(bytes)
    magic.set_upstreams([ONE])
    magic.receive(make_query("bob.tail.example"), CLIENT, T)
    assert answers(magic) == ["SERVFAIL"]
    assert asked(magic) == []


@pytest.mark.parametrize("query", [QUERY[:11], b"", make_answer(QUERY)], ids=["short", "empty", "answer"])
def test_what_is_no_query_is_dropped(query: bytes) -> None:
    magic = resolver()
    magic.receive(query, CLIENT, T)
    assert answers(magic) == []
    assert dropped(magic) == {Drop.QUERY_MALFORMED: 1}


@pytest.mark.parametrize(
    ("query", "result"),
    [
        (QUERY[:-1], "FORMERR"),
        (QUERY[:4] + b"\0\0" + QUERY[6:12], "FORMERR"),
        (QUERY + bytes(MAX_QUERY_BYTES), "FORMERR"),
        (QUERY[:2] + b"\x20" + QUERY[3:], "NOTIMP"),
    ],
    ids=["cut", "no question", "long", "notify"],
)
def test_what_cannot_be_understood_is_told_so(query: bytes, result: str) -> None:
    magic = resolver()
    magic.receive(query, CLIENT, T)
    assert answers(magic) == [result]


# --- whom to ask ------------------------------------------------------------------------------------------------------


LOCAL = (Upstream(ip_address("127.0.0.1")), Upstream(ip_address("fe80::1%eth0")), ONE)
GLOBAL, BACKUP = Resolver("192.0.2.7"), Resolver("192.0.2.8")
DOH = Resolver("https://dns.example/dns-query")


@pytest.mark.parametrize(
    ("config", "exit_node", "upstreams", "servers"),
    [
        (Config(), False, LOCAL, ["127.0.0.1", "fe80::1%eth0", "192.0.2.53"]),
        (Config(), True, LOCAL, ["192.0.2.53"]),
        (Config(fallback_resolvers=(BACKUP,)), False, LOCAL, ["127.0.0.1", "fe80::1%eth0", "192.0.2.53"]),
        (Config(fallback_resolvers=(BACKUP,)), False, (), ["192.0.2.8"]),
        (Config(fallback_resolvers=(BACKUP,)), True, LOCAL, ["192.0.2.53", "192.0.2.8"]),
        (Config(resolvers=(GLOBAL,)), False, LOCAL, ["192.0.2.7"]),
        (Config(resolvers=(GLOBAL,)), True, LOCAL, ["192.0.2.7"]),
        (Config(resolvers=(DOH,)), False, LOCAL, ["127.0.0.1", "fe80::1%eth0", "192.0.2.53"]),
        (Config(routes={"com": (BACKUP,)}, resolvers=(GLOBAL,)), False, LOCAL, ["192.0.2.8"]),
        (Config(), False, [Upstream(ip_address(n)) for n in range(1, 9)], [f"0.0.0.{n}" for n in range(1, 5)]),
    ],
)
def test_whom_to_ask(config: Config, exit_node: bool, upstreams: list[Upstream], servers: list[str]) -> None:
    magic = MagicDns(bytes)
    magic.set_upstreams(upstreams)
    magic.set_config(config, HOSTS, SUFFIX, exit_node=exit_node)
    magic.receive(QUERY, CLIENT, T)
    assert sorted(str(upstream.address) for upstream in asked(magic)) == sorted(servers)
    assert len(servers) <= MAX_UPSTREAMS


def test_with_nobody_to_ask_the_client_is_told_at_once() -> None:
    magic = resolver(upstreams=())
    magic.receive(QUERY, CLIENT, T)
    assert answers(magic) == ["SERVFAIL"]
    assert magic.statistics().failed == 1


# --- the race ---------------------------------------------------------------------------------------------------------


def test_a_query_and_its_answer_are_passed_on_as_they_are_but_for_the_identifier() -> None:
    magic = resolver()
    query = make_query("eXample.com", "HTTPS", number=0xABCD, edns_bytes=1400)
    sent = in_flight(magic, query)
    assert (message_id(sent), sent[2:]) == (1, query[2:])
    answer = make_answer(sent, "60 HTTPS 1 . alpn=h2")
    magic.receive_answer(answer, TWO)
    assert magic.answers_to_send() == [(with_id(answer, 0xABCD), CLIENT)]
    assert magic.next_timer() is None


@pytest.mark.parametrize("result", ["NOERROR", "NXDOMAIN", "FORMERR", "NOTIMP"])
def test_the_first_answer_wins(result: str) -> None:
    magic = resolver()
    sent = in_flight(magic)
    magic.receive_answer(make_answer(sent, rcode=result), TWO)
    magic.receive_answer(make_answer(sent, "5 A 192.0.2.1"), ONE)
    assert answers(magic) == [result]
    assert dropped(magic) == {Drop.ANSWER_UNKNOWN: 1}


FAILURES = [
    # what the servers do, in order; None: cannot be reached
    (["SERVFAIL", "NOERROR"], "NOERROR"),
    (["REFUSED", "NXDOMAIN"], "NXDOMAIN"),
    ([None, "NOERROR"], "NOERROR"),
    (["REFUSED", "REFUSED"], "REFUSED"),
    (["REFUSED", "SERVFAIL"], "SERVFAIL"),
    (["SERVFAIL", "REFUSED"], "SERVFAIL"),
    (["REFUSED", None], "SERVFAIL"),
    ([None, "SERVFAIL"], "SERVFAIL"),
    ([None, None], "SERVFAIL"),
]


@pytest.mark.parametrize(("results", "outcome"), FAILURES)
def test_a_failure_waits_for_the_other_server(results: list[str | None], outcome: str) -> None:
    magic = resolver()
    sent = in_flight(magic)
    for upstream, result in zip((ONE, TWO), results, strict=True):
        assert answers(magic) == []
        if result is None:
            magic.upstream_failed(upstream)
        else:
            magic.receive_answer(make_answer(sent, rcode=result), upstream)
    assert answers(magic) == [outcome]
    assert magic.statistics().in_flight == 0
    assert magic.next_timer() is None


def test_a_servers_own_failure_is_passed_on_as_it_is() -> None:
    magic = resolver()
    failed = make_answer(in_flight(magic), rcode="SERVFAIL")[:3] + b"\x92" + QUERY[4:]  # with AD and CD bits
    for upstream in (TWO, ONE):
        magic.receive_answer(failed, upstream)
    assert magic.answers_to_send() == [(with_id(failed, message_id(QUERY)), CLIENT)]


def test_a_failure_without_a_question_counts() -> None:
    magic = resolver()
    sent = in_flight(magic)
    for upstream in (ONE, TWO):
        magic.receive_answer(sent[:2] + b"\x81\x85" + bytes(8), upstream)
    assert [answer[3] & 15 for answer, _ in magic.answers_to_send()] == [5]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda answer: answer[:11], Drop.ANSWER_MALFORMED),
        (lambda answer: answer[:2] + b"\x01" + answer[3:], Drop.ANSWER_MALFORMED),
        (lambda answer: answer[:4] + b"\0\0" + answer[6:], Drop.ANSWER_MALFORMED),
        (lambda answer: answer.replace(b"example", b"exbmple"), Drop.ANSWER_MALFORMED),
        (lambda answer: answer[:-20], Drop.ANSWER_MALFORMED),
        (lambda answer: with_id(answer, 9), Drop.ANSWER_UNKNOWN),
    ],
    ids=["short", "query", "no question", "other name", "cut", "other identifier"],
)
def test_what_does_not_answer_the_question_is_dropped(change, reason: Drop) -> None:  # type: ignore[no-untyped-def]
    magic = resolver()
    answer = make_answer(in_flight(magic), "5 A 192.0.2.1")
    magic.receive_answer(change(answer), ONE)
    assert answers(magic) == []
    assert dropped(magic) == {reason: 1}
    magic.receive_answer(answer, ONE)
    assert answers(magic) == ["NOERROR 5 A 192.0.2.1"]


def test_nobody_else_can_answer() -> None:
    magic = resolver()
    magic.receive_answer(make_answer(in_flight(magic), "5 A 192.0.2.1"), THREE)
    assert answers(magic) == []
    assert dropped(magic) == {Drop.ANSWER_UNKNOWN: 1}


def test_a_long_answer_is_cut_for_its_client() -> None:
    magic = resolver()
    answer = make_answer(in_flight(magic), *[f"5 A 192.0.2.{n}" for n in range(100)])
    magic.receive_answer(answer, ONE)
    [(cut, _)] = magic.answers_to_send()
    assert len(cut) <= 512 < len(answer)
    assert message_id(cut) == message_id(QUERY)


# --- time -------------------------------------------------------------------------------------------------------------


def test_a_silent_server_is_asked_twice_and_then_the_client_is_told() -> None:
    magic = resolver()
    sent = in_flight(magic)
    magic.receive_answer(make_answer(sent, rcode="SERVFAIL"), ONE)
    assert magic.next_timer() == T + RESEND_TIME
    magic.handle_timer(T + RESEND_TIME - 0.1)
    assert asked(magic) == []
    magic.handle_timer(T + RESEND_TIME)
    assert magic.queries_to_send() == [(TWO, sent)]
    assert magic.next_timer() == T + GIVE_UP_TIME
    magic.handle_timer(T + GIVE_UP_TIME - 0.1)
    assert answers(magic) == []
    magic.handle_timer(T + GIVE_UP_TIME)
    assert answers(magic) == ["SERVFAIL"]
    assert magic.next_timer() is None
    magic.receive_answer(make_answer(sent), TWO)
    assert dropped(magic) == {Drop.ANSWER_UNKNOWN: 1}


def test_who_gives_up_before_a_client_does_says_servfail_though_one_refused() -> None:
    magic = resolver()
    magic.receive_answer(make_answer(in_flight(magic), rcode="REFUSED"), ONE)
    magic.handle_timer(T + GIVE_UP_TIME)
    assert answers(magic) == ["SERVFAIL"]


def test_each_query_has_its_own_time() -> None:
    magic = resolver()
    for n in range(3):
        magic.receive(make_query("example.com", number=n), CLIENT, T + n)
    magic.queries_to_send()
    magic.handle_timer(T + RESEND_TIME + 1)
    assert [message_id(query.data) for query in magic.queries_to_send()] == [1, 1, 2, 2]
    magic.handle_timer(T + GIVE_UP_TIME + 0.5)
    assert [message_id(answer) for answer, _ in magic.answers_to_send()] == [0]
    assert magic.next_timer() == T + GIVE_UP_TIME + 1


def test_a_client_that_repeats_itself_is_asked_for_once() -> None:
    magic = resolver()
    sent = in_flight(magic)
    magic.receive(QUERY, CLIENT, T + 1)
    assert asked(magic) == []
    assert dropped(magic) == {Drop.REPEATED: 1}
    magic.receive(QUERY, CLIENT._replace(port=40001), T + 1)
    assert len(asked(magic)) == 2  # another client
    magic.receive_answer(make_answer(sent), ONE)
    assert len(answers(magic)) == 1
    magic.receive(QUERY, CLIENT, T + 2)
    assert len(asked(magic)) == 2  # it has had its answer


def test_of_too_many_the_newest_are_dropped_and_the_rest_goes_on() -> None:
    magic = resolver(upstreams=[ONE])
    for n in range(MAX_QUERIES + 10):
        magic.receive(make_query("example.com", number=n), CLIENT, T)
    sent = magic.queries_to_send()
    assert len(sent) == magic.statistics().in_flight == MAX_QUERIES
    assert dropped(magic) == {Drop.TOO_MANY: 10}
    magic.receive(make_query("bob"), CLIENT, T)
    assert answers(magic) == ["NOERROR 5 A 100.64.0.2"]
    for query in sent:
        magic.receive_answer(make_answer(query.data), ONE)
    assert [message_id(answer) for answer, _ in magic.answers_to_send()] == list(range(MAX_QUERIES))
    magic.receive(QUERY, CLIENT, T)
    assert asked(magic) == [ONE]


def test_an_identifier_in_use_is_not_drawn_again() -> None:
    drawn = iter([5, 5, 5, 6])
    magic = MagicDns(lambda size: next(drawn).to_bytes(size, "big"))
    magic.set_config(MAGIC, HOSTS, SUFFIX)
    magic.set_upstreams([ONE])
    for number in (1, 2):
        magic.receive(make_query("example.com", number=number), CLIENT, T)
    assert [message_id(query.data) for query in magic.queries_to_send()] == [5, 6]


def test_other_servers_are_for_the_next_query() -> None:
    magic = resolver()
    sent = in_flight(magic)
    magic.set_upstreams([THREE])
    magic.receive_answer(make_answer(sent, "5 A 192.0.2.1"), ONE)
    assert answers(magic) == ["NOERROR 5 A 192.0.2.1"]
    magic.receive(QUERY, CLIENT, T)
    assert asked(magic) == [THREE]


def test_statistics() -> None:
    magic = resolver()
    magic.receive(make_query("bob"), CLIENT, T)
    magic.receive_answer(make_answer(in_flight(magic)), ONE)
    magic.receive(make_query("example.org"), CLIENT, T)
    magic.receive(b"", CLIENT, T)
    found = magic.statistics()
    assert (found.queries, found.local, found.forwarded, found.failed, found.in_flight) == (4, 1, 1, 0, 1)
    assert found.upstreams == (ONE, TWO)
    assert found.dropped == {Drop.QUERY_MALFORMED: 1}


# --- what always holds ------------------------------------------------------------------------------------------------


NAMES = ("bob", "example.com", "example.org")


class Races(RuleBasedStateMachine):
    """Clients, servers and time in any order: each query is answered once, in time, and nothing is kept for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = T
        self.magic = resolver()
        self.open: dict[tuple[int, Client], float] = {}  # identifier and client of a query, and since when
        self.sent: list[tuple[Upstream, bytes]] = []

    @rule(number=st.integers(0, 8), port=st.integers(1, 2))
    def client_asks(self, number: int, port: int) -> None:
        client = CLIENT._replace(port=port)
        self.open.setdefault((number, client), self.now)
        self.magic.receive(make_query(NAMES[number % len(NAMES)], number=number), client, self.now)

    @rule(data=st.data(), result=st.sampled_from(["NOERROR", "NXDOMAIN", "SERVFAIL", "REFUSED"]))
    def server_answers(self, data: st.DataObject, result: str) -> None:
        if self.sent:
            upstream, query = data.draw(st.sampled_from(self.sent))
            self.magic.receive_answer(make_answer(query, rcode=result), upstream)

    @rule(upstream=st.sampled_from([ONE, TWO, THREE]))
    def server_is_gone(self, upstream: Upstream) -> None:
        self.magic.upstream_failed(upstream)

    @rule(seconds=st.floats(0, 3))
    def time_passes(self, seconds: float) -> None:
        self.run_until(self.now + seconds)

    def run_until(self, end: float) -> None:
        while (timer := self.magic.next_timer()) is not None and timer <= end:
            self.now = timer
            self.magic.handle_timer(timer)
            self.take()
        self.now = end

    @invariant()
    def take(self) -> None:
        self.sent += self.magic.queries_to_send()
        for answer, client in self.magic.answers_to_send():
            since = self.open.pop((message_id(answer), client))
            assert self.now <= since + GIVE_UP_TIME

    @invariant()
    def what_is_open_is_in_flight(self) -> None:
        found, timer = self.magic.statistics(), self.magic.next_timer()
        assert found.in_flight == len(self.open)
        assert (timer is None) == (not self.open)
        assert found.queries == sum(
            (found.local, found.forwarded, found.failed, found.in_flight, found.dropped.get(Drop.REPEATED, 0))
        )

    def teardown(self) -> None:
        self.run_until(self.now + GIVE_UP_TIME)
        assert self.open == {}


TestRaces = Races.TestCase
TestRaces.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
