# SPDX-License-Identifier: BSD-3-Clause
"""A plain WireGuard node made of our parts: what a container tool's helper does, without a tailnet.

    python -m tests.programs.wireguard_node FD

FD is a connected stream socket. The first line that comes is the configuration, each further line a request, and each
line gets one line in answer; all are JSON. The UDP socket is of the namespace in which the program was started, the
TUN of the namespace that the configuration names. The program ends with the other end of the socket.
"""

import json
import mmap
import os
import socket
import sys
import time
from dataclasses import asdict
from importlib import import_module
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, cast

import trio

from tests.filters import open_filter
from ts4nsnet.drive import BoottimeClock
from ts4nsnet.endpoint import to_endpoint
from ts4nsnet.keys import PrivateKey, PublicKey
from ts4nsnet.netns import Link, NetnsChild, Route, Target, Tun
from ts4nsnet.node.compiled import CompiledEngine
from ts4nsnet.node.engine import PythonEngine
from ts4nsnet.sockets import open_socket
from ts4nsnet.uring import Reference
from ts4nsnet.uring.backends import open_port
from ts4nsnet.wireguard import Device, PeerConfig, RekeyWanted, SessionMemory, SessionTable

if TYPE_CHECKING:
    from ts4nsnet.uring.pipeline import Pipeline

Json = dict[str, Any]


def open_link(config: Json) -> Tun:
    """Make the TUN with its addresses and routes; routes carry the path's MTU, as the device's own is high."""
    routes = tuple(Route(prefix, mtu=config["mtu"]) for prefix in config["routes"])
    with NetnsChild(Target(config["netns"])) as child:
        tun = child.open_tun(config["tun"])
        link = Link(config["tun"], tuple(config["addresses"]), routes, txqueuelen=config["txqueuelen"])
        child.configure(link)
    return tun


def peer_config(peer: Json) -> PeerConfig:
    """The peer that a JSON object describes: the names and text forms of `wg set`."""
    return PeerConfig(
        public_key=PublicKey.from_base64(peer["public_key"]),
        allowed_ips=frozenset(map(ip_network, peer["allowed_ips"])),
        preshared_key=bytes.fromhex(peer["preshared_key"]),
        endpoint=to_endpoint(tuple(peer["endpoint"])) if peer["endpoint"] else None,
        persistent_keepalive=peer["persistent_keepalive"],
    )


class Node:
    """The parts of one node, and what can be asked of it."""

    def __init__(self, config: Json) -> None:
        tun = open_link(config)
        sock = open_socket(config["port"])
        memory = SessionMemory(mmap.mmap(-1, SessionMemory.size(16)))
        self._device = Device(PrivateKey.from_base64(config["private_key"]), memory, os.urandom, time.time_ns)
        self._numbers: dict[str, int] = {}
        if config["engine"] == "python":
            self._table = SessionTable(memory)
            self._pipeline = Reference(
                self._table, self._device.routes, open_filter(), mtu=config["mtu"], vnet_hdr=tun.vnet_hdr
            )
            self.engine = PythonEngine(self._device, self._pipeline, tun, sock)
            return
        compiled = {name: import_module(f"ts4nsnet.uring.{name}") for name in ("sessions", "pipeline")}
        self._table = compiled["sessions"].Sessions(memory)
        self._pipeline = compiled["pipeline"].Pipeline(
            self._table, self._device.routes, open_filter(), mtu=config["mtu"], vnet_hdr=tun.vnet_hdr
        )
        port = open_port(config["engine"], cast("Pipeline", self._pipeline), tun.fds[0], sock, print)
        self.engine = CompiledEngine(self._device, port, tun, sock)

    def answer(self, request: Json) -> Json:
        """Do what is asked."""
        now = trio.current_time()
        match request["do"]:
            case "set_peer":
                number = self._device.set_peer(peer_config(request["peer"]), now)
                self._numbers[request["peer"]["public_key"]] = number
            case "remove_peer":
                self._device.remove_peer(PublicKey.from_base64(request["public_key"]))
            case "rekey":
                self._device.notice(RekeyWanted(self._numbers[request["public_key"]]), now)
        self.engine.device_changed()
        return {
            "device": asdict(self._device.statistics()),
            "sessions": asdict(self._table.statistics()),
            "engine": asdict(self._pipeline.counters.statistics()),
        }


async def serve(control: socket.socket) -> None:
    """Configure the node, then carry packets and answer requests until the socket's end."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(control))
    received = b""
    node: Node | None = None
    async with trio.open_nursery() as nursery:
        async for chunk in stream:
            received += chunk
            while b"\n" in received:
                line, received = received.split(b"\n", 1)
                message = json.loads(line)
                if node is None:
                    node = Node(message)
                    nursery.start_soon(node.engine.run)
                    message = {"do": "statistics"}
                await stream.send_all(json.dumps(node.answer(message)).encode() + b"\n")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(serve, socket.socket(fileno=int(sys.argv[1])), clock=BoottimeClock())
