# SPDX-License-Identifier: BSD-3-Clause
"""Queries for other people's names: several servers are asked at once, and the first answer wins.

    ask ──► a query to each server ──┬─► first answer that is one ─────────────────► to the client
            again after 1.5 s to     ├─► SERVFAIL, REFUSED, unreachable ─► wait for the others; when all have failed:
            those who are silent     │                all refused: REFUSED, else a server's SERVFAIL, else our own
                                     └─► 4.5 s: the same

A query in flight has an identifier of its own, drawn at random among those not in use, and is asked under it; an answer
must have that identifier, come from one of the servers asked (the adapter's sockets see to that) and have the question
that was asked. NXDOMAIN is an answer.

The reference gives up after 10 s, without a word; a client's own patience is 5 s (glibc, Go), and by then it must
know that there is no answer, or it waits that long for each domain of its search list.

At most MAX_QUERIES are in flight. The newest is dropped: under more load than servers can take, dropping the oldest
would drop each just before its answer comes. A client that repeats itself meanwhile is not asked for twice.

Source: notes dns-filter.md A1, A6; tailscale, net/dns/resolver (forwarder.go); RFC 5452.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dns.rcode import Rcode

from ts4nsnet.dns.errors import Drop, Malformed
from ts4nsnet.dns.messages import (
    HEADER_BYTES,
    Question,
    cut_for,
    failure,
    is_answer,
    message_id,
    rcode,
    with_id,
)
from ts4nsnet.dns.upstream import Upstream

MAX_QUERIES = 256
MAX_UPSTREAMS = 4  # ours: asked for one query; the first of them
RESEND_TIME = 1.5  # ours: seconds; the one repetition of ours, before a client's own
GIVE_UP_TIME = 4.5  # ours: seconds; see above


class Client(NamedTuple):
    """Who has asked, and whom: what an answer must be sent to and come from."""

    address: bytes  # 4 or 16 bytes
    port: int
    server: bytes  # the address that was asked
    server_port: int


class Query(NamedTuple):
    """A datagram for a server."""

    upstream: Upstream
    data: bytes


@dataclass(slots=True, eq=False)
class _Flight:
    """A query on its way."""

    number: int  # its identifier towards the servers
    query: bytes  # as the client sent it
    question: Question
    client: Client
    waiting: set[Upstream]  # servers that have neither answered nor failed
    resend_at: float
    give_up_at: float
    refused: bytes = b""  # the first such answer
    failed: bytes = b""  # likewise SERVFAIL
    unreachable: bool = False  # at least one server was

    def verdict(self) -> bytes:
        """The answer when no server gave one."""
        if self.refused and not (self.failed or self.unreachable or self.waiting):
            return self.refused
        return self.failed or failure(self.question)


class Forwarder:
    """All queries in flight.

    Args:
        random: yields unpredictable bytes (`os.urandom`).
    """

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self.dropped: Counter[Drop] = Counter()
        self.answered = self.failed = 0  # queries by servers, by nobody
        self._flights: dict[int, _Flight] = {}  # by number, in the order of their beginning
        self._once: dict[int, _Flight] = {}  # those not sent again yet, in the same order
        self._asking: set[tuple[Client, bytes]] = set()
        self._queries: list[Query] = []
        self._answers: list[tuple[bytes, Client]] = []

    @property
    def in_flight(self) -> int:
        """How many queries wait for an answer."""
        return len(self._flights)

    def ask(self, query: bytes, question: Question, client: Client, upstreams: Sequence[Upstream], now: float) -> None:
        """Ask these servers; nobody to ask: SERVFAIL at once."""
        if not upstreams:
            self.failed += 1
            self.answer(failure(question), client)
        elif (client, query) in self._asking:
            self.dropped[Drop.REPEATED] += 1
        elif len(self._flights) >= MAX_QUERIES:
            self.dropped[Drop.TOO_MANY] += 1
        else:
            asked = set(upstreams[:MAX_UPSTREAMS])
            number = self._free_number()
            flight = _Flight(number, query, question, client, asked, now + RESEND_TIME, now + GIVE_UP_TIME)
            self._flights[number] = self._once[number] = flight
            self._asking.add((client, query))
            self._send(flight)

    def answer(self, answer: bytes, client: Client) -> None:
        """Have an answer that needs no server sent with the others."""
        self._answers.append((answer, client))

    def receive_answer(self, answer: bytes, upstream: Upstream) -> None:
        """Take what a server has sent."""
        if len(answer) < HEADER_BYTES or not is_answer(answer):
            self.dropped[Drop.ANSWER_MALFORMED] += 1
            return
        flight = self._flights.get(message_id(answer))
        if flight is None or upstream not in flight.waiting:
            self.dropped[Drop.ANSWER_UNKNOWN] += 1
        elif not _answers(answer, flight.question):
            self.dropped[Drop.ANSWER_MALFORMED] += 1
        elif rcode(answer) == Rcode.REFUSED:
            flight.refused = flight.refused or answer
            self._without(flight, upstream)
        elif rcode(answer) == Rcode.SERVFAIL:
            flight.failed = flight.failed or answer
            self._without(flight, upstream)
        else:
            self.answered += 1
            self._end(flight, answer)

    def upstream_failed(self, upstream: Upstream) -> None:
        """Expect nothing more from a server of what it was asked: it cannot be reached."""
        for flight in [flight for flight in self._flights.values() if upstream in flight.waiting]:
            flight.unreachable = True
            self._without(flight, upstream)

    def answers_to_send(self) -> list[tuple[bytes, Client]]:
        """The answers that have become due since the last call."""
        answers, self._answers = self._answers, []
        return answers

    def queries_to_send(self) -> list[Query]:
        """The queries that have become due since the last call."""
        queries, self._queries = self._queries, []
        return queries

    def next_timer(self) -> float | None:
        """When `handle_timer` has something to do."""
        resend = next((flight.resend_at for flight in self._once.values()), None)
        give_up = next((flight.give_up_at for flight in self._flights.values()), None)
        return min((at for at in (resend, give_up) if at is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Repeat queries that nobody answers, then give them up."""
        for flight in _due(self._once, lambda flight: flight.resend_at, now):
            del self._once[flight.number]
            self._send(flight)
        for flight in _due(self._flights, lambda flight: flight.give_up_at, now):
            self._give_up(flight)

    def _free_number(self) -> int:
        while True:
            number = int.from_bytes(self._random(2), "big")
            if number not in self._flights:
                return number

    def _send(self, flight: _Flight) -> None:
        data = with_id(flight.query, flight.number)
        self._queries += [Query(upstream, data) for upstream in flight.waiting]

    def _without(self, flight: _Flight, upstream: Upstream) -> None:
        flight.waiting.discard(upstream)
        if not flight.waiting:
            self._give_up(flight)

    def _give_up(self, flight: _Flight) -> None:
        self.failed += 1
        self._end(flight, flight.verdict())

    def _end(self, flight: _Flight, answer: bytes) -> None:
        del self._flights[flight.number]
        self._once.pop(flight.number, None)
        self._asking.discard((flight.client, flight.query))
        answer = cut_for(flight.query, flight.question, with_id(answer, message_id(flight.query)))
        self.answer(answer, flight.client)


def _due(flights: dict[int, _Flight], at: Callable[[_Flight], float], now: float) -> list[_Flight]:
    """The flights, of those in order of time, whose time has come."""
    due = []
    for flight in flights.values():
        if at(flight) > now:
            break
        due.append(flight)
    return due


def _answers(answer: bytes, question: Question) -> bool:
    """Whether an answer has the question; one that is only a failure may have none."""
    if rcode(answer) != Rcode.NOERROR and answer[4:6] == b"\0\0":
        return True
    try:
        return Question.parse(answer).is_same(question)
    except Malformed:
        return False
