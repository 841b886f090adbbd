# SPDX-License-Identifier: BSD-3-Clause
"""A node process without a tailnet: a WireGuard device whose packets a worker carries.

    python -m tests.programs.worker_node KEEPER_FD MEMORY_FD UDP_FD CONFIG

KEEPER_FD is a seqpacket socket; each message on it brings the socket to a worker. CONFIG is JSON: the keys of both,
what belongs to the peer, and where it is. Of what it hears from the worker it says some on its output.

"relay": true in CONFIG: the peer is reached by a relay alone, for which a UDP socket of this process stands in.
"""

import json
import mmap
import os
import select
import socket
import sys
import time
from ipaddress import ip_network
from typing import Any

from tests.filters import OPEN
from ts4nsnet.endpoint import from_endpoint, to_endpoint
from ts4nsnet.keys import PrivateKey, PublicKey
from ts4nsnet.uring.commands import TO_NODE, Complete, FilterSet, Hello, Lost, Relayed, RoutesSet, ToNode, Trains
from ts4nsnet.uring.events import Local, Message, Refused, Slow, Unsealed
from ts4nsnet.uring.link import Link
from ts4nsnet.uring.local import LocalTraffic
from ts4nsnet.uring.offloads import OffloadRefused
from ts4nsnet.uring.trains import Train
from ts4nsnet.wireguard import Device, PeerConfig, SessionMemory
from ts4nsnet.wireguard.sessions import Roamed

RELAY = bytes([3]) * 16 + bytes(16)  # an endpoint without a port, as those of relays are
RELAY_PORT = 7000


class Node:
    """The device, and the worker it has at the moment."""

    def __init__(self, keeper: socket.socket, memory: int, udp: socket.socket, config: dict[str, Any]) -> None:
        self._keeper = keeper
        self._udp = udp
        key = PrivateKey.from_base64(config["private_key"])
        memories = SessionMemory(mmap.mmap(memory, 0))
        self._device = Device(key, memories, os.urandom, time.time_ns, roaming=False)
        self._endpoint = to_endpoint(tuple(config["endpoint"]))
        self._peer_relay = (config["endpoint"][0], RELAY_PORT)
        self._relay = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if config.get("relay"):
            self._endpoint = RELAY
            self._relay.bind(("", RELAY_PORT))
        self._prefixes = frozenset(map(ip_network, config["allowed_ips"]))
        peer = PeerConfig(PublicKey.from_base64(config["public_key"]), self._prefixes, endpoint=self._endpoint)
        self._number = self._device.set_peer(peer, now())
        self._link: Link[ToNode] | None = None

    def run(self) -> None:
        """Be the node until the keeper ends."""
        while True:
            self._settle()
            fds = [self._keeper, self._relay, *([self._link.sock] if self._link is not None else [])]
            timer = self._device.next_timer()
            ready, _, _ = select.select(fds, [], [], None if timer is None else max(0.0, timer - now()))
            if self._keeper in ready and not self._meet():
                return
            if self._link is not None and self._link.sock in ready:
                self._hear(self._link)
            if self._relay in ready and self._link is not None:
                self._take_relayed(self._relay.recv(1 << 16), self._link)
            self._device.handle_timer(now())

    def _meet(self) -> bool:
        """Take the next worker; False: the keeper has ended."""
        data, fds, _, _ = socket.recv_fds(self._keeper, 100, 1)
        if not data:
            return False
        self._link = Link(socket.socket(fileno=fds[0]), TO_NODE)
        for message in (
            Roamed(self._number, self._endpoint),
            RoutesSet(self._number, self._prefixes),
            FilterSet.of(*OPEN, {}, ()),
            LocalTraffic(),
            Complete(),
        ):
            self._link.put(message)
        return True

    def _hear(self, link: Link[ToNode]) -> None:
        messages = link.receive()
        if messages is None:
            self._link = None
        for message in messages or ():
            match message:
                case Slow(datagram, source):
                    self._device.receive(datagram, source, now())
                case Unsealed(peer, packets):
                    self._device.send(peer, packets, now())
                case Hello() | Lost() | OffloadRefused():
                    print(message)
                case Relayed(train):
                    for each in train.datagrams():
                        self._relay.sendto(each, self._peer_relay)
                case Local() | Message() | Refused():
                    print("not expected:", message)
                case _:
                    self._device.notice(message, now())

    def _take_relayed(self, datagram: bytes, link: Link[ToNode]) -> None:
        if datagram[0] == 4:
            link.put(Trains((Train.received(datagram, 0, RELAY),)))
        else:
            self._device.receive(datagram, RELAY, now())

    def _settle(self) -> None:
        while (command := self._device.next_event()) is not None:
            if self._link is not None:
                self._link.put(command)
        if self._link is not None:
            self._link.flush()
        for datagram, endpoint in self._device.datagrams_to_send():
            if endpoint == RELAY:
                self._relay.sendto(datagram, self._peer_relay)
            else:
                self._udp.sendto(datagram, from_endpoint(endpoint, self._udp.family))
            print("handshake message", datagram[0])


def now() -> float:
    """Seconds, as all of our processes have them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


if __name__ == "__main__":
    sockets = [socket.socket(fileno=int(sys.argv[place])) for place in (1, 3)]
    Node(sockets[0], int(sys.argv[2]), sockets[1], json.loads(sys.argv[4])).run()
