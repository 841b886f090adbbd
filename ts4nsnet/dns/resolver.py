# SPDX-License-Identifier: BSD-3-Clause
"""MagicDNS, sans-I/O: a query comes in; an answer, or queries for servers, go out.

    receive ─► readable? ─no─► FORMERR         Names.find ─► an answer of our own
                  └─yes─► a query (opcode 0)? ─no─► NOTIMP       └─► None: whom to ask
                                                                         route of the longest suffix
    set_config, set_upstreams: at any time; queries in flight              else the tailnet's resolvers
    go on as they were sent                                                else the host's

Before the first `set_config` nobody knows which names are the tailnet's, so nothing is asked of anybody: SERVFAIL.

With an exit node all other names are asked of the same servers, through it: the host's, but for those that can only be
meant on the host itself or its link; and, as the exit node may not reach the rest, also those which the coordination
server has for this case.

Source: notes dns-filter.md A2, A6, A7.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dns.opcode import Opcode
from dns.rcode import Rcode

from ts4nsnet.dns.config import Config
from ts4nsnet.dns.errors import Drop, Malformed
from ts4nsnet.dns.forwarder import Client, Forwarder, Query
from ts4nsnet.dns.messages import HEADER_BYTES, Question, failure, format_error, is_answer, local_answer
from ts4nsnet.dns.names import Names
from ts4nsnet.dns.upstream import Address, Upstream, usable

MAX_QUERY_BYTES = 4096  # as in the reference, there over TCP; real ones have less than 300


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a `MagicDns` has done.

    Attributes:
        queries: received.
        local: of these, answered by ourselves, be it with an error.
        forwarded: answered by a server.
        failed: no server had an answer.
        in_flight: being asked for now.
        upstreams: whom we ask for names that no route is for.
        dropped: by reason, only those above zero.
    """

    queries: int
    local: int
    forwarded: int
    failed: int
    in_flight: int
    upstreams: tuple[Upstream, ...]
    dropped: Mapping[Drop, int]


class MagicDns:
    """The resolver of one node. No call raises.

    Args:
        random: yields unpredictable bytes (`os.urandom`).
    """

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._forwarder = Forwarder(random)
        self._names: Names | None = None
        self._config = Config()
        self._exit_node = False
        self._host: tuple[Upstream, ...] = ()
        self._default: tuple[Upstream, ...] = ()
        self._queries = self._local = 0

    def set_config(
        self,
        config: Config,
        hosts: Mapping[str, Sequence[Address]],
        suffix: str,
        *,
        aaaa: bool = False,
        ipv6_only: bool = False,
        exit_node: bool = False,
    ) -> None:
        """Know this tailnet from now on.

        Args:
            config: the coordination server's; with an expired key of our own, an empty one.
            hosts: addresses by a node's whole name, ourselves included; copied.
            suffix: the tailnet's.
            aaaa: we have the node attribute `magicdns-aaaa`: nodes that have IPv4 are answered with IPv6, too.
            ipv6_only: we have no IPv4 address in the tailnet.
            exit_node: all that is not the tailnet's goes to an exit node, queries as well.
        """
        self._names = Names(config, hosts, suffix, aaaa=aaaa, ipv6_only=ipv6_only)
        self._config = config
        self._exit_node = exit_node
        self._choose()

    def set_upstreams(self, upstreams: Sequence[Upstream]) -> None:
        """The host's resolvers, best first."""
        self._host = tuple(upstreams)
        self._choose()

    def receive(self, query: bytes, client: Client, now: float) -> None:
        """Take a query from the container."""
        self._queries += 1
        if len(query) < HEADER_BYTES or is_answer(query):  # an answer is never answered: that could go on for ever
            self._forwarder.dropped[Drop.QUERY_MALFORMED] += 1
            return
        try:
            question = Question.parse(query)
        except Malformed:
            question = None
        if question is None or len(query) > MAX_QUERY_BYTES:
            self._answer(format_error(query), client)
            return
        if question.message.opcode() != Opcode.QUERY:
            self._answer(failure(question, Rcode.NOTIMP), client)
        elif self._names is None:
            self._answer(failure(question), client)
        elif (local := self._names.find(question.name, question.kind, question.rdclass)) is not None:
            self._answer(local_answer(question, local), client)
        else:
            upstreams = self._names.route(question.name) or self._default
            self._forwarder.ask(query, question, client, upstreams, now)

    def receive_answer(self, answer: bytes, upstream: Upstream) -> None:
        """Take what a server has sent; from whom else it may come is for the caller's socket to exclude."""
        self._forwarder.receive_answer(answer, upstream)

    def upstream_failed(self, upstream: Upstream) -> None:
        """Expect no answers from this server to what it was asked: it cannot be reached."""
        self._forwarder.upstream_failed(upstream)

    def answers_to_send(self) -> list[tuple[bytes, Client]]:
        """Answers for the container."""
        return self._forwarder.answers_to_send()

    def queries_to_send(self) -> list[Query]:
        """Queries for servers; at most `MAX_UPSTREAMS` times `MAX_QUERIES`, and each of them again."""
        return self._forwarder.queries_to_send()

    def next_timer(self) -> float | None:
        """When `handle_timer` has something to do; None: nothing is in flight."""
        return self._forwarder.next_timer()

    def handle_timer(self, now: float) -> None:
        """Repeat and give up what is due; does nothing before its time."""
        self._forwarder.handle_timer(now)

    def statistics(self) -> Statistics:
        """What has happened so far."""
        forwarder = self._forwarder
        return Statistics(
            queries=self._queries,
            local=self._local,
            forwarded=forwarder.answered,
            failed=forwarder.failed,
            in_flight=forwarder.in_flight,
            upstreams=self._default,
            dropped=dict(forwarder.dropped),
        )

    def _answer(self, answer: bytes, client: Client) -> None:
        self._local += 1
        self._forwarder.answer(answer, client)

    def _choose(self) -> None:
        """Whom to ask for names that no route is for."""
        host, fallback = self._host, usable(self._config.fallback_resolvers)
        if self._exit_node:
            host = (*(up for up in host if not (up.address.is_loopback or up.address.is_link_local)), *fallback)
        self._default = usable(self._config.resolvers) or host or fallback
