# SPDX-License-Identifier: BSD-3-Clause
"""The node's end of the socket to a worker: what a worker is told, and what becomes of what it says."""

import socket
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from mmap import mmap
from random import Random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.unit.uring.sockets import Wire
from tests.unit.wireguard.pair import WALL_START
from ts4nsnet.endpoint import ip_endpoint
from ts4nsnet.filter import Rule
from ts4nsnet.keys import PrivateKey
from ts4nsnet.node.engine import TunGone
from ts4nsnet.node.remote import RemoteEngine, remote_engine
from ts4nsnet.node.surroundings import WorkerError, WorkerLink
from ts4nsnet.node.wiring import Admission
from ts4nsnet.uring import Local, LocalTraffic, Message, Slow, Train, Unsealed
from ts4nsnet.uring.commands import (
    TO_WORKER,
    Complete,
    FilterSet,
    Forward,
    Hello,
    Lost,
    Packets,
    Relayed,
    RoutesSet,
    ToWorker,
    Trains,
)
from ts4nsnet.uring.counters import COUNTER_WORDS, DROPS, FIELDS, OFFLOADS_AT, Drop
from ts4nsnet.uring.events import Refused
from ts4nsnet.uring.link import Link
from ts4nsnet.uring.offloads import SWITCHED_OFF, Offload, OffloadRefused, OffloadsSet
from ts4nsnet.wireguard import Device, PeerConfig, RekeyWanted, Seal, SessionMemory, SessionTable
from ts4nsnet.wireguard.sessions import Keypair, Roamed

PEER = PrivateKey(bytes(range(32)))
PEER_KEY = PEER.public
ROUTES = frozenset({ip_network("100.64.0.2/32")})
DIRECT = ip_endpoint(ip_address("192.0.2.1"), 41641)
RELAY = bytes(31) + b"\1"
OTHER_RELAY = bytes(31) + b"\2"
WITHOUT_GSO = OffloadsSet(frozenset({Offload.UDP_GSO}))
ADMISSION = Admission((Rule(),), [ip_network("100.64.0.1/32")], {}, [])


class Worker:
    """The other end of one socket."""

    def __init__(self) -> None:
        self.node, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.node.setblocking(False)
        self.link: Link[ToWorker] = Link(theirs, TO_WORKER)

    def say(self, *messages: object) -> None:
        for message in messages:
            self.link.put(message)  # type: ignore[arg-type]
        assert self.link.flush()

    async def heard(self) -> list[ToWorker]:
        """What it was told since it was asked last."""
        await wait_all_tasks_blocked()
        found: list[ToWorker] = []
        while messages := self.link.receive():
            found += messages
        return found

    @property
    def ends(self) -> tuple[socket.socket, socket.socket]:
        """Both ends of the socket."""
        return self.node, self.link.sock

    def die(self) -> None:
        self.link.sock.close()


class World:
    """A remote engine, the workers that it meets, and the tailnet, which remembers what it was given."""

    def __init__(self, random: Random, memory: SessionMemory | None = None) -> None:
        self.memory = memory or SessionMemory(bytearray(SessionMemory.size(4)))
        own = PrivateKey(random.randbytes(32))
        self.own_key = own.public
        self.device = Device(own, self.memory, random.randbytes, lambda: WALL_START, roaming=False)
        self.wire, self.far_end = Wire.pair()
        self.workers = [Worker(), Worker()]
        self.met = 0
        self.said: list[str] = []
        self.counted = bytearray(8 * COUNTER_WORDS)
        self.taken: list[object] = []
        self.answers_local = True
        self.engine = RemoteEngine(
            self.device, self.memory, self.wire, self.connect, self.counted, self, self.said.append
        )

    async def connect(self) -> socket.socket:
        if self.met == len(self.workers):
            raise WorkerError("it is worn out")
        self.met += 1
        return self.workers[self.met - 1].node

    # --- engine.Tailnet ---

    def take_train(self, train: Train, now: float) -> bool:
        self.taken.append(train)
        return train.endpoint == RELAY

    def take_wanted(self, peer: int, now: float) -> None:
        self.taken.append(("wanted", peer))

    def take_datagram(self, datagram: bytes, source: bytes, now: float) -> bool:
        self.taken.append(datagram)
        return datagram.startswith(b"disco")

    def take_local(self, packet: bytes) -> bool:
        self.taken.append(packet)
        return self.answers_local

    def take_refused(self, destination: bytes) -> None:
        self.taken.append(("refused", destination))

    def take_offload_refused(self, refused: OffloadRefused) -> None:
        self.taken.append(refused)

    def take_message(self, peer: int, packet: bytes) -> None:
        self.taken.append((peer, packet))

    # --- what tests do ---

    def close(self) -> None:
        for sock in (self.wire, self.far_end, *(end for worker in self.workers for end in worker.ends)):
            sock.close()

    def add_peer(self, endpoint: bytes = DIRECT) -> int:
        number = self.device.set_peer(PeerConfig(PEER_KEY, ROUTES), trio.current_time())
        self.engine.set_routes({number: ROUTES})
        self.device.set_endpoint(PEER_KEY, endpoint, trio.current_time())
        self.engine.device_changed()
        return number

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.engine.run)
            await wait_all_tasks_blocked()
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture
async def world(mock_clock: MockClock) -> AsyncIterator[World]:
    """Ready to be run; all sockets are closed after the test."""
    made = World(Random(7))
    yield made
    made.close()


async def test_a_worker_is_told_everything_first(world: World) -> None:
    world.engine.set_filter(ADMISSION)
    local = LocalTraffic(frozenset({b"\x0a\0\2\3"}), names=True)
    world.engine.set_local(local)
    number = world.add_peer()
    async with world.running():
        told = await world.workers[0].heard()
    known = [Roamed(number, DIRECT), RoutesSet(number, ROUTES), FilterSet.of(*ADMISSION), local]
    assert told == [*known, OffloadsSet(), Complete()]


async def test_changes_are_told_as_they_come(world: World) -> None:
    came = [(b"came by a relay", RELAY), (b"this too", RELAY), (b"of another", OTHER_RELAY)]
    async with world.running():
        worker = world.workers[0]
        assert await worker.heard() == [LocalTraffic(), OffloadsSet(), Complete()]
        number = world.add_peer()
        world.engine.set_filter(ADMISSION)
        world.engine.set_local(LocalTraffic(names=True))
        world.engine.set_local(LocalTraffic(names=True))  # nothing new
        world.engine.set_offloads(WITHOUT_GSO)
        world.engine.set_offloads(WITHOUT_GSO)
        world.engine.write([b"for the container"])
        world.engine.seal(number, b"for the peer")
        world.engine.receive([Train.received(data, 0, endpoint) for data, endpoint in came])
        world.engine.set_routes({number: ()})
        world.engine.device_changed()
        told = await worker.heard()
    assert told == [
        RoutesSet(number, ROUTES),
        Roamed(number, DIRECT),
        FilterSet.of(*ADMISSION),
        LocalTraffic(names=True),
        WITHOUT_GSO,
        Packets((b"for the container",)),
        Seal(number, (b"for the peer",)),
        Trains(tuple(Train.received(data, 0, RELAY) for data, _ in came[:2])),
        Trains((Train.received(b"of another", 0, OTHER_RELAY),)),
        RoutesSet(number, frozenset()),
    ]


async def test_how_long_packets_may_be_is_told_when_it_changes_and_to_each_worker(world: World) -> None:
    async with world.running():
        number = world.add_peer()
        world.engine.set_mtu(number, 1280)  # nothing new
        world.engine.set_mtu(number, 8920)
        world.engine.set_mtu(number + 1, 8920)  # nobody's
        world.engine.device_changed()
        told = await world.workers[0].heard()
        assert [each for each in told if isinstance(each, RoutesSet)] == [
            RoutesSet(number, ROUTES),
            RoutesSet(number, ROUTES, 8920),
        ]
        world.workers[0].die()
        assert RoutesSet(number, ROUTES, 8920) in await world.workers[1].heard()
        world.engine.set_routes({number: ()})
        world.engine.set_routes({number: ROUTES})
        world.engine.device_changed()
        assert await world.workers[1].heard() == [RoutesSet(number, frozenset()), RoutesSet(number, ROUTES)]


async def test_a_prefix_stays_whose_it_was_last_when_a_path_changes(world: World) -> None:
    async with world.running():
        first = world.add_peer()
        second = first + 1
        other = frozenset({ip_network("100.64.0.9/32")})
        world.engine.set_routes({first: ROUTES | other, second: ROUTES})
        world.engine.device_changed()
        worker = world.workers[0]
        await worker.heard()
        world.engine.set_mtu(first, 1420)
        world.engine.device_changed()
        assert await worker.heard() == [RoutesSet(first, other, 1420)]
        world.engine.set_routes({second: (), first: ROUTES})
        world.engine.set_mtu(first, 1280)
        world.engine.device_changed()
        told = [RoutesSet(second, frozenset()), RoutesSet(first, ROUTES, 1420), RoutesSet(first, ROUTES)]
        assert await worker.heard() == told


async def test_what_a_worker_says_goes_to_whom_it_concerns(world: World) -> None:
    async with world.running():
        number = world.add_peer(RELAY)
        worker = world.workers[0]
        await worker.heard()
        world.taken.clear()
        relayed = Train.received(b"for a relay", 4, RELAY)
        worker.say(
            Hello("uring", "a word"), Slow(b"disco ping", DIRECT), Local(b"a question"), Message(number, b"tsmp"),
            Refused(b"\1\2\3\4"), OffloadRefused(Offload.UDP_GSO, 5), Relayed(relayed), Lost(5, 0),
        )  # fmt: skip
        await wait_all_tasks_blocked()
        assert (world.engine.name, world.said) == ("uring", ["a word"])
        first = [b"disco ping", b"a question", (number, b"tsmp"), ("refused", b"\1\2\3\4")]
        assert world.taken[:5] == [OffloadRefused(Offload.UDP_GSO, 5), *first]
        assert isinstance(train := world.taken[5], Train)
        assert list(train.payload) == [b"for ", b"a re", b"lay"]
        assert world.engine.counters.dropped == {Drop.NODE_BUSY: 5}
        assert await worker.heard() == []


async def test_what_workers_have_counted_and_the_node_itself_is_one(world: World) -> None:
    words = memoryview(world.counted).cast("Q")
    words[DROPS.index(Drop.SEND_FAILED) + len(FIELDS)] = 2
    words[OFFLOADS_AT] = SWITCHED_OFF
    words[0] = 7
    async with world.running():
        world.wire.refusals = 1
        world.engine.send(b"finds no room", DIRECT)
        counted = world.engine.statistics()
    assert (counted.read_frames, counted.dropped) == (7, {Drop.SEND_FAILED: 3})
    assert counted.offloads[Offload.UDP_GSO] == SWITCHED_OFF


async def test_a_question_that_is_not_for_the_node_goes_on(world: World) -> None:
    world.answers_local = False
    async with world.running():
        worker = world.workers[0]
        await worker.heard()
        worker.say(Local(b"a question"))
        assert await worker.heard() == [Forward(b"a question")]


async def test_packets_without_a_session_make_a_handshake(world: World) -> None:
    async with world.running():
        number = world.add_peer(RELAY)
        world.workers[0].say(Unsealed(number, (b"packet",)))
        await wait_all_tasks_blocked()
        handshakes = [each for each in world.taken if isinstance(each, Train)]
        assert [(each.endpoint, len(each.payload[0])) for each in handshakes] == [(RELAY, 148)]
        assert ("wanted", number) in world.taken


def initiation(world: World) -> bytes:
    """A call of the peer's."""
    random = Random(8)
    memory = SessionMemory(bytearray(SessionMemory.size(1)))
    device = Device(PEER, memory, random.randbytes, lambda: WALL_START)
    config = PeerConfig(world.own_key, ROUTES, endpoint=DIRECT)
    device.send(device.set_peer(config, 0.0), [b"packet"], 0.0)
    ((datagram, _),) = device.datagrams_to_send()
    return datagram


async def test_the_next_worker_is_told_everything_and_keypairs_that_got_lost(world: World) -> None:
    number = world.add_peer()
    world.engine.set_offloads(WITHOUT_GSO)
    async with world.running():
        await world.workers[0].heard()
        world.workers[0].say(Slow(initiation(world), DIRECT))
        (keypair,) = await world.workers[0].heard()
        assert isinstance(keypair, Keypair)
        world.workers[0].die()
        told = await world.workers[1].heard()
    known = [Roamed(number, DIRECT), RoutesSet(number, ROUTES), LocalTraffic(), WITHOUT_GSO]
    assert told == [*known, keypair, Complete()]


async def test_a_keypair_that_a_worker_has_installed_is_not_told_again(world: World) -> None:
    number = world.add_peer()
    async with world.running():
        await world.workers[0].heard()
        world.workers[0].say(Slow(initiation(world), DIRECT))
        (keypair,) = await world.workers[0].heard()
        assert isinstance(keypair, Keypair)
        SessionTable(world.memory).apply(keypair)
        world.workers[0].die()
        told = await world.workers[1].heard()
    assert keypair not in told
    assert told[0] == Roamed(number, DIRECT)


async def test_a_node_that_follows_another_says_nothing_before_it_has_a_netmap(world: World) -> None:
    number = world.add_peer()
    follower = World(Random(9), world.memory)
    try:
        async with follower.running():
            follower.engine.set_local(LocalTraffic(names=True))
            assert await follower.workers[0].heard() == []
            follower.engine.set_filter(ADMISSION)
            assert follower.add_peer() == number
            told = await follower.workers[0].heard()
    finally:
        follower.close()
    assert told[0] == RoutesSet(number, ROUTES)
    assert FilterSet.of(*ADMISSION) in told
    assert LocalTraffic(names=True) in told
    assert Complete() in told


async def test_without_another_worker_the_engine_ends(world: World) -> None:
    with pytest.raises(BaseExceptionGroup) as ended:  # noqa: PT012  the nursery raises at its end
        async with world.running():
            for worker in world.workers:
                worker.die()
            await trio.sleep_forever()
    gone = ended.value.subgroup(TunGone)
    assert gone is not None
    assert "it is worn out" in "".join(traceback.format_exception(gone))


async def test_traffic_on_a_direct_path_is_noticed_and_nothing_wakes_without_one(
    world: World, autojump_clock: MockClock
) -> None:
    async with world.running():
        number = world.add_peer()
        world.taken.clear()
        await trio.sleep(5)
        assert ("wanted", number) not in world.taken
        world.memory.peer(number).data_sent_at = 1.0
        await trio.sleep(5)
        assert world.taken.count(("wanted", number)) == 1
        world.device.set_endpoint(PEER_KEY, RELAY, trio.current_time())
        world.engine.device_changed()
        world.memory.peer(number).data_sent_at = 2.0
        await trio.sleep(5)
        assert world.taken.count(("wanted", number)) == 1


async def test_facts_are_the_devices(world: World) -> None:
    async with world.running():
        number = world.add_peer(RELAY)
        await world.workers[0].heard()
        world.workers[0].say(RekeyWanted(number))
        await wait_all_tasks_blocked()
    (call,) = [each for each in world.taken if isinstance(each, Train)]
    assert (call.endpoint, len(call.payload[0])) == (RELAY, 148)


async def test_datagrams_of_the_nodes_own_leave_by_its_socket(world: World) -> None:
    world.engine.send(b"disco", DIRECT)
    assert world.wire.sent_to == ("::ffff:192.0.2.1", 41641, 0, 0)
    world.engine.send(b"disco that must stay whole", DIRECT, whole=True)
    assert [world.far_end.recv(100)[:2] for _ in range(2)] == [bytes(2), (26).to_bytes(2, sys.byteorder)]


# --- the first worker -------------------------------------------------------------------------------------------------


@pytest.fixture
def make_link() -> Callable[[], WorkerLink]:
    return lambda: WorkerLink(mmap(-1, 4096))


async def test_an_engine_is_made_once_a_worker_speaks(make_link: Callable[[], WorkerLink], world: World) -> None:
    link, dead, alive = make_link(), Worker(), Worker()
    link.renew(dead.node)
    made: list[object] = []

    async def make() -> None:
        made.append(await remote_engine(link, world.memory, world.wire, world.said.append))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(make)
        await wait_all_tasks_blocked()
        dead.die()
        await wait_all_tasks_blocked()
        assert made == []
        link.renew(alive.node)
        await wait_all_tasks_blocked()
        assert made == []
        alive.say(Hello("epoll", ""))
    (maker,) = made
    world.workers += [dead, alive]
    engine = maker(world.device, world)  # type: ignore[operator]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        await wait_all_tasks_blocked()
        assert engine.name == "epoll"
        nursery.cancel_scope.cancel()


async def test_a_worker_that_cannot_work_is_an_error(make_link: Callable[[], WorkerLink], world: World) -> None:
    link = make_link()
    link.fail("io_uring is off")
    with pytest.raises(WorkerError, match="io_uring is off"):
        await remote_engine(link, world.memory, world.wire, world.said.append)
