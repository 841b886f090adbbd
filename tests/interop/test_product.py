# SPDX-License-Identifier: BSD-3-Clause
"""The whole product and a node of Tailscale's: the command line of a container tool on one side, tsnet on the other.

       internet
     ╱    │    ╲
server  alice   bob        hosts; UDP between alice and bob passes, or it does not
  │       │      │
 lab   box-alice └ tsnet   alice's host runs `ts4nsnet … tap0` for the container box-alice
"""

import hashlib
import json
import os
import select
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from socket import AF_INET, SHUT_WR, SOCK_DGRAM, SOCK_STREAM, socket
from threading import Semaphore

import dns.message
import pytest

from tests.captured import Captured
from tests.interop.gopeer import ECHO_PORT, Tsnet, TsnetNode
from tests.processes import Process
from tests.topology import Container, Host, Topology
from ts4nsnet.tailnet import TAILNET_MTU

PROGRAM = Path(sys.executable).parent / "ts4nsnet"
SERVER = "192.0.2.2:443"
TIME_LIMIT = 60.0  # seconds
DIRECT_BYTES, RELAYED_BYTES = 100 << 20, 10 << 20
MESSAGE_BYTES = 32  # of a WireGuard message, beside the packet
PIECE_BYTES, WINDOW_BYTES = 1 << 16, 1 << 19


@dataclass
class World:
    """The hosts, the container, and both nodes."""

    hosts: dict[str, Host]
    box: Container
    alice: Process
    bob: TsnetNode


def serve(host: Host, folder: Path) -> dict[str, str]:
    """Start the lab; what it tells."""
    lab = host.start(str(PROGRAM), "lab", "serve", "--listen", SERVER, "--state", str(folder / "lab"))
    told: dict[str, str] = json.loads(lab.wait_for("control_url", TIME_LIMIT))
    return told


def start(host: Host, box: Container, told: dict[str, str], folder: Path) -> Process:
    """Start the product as podman does, and wait for its byte on ready-fd."""
    ready, theirs = os.pipe()
    names = {"TS_AUTHKEY": told["auth_key"], "TS_CONTROL_URL": told["control_url"], "TS_HOSTNAME": "alice"}
    env = names | {"SSL_CERT_FILE": told["ca"], "XDG_RUNTIME_DIR": str(folder)}
    words = ["--disable-host-loopback", "--mtu=65520", "--enable-sandbox", "--enable-seccomp", "--enable-ipv6", "-c"]
    command = [str(PROGRAM), *words, "-r", str(theirs), "--netns-type=path", str(box.netns), "tap0"]
    process = host.start(*command, pass_fds=[theirs], env=env)
    os.close(theirs)
    with os.fdopen(ready, "rb") as pipe:
        assert select.select([pipe], [], [], TIME_LIMIT)[0], process.output
        assert pipe.read(1) == b"1", process.output
    return process


@pytest.fixture(params=[True, False], ids=["direct", "relay"])
def udp(request: pytest.FixtureRequest) -> bool:
    """Whether UDP passes between the nodes."""
    return bool(request.param)


@pytest.fixture
def world(topology: Topology, tsnet: Tsnet, tmp_path: Path, udp: bool) -> Iterator[World]:
    """Both nodes, which know each other."""
    tmp_path.chmod(0o700)
    internet = topology.router("internet")
    hosts = {}
    for name, network in {"server": "192.0.2", "alice": "198.51.100", "bob": "203.0.113"}.items():
        hosts[name] = topology.host(name)
        topology.link(hosts[name], f"{network}.2/24", internet, f"{network}.1/24")
        if name != "server" and not udp:
            hosts[name].nft(
                "add table inet no-udp",
                "add chain inet no-udp out { type filter hook output priority filter; }",
                'add rule inet no-udp out oifname != "lo" meta l4proto udp drop',
            )
    told = serve(hosts["server"], tmp_path)
    box = topology.container("box-alice")
    alice = start(hosts["alice"], box, told, tmp_path)
    folder, key, ca = tmp_path / "bob", told["auth_key"], Path(told["ca"])
    bob = tsnet.node(hosts["bob"], told["control_url"], "bob", folder, "-ephemeral", trust=ca, key=key)
    bob.wait_until_running()
    bob.wait_for_peer("alice")
    yield World(hosts, box, alice, bob)
    assert bob.close() == 0
    assert alice.stop() == 0


def look_up(box: Container, name: str) -> str:
    """The address that the container's resolver gives for a name; asked again while it is not known yet."""
    until = time.monotonic() + TIME_LIMIT
    while True:
        with box.socket(AF_INET, SOCK_DGRAM) as sock:
            sock.settimeout(5.0)
            sock.connect(("10.0.2.3", 53))
            sock.send(dns.message.make_query(name, "A").to_wire())
            answer = dns.message.from_wire(sock.recv(4096)).answer
        if answer:
            return str(answer[0][0])
        assert time.monotonic() < until, f"nobody is called {name}"
        time.sleep(0.1)


def echo(box: Container, address: str, size: int) -> None:
    """Send so many bytes to an echo of Tailscale's node and get them back, both at once.

    No more than WINDOW_BYTES are on their way: once gVisor's TCP has closed its window, it ignores acknowledgements
    whose sequence number lies behind it, and with a window closed each way the two wait for each other for good.
    """
    piece = os.urandom(PIECE_BYTES)
    room = Semaphore(WINDOW_BYTES // PIECE_BYTES)
    want, got = hashlib.sha256(), hashlib.sha256()
    with box.socket(AF_INET, SOCK_STREAM) as sock, ThreadPoolExecutor(1) as pool:
        sock.settimeout(TIME_LIMIT)
        sock.connect((address, ECHO_PORT))
        sending = pool.submit(send, sock, piece, size, room)
        received = 0
        while received < size and (chunk := sock.recv(1 << 18)):
            got.update(chunk)
            for _ in range((received + len(chunk)) // PIECE_BYTES - received // PIECE_BYTES):
                room.release()
            received += len(chunk)
        sending.result(TIME_LIMIT)
    for _ in range(size // PIECE_BYTES):
        want.update(piece)
    assert (received, got.digest()) == (size, want.digest())


def send(sock: socket, piece: bytes, size: int, room: Semaphore) -> None:
    for _ in range(size // len(piece)):
        assert room.acquire(timeout=TIME_LIMIT), "nothing comes back"
        sock.sendall(piece)
    sock.shutdown(SHUT_WR)


def test_container_and_a_node_of_tailscales(world: World, udp: bool) -> None:
    address = look_up(world.box, "bob")
    with Captured(world.hosts["bob"], "internet") as captured:
        world.box.run("ping", "-c1", "-w10", address, timeout=TIME_LIMIT)
        echo(world.box, address, DIRECT_BYTES if udp else RELAYED_BYTES)
    assert (captured.number(1000) > 100) == udp
    assert captured.number(TAILNET_MTU + MESSAGE_BYTES + 1) == 0
    peer = world.bob.ask("status")["peers"]["alice"]
    assert bool(peer["direct"]) == udp, peer
