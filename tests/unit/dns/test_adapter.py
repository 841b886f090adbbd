# SPDX-License-Identifier: BSD-3-Clause
"""The adapter, with packets as a container sends them and servers on loopback: lines, their ports and their end."""

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from math import inf
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.unit.dns.queries import make_answer, make_query, read, resolver
from ts4nsnet.dns import Config, Drop, Resolver, Upstream
from ts4nsnet.dns.adapter import LINE_TIME, LOOK_TIME, MAX_LINE_QUERIES, Adapter, HostFiles, UpstreamSocket
from ts4nsnet.dns.forwarder import GIVE_UP_TIME, RESEND_TIME
from ts4nsnet.dns.messages import message_id
from ts4nsnet.errors import Ts4nsnetError
from ts4nsnet.packet import TCP, UDP, IPv4, IPv6, carry, checksum_ok, parse_ip

TIME_LIMIT = 15.0  # seconds; catches a hang
ALICE, SERVER = "100.64.0.1", "10.0.2.3"
ANSWER = "5 A 192.0.2.1"


def packet(query: bytes, source: str = ALICE, server: str = SERVER, port: int = 40000, server_port: int = 53) -> bytes:
    """A query as the container sends it."""
    ends = ip_address(source).packed, ip_address(server).packed
    return carry((IPv4 if len(ends[0]) == 4 else IPv6)(*ends, 17), UDP(port, server_port, query))


@dataclass(frozen=True)
class Got:
    """A packet for the container."""

    source: str
    destination: str
    ports: tuple[int, int]
    number: int
    text: str

    @classmethod
    def parse(cls, data: bytes) -> "Got":
        ip = parse_ip(data)
        udp = UDP.parse(ip.payload)
        assert checksum_ok(ip)
        answer = bytes(udp.payload)
        ends = str(ip_address(ip.source)), str(ip_address(ip.destination))
        return cls(*ends, (udp.source_port, udp.destination_port), message_id(answer), read(answer))


@dataclass(eq=False)
class Server:
    """A server on a port of loopback, and who has asked it."""

    answers: Callable[[bytes], list[bytes]] = lambda query: [make_answer(query, ANSWER)]
    host: str = "127.0.0.1"
    port: int = 0
    clients: list[tuple[int, int]] = field(default_factory=list)  # port, identifier
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with self.scope, trio.socket.socket(family, socket.SOCK_DGRAM) as sock:
            await sock.bind((self.host, 0))
            self.port = sock.getsockname()[1]
            task_status.started()
            while True:
                query, client = await sock.recvfrom(4096)
                self.clients.append((client[1], message_id(query)))
                for answer in self.answers(query):
                    await sock.sendto(answer, client)

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Bench:
    """A resolver that asks some servers, and its adapter."""

    def __init__(self, servers: Sequence[str], folder: Path, upstream_socket: UpstreamSocket | None = None) -> None:
        self.magic = resolver(Config(magic_dns=True, resolvers=tuple(map(Resolver, servers))), upstreams=())
        self._send, self._got = trio.open_memory_channel[Got](inf)
        self.made: list[socket.socket] = []
        self.adapter = Adapter(self.magic, self._write, upstream_socket or self._socket, HostFiles(str(folder)))

    def _write(self, packets: Sequence[bytes]) -> None:
        for each in packets:
            self._send.send_nowait(Got.parse(each))

    async def _socket(self, upstream: Upstream, kind: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET if upstream.address.version == 4 else socket.AF_INET6, kind)
        sock.setblocking(False)
        self.made.append(sock)
        return sock

    def ask(self, name: str = "example.com", number: int = 7, **ends: int | str) -> None:
        assert self.adapter.handle(packet(make_query(name, number=number), **ends))  # type: ignore[arg-type]

    async def got(self) -> Got:
        return await self._got.receive()

    @property
    def waiting(self) -> int:
        """How many packets are there for the container."""
        return self._got.statistics().current_buffer_used

    @property
    def open(self) -> int:
        return sum(sock.fileno() >= 0 for sock in self.made)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.adapter.run)
            yield
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def bench(folder: Path, *servers: Server) -> AsyncIterator[Bench]:
    """A bench whose adapter runs, and its servers."""
    with trio.fail_after(TIME_LIMIT):
        async with trio.open_nursery() as nursery:
            for server in servers:
                await nursery.start(server.run)
            made = Bench([server.address for server in servers], folder)
            async with made.running():
                yield made
            nursery.cancel_scope.cancel()
    assert made.open == 0


# --- packets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "server"),
    [(ALICE, SERVER), (ALICE, "100.100.100.100"), ("fd7a:115c:a1e0::1", "fd7a:115c:a1e0::53")],
)
async def test_an_answer_comes_from_the_address_that_was_asked(tmp_path: Path, source: str, server: str) -> None:
    idle = Bench([], tmp_path)
    idle.ask("bob", source=source, server=server)
    assert await idle.got() == Got(server, source, (53, 40000), 7, "NOERROR 5 A 100.64.0.2")


@pytest.mark.parametrize(
    "other",
    [
        packet(make_query("bob"), server_port=54),
        packet(make_query("bob"))[:-1],
        packet(make_query("bob"))[:20],
        b"",
        IPv4.parse(packet(make_query("bob")))._replace(flags=1).emit(),
        IPv4.parse(packet(make_query("bob")))._replace(fragment_offset=8).emit(),
        carry(IPv4(bytes(4), bytes(4), 6), TCP(40000, 53, 0)),
        IPv4(bytes(4), bytes(4), 17, b"\0" * 7).emit(),
    ],
    ids=["port", "cut", "header alone", "nothing", "first fragment", "last fragment", "tcp", "short udp"],
)
async def test_other_packets_are_not_ours(tmp_path: Path, other: bytes) -> None:
    idle = Bench([], tmp_path)
    assert not idle.adapter.handle(other)
    assert idle.magic.statistics().queries == idle.waiting == 0


# --- servers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_server_is_asked_and_its_answer_handed_on(tmp_path: Path, host: str) -> None:
    async with bench(tmp_path, Server(host=host)) as it:
        it.ask()
        assert await it.got() == Got(SERVER, ALICE, (53, 40000), 7, f"NOERROR {ANSWER}")


async def test_the_faster_server_wins(tmp_path: Path) -> None:
    async with bench(tmp_path, Server(lambda _: []), Server()) as it:
        it.ask()
        assert (await it.got()).text == f"NOERROR {ANSWER}"


async def test_queries_before_the_start_wait_for_it(tmp_path: Path) -> None:
    with trio.fail_after(TIME_LIMIT):
        async with trio.open_nursery() as nursery:
            server = Server()
            await nursery.start(server.run)
            it = Bench([server.address], tmp_path)
            it.ask()
            assert it.waiting == 0
            async with it.running():
                assert (await it.got()).text == f"NOERROR {ANSWER}"
            nursery.cancel_scope.cancel()


async def test_nobody_listening_is_told_at_once(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unheard:
        unheard.bind(("127.0.0.1", 0))
        closed = f"127.0.0.1:{unheard.getsockname()[1]}"
    it = Bench([closed], tmp_path)
    with trio.fail_after(GIVE_UP_TIME / 2):
        async with it.running():
            for number in (1, 2):
                it.ask(number=number)
                assert (await it.got()).text == "SERVFAIL"


async def test_who_stops_listening_is_noticed_by_the_next_query(tmp_path: Path) -> None:
    server = Server()
    async with bench(tmp_path, server) as it:
        it.ask()
        await it.got()
        server.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        for number in range(3):
            it.ask(number=number)
        with trio.fail_after(GIVE_UP_TIME / 2):
            assert [(await it.got()).text for _ in range(3)] == ["SERVFAIL"] * 3


@pytest.mark.parametrize("server", ["255.255.255.255", "fe80::1%nowhere"], ids=["broadcast", "no such link"])
async def test_no_way_there_is_told_at_once(tmp_path: Path, server: str) -> None:
    it = Bench([server], tmp_path)
    with trio.fail_after(GIVE_UP_TIME / 2):
        async with it.running():
            it.ask()
            assert (await it.got()).text == "SERVFAIL"
    assert it.open == 0


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), Ts4nsnetError("no such namespace")])
async def test_a_socket_that_cannot_be_had_is_told_at_once(tmp_path: Path, error: Exception) -> None:
    async def none(_upstream: Upstream, _kind: int) -> socket.socket:
        raise error

    it = Bench(["192.0.2.1"], tmp_path, none)
    with trio.fail_after(GIVE_UP_TIME / 2):
        async with it.running():
            it.ask()
            assert (await it.got()).text == "SERVFAIL"


async def test_a_socket_that_does_not_come_is_not_waited_for(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    mock_clock.autojump_threshold = 0

    async def never(_upstream: Upstream, _kind: int) -> socket.socket:
        await trio.sleep_forever()
        raise AssertionError

    it = Bench(["192.0.2.1"], tmp_path, never)
    async with it.running():
        for _ in range(2):
            began_at = trio.current_time()
            it.ask()
            assert (await it.got()).text == "SERVFAIL"
            assert trio.current_time() - began_at == pytest.approx(GIVE_UP_TIME)


async def test_a_full_socket_is_like_a_full_network(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    mock_clock.autojump_threshold = 0

    class Full(socket.socket):
        def send(self, *_args: object) -> int:
            raise BlockingIOError

    async def full(_upstream: Upstream, kind: int) -> socket.socket:
        return Full(socket.AF_INET, kind)

    it = Bench(["127.0.0.1:9"], tmp_path, full)
    async with it.running():
        began_at = trio.current_time()
        it.ask()
        assert (await it.got()).text == "SERVFAIL"
        assert trio.current_time() - began_at == pytest.approx(GIVE_UP_TIME)


# --- lines ------------------------------------------------------------------------------------------------------------


async def test_a_line_takes_64_queries_and_the_next_has_another_port(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    server = Server()
    async with bench(tmp_path, server) as it:
        for number in range(MAX_LINE_QUERIES + 1):
            it.ask(number=number)
        assert {(await it.got()).number for _ in range(MAX_LINE_QUERIES + 1)} == set(range(MAX_LINE_QUERIES + 1))
        counts = sorted(
            [port for port, _ in server.clients].count(port) for port in {port for port, _ in server.clients}
        )
        assert counts == [1, MAX_LINE_QUERIES]
        mock_clock.jump(LINE_TIME)
        await trio.testing.wait_all_tasks_blocked()
        assert it.open == 0


async def test_a_line_is_used_for_two_seconds_and_then_closed(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    server = Server()
    async with bench(tmp_path, server) as it:
        for _ in range(3):
            it.ask()
            await it.got()
            mock_clock.jump(LINE_TIME / 2)
            await trio.testing.wait_all_tasks_blocked()
        ports = [port for port, _ in server.clients]
        assert (ports[0] == ports[1], ports[0] == ports[2]) == (True, False)
        mock_clock.jump(LINE_TIME)
        await trio.testing.wait_all_tasks_blocked()
        assert it.open == 0


async def test_a_silent_server_is_asked_again_by_the_same_line_which_is_closed_when_nobody_waits(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    server = Server(lambda _: [])
    async with bench(tmp_path, server) as it:
        it.ask()
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(RESEND_TIME)
        await trio.testing.wait_all_tasks_blocked()
        assert server.clients == [server.clients[0]] * 2
        mock_clock.jump(GIVE_UP_TIME - RESEND_TIME)
        assert (await it.got()).text == "SERVFAIL"
        assert it.open == 1  # the repetition may still be answered
        mock_clock.jump(RESEND_TIME)
        await trio.testing.wait_all_tasks_blocked()
        assert it.open == 0


async def test_a_query_of_our_own_is_let_pass_while_its_line_is_open(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    server = Server(host="127.0.0.1")
    async with bench(tmp_path, server) as it:
        it.ask()
        await it.got()
        ours = packet(make_query("example.com"), source="127.0.0.1", port=server.clients[0][0])
        assert not it.adapter.handle(ours)
        assert it.adapter.handle(packet(make_query("bob"), port=server.clients[0][0]))
        mock_clock.jump(LINE_TIME)
        await trio.testing.wait_all_tasks_blocked()
        assert it.adapter.handle(ours)


async def test_a_server_that_says_more_than_it_was_asked_changes_nothing(tmp_path: Path) -> None:
    server = Server(
        lambda query: [make_query("x"), b"", make_answer(query, ANSWER), make_answer(query, "5 A 192.0.2.9")]
    )
    async with bench(tmp_path, server) as it:
        for number in range(5):
            it.ask(number=number)
            assert (await it.got()).text == f"NOERROR {ANSWER}"
        assert it.waiting == 0


async def test_a_server_that_never_stops_leaves_others_their_turn(tmp_path: Path) -> None:
    class Endless(socket.socket):
        def recv(self, *_args: object) -> bytes:
            return b"junk"

    async def endless(_upstream: Upstream, kind: int) -> socket.socket:
        return Endless(socket.AF_INET, kind)

    server = Server()
    with trio.fail_after(TIME_LIMIT):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            it = Bench([server.address], tmp_path, endless)
            async with it.running():
                it.ask()
                while it.magic.statistics().dropped.get(Drop.ANSWER_MALFORMED, 0) < 10 * MAX_LINE_QUERIES:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()


async def test_a_thousand_queries_are_answered_over_a_few_sockets(tmp_path: Path) -> None:
    async with bench(tmp_path, Server(), Server()) as it:
        for begin in range(0, 1000, 100):
            for number in range(begin, begin + 100):
                it.ask(number=number)
            assert {(await it.got()).number for _ in range(100)} == set(range(begin, begin + 100))
        assert len(it.made) <= 2 * (1000 // MAX_LINE_QUERIES + 2)


# --- the host's resolvers ---------------------------------------------------------------------------------------------


async def test_the_hosts_resolvers_are_looked_up_again_when_a_file_has_changed(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    file = tmp_path / "etc/resolv.conf"
    file.parent.mkdir()
    file.write_text("nameserver 192.0.2.1\n")
    it = Bench([], tmp_path)
    upstreams = []
    for seconds in (0.0, LOOK_TIME / 2, LOOK_TIME / 2, LOOK_TIME):
        mock_clock.jump(seconds)
        it.ask("bob")
        upstreams.append([str(upstream.address) for upstream in it.magic.statistics().upstreams])
        file.write_text("nameserver 192.0.2.2\nnameserver 192.0.2.3\n")
    first, second = ["192.0.2.1"], ["192.0.2.2", "192.0.2.3"]
    assert upstreams == [first, first, second, second]


async def test_without_files_the_host_itself_is_asked(tmp_path: Path) -> None:
    assert HostFiles(str(tmp_path)).changed(0.0) == (Upstream(ip_address("127.0.0.1")),)


async def test_files_that_are_as_they_were_are_not_read_again(tmp_path: Path) -> None:
    files = HostFiles(str(tmp_path))
    assert files.changed(0.0) is not None
    assert files.changed(LOOK_TIME) is None
