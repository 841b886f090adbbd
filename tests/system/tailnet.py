# SPDX-License-Identifier: BSD-3-Clause
"""Tailnets for tests: our lab on one host, nodes of ours on others, all of them processes.

    def test_ping(world: World) -> None:
        world.serve()
        alice, bob = world.join("alice", "bob")
        alice.ping(bob.addresses[0])

              internet
        ╱        │        ╲
    server     alice      bob …        hosts in networks of their own; no UDP leaves those of nodes
       │         │         │
      lab    box-alice  box-bob        what nodes serve: containers without any other network

`serve` with `relays` puts forwarders before the lab, one for control and one for each relay, so that a test can take
each way away by itself:

    nodes ─┬─► 443 control ─┐
           └─► 444 relay ───┴─► 8443 lab
"""

import hashlib
import json
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from signal import SIGINT, SIGKILL
from socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_STREAM
from typing import Any, Self

import pytest

from tests.processes import Namespace, Process
from tests.topology import Container, Host, Router, Topology

Json = dict[str, Any]

SERVER = "192.0.2.2"
CONTROL_PORT, LAB_PORT = 443, 8443
FIRST_REGION = 901
TIME_LIMIT = 30.0  # seconds; more than the programs take to say that they are late
SUFFIX = "lab.internal"


def ping(box: Namespace, address: str, within: float) -> None:
    """Get an answer from there, within so many seconds; a refusal, as of who is not known yet, is none."""
    until = now() + within
    while True:
        rest = max(1, round(until - now()))
        done = box.run("ping", "-n", "-c1", "-i0.2", f"-w{rest}", address, check=False, timeout=rest + 5)
        if done.returncode == 0:
            return
        assert now() < until, done.stdout
        time.sleep(0.05)


class Asked:
    """One of our programs that answers requests (tests/programs/channel.py); configured by the first one."""

    def __init__(self, host: Host, program: str, config: Json, env: dict[str, str]) -> None:
        self.config = config
        self._channel, theirs = socket.socketpair()
        self._channel.settimeout(TIME_LIMIT)
        with theirs:
            command = [sys.executable, "-m", program, str(theirs.fileno())]
            self.process = host.start(*command, pass_fds=[theirs.fileno()], env=env)
        self._answers = b""
        self._is_loaded = False

    def load(self) -> Self:
        """Wait until it has been loaded and needs nothing but its configuration."""
        if not self._is_loaded:
            self._answer()
            self._is_loaded = True
        return self

    def start(self) -> Self:
        """Give it its configuration; it is then at work."""
        self.load().ask(**self.config)
        return self

    def ask(self, **request: object) -> Json:
        """A request and its answer."""
        self._channel.sendall(json.dumps(request).encode() + b"\n")
        return self._answer()

    def _answer(self) -> Json:
        while b"\n" not in self._answers:
            chunk = self._channel.recv(1 << 16)
            assert chunk, f"the program has ended:\n{self.process.output}"
            self._answers += chunk
        line, self._answers = self._answers.split(b"\n", 1)
        answer: Json = json.loads(line)
        return answer

    def status(self) -> Json:
        """What it says of itself."""
        return self.ask(do="status")

    def wait(self, **wanted: object) -> Json:
        """Its status, once it is so."""
        status = self.ask(do="wait", **{"for": wanted})
        assert "late" not in status, f"it did not come to {wanted}:\n{status}\n{self.process.output}"
        return status

    def kill(self) -> None:
        """SIGKILL."""
        self.process.send_signal(SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """Close our end of the socket."""
        self._channel.close()


class Lab(Asked):
    """The server of a tailnet."""

    def auth_key(self, **options: object) -> str:
        """A new key; the options are those of `lab.Tailnet.auth_key`."""
        key: str = self.ask(do="auth_key", options=options)["key"]
        return key

    def node(self, name: str) -> Json:
        """What it knows of a node: id, addresses, key."""
        node: Json = self.status()["nodes"][f"{name}.{SUFFIX}"]
        return node


class TailnetNode(Asked):
    """A node of ours."""

    def __init__(self, host: Host, box: Container, config: Json, env: dict[str, str]) -> None:
        super().__init__(host, "tests.programs.tailnet_node", config, env)
        self.host = host
        self.box = box

    @property
    def addresses(self) -> list[str]:
        """In the tailnet: IPv4, IPv6."""
        addresses: list[str] = self.status()["addresses"]
        return addresses

    def wait_until_ready(self, *peers: str) -> Json:
        """Its status, once the container can use the network and these are all peers."""
        return self.wait(is_ready=True, peers=[f"{peer}.{SUFFIX}" for peer in sorted(peers)])

    def leave(self) -> None:
        """End it in good order."""
        assert self.process.stop() == 0

    # --- traffic ------------------------------------------------------------------------------------------------------

    def ping(self, address: str, within: float = 10.0) -> None:
        """Get an answer from there, within so many seconds."""
        ping(self.box, address, within)

    def hears_nothing_from(self, address: str, time: float) -> None:
        """Ask for so many seconds, in vain."""
        done = self.box.run("ping", "-n", "-i0.2", f"-w{time:g}", address, check=False, timeout=time + 5)
        assert " 0 received" in done.stdout, done.stdout

    def start_pinging(self, address: str) -> "Pinging":
        """Ping until told otherwise."""
        return Pinging(self.box.start("ping", "-n", "-D", f"-i{Pinging.SPACING_TIME}", address))


class Pinging:
    """Pings that are under way, one every 50 ms."""

    SPACING_TIME = 0.05

    def __init__(self, process: Process) -> None:
        self._process = process
        process.wait_for("icmp_seq")

    def stop(self) -> tuple[int, int, float]:
        """How many were sent and answered, and the longest time without an answer; seconds."""
        self._process.send_signal(SIGINT)
        summary = self._process.wait_for("packets transmitted")
        lines = [line for line in self._process.output.splitlines() if "bytes from" in line]
        times = [float(line[1 : line.index("]")]) for line in lines]
        gaps = [after - before for before, after in pairwise(times)]
        sent, received = summary.split()[0], summary.split()[3]
        return int(sent), int(received), max(gaps, default=0.0)


def send_stream(sender: TailnetNode, receiver: TailnetNode, address: str, payload: bytes) -> float:
    """Send `payload` by TCP to the receiver's `address`, compare the hashes; how long it took, seconds."""
    family = AF_INET6 if ":" in address else AF_INET
    listener, client = receiver.box.socket(family, SOCK_STREAM), sender.box.socket(family, SOCK_STREAM)
    for sock in (listener, client):
        sock.settimeout(TIME_LIMIT)
    listener.bind((address, 0))
    listener.listen()
    begun = now()
    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(_hash_of_stream, listener)
        client.connect(listener.getsockname()[:2])
        client.sendall(payload)
        client.shutdown(socket.SHUT_WR)
        assert received.result() == hashlib.sha256(payload).digest()
    return now() - begun


def _hash_of_stream(listener: socket.socket) -> bytes:
    sock, _ = listener.accept()
    digest = hashlib.sha256()
    with sock:
        sock.settimeout(TIME_LIMIT)
        while chunk := sock.recv(1 << 16):
            digest.update(chunk)
    return digest.digest()


def exchange_datagrams(sender: TailnetNode, receiver: TailnetNode, address: str, payload: bytes) -> None:
    """A datagram there and back; again, for it may be lost."""
    family = AF_INET6 if ":" in address else AF_INET
    service, client = receiver.box.socket(family, SOCK_DGRAM), sender.box.socket(family, SOCK_DGRAM)
    service.bind((address, 0))
    for sock in (service, client):
        sock.settimeout(1.0)
    for _ in range(10):
        with suppress(TimeoutError):
            client.sendto(payload, service.getsockname()[:2])
            received, source = service.recvfrom(1 << 16)
            assert received == payload
            service.sendto(received, source)
            assert client.recv(1 << 16) == payload
            return
    raise AssertionError(f"{address} does not answer")


def derp_map(ports: dict[int, int]) -> Json:
    """A DERPMap: of each region the port of its relay, where certificates are not asked for their names."""
    regions: Json = {}
    for region_id, port in ports.items():
        node = {"Name": f"{region_id}a", "RegionID": region_id, "HostName": SERVER, "IPv4": SERVER, "IPv6": "none"}
        node |= {"DERPPort": port, "STUNPort": -1, "InsecureForTests": True}
        regions[str(region_id)] = {"RegionID": region_id, "RegionCode": f"r{region_id}", "Nodes": [node]}
    return {"Regions": regions}


def now() -> float:
    """The time as our programs give it: CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class World:
    """What the `world` fixture gives."""

    def __init__(self, topology: Topology, folder: Path) -> None:
        self._topology = topology
        self._internet: Router = topology.router("internet")
        self._networks = 0
        self._server = topology.host("server")
        self._topology.link(self._server, f"{SERVER}/24", self._internet, "192.0.2.1/24")
        self.folder = folder
        self.lab: Lab
        self.key = ""  # reusable, ephemeral
        self._asked: list[Asked] = []
        self._forwarders: dict[int, Process] = {}

    # --- the servers --------------------------------------------------------------------------------------------------

    def serve(self, *, relays: tuple[int, ...] = ()) -> Lab:
        """Start the lab; `relays`: ports of forwarders, each the relay of a region from 901 on."""
        port = LAB_PORT if relays else CONTROL_PORT
        regions = derp_map(dict(enumerate(relays, FIRST_REGION))) if relays else None
        config = {"listen": [SERVER, port], "directory": str(self.folder / "lab"), "derp_map": regions}
        self.lab = Lab(self._server, "tests.programs.tailnet_lab", config, {})
        self._asked.append(self.lab)
        self.lab.start()
        for forwarder in (CONTROL_PORT, *relays) if relays else ():
            self.forward(forwarder)
        self.key = self.key or self.lab.auth_key()
        return self.lab

    def serve_again(self) -> None:
        """Start the lab as it was."""
        self.lab = Lab(self._server, "tests.programs.tailnet_lab", self.lab.config, {})
        self._asked.append(self.lab)
        self.lab.start()

    def forward(self, port: int) -> Process:
        """Start a forwarder to the lab."""
        command = [sys.executable, "-m", "tests.programs.forwarder", SERVER, str(port), str(LAB_PORT)]
        self._forwarders[port] = self._server.start(*command)
        self._forwarders[port].wait_for("serving")
        return self._forwarders[port]

    def forwarder(self, port: int) -> Process:
        """The forwarder that runs there."""
        return self._forwarders[port]

    def cut(self, port: int) -> None:
        """Kill a forwarder."""
        self._forwarders[port].send_signal(SIGKILL)
        self._forwarders[port].wait()

    # --- nodes --------------------------------------------------------------------------------------------------------

    def node(self, name: str, *, udp: bool = False, **settings: object) -> TailnetNode:
        """A node on a host of its own, ready to be started; `settings` are those of tests/programs/tailnet_node.py."""
        host, box = self.place(name, udp=udp)
        config: Json = {
            "control_url": f"https://{SERVER}:{CONTROL_PORT}",
            "hostname": name,
            "netns": box.netns,
            "runtime_folder": str(self.folder / f"run-{name}"),
            "auth_key": self.key,
            "state_dir": None,
            "container": f"id-of-{name}",
        }
        return self._node(host, box, config | settings)

    def place(
        self, name: str, *, udp: bool = False, mtu: int = 1500, host: Host | None = None
    ) -> tuple[Host, Container]:
        """A host with a network of its own, or another container's host, and a container on it."""
        host, box = host or self._host(name, mtu), self._topology.container(f"box-{name}")
        if not udp:
            self.forbid_udp(host)
        return host, box

    def another(self, node: TailnetNode, box: Container | None = None, **changes: object) -> TailnetNode:
        """One more process for a node, ready to be started; with `box`, for that container."""
        box = box or node.box
        return self._node(node.host, box, node.config | {"netns": box.netns} | changes)

    def join(self, *names: str, udp: bool = False) -> list[TailnetNode]:
        """Nodes that are ready and know each other."""
        nodes = [self.node(name, udp=udp) for name in names]
        for node in nodes:
            node.start()
        for node, name in zip(nodes, names, strict=True):
            node.wait_until_ready(*(other for other in names if other != name))
        return nodes

    def container(self, name: str) -> Container:
        """One more container."""
        return self._topology.container(name)

    def _node(self, host: Host, box: Container, config: Json) -> TailnetNode:
        # the servers' certificates are signed by the lab's own authority
        node = TailnetNode(host, box, config, {"SSL_CERT_FILE": str(self.folder / "lab" / "ca.pem")})
        self._asked.append(node)
        return node

    def _host(self, name: str, mtu: int = 1500) -> Host:
        host = self._topology.host(name)
        self._networks += 1
        network = f"198.51.{self._networks}"
        self._topology.link(host, f"{network}.2/24", self._internet, f"{network}.1/24", mtu=mtu)
        return host

    def narrow(self, host: Host, mtu: int) -> None:
        """Let no more than that through to a host, which does not know."""
        self._internet.ip(f"link set {host.name} mtu {mtu}")

    def forbid_udp(self, host: Host) -> None:
        """Let no UDP out of a host."""
        host.nft(
            "add table inet no-udp",
            "add chain inet no-udp out { type filter hook output priority filter; }",
            'add rule inet no-udp out oifname != "lo" meta l4proto udp drop',
        )

    def allow_udp(self, host: Host) -> None:
        """Let it out again."""
        host.nft("delete table inet no-udp")

    def close(self) -> None:
        """Close the sockets; processes end with the topology."""
        for asked in self._asked:
            asked.close()


@contextmanager
def serving(folder: Path, *, relays: tuple[int, ...] = ()) -> Iterator[World]:
    """A world whose lab serves, for all tests of a module."""
    topology = Topology()
    try:
        made = World(topology, folder)
        try:
            made.serve(relays=relays)
            yield made
        finally:
            made.close()
    finally:
        topology.close()


@pytest.fixture
def world(topology: Topology, tmp_path: Path) -> Iterator[World]:
    """A server's host and the rest of the world; `serve` and `join` fill them."""
    made = World(topology, tmp_path)
    yield made
    made.close()
