# SPDX-License-Identifier: BSD-3-Clause
"""The worker around its port: when it carries, what it tells, and who may come and go."""

import select
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_network
from threading import Thread

import pytest

from ts4nsnet.filter import Filter
from ts4nsnet.packet import UDP, IPv4, carry
from ts4nsnet.uring import Drop
from ts4nsnet.uring.commands import (
    TO_NODE,
    Complete,
    FilterSet,
    Forward,
    Hello,
    Lost,
    Packets,
    Relayed,
    RoutesSet,
    ToNode,
    ToWorker,
    Trains,
)
from ts4nsnet.uring.events import Event, Local, Unsealed
from ts4nsnet.uring.judge import Judge
from ts4nsnet.uring.link import Link
from ts4nsnet.uring.local import LocalTraffic
from ts4nsnet.uring.offloads import Offload, OffloadsSet
from ts4nsnet.uring.trains import Train
from ts4nsnet.uring.worker import MAX_DATAGRAMS, Worker
from ts4nsnet.wireguard import AllowedIPs, Command, Seal
from ts4nsnet.wireguard.sessions import Confirmed, KeysZeroed, Roamed

TIME_LIMIT = 10.0  # seconds; catches a hang
PEERS = 4
ENDPOINT = bytes(range(32))
HELLO = Hello("fake", "as this is a test")
TRAIN = Train((b"abc",), 3, 1, ENDPOINT)
OURS, THEIRS = (ip_network(each) for each in ("10.0.0.1", "10.0.0.2"))


class FakePort:
    """Carries nothing; each `carry` takes the next step of a script, and after the last one the keeper ends."""

    def __init__(self, control: select.epoll, routes: AllowedIPs, keeper: socket.socket) -> None:
        self.script: Iterator[Callable[[], object]] = iter(())
        self.carried = 0
        self.events: deque[Event | Train] = deque()
        self.done: list[object] = []
        self.mtus: dict[int, int] = {}
        self._control = control
        self._keeper = keeper
        self._judge = Judge(self, routes, Filter())

    @property
    def judge(self) -> Judge:
        return self._judge

    def carry(self) -> bool:
        self.carried += 1
        next(self.script, self._keeper.close)()
        return bool(self._control.poll(0))

    def apply(self, command: Command, now: float) -> None:
        assert now > 0
        self.done.append(command)

    def set_mtu(self, peer: int, mtu: int) -> None:
        self.mtus[peer] = mtu

    def mtu_to(self, peer: int) -> int:
        return self.mtus[peer]

    def from_udp(self, trains: Iterable[Train], now: float) -> None:
        assert now > 0
        self.done += trains

    def write(self, packets: Iterable[bytes]) -> None:
        self.done += packets

    def switch(self, wanted: OffloadsSet) -> None:
        self.done.append(wanted)

    def next_event(self) -> Event | Train | None:
        return self.events.popleft() if self.events else None

    def drop(self, reason: Drop, packets: int = 1) -> None:
        self.done.append((reason, packets))

    def emit(self, event: Event) -> None:
        self.events.append(event)


class Stage:
    """A worker, and the ends of its node and its keeper."""

    def __init__(self) -> None:
        self.keeper, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        control = select.epoll()
        self.routes = AllowedIPs()
        self.port = FakePort(control, self.routes, self.keeper)
        self.worker = Worker(self.port, self.routes, PEERS, control, theirs, HELLO)
        self.node, workers = self.new_node()
        self.worker.meet(workers)
        self._control, self._workers_keeper = control, theirs

    def new_node(self) -> tuple[Link[ToNode], socket.socket]:
        """A node, and the socket that its worker is to have."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Link(ours, TO_NODE), theirs

    def introduce(self) -> Link[ToNode]:
        """Have the keeper send the next node's socket."""
        node, workers = self.new_node()
        socket.send_fds(self.keeper, [b"{}"], [workers.fileno()])
        workers.close()
        return node

    def say(self, *messages: ToWorker) -> None:
        """Let the node say something, all at once."""
        for message in messages:
            self.node.put(message)
        assert self.node.flush()

    def run(self, *script: Callable[[], object]) -> None:
        """Let the worker run until the script is through."""
        self.port.script = iter(script)
        self.worker.run()

    def close(self) -> None:
        for sock in (self.node.sock, self.keeper, self._workers_keeper):
            sock.close()
        self._control.close()


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.worker.part()
    made.close()


def heard(node: Link[ToNode]) -> list[ToNode]:
    """All that a node was told."""
    messages: list[ToNode] = []
    while select.select([node.sock], [], [], 0)[0] and (more := node.receive()) is not None:
        messages += more
    return messages


def packet(destination: str) -> bytes:
    """A packet of the container's."""
    source, to = (ip_network(each).network_address.packed for each in ("10.0.0.1", destination))
    return carry(IPv4(source, to, 0), UDP(1, 2, b"hello"))


# --- beginning and end --------------------------------------------------------------------------------------------


def test_nothing_is_carried_before_all_is_told(stage: Stage) -> None:
    stage.say(RoutesSet(1, frozenset({THEIRS})), FilterSet(), LocalTraffic())
    thread = Thread(target=stage.run)
    thread.start()
    assert select.select([stage.node.sock], [], [], TIME_LIMIT)[0]  # it has listened, and waits now
    stage.keeper.close()
    thread.join(TIME_LIMIT)
    assert not stage.port.carried
    assert stage.routes.prefixes(1) == {THEIRS}
    assert heard(stage.node) == [HELLO]


def test_once_all_is_told_packets_are_carried_until_the_keeper_ends(stage: Stage) -> None:
    stage.say(Complete())
    stage.run(lambda: None, lambda: None)
    assert stage.port.carried == 3


# --- what the node says -------------------------------------------------------------------------------------------


def test_commands_packets_and_trains_reach_the_port_in_their_order(stage: Stage) -> None:
    commands: list[Command] = [KeysZeroed(1), Roamed(2, ENDPOINT), Seal(3, (b"sealed",))]
    stage.say(Complete(), *commands, Packets((b"written",)), Trains((TRAIN,)))
    stage.run()
    assert stage.port.done == [*commands, b"written", TRAIN]


def test_what_was_not_named_is_no_more(stage: Stage) -> None:
    stage.routes.set(0, {ip_network("10.9.9.9")})
    stage.say(*(RoutesSet(peer, frozenset({ip_network(f"10.0.0.{peer}")}), 8920) for peer in (1, 2, 3)), Complete())
    nodes: list[Link[ToNode]] = []

    def next_node() -> None:
        stage.node.sock.close()
        stage.node = stage.introduce()
        nodes.append(stage.node)
        stage.say(RoutesSet(2, frozenset({ip_network("10.0.0.22")})), RoutesSet(3, frozenset()), Complete())

    stage.run(next_node, lambda: None, lambda: None, lambda: None, lambda: None)
    assert [stage.routes.prefixes(peer) for peer in (1, 2, 3)] == [set(), {ip_network("10.0.0.22")}, set()]
    assert stage.port.mtus == dict.fromkeys((1, 2, 3), 1280)
    assert heard(nodes[0]) == [HELLO]


def test_equal_routes_are_no_change(stage: Stage) -> None:
    routes = RoutesSet(1, frozenset({THEIRS}))
    stage.say(routes, Complete())
    versions = []

    def again() -> None:
        versions.append(stage.routes.version)
        stage.say(routes)

    stage.run(again, lambda: versions.append(stage.routes.version))
    assert versions[0] == versions[1]


def test_filter_and_local_traffic_are_what_the_judge_goes_by(stage: Stage) -> None:
    version = stage.port.judge.version
    traffic = LocalTraffic(frozenset({bytes(4)}), names=True)
    stage.say(FilterSet(local=(OURS,)), traffic, Complete())
    stage.run()
    assert stage.port.judge.local == traffic
    assert stage.port.judge.version == version + 2


def test_offloads_are_switched_in_their_order(stage: Stage) -> None:
    wanted = OffloadsSet(frozenset({Offload.UDP_GSO}), equal_tails=False)
    stage.say(Complete(), wanted, OffloadsSet(), Packets((b"after",)))
    stage.run()
    assert stage.port.done == [wanted, OffloadsSet(), b"after"]


def test_a_packet_that_goes_on(stage: Stage) -> None:
    stage.say(RoutesSet(1, frozenset({THEIRS})), Complete(), Forward(packet("10.0.0.2")))
    stage.run()
    assert stage.port.done == [Seal(1, (packet("10.0.0.2"),))]


def test_how_long_packets_for_a_peer_may_be_goes_with_its_routes(stage: Stage) -> None:
    stage.say(RoutesSet(1, frozenset({THEIRS}), 8920), RoutesSet(2, frozenset(), 1420), Complete())
    stage.run()
    assert stage.port.mtus == {1: 8920, 2: 1420}


@pytest.mark.parametrize("wrong", [Forward(b"no packet"), RoutesSet(PEERS, frozenset()), Roamed(2**32 - 1, ENDPOINT)])
def test_what_makes_no_sense_is_counted(stage: Stage, wrong: ToWorker) -> None:
    stage.say(Complete(), wrong, Packets((b"next",)))
    stage.run(lambda: None)
    assert stage.port.done == [b"next"]
    assert heard(stage.node) == [HELLO, Lost(0, 1)]


# --- what the node hears ------------------------------------------------------------------------------------------


def test_events_are_told_and_trains_for_a_relay(stage: Stage) -> None:
    stage.say(Complete())
    events: list[Event] = [Confirmed(1), Unsealed(2, (b"packet",)), Local(b"for the node")]
    stage.run(lambda: stage.port.events.extend((*events, TRAIN)))
    assert heard(stage.node) == [HELLO, *events, Relayed(TRAIN)]


def test_a_node_that_does_not_listen_is_not_waited_for(stage: Stage) -> None:
    stage.say(Complete())
    count = 300

    def flood() -> None:
        stage.port.events.extend(Local(bytes(10_000)) for _ in range(count))

    got: list[ToNode] = []
    stage.run(flood, lambda: got.extend(heard(stage.node)), *[lambda: got.extend(heard(stage.node))] * 10)
    lost = [message for message in got if isinstance(message, Lost)]
    assert len(lost) == 1
    assert len([message for message in got if isinstance(message, Local)]) + lost[0].events == count
    assert lost[0].events > 100


# --- those who come and go ----------------------------------------------------------------------------------------


def test_the_keeper_is_heard_before_a_node_that_talks_all_the_time(stage: Stage) -> None:
    stage.say(Complete())

    def both() -> None:
        stage.say(Packets((b"never",)))
        stage.keeper.close()

    stage.run(both)
    assert stage.port.done == []


def test_packets_are_carried_while_a_node_talks_all_the_time(stage: Stage) -> None:
    stage.say(Complete())
    waiting: list[int] = []

    def talk() -> None:
        for number in range(100):
            stage.say(Packets((bytes([number]),)))

    stage.run(talk, lambda: waiting.append(len(stage.port.done)), lambda: waiting.append(len(stage.port.done)))
    assert 0 < waiting[0] <= MAX_DATAGRAMS
    assert waiting[0] < waiting[1] <= 2 * MAX_DATAGRAMS


def test_without_a_node_it_goes_on(stage: Stage) -> None:
    stage.say(Complete())
    events = [Confirmed(1)]
    stage.run(stage.node.sock.close, lambda: stage.port.events.extend(events), lambda: None)
    assert stage.port.carried == 4
    assert not stage.port.events


def test_the_next_node_hears_what_happens_from_then_on(stage: Stage) -> None:
    stage.say(Complete())
    nodes: list[Link[ToNode]] = []
    stage.run(
        lambda: nodes.append(stage.introduce()),
        lambda: stage.port.events.append(Confirmed(1)),
    )
    assert heard(nodes[0]) == [HELLO, Confirmed(1)]
    assert heard(stage.node) == [HELLO]
    assert stage.node.receive() is None
    nodes[0].sock.close()


def test_a_message_of_the_keeper_s_without_a_socket_means_nothing(stage: Stage) -> None:
    stage.say(Complete())
    stage.run(lambda: stage.keeper.send(b"{}"), lambda: stage.port.events.append(Confirmed(1)))
    assert heard(stage.node) == [HELLO, Confirmed(1)]
