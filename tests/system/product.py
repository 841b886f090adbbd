# SPDX-License-Identifier: BSD-3-Clause
"""Containers that our command line connects to a `World`'s tailnet, each on a host of its own."""

import hashlib
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.processes import TIME_LIMIT
from tests.system.machine import SCRIPT, Started, start_command
from tests.system.tailnet import CONTROL_PORT, SERVER, World, ping
from tests.topology import Container, Host

NODE, WORKER = "ts4nsnet.node.process", "ts4nsnet.uring.worker"


class Member:
    """A container, and the command that makes it a member of the tailnet."""

    def __init__(
        self,
        world: World,
        name: str,
        *,
        udp: bool = False,
        mtu: int = 1500,
        host: Host | None = None,
        options: tuple[str, ...] = (),
        **variables: str,
    ) -> None:
        self.name = name
        self._options = options
        self.host: Host
        self.box: Container
        self.host, self.box = world.place(name, udp=udp, mtu=mtu, host=host)
        self._variables = {
            "TS_AUTHKEY": world.key,
            "TS_HOSTNAME": name,
            "TS_CONTROL_URL": f"https://{SERVER}:{CONTROL_PORT}",
            "SSL_CERT_FILE": str(world.folder / "lab" / "ca.pem"),
            "XDG_RUNTIME_DIR": str(world.folder),
        } | variables
        self.started: Started

    def start(self, **variables: str) -> Started:
        """Start the command."""
        words = ("-c", *self._options, "--netns-type=path", self.box.netns, "tap0")
        self.started = start_command(self.host, self.box, words, self._variables | variables)
        return self.started

    def status(self) -> dict[str, Any]:
        """What `ts4nsnet status` says of it; nothing while it does not answer."""
        env = {"XDG_RUNTIME_DIR": self._variables["XDG_RUNTIME_DIR"]}
        done = self.host.run(str(SCRIPT), "status", "--json", self.name, env=env, check=False)
        status: dict[str, Any] = json.loads(done.stdout or "{}")
        return status

    def peer(self, name: str) -> dict[str, Any]:
        """What it knows of a peer; nothing if there is none."""
        peers: dict[str, dict[str, Any]] = self.status().get("Peer") or {}
        return next((peer for peer in peers.values() if peer["HostName"] == name), {})

    @property
    def address(self) -> str:
        """In the tailnet; IPv4."""
        (found,) = (each for each in self.started.addresses() if each.startswith("100.64."))
        return found.partition("/")[0]

    def ping(self, address: str, within: float = TIME_LIMIT) -> None:
        """Get an answer from there, within so many seconds."""
        ping(self.box, address, within)

    @property
    def node(self) -> int:
        """The process id of the node."""
        return self.started.child(NODE)

    @property
    def worker(self) -> int:
        """The process id of the worker; 0: there is none."""
        return self.started.child(WORKER)


@contextmanager
def connection(client: Member, server: Member) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection from one container to another: both ends."""
    listener, ours = (member.box.socket(kind=socket.SOCK_STREAM) for member in (server, client))
    with listener, ours:
        listener.bind((server.address, 0))
        listener.listen()
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
        with theirs:
            theirs.settimeout(TIME_LIMIT)
            yield ours, theirs


def send(sender: socket.socket, receiver: socket.socket, payload: bytes) -> None:
    """Send it all, and compare what comes."""
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(sender.sendall, payload)
        digest, left = hashlib.sha256(), len(payload)
        while left and (chunk := receiver.recv(1 << 16)):
            digest.update(chunk)
            left -= len(chunk)
        sent.result()
    assert digest.digest() == hashlib.sha256(payload).digest()


def opened(pid: int) -> set[str]:
    """What the file descriptors of a process are."""
    return {str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()}
