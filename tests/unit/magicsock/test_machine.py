# SPDX-License-Identifier: BSD-3-Clause
"""Hosts on a network that loses and cuts whatever hypothesis likes: what holds all the time, and in the end."""

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.magicsock.net import Host, Net, at
from ts4nsnet.keys import PrivateKey
from ts4nsnet.magicsock import PathChanged

HOSTS = 3
NUMBERS = st.integers(0, HOSTS - 1)
PAIRS = st.permutations(range(HOSTS)).map(lambda order: (order[0], order[1]))
OPERATIONS = st.one_of(
    st.tuples(st.just("send"), PAIRS),
    st.tuples(st.just("ping"), PAIRS),
    st.tuples(st.just("traffic"), PAIRS),
    st.tuples(st.just("remove"), PAIRS),
    st.tuples(st.just("run"), st.floats(0.001, 60)),
    st.tuples(st.just("cut"), NUMBERS),
    st.tuples(st.just("mend"), st.none()),
    st.tuples(st.just("relay"), st.booleans()),
    st.tuples(st.just("loss"), st.sampled_from([0.0, 0.3, 0.9])),
    st.tuples(st.just("restart"), NUMBERS),
    st.tuples(st.just("move"), NUMBERS),
    st.tuples(st.just("introduce"), st.none()),
    st.tuples(st.just("home"), NUMBERS),
    st.tuples(st.just("firewall"), NUMBERS),
    st.tuples(st.just("narrow"), st.sampled_from([0, 500, 1400, 1500, 9000])),
    st.tuples(st.just("widen"), st.tuples(NUMBERS, st.sampled_from([0, 1280, 1420, 8920]))),
)


class World:
    """Hosts, and what has been done to them."""

    def __init__(self) -> None:
        self.net = Net()
        self.hosts = [self.net.host(f"host {n}", f"192.0.2.{n + 1}", f"10.0.0.{n + 1}") for n in range(HOSTS)]
        self.past = {host.key: {*host.endpoints, host.relay, bytes(32)} for host in self.hosts}
        self.moves = 0
        self.net.introduce()

    def do(self, name: str, value: object) -> None:
        """One operation; it is a method of that name, so that a failing example reads well."""
        getattr(self, name)(value)
        self.net.settle()
        self.check()

    def check(self) -> None:
        """Datagrams go where the peer is or was, or by its relay; `path` and the events agree."""
        for host in self.hosts:
            for other in self.hosts:
                if other is not host and host.conn.path(other.key, self.net.now) is not None:
                    assert host.path(other) in self.past[other.key]

    def send(self, pair: tuple[int, int]) -> None:
        self.hosts[pair[0]].send(self.hosts[pair[1]])

    def ping(self, pair: tuple[int, int]) -> None:
        self.hosts[pair[0]].conn.ping(self.hosts[pair[1]].key, self.net.now)

    def traffic(self, pair: tuple[int, int]) -> None:
        before = [len(host.sent) for host in self.hosts]
        self.net.run(10, traffic=(self.hosts[pair[0]], self.hosts[pair[1]]))
        # two candidates each, every 5 s, by whatever cause; answers to two others; invitations
        assert max(len(host.sent) - n for host, n in zip(self.hosts, before, strict=True)) < 80

    def remove(self, pair: tuple[int, int]) -> None:
        self.hosts[pair[0]].conn.remove_peer(self.hosts[pair[1]].key)

    def run(self, time: float) -> None:
        self.net.run(time)

    def cut(self, number: int) -> None:
        self.net.cut |= set(self.hosts[number].endpoints)

    def mend(self, _: None) -> None:
        self.net.cut = set()

    def relay(self, works: bool) -> None:
        self.net.relay_works = works

    def loss(self, share: float) -> None:
        self.net.loss = share

    def restart(self, number: int) -> None:
        host = self.hosts[number]
        host.events.clear()
        host.restart(PrivateKey(self.net.random.randbytes(32)))
        self.net.introduce()

    def move(self, number: int) -> None:
        self.moves += 1
        host = self.hosts[number]
        host.endpoints = (at(f"198.51.100.{self.moves}"), *host.endpoints[:1])
        self.past[host.key] |= set(host.endpoints)
        host.conn.set_own_endpoints(host.endpoints, self.net.now)

    def introduce(self, _: None) -> None:
        self.net.introduce()

    def home(self, number: int) -> None:
        host = self.hosts[number]
        host.home = 0 if host.home else 7
        self.net.introduce(host)

    def firewall(self, number: int) -> None:
        self.hosts[number].firewalled ^= True

    def narrow(self, room: int) -> None:
        self.net.room = room

    def widen(self, mtu: tuple[int, int]) -> None:
        self.hosts[mtu[0]].mtu = mtu[1]


@given(st.lists(OPERATIONS, max_size=15))
def test_whatever_happened_a_mended_network_has_direct_paths(operations: list[tuple[str, object]]) -> None:
    world = World()
    for operation in operations:
        world.do(*operation)
    net = world.net
    net.cut, net.loss, net.relay_works, net.room = set(), 0.0, True, 1500
    for host in world.hosts:
        host.home = 7
    net.introduce()
    for number, one in enumerate(world.hosts):
        other = world.hosts[(number + 1) % HOSTS]
        net.run(8, traffic=(one, other))
        assert one.is_direct(other)
        net.run(15, traffic=(one, other))
        told = [event.mtu for event in one.events if isinstance(event, PathChanged) and event.key == other.key]
        assert told[-1] == (1420 if one.mtu == 1420 else 1280)  # what fits into the room


@given(st.lists(OPERATIONS, max_size=15))
def test_whatever_happened_without_traffic_all_fall_asleep(operations: list[tuple[str, object]]) -> None:
    world = World()
    for operation in operations:
        world.do(*operation)
    world.net.run(60)
    assert [host.conn.next_timer() for host in world.hosts] == [None] * HOSTS


def test_the_machine_reaches_direct_paths_between_all() -> None:
    world = World()
    for one in range(HOSTS):
        for other in range(HOSTS):
            if one != other:
                world.do("traffic", (one, other))
    pairs: list[tuple[Host, Host]] = [(a, b) for a in world.hosts for b in world.hosts if a is not b]
    assert all(len(a.times(*b.endpoints)) > 1 for a, b in pairs)
