# SPDX-License-Identifier: BSD-3-Clause
"""How a node's datagrams travel: by relays, or directly as magicsock finds a way.

    engine ── take_train ────► relay's endpoint? ── yes ─► derp.Regions          no: the engine sends by UDP
    engine ── take_datagram ─► disco? ─► magicsock.Conn ── PathChanged ─► device: send to that endpoint from now on
    relays ── packets ───────► disco? ─► magicsock.Conn;   else ─► engine

To WireGuard all of these are endpoints of 32 bytes. Which peer a train is for is told by its endpoint: one behind a
relay names its key, one of UDP was made known by PathChanged.
"""

import socket
from collections.abc import Callable, Sequence
from typing import NoReturn, Protocol

import trio

from ts4nsnet import derp
from ts4nsnet.derp import adapter as derp_adapter
from ts4nsnet.derp.endpoint import KEY_PREFIX_BYTES
from ts4nsnet.endpoint import Endpoint
from ts4nsnet.keys import PrivateKey, PublicKey
from ts4nsnet.magicsock import Conn, OwnEndpointsChanged, Path, PathChanged, PeerPaths, Pinged, is_disco
from ts4nsnet.magicsock import adapter as magicsock_adapter
from ts4nsnet.magicsock.adapter import Routes
from ts4nsnet.netns.model import MAX_MTU
from ts4nsnet.tailnet import TAILNET_MTU
from ts4nsnet.uring import Train
from ts4nsnet.uring.trains import form_trains
from ts4nsnet.wireguard import Device

# ours: seconds between two words to magicsock that a peer is sent to; its own times are seconds
NOTE_TIME = 1.0
_TRANSPORT = b"\4"  # of WireGuard's messages, data; the others are handshakes
# bytes; of IPv6, UDP and WireGuard around a packet. What remains of a greatest packet of the loopback, 65,456, fits in
# one datagram of IPv4, too
OVERHEAD_BYTES = 40 + 8 + 32


class Engine(Protocol):
    """What is asked of the engine."""

    def receive(self, trains: Sequence[Train]) -> None:
        """Take what has come by another way than UDP."""

    def send(self, datagram: bytes, endpoint: Endpoint, *, whole: bool = False) -> None:
        """Send a datagram by UDP, perhaps in one piece or not at all."""

    def device_changed(self) -> None:
        """Do what the device wants done."""


class Transport:
    """The relays and the direct paths of one node.

    Args:
        device: its WireGuard.
        engine: has the UDP socket.
        sock: that socket.
        disco_key: new with every start.
        random: yields unpredictable bytes.
        changed: is called when our home relay, our own endpoints or who can reach us may have changed.
        pinged: takes the results of pings.
        widened: is told how long a packet may be that is for this peer: bytes.
        max_mtu: bytes, that this never exceeds; None: as paths allow.
    """

    def __init__(
        self,
        device: Device,
        engine: Engine,
        sock: socket.socket,
        disco_key: PrivateKey,
        random: Callable[[int], bytes],
        changed: Callable[[], None],
        pinged: Callable[[Pinged], None],
        widened: Callable[[PublicKey, int], None],
        max_mtu: int | None = None,
    ) -> None:
        self._device = device
        self._engine = engine
        self._changed = changed
        self._pinged = pinged
        self._widened = widened
        self._max_mtu = MAX_MTU if max_mtu is None else max_mtu
        self._regions = derp.Regions(random)
        self._relays = derp_adapter.Adapter(self._regions, self._from_relays)
        self._routes = Routes()
        self._conn = Conn(disco_key, random, self._routes.is_direct, self._mtu)
        port, ipv6 = sock.getsockname()[1], sock.family == socket.AF_INET6
        self._paths = magicsock_adapter.Adapter(
            self._conn, self._routes, port, ipv6=ipv6, send=self._send, deliver=self._take_event
        )
        self._by_prefix: dict[bytes, PublicKey] = {}  # the first bytes of a peer's key → its key
        self._by_endpoint: dict[Endpoint, PublicKey] = {}  # those of UDP
        self._endpoint_of: dict[PublicKey, Endpoint] = {}
        self._noted_at: dict[PublicKey, float] = {}
        self.home = 0
        self.is_relayed = False

    async def run(self) -> NoReturn:
        """Carry until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._relays.run)
                nursery.start_soon(self._paths.run)
        finally:
            self._routes.close()
        raise AssertionError("neither of the two ever returns")

    # --- what the netmap says ---------------------------------------------------------------------------------

    def set_key(self, node_key: PrivateKey, now: float) -> None:
        """Our node key, once the server has accepted it."""
        self._regions.set_key(node_key, now)
        self._conn.set_node_key(node_key.public)
        self._relays.wake()

    def key_changed(self) -> None:
        """The relays know us by an old key, so we cannot be reached by them until they are called again."""
        self.is_relayed = False

    def set_map(self, relays: derp.Map, now: float) -> None:
        """The relays that there are."""
        self._regions.set_map(relays, now)
        self._choose_home()

    def set_peer(self, paths: PeerPaths, now: float) -> None:
        """Add a peer that the device has, or change its ways."""
        self._by_prefix[paths.key.raw[:KEY_PREFIX_BYTES]] = paths.key
        self._conn.set_peer(paths, now)

    def remove_peer(self, key: PublicKey) -> None:
        """Forget a peer."""
        self._by_prefix.pop(key.raw[:KEY_PREFIX_BYTES], None)
        self._by_endpoint.pop(self._endpoint_of.pop(key, b""), None)
        self._noted_at.pop(key, None)
        self._conn.remove_peer(key)

    def peers_changed(self) -> None:
        """`set_peer` and `remove_peer` are done for now: act on it."""
        self._paths.wake()

    def path(self, key: PublicKey) -> Path | None:
        """The way to a peer; None for one that is unknown."""
        return self._conn.path(key, trio.current_time())

    @property
    def own_endpoints(self) -> tuple[Endpoint, ...]:
        """Where peers may try to reach us by UDP."""
        return self._conn.own_endpoints

    def take_long(self, takes_long: bool) -> None:
        """Whether peers may send us messages that are longer than a tailnet's."""
        self._conn.takes_long = takes_long

    @property
    def is_direct(self) -> bool:
        """Whether there is a direct path to some peer."""
        return bool(self._by_endpoint)

    def ping(self, key: PublicKey, now: float) -> None:
        """Ask a peer whether it is there; the answer comes as `Pinged`."""
        self._conn.ping(key, now)
        self._paths.wake()

    def _mtu(self, endpoint: Endpoint) -> int:
        return min(self._routes.mtu(endpoint) - OVERHEAD_BYTES, self._max_mtu)

    def _choose_home(self) -> None:
        now = trio.current_time()
        self.home = self._regions.fallback_home()
        self._regions.set_home(self.home, now)
        self.is_relayed = self._regions.is_connected(self.home)  # it may be up already, for a peer's sake
        self._relays.wake()
        self._changed()

    # --- the engine's side ------------------------------------------------------------------------------------

    def take_train(self, train: Train, now: float) -> bool:
        """See `engine.Tailnet`; what a relay drops it counts."""
        relayed = derp.from_endpoint(train.endpoint)
        if relayed is None:
            self.note_sent(self._by_endpoint.get(train.endpoint), now)
            return False
        region, prefix = relayed
        peer = self._by_prefix.get(prefix)
        if peer is not None:
            datagrams = [bytes(datagram) for datagram in train.payload]
            is_handshake = not datagrams[0].startswith(_TRANSPORT)
            self._regions.send(peer, region, datagrams, now, urgent=is_handshake)
            self._relays.wake_writers()
            self.note_sent(peer, now)
        return True

    def take_datagram(self, datagram: bytes, source: Endpoint, now: float) -> bool:
        """See `engine.Tailnet`."""
        if not is_disco(datagram):
            return False
        self._conn.receive(datagram, source, now)
        self._paths.wake()
        return True

    def note_sent(self, peer: PublicKey | None, now: float) -> None:
        """Something leaves for a peer, or would if there was a way: that is when ways are looked for."""
        if peer is not None and now - self._noted_at.get(peer, -NOTE_TIME) >= NOTE_TIME:
            self._noted_at[peer] = now
            self._conn.note_sent(peer, now)
            self._paths.wake()

    # --- the relays' and magicsock's --------------------------------------------------------------------------

    async def _from_relays(self, events: Sequence[derp.Event]) -> None:
        trains: list[Train] = []
        for event in events:
            match event:
                case derp.Received(region, source, packets):
                    trains += self._received(region, source, packets)
                case derp.Connected(region):
                    self.is_relayed = self.is_relayed or region == self.home
                case derp.Disconnected(region):
                    self.is_relayed = self.is_relayed and region != self.home
                case derp.HomeLost():
                    self.is_relayed = False
                    self._choose_home()
        if trains:
            self._engine.receive(trains)
        if not all(isinstance(event, derp.Received) for event in events):
            self._changed()

    def _received(self, region: int, source: PublicKey, packets: Sequence[bytes]) -> list[Train]:
        """Take a peer's packets; what of them is for the engine."""
        endpoint, now = derp.to_endpoint(region, source), trio.current_time()
        datagrams: list[bytes] = []
        for packet in packets:
            if is_disco(packet):
                self._conn.receive(packet, endpoint, now, source)
                self._paths.wake()
            elif packet:
                datagrams.append(packet)
        if not datagrams or source.raw[:KEY_PREFIX_BYTES] not in self._by_prefix:
            return []
        if self._conn.note_relayed(source, endpoint, now):
            self._paths.flush()  # the answer to what has come wants to know where to go
            self._paths.wake()
        return joined(datagrams, endpoint)

    def _send(self, datagram: bytes, endpoint: Endpoint, peer: PublicKey | None) -> None:
        relayed = derp.from_endpoint(endpoint)
        if relayed is None:
            self._engine.send(datagram, endpoint, whole=len(datagram) > TAILNET_MTU)  # no other is as long as a probe
        elif peer is not None:
            self._regions.send(peer, relayed[0], (datagram,), trio.current_time(), urgent=True)
            self._relays.wake_writers()

    def _take_event(self, event: PathChanged | Pinged | OwnEndpointsChanged) -> None:
        match event:
            case PathChanged(key, endpoint, _, mtu):
                self._by_endpoint.pop(self._endpoint_of.pop(key, b""), None)
                self._widened(key, mtu)
                self._device.set_endpoint(key, endpoint, trio.current_time())
                self._engine.device_changed()
                if any(endpoint) and derp.from_endpoint(endpoint) is None:
                    self._by_endpoint[endpoint] = key
                    self._endpoint_of[key] = endpoint
                    self._changed()
            case Pinged():
                self._pinged(event)
            case OwnEndpointsChanged():  # pragma: no branch
                self._changed()


def joined(datagrams: Sequence[bytes], endpoint: Endpoint) -> list[Train]:
    """Datagrams (none of them empty) of one peer, as if the kernel had received and merged them."""
    return [train._replace(payload=(b"".join(train.payload),)) for train in form_trains(datagrams, endpoint)]
