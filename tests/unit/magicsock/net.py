# SPDX-License-Identifier: BSD-3-Clause
"""A network between hosts, each with a `Conn`, under the test's hand: UDP, one relay, loss, firewalls, and time.

    net = Net(); alice, bob = net.host("alice"), net.host("bob"); net.introduce()
    alice.send(bob); net.run(1)        what is in flight arrives after LATENCY, by the relay after RELAY_LATENCY

Everything random comes from one seed. A firewalled host takes from UDP only what comes from where it has sent to.
"""

from dataclasses import dataclass, field
from heapq import heappop, heappush
from ipaddress import ip_address
from itertools import count
from random import Random

from ts4nsnet import derp
from ts4nsnet.endpoint import Endpoint, ip_endpoint
from ts4nsnet.keys import PrivateKey, PublicKey
from ts4nsnet.magicsock import Conn, Event, PathChanged, PeerPaths
from ts4nsnet.tailnet import TAILNET_MTU

START = 1_000_000.0  # seconds
LATENCY = 0.010  # one way
RELAY_LATENCY = 0.050
REGION = 7
PORT = 41641


def at(host: str, port: int = PORT) -> Endpoint:
    """The endpoint of a numeric address."""
    return ip_endpoint(ip_address(host), port)


@dataclass(eq=False)
class Host:
    """A node: its conn, where it is, what its conn said."""

    net: "Net"
    name: str
    key: PublicKey
    disco_key: PrivateKey
    endpoints: tuple[Endpoint, ...]
    conn: Conn = field(init=False)
    firewalled: bool = False
    home: int = REGION
    listed: bool = True  # its endpoints are in the netmap
    is_gateway: bool = False
    mtu: int = TAILNET_MTU  # how long packets may be by what its kernel knows
    overlays: set[Endpoint] = field(default_factory=set)  # endpoints that its routes lead to through an overlay
    events: list[Event] = field(default_factory=list)
    sent: list[tuple[float, Endpoint, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.restart(self.disco_key)

    def restart(self, disco_key: PrivateKey) -> None:
        """Begin with a new conn that knows nobody."""
        self.disco_key = disco_key
        self.conn = Conn(
            disco_key,
            self.net.random.randbytes,
            lambda endpoint: endpoint not in self.overlays,
            lambda _: self.mtu,
        )
        self.conn.set_node_key(self.key)
        self.conn.set_own_endpoints(self.endpoints, self.net.now)

    def paths(self) -> PeerPaths:
        """What the coordination server says of it."""
        endpoints = self.endpoints if self.listed else ()
        return PeerPaths(self.key, self.disco_key.public, self.home, endpoints, is_gateway=self.is_gateway)

    @property
    def relay(self) -> Endpoint:
        return derp.to_endpoint(REGION, self.key)

    def send(self, other: "Host") -> None:
        """Have traffic for the other."""
        self.conn.note_sent(other.key, self.net.now)
        self.net.settle()

    def path(self, other: "Host") -> Endpoint:
        """The endpoint that WireGuard was told last for the other; nothing but PathChanged decides it."""
        told = [e.endpoint for e in self.events if isinstance(e, PathChanged) and e.key == other.key]
        path = self.conn.path(other.key, self.net.now)
        assert path is not None
        assert path.endpoint == told[-1]
        return told[-1]

    def is_direct(self, other: "Host") -> bool:
        return self.path(other) in other.endpoints

    def times(self, *destinations: Endpoint) -> list[float]:
        """When datagrams left to one of these, in seconds since the start."""
        return [round(when - START, 6) for when, endpoint, _ in self.sent if endpoint in destinations]


class Net:
    """All hosts, and what is on its way between them."""

    def __init__(self, seed: int = 7) -> None:
        self.random = Random(seed)
        self.now = START
        self.hosts: list[Host] = []
        self.loss = 0.0
        self.latency = LATENCY
        self.relay_works = True
        self.room = 1 << 16  # bytes of a datagram of UDP; longer ones are lost
        self.cut: set[Endpoint] = set()  # UDP to or from these is lost
        self._numbers = count()
        self._flight: list[tuple[float, int, Endpoint, bytes, Endpoint, PublicKey | None]] = []

    def host(self, name: str, *endpoints: str) -> Host:
        """A host at these addresses, or at one of its own."""
        number = len(self.hosts) + 1
        where = tuple(map(at, endpoints or (f"192.0.2.{number}",)))
        keys = PrivateKey(self.random.randbytes(32)), PrivateKey(self.random.randbytes(32))
        self.hosts.append(Host(self, name, keys[0].public, keys[1], where))
        return self.hosts[-1]

    def introduce(self, *hosts: Host) -> None:
        """Tell all of these, or all there are, to all others."""
        for host in hosts or self.hosts:
            for other in self.hosts:
                if other is not host:
                    other.conn.set_peer(host.paths(), self.now)
        self.settle()

    def settle(self) -> None:
        """Take what the conns have to send and to say."""
        for host in self.hosts:
            for datagram, endpoint, key in host.conn.datagrams_to_send():
                host.sent.append((self.now, endpoint, datagram))
                self._launch(host, datagram, endpoint, key)
            while (event := host.conn.next_event()) is not None:
                host.events.append(event)

    def _launch(self, host: Host, datagram: bytes, endpoint: Endpoint, key: PublicKey | None) -> None:
        if key is not None:
            region = derp.from_endpoint(endpoint)
            assert region is not None
            if self.relay_works:
                source = derp.to_endpoint(region[0], host.key)
                self._fly(RELAY_LATENCY, endpoint, datagram, source, host.key)
            return
        for source in host.endpoints[:1]:
            is_lost = self.random.random() < self.loss or len(datagram) > self.room
            if not is_lost and not {source, endpoint} & self.cut:
                self._fly(self.latency, endpoint, datagram, source, None)

    def _fly(
        self, time: float, endpoint: Endpoint, datagram: bytes, source: Endpoint, sender: PublicKey | None
    ) -> None:
        heappush(self._flight, (self.now + time, next(self._numbers), endpoint, datagram, source, sender))

    def _arrive(self, endpoint: Endpoint, datagram: bytes, source: Endpoint, sender: PublicKey | None) -> None:
        for host in self.hosts:
            is_there = endpoint in host.endpoints if sender is None else endpoint[:16] == host.key.raw[:16]
            passes = sender is not None or not host.firewalled or any(to == source for _, to, _ in host.sent)
            if is_there and passes:
                host.conn.receive(datagram, source, self.now, sender)

    def run(self, time: float, *, traffic: tuple[Host, Host] | None = None) -> None:
        """Let so many seconds pass; with traffic from the first to the second once a second."""
        end = self.now + time
        ticks = [self.now + n for n in range(int(time) + 1)] if traffic else []
        while True:
            timers = [timer for host in self.hosts if (timer := host.conn.next_timer()) is not None]
            due = min([*timers, *(self._flight[0][:1] if self._flight else ()), *ticks[:1]], default=end)
            if due >= end:
                break
            assert due >= self.now or due in timers
            self.now = max(self.now, due)
            while self._flight and self._flight[0][0] <= self.now:
                self._arrive(*heappop(self._flight)[2:])
            for host in self.hosts:
                host.conn.handle_timer(self.now)
                timer = host.conn.next_timer()
                assert timer is None or timer > self.now, "a timer that is always due"
            if ticks and ticks[0] <= self.now and traffic:
                ticks.pop(0)
                traffic[0].conn.note_sent(traffic[1].key, self.now)
            self.settle()
        self.now = end
