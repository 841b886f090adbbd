# SPDX-License-Identifier: BSD-3-Clause
"""Two peers and the wire between them, under the test's hand.

    alice ── datagrams ──► flight ──► bob          nothing arrives until the test delivers it;
    alice ◄── flight ◄── datagrams ── bob          time is what the test says it is

A `Side` is what a process makes of our two classes: a `Device` and a `SessionTable` over one session memory, each
handing the other its facts. Everything random comes from one seed, so a run can be repeated.
"""

import json
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from random import Random
from typing import Any

from ts4nsnet.keys import PrivateKey
from ts4nsnet.wireguard.device import Device, Seal
from ts4nsnet.wireguard.messages import TRANSPORT_OVERHEAD_BYTES, Drop, MessageType, message_type
from ts4nsnet.wireguard.peer import PeerConfig
from ts4nsnet.wireguard.records import KeypairRecord, PeerRecord, SessionMemory
from ts4nsnet.wireguard.sessions import SessionTable

# recorded handshakes and tables; where they come from: their "description"
VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "wireguard.json").read_text())

MTU = 1420
EVERYTHING = frozenset(MessageType)  # for a wire that loses all of it
START = 1_000_000.0  # seconds of boot time at which tests begin
WALL_START = 1_700_000_000 * 10**9  # and nanoseconds of wall time


def at(seconds: float) -> float:
    """The time `seconds` after the start of the test."""
    return START + seconds


def endpoint(host: int, port: int = 51820) -> bytes:
    """An opaque endpoint in the adapter's form: an IPv4-mapped address 192.0.2.`host` and a port."""
    return (bytes(10) + b"\xff\xff" + bytes([192, 0, 2, host]) + port.to_bytes(2, "big")).ljust(32, b"\0")


@dataclass(eq=False, repr=False)
class Side:
    """One WireGuard interface: its two classes, what came out of it, and where it is."""

    name: str
    key: PrivateKey
    device: Device
    table: SessionTable
    memory: SessionMemory
    buffer: bytearray  # what `memory` looks into
    endpoint: bytes
    peer: int = -1  # the other side's number here
    received: list[bytes] = field(default_factory=list)  # packets without keep-alives, as they came
    out: deque[tuple[bytes, bytes]] = field(default_factory=deque)  # datagram, destination
    history: list[tuple[float, bytes]] = field(default_factory=list)  # all that ever went out, and when
    mtu: int = MTU
    apart: bool = False  # as two processes: facts and commands wait until the test calls `exchange`

    def send(self, packet: bytes, now: float) -> None:
        """Send a packet to the other side, as the pipeline would."""
        self._seal((packet,), now)
        self.settle(now)

    def receive(self, datagram: bytes, source: bytes, now: float) -> None:
        """Take a datagram, as the pipeline would."""
        if len(datagram) >= 4 and int.from_bytes(datagram[:4], "little") == MessageType.TRANSPORT:
            opened = self.table.open(datagram, source, now)
            if opened is not None and opened[1]:
                self.received.append(opened[1])
        else:
            self.device.receive(datagram, source, now)
        self.settle(now)

    def handle_timer(self, now: float) -> None:
        """Let time pass."""
        self.device.handle_timer(now)
        self.settle(now)

    def settle(self, now: float) -> None:
        """Hand facts to and fro until there are none, and take what the device sends."""
        if not self.apart:
            self.exchange(now)
        for datagram, destination in self.device.datagrams_to_send():
            self._transmit(datagram, destination, now)

    def exchange(self, now: float) -> None:
        """Hand facts to and fro until there are none."""
        busy = True
        while busy:
            busy = False
            while (fact := self.table.next_event()) is not None:
                self.device.notice(fact, now)
                busy = True
            while (command := self.device.next_event()) is not None:
                if isinstance(command, Seal):
                    self._seal(command.packets, now)
                else:
                    self.table.apply(command)
                busy = True

    def _seal(self, packets: tuple[bytes, ...], now: float) -> None:
        messages = self.table.seal(self.peer, packets, self.mtu, now)
        if messages is None:
            self.device.send(self.peer, packets, now)
        else:
            for message in messages:
                self._transmit(message, self.table.endpoint(self.peer), now)

    def _transmit(self, datagram: bytes, destination: bytes, now: float) -> None:
        self.out.append((datagram, destination))
        self.history.append((now, datagram))

    # --- what can be seen from outside ------------------------------------------------------------------------

    @property
    def record(self) -> PeerRecord:
        """The other side's record here."""
        return self.memory.peer(self.peer)

    def keypair(self, slot: int) -> KeypairRecord | None:
        """The keypair that `record.previous`, `.current` or `.next` names."""
        return self.memory.keypair(self.peer, slot) if slot else None

    def slots(self) -> tuple[bool, bool, bool]:
        """Which of previous, current and next there are."""
        return self.record.previous != 0, self.record.current != 0, self.record.next != 0

    def sent(self, kind: MessageType) -> list[float]:
        """When messages of this type went out, in seconds since the start; keep-alives are no data here."""
        return [when - START for when, message in self.history if message_type(message) == kind and _is_more(message)]

    def keepalives(self) -> list[float]:
        """When keep-alives went out, in seconds since the start."""
        return [when - START for when, message in self.history if not _is_more(message)]

    def dropped(self) -> dict[Drop, int]:
        """What both classes have dropped, by reason."""
        total = dict(self.device.statistics().dropped)
        for reason, count in self.table.statistics().dropped.items():
            total[reason] = total.get(reason, 0) + count
        return {reason: count for reason, count in total.items() if count}


def _is_more(message: bytes) -> bool:
    # than a keep-alive: a transport message around nothing
    return len(message) > TRANSPORT_OVERHEAD_BYTES


class Pair:
    """Alice and Bob, who know each other's keys and endpoints."""

    def __init__(
        self, seed: int = 7, *, preshared_key: bytes = bytes(32), keepalive: float = 0.0, roaming: bool = True
    ) -> None:
        self.random = Random(seed)
        self._roaming = roaming
        self.now = START
        self._preshared_key = preshared_key
        self._keepalive = keepalive
        self.alice = self._side("alice", endpoint(1))
        self.bob = self._side("bob", endpoint(2))
        self.introduce(self.alice)
        self.introduce(self.bob)

    def _side(self, name: str, where: bytes, key: PrivateKey | None = None, buffer: bytearray | None = None) -> Side:
        key = key or PrivateKey(self.random.randbytes(32))
        buffer = bytearray(SessionMemory.size(4)) if buffer is None else buffer
        memory = SessionMemory(buffer)
        device = Device(key, memory, self.random.randbytes, self.wall, roaming=self._roaming)
        return Side(name, key, device, SessionTable(memory, roaming=self._roaming), memory, buffer, where)

    def wall(self) -> int:
        """Nanoseconds since 1970."""
        return WALL_START + round((self.now - START) * 10**9)

    def other(self, side: Side) -> Side:
        """Bob for Alice, Alice for Bob."""
        return self.bob if side is self.alice else self.alice

    def config(self, side: Side) -> PeerConfig:
        """What `side` is told of the other one."""
        other = self.other(side)
        network = IPv4Network("10.0.0.1/32" if other is self.alice else "10.0.0.2/32")
        prefixes = frozenset({network, ip_network("fd00::/64")})
        return PeerConfig(other.key.public, prefixes, self._preshared_key, other.endpoint, self._keepalive)

    def introduce(self, side: Side, config: PeerConfig | None = None) -> None:
        """Tell `side` of the other one."""
        side.peer = side.device.set_peer(config or self.config(side), self.now)
        side.settle(self.now)

    def restart(self, side: Side, *, keep_memory: bool = False) -> Side:
        """Replace `side` by one that knows only its key, its configuration and perhaps what is in session memory."""
        fresh = self._side(side.name, side.endpoint, side.key, side.buffer if keep_memory else None)
        fresh.received, fresh.history = side.received, side.history
        setattr(self, side.name, fresh)
        config = self.config(fresh)
        self.introduce(fresh, replace(config, endpoint=None) if keep_memory else config)
        return fresh

    # --- the wire ---------------------------------------------------------------------------------------------

    def in_flight(self) -> list[MessageType]:
        """The types of all messages on their way, Alice's first."""
        return [message_type(datagram) for datagram, _ in (*self.alice.out, *self.bob.out)]

    def deliver(self) -> None:
        """Bring all messages that are on their way now to where they are addressed; answers stay in flight."""
        batch = [(side, *side.out.popleft()) for side in (self.alice, self.bob) for _ in range(len(side.out))]
        for sender, datagram, destination in batch:
            for side in (self.alice, self.bob):
                if side.endpoint == destination:
                    side.receive(datagram, sender.endpoint, self.now)

    def deliver_all(self) -> None:
        """Deliver until nothing is in flight."""
        for _ in range(100):
            if not self.in_flight():
                return
            self.deliver()
        raise AssertionError("the two never stop talking")

    def drop(self) -> None:
        """Lose all messages that are on their way now."""
        self.alice.out.clear()
        self.bob.out.clear()

    # --- time -------------------------------------------------------------------------------------------------

    def go_to(self, now: float) -> None:
        """Set the time and let both sides do what is due then; what they send stays in flight."""
        self.now = now
        self.alice.handle_timer(now)
        self.bob.handle_timer(now)

    def run_to(self, end: float, *, lose: Iterable[MessageType] = ()) -> None:
        """Let time pass up to `end`, timer by timer, delivering all but what is lost."""
        lost = set(lose)
        while True:
            for side in (self.alice, self.bob):
                side.out = deque(item for item in side.out if message_type(item[0]) not in lost)
            if self.in_flight():
                self.deliver()
                continue
            timers = [t for side in (self.alice, self.bob) if (t := side.device.next_timer()) is not None]
            if not timers or min(timers) > end:
                break
            self.go_to(max(self.now, min(timers)))
        self.now = end

    def shake_hands(self) -> None:
        """Let Alice call Bob; both have a confirmed session afterwards and nothing is in flight."""
        self.alice.send(b"first", self.now)
        self.deliver_all()
        assert self.bob.received.pop() == b"first".ljust(16, b"\0")
