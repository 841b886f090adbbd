# SPDX-License-Identifier: BSD-3-Clause
"""Relays for tests: the far end of one connection, and a world of them under simulated time.

A `FakeRelay` speaks the server's side without any I/O: it answers the HTTP request and the hello, keeps what it gets
and says what the test tells it. A `World` plays the adapter for a `Regions`: it dials, carries bytes, and lets time
pass timer by timer. Everything random comes from one seed.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from ts4nsnet.derp.errors import Lost
from ts4nsnet.derp.events import Event
from ts4nsnet.derp.frames import SERVER_LIMITS, ClientInfo, Frame, FrameBuffer, RecvPacket, SendPacket, ServerKey, parse
from ts4nsnet.derp.hello import ClientDetails, ServerDetails
from ts4nsnet.derp.links import Dial, Hangup, LinkStatistics
from ts4nsnet.derp.map import Map, Node, Region
from ts4nsnet.derp.regions import Regions
from ts4nsnet.keys import PrivateKey, PublicKey

CLIENT = PrivateKey(bytes(range(0x40, 0x60)))
SERVER = PrivateKey(bytes(range(0x60, 0x80)))
BOB = PublicKey(b"bob".ljust(32, b"."))
CAROL = PublicKey(b"carol".ljust(32, b"."))
START = 1_000_000.0  # seconds of boot time at which tests begin


def at(seconds: float) -> float:
    """The time `seconds` after the start of the test."""
    return START + seconds


@dataclass
class FakeRelay:
    """The relay's end of one connection."""

    key: PrivateKey = SERVER
    details: ServerDetails = field(default_factory=ServerDetails)
    status: bytes = b"101 Switching Protocols"
    admits: bool = True  # with a ServerInfo; else it says no more
    request: dict[str, str] = field(default_factory=dict)  # headers, names in lower case
    request_line: str = ""
    client: ClientInfo | None = None
    client_details: ClientDetails | None = None
    received: list[Frame] = field(default_factory=list)  # what came after the hello
    out: bytearray = field(default_factory=bytearray)
    _head: bytes = b""
    _stream: FrameBuffer = field(default_factory=lambda: FrameBuffer(SERVER_LIMITS))

    def receive(self, data: bytes) -> None:
        """Take bytes of the client."""
        if not self.request_line:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._answer(head.decode())
        self._stream.receive(data)
        while (raw := self._stream.next_frame()) is not None:
            frame = parse(*raw)
            assert frame is not None
            if isinstance(frame, ClientInfo):
                self._greet(frame)
            else:
                self.received.append(frame)

    def _answer(self, head: str) -> None:
        self.request_line, *lines = head.split("\r\n")
        self.request = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if self.request.get("derp-fast-start") != "1":
            answer = b"HTTP/1.1 " + self.status + b"\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Version: 2\r\n\r\n"
            self.out += answer
        if self.status.startswith(b"101"):
            self.say(ServerKey(self.key.public))

    def _greet(self, info: ClientInfo) -> None:
        self.client = info
        self.client_details = ClientDetails.open(info, self.key)
        if self.admits:
            self.say(self.details.seal(self.key, info.key, Random(1).randbytes))

    def say(self, *frames: Frame) -> None:
        """Send frames."""
        for frame in frames:
            self.out += frame.emit()

    def data_to_send(self) -> bytes:
        """What is to go to the client now."""
        data = bytes(self.out)
        self.out.clear()
        return data

    def packets(self) -> list[tuple[PublicKey, bytes]]:
        """The packets it got: destination and content."""
        return [(frame.destination, frame.packet) for frame in self.received if isinstance(frame, SendPacket)]


def region(region_id: int, *, name: str = "", nodes: int = 1, no_home: bool = False) -> Region:
    """A region with nodes 1a, 1b, …"""
    letters = "abcdef"[:nodes]
    members = tuple(Node(f"{region_id}{letter}", region_id, f"{region_id}{letter}.example") for letter in letters)
    return Region(region_id, f"r{region_id}", name, members, no_home)


@dataclass
class Call:
    """A connection that the world has made, or is asked to make."""

    order: Dial
    at: float  # seconds since the start
    relay: FakeRelay | None = None

    @property
    def region_id(self) -> int:
        """Where to."""
        return self.order.region.region_id


class World:
    """A node's `Regions`, and relays for it."""

    def __init__(self, *regions: Region, home: int = 0) -> None:
        self.now = START
        self.regions = Regions(Random(7).randbytes)
        self.down: set[int] = set()  # regions that cannot be reached
        self.stuck: set[int] = set()  # regions whose connections take no bytes from us
        self.slow_to_end = False  # connections given up end only with `end_given_up`
        self.given_up: list[int] = []
        self.make_relay: Callable[[], FakeRelay] = FakeRelay
        self.calls: list[Call] = []
        self.live: dict[int, Call] = {}
        self.events: list[Event] = []
        self.writes: list[tuple[int, bytes]] = []  # region, bytes
        self.regions.set_map(Map.of(*(regions or (region(1), region(2), region(3)))), self.now)
        self.regions.set_key(CLIENT, self.now)
        self.regions.set_home(home, self.now)
        self.settle()

    # --- the adapter --------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Obey, and carry bytes both ways until nothing moves."""
        busy = True
        while busy:
            busy = self._obey() | self._carry()
            while (event := self.regions.next_event()) is not None:
                self.events.append(event)

    def _obey(self) -> bool:
        busy = False
        while (command := self.regions.next_command()) is not None:
            busy = True
            match command:
                case Dial(connection):
                    call = Call(command, round(self.now - START, 3))
                    self.calls.append(call)
                    self.live[connection] = call
                    if call.region_id in self.down:
                        self.end(connection, "unreachable")
                    else:
                        self._open(call)
                case Hangup(connection):
                    if self.live.pop(connection, None) is not None:
                        self.given_up.append(connection)
        if not self.slow_to_end:
            self.end_given_up()
        return busy

    def _open(self, call: Call) -> None:
        call.relay = self.make_relay()
        nodes = [node for node in call.order.region.nodes if node.name != call.order.avoid] or call.order.region.nodes
        self.regions.opened(call.order.connection, nodes[0], None, "192.0.2.1", self.now)

    def _carry(self) -> bool:
        busy = False
        for connection, call in list(self.live.items()):
            while call.region_id not in self.stuck and self.regions.wants_write(connection):
                data = self.regions.data_to_send(connection, self.now)
                busy = True
                self.writes.append((call.region_id, data))
                assert call.relay is not None
                call.relay.receive(data)
            if call.relay is not None and call.relay.out:
                busy = True
                self.regions.receive(connection, call.relay.data_to_send(), self.now)
        return busy

    def end(self, connection: int, why: str = "connection reset") -> None:
        """A connection breaks."""
        self.live.pop(connection, None)
        self.regions.ended(connection, Lost(why), self.now)

    def end_given_up(self) -> None:
        """The tasks of connections that were given up are over."""
        while self.given_up:
            self.regions.ended(self.given_up.pop(), Lost("given up"), self.now)

    # --- what tests do ------------------------------------------------------------------------------------------------

    def send(self, peer: PublicKey, region_id: int, packet: bytes = b"packet") -> None:
        """Send a packet of ours, and let it arrive."""
        self.regions.send(peer, region_id, (packet,), self.now)
        self.settle()

    def deliver(self, region_id: int, peer: PublicKey, packet: bytes = b"from peer") -> None:
        """A peer's packet comes through a region."""
        self.relay(region_id).say(RecvPacket(peer, packet))
        self.settle()

    def run_for(self, seconds: float, *, keep_alive: bool = True) -> None:
        """Let time pass, timer by timer; relays that are there are heard every 30 s unless they keep silent."""
        end = self.now + seconds
        while True:
            timer = self.regions.next_timer()
            step = min(end, self.now + 30.0 if timer is None else min(timer, self.now + 30.0))
            self.now = max(self.now, step)
            if keep_alive:
                for call in self.live.values():
                    if call.relay is not None:
                        call.relay.out += b"\x06\0\0\0\0"
            self.settle()
            self.regions.handle_timer(self.now)
            self.settle()
            if self.now >= end:
                return

    # --- what tests see -----------------------------------------------------------------------------------------------

    def relay(self, region_id: int) -> FakeRelay:
        """The far end of the connection to a region."""
        (relay,) = [call.relay for call in self.live.values() if call.region_id == region_id]
        assert relay is not None
        return relay

    def open_regions(self) -> list[int]:
        """Where we have a connection."""
        return sorted(call.region_id for call in self.live.values())

    def link(self, region_id: int) -> LinkStatistics:
        """How it stands with a region."""
        (link,) = [link for link in self.regions.statistics().links if link.region_id == region_id]
        return link
