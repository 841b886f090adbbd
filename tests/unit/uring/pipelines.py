# SPDX-License-Identifier: BSD-3-Clause
"""Pipelines back to back: what the TUN of one node gives comes out at the TUN of another, without any I/O.

    alice.read(frames) ─► pipeline ─► out ── deliver ──► pipeline ─► bob.written
                            device ◄─────────────────────► device

A `Node` is a device with its pipeline, handing facts and commands to and fro as an engine does. Nothing arrives until
the test delivers it. Each node has the prefixes that the test gives it and knows all the others.
"""

from collections import deque
from ipaddress import ip_network
from random import Random

from tests.filters import open_filter
from tests.unit.wireguard.pair import MTU, START, WALL_START, endpoint
from ts4nsnet.keys import PrivateKey
from ts4nsnet.packet import IPv4, parse_ip
from ts4nsnet.uring.counters import Drop
from ts4nsnet.uring.events import Local, Message, Refused, Slow, Unsealed
from ts4nsnet.uring.offloads import OffloadRefused
from ts4nsnet.uring.reference import Reference
from ts4nsnet.uring.segment import segment
from ts4nsnet.uring.trains import Train
from ts4nsnet.wireguard import Device, PeerConfig, Seal, SessionMemory, SessionTable
from ts4nsnet.wireguard.messages import Drop as Refusal
from ts4nsnet.wireguard.sessions import Roamed


class Node:
    """A node without sockets: what it wrote, what it has to send, and what it told its device."""

    def __init__(self, number: int, prefixes: str, random: Random, *, mtu: int, vnet_hdr: bool) -> None:
        self.endpoint = endpoint(number)
        self.key = PrivateKey(random.randbytes(32))
        self.prefixes = frozenset(map(ip_network, prefixes.split()))
        memory = SessionMemory(bytearray(SessionMemory.size(8)))
        self.device = Device(self.key, memory, random.randbytes, lambda: WALL_START)
        self.sessions = SessionTable(memory)
        self.filter = open_filter()
        self.pipeline = Reference(self.sessions, self.device.routes, self.filter, mtu=mtu, vnet_hdr=vnet_hdr)
        self.peers: dict[bytes, int] = {}  # the others' numbers here, by their endpoints
        self.written: list[bytes] = []
        self.out: deque[Train] = deque()
        self.slow: list[Slow] = []
        self.unsealed: list[Unsealed] = []
        self.local: list[bytes] = []
        self.messages: list[bytes] = []
        self.unreachable: list[bytes] = []
        self.offloads_refused: list[OffloadRefused] = []
        self.now = START
        self._vnet_hdr = vnet_hdr

    def know(self, other: "Node") -> None:
        """Configure another node as a peer."""
        config = PeerConfig(other.key.public, other.prefixes, endpoint=other.endpoint)
        self.peers[other.endpoint] = self.device.set_peer(config, self.now)
        self._settle()

    def move(self, other: "Node", where: bytes) -> None:
        """Believe that `other` is at the endpoint `where`."""
        self.pipeline.apply(Roamed(self.peers[other.endpoint], where), self.now)

    def widen(self, other: "Node", mtu: int) -> None:
        """Let packets for `other` be so long."""
        self.pipeline.set_mtu(self.peers[other.endpoint], mtu)

    def read(self, *frames: bytes) -> None:
        """Take what a TUN gave."""
        self.pipeline.from_tun(frames, self.now)
        self._settle()

    def receive(self, *trains: Train) -> None:
        """Take what a UDP socket gave."""
        self.pipeline.from_udp(trains, self.now)
        self._settle()

    def seal(self, other: "Node", *packets: bytes) -> None:
        """Send to `other` what no TUN would give, as a peer that does as it likes."""
        self.pipeline.apply(Seal(self.peers[other.endpoint], packets), self.now)
        self._settle()

    def _settle(self) -> None:
        busy = True
        while busy:
            busy = False
            while (event := self.pipeline.next_event()) is not None:
                busy = True
                match event:
                    case Slow():
                        self.slow.append(event)
                        self.device.receive(event.datagram, event.source, self.now)
                    case Unsealed():
                        self.unsealed.append(event)
                        self.device.send(event.peer, event.packets, self.now)
                    case Local():
                        self.local.append(event.packet)
                    case Refused():
                        self.unreachable.append(event.destination)
                    case Message():
                        self.messages.append(event.packet)
                    case OffloadRefused():
                        self.offloads_refused.append(event)
                    case _:
                        self.device.notice(event, self.now)
            while (command := self.device.next_event()) is not None:
                busy = True
                self.pipeline.apply(command, self.now)
        self.out += [Train((each,), len(each), 1, where) for each, where in self.device.datagrams_to_send()]
        self.out += self.pipeline.trains_to_send()
        self.written += self.pipeline.frames_to_write()

    # --- what can be seen from outside ------------------------------------------------------------------------

    def packets(self) -> list[bytes]:
        """The packets that were written, taken apart as the container's kernel would."""
        return [packet for frame in self.written for packet in (segment(frame) if self._vnet_hdr else [frame])]

    def dropped(self) -> dict[Drop, int]:
        """What the pipeline dropped."""
        return dict(self.pipeline.counters.statistics().dropped)

    def refused(self) -> dict[Refusal, int]:
        """What the session table refused."""
        return dict(self.sessions.statistics().dropped)


class Net:
    """Nodes that know each other, by what belongs to them: `Net("10.0.0.1/32", "10.0.0.2/32 fd00::2/128")`."""

    def __init__(self, *prefixes: str, seed: int = 7, mtu: int = MTU, vnet_hdr: bool = True) -> None:
        random = Random(seed)
        self.nodes = [
            Node(number, each, random, mtu=mtu, vnet_hdr=vnet_hdr) for number, each in enumerate(prefixes, start=1)
        ]
        for node in self.nodes:
            for other in self.nodes:
                if other is not node:
                    node.know(other)

    def deliver(self) -> None:
        """Bring all trains that are on their way, each as one receive would give it, until there are none."""
        by_endpoint = {node.endpoint: node for node in self.nodes}
        while any(node.out for node in self.nodes):
            for node in self.nodes:
                trains: dict[bytes, list[Train]] = {}
                while node.out:
                    train = node.out.popleft()
                    arriving = Train.received(b"".join(train.payload), train.segment_bytes, node.endpoint)
                    trains.setdefault(train.endpoint, []).append(arriving)
                for where, batch in trains.items():
                    by_endpoint[where].receive(*batch)

    def forget_traffic(self) -> None:
        """Let all that was seen so far be unseen."""
        for node in self.nodes:
            node.written, node.slow, node.unsealed = [], [], []


def comparable(packet: bytes) -> bytes:
    """The packet without what coalescing may lose: IPv4's identification."""
    ip = parse_ip(packet)
    return ip._replace(identification=0).emit() if isinstance(ip, IPv4) else packet
