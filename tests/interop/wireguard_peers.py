# SPDX-License-Identifier: BSD-3-Clause
"""WireGuard interfaces of two makes with one face: ours, and Debian's wireguard-go.

A peer stands on a host of the topology, which its UDP socket belongs to. Its tunnel's inner end is in `inside`: for
ours a container with a user namespace of its own, for wireguard-go the host itself.
"""

import base64
import json
import os
import socket
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from tests.processes import Namespace, Process
from tests.topology import Host, Topology
from ts4nsnet.keys import PrivateKey

MTU = 1420
PORT = 51820
NO_PRESHARED_KEY = bytes(32)


@dataclass(frozen=True)
class Identity:
    """What one side of a tunnel is called and has inside it."""

    name: str
    key: PrivateKey
    v4: str
    v6: str


ALICE = Identity("alice", PrivateKey(bytes(range(1, 33))), "10.9.0.1", "fd09::1")
BOB = Identity("bob", PrivateKey(bytes(range(33, 65))), "10.9.0.2", "fd09::2")


class WireGuardPeer(ABC):
    """One end of a tunnel."""

    inside: Namespace

    def __init__(self, host: Host, own: Identity, other: Identity) -> None:
        self.host = host
        self.own = own
        self.other = other

    @abstractmethod
    def start(self) -> None:
        """Bring the interface up, with its addresses and routes but without a peer."""

    @abstractmethod
    def know(self, endpoint: str | None, preshared_key: bytes = NO_PRESHARED_KEY, keepalive: int = 0) -> None:
        """Configure the other side, whose outer address is `endpoint` where that is known."""

    @property
    @abstractmethod
    def process(self) -> Process:
        """The program that carries the packets."""

    @abstractmethod
    def stop(self) -> None:
        """End it without a word to the other side."""


class Ours(WireGuardPeer):
    """Our engine, attached to a container; `engine` says which."""

    engine = "python"

    def __init__(self, topology: Topology, host: Host, own: Identity, other: Identity) -> None:
        super().__init__(host, own, other)
        self.inside = topology.container(f"box-{own.name}")
        self._process: Process | None = None
        self._control: socket.socket | None = None
        self._answers = b""

    def start(self) -> None:
        self._control, theirs = socket.socketpair()
        self._control.settimeout(20)
        command = [sys.executable, "-m", "tests.programs.wireguard_node", str(theirs.fileno())]
        self._process = self.host.start(*command, pass_fds=[theirs.fileno()])
        theirs.close()
        self.ask(
            netns=self.inside.netns,
            engine=self.engine,
            tun="tap0",
            private_key=_base64(self.own.key.private_bytes()),
            port=PORT,
            mtu=MTU,
            txqueuelen=1000,
            addresses=[self.own.v4, self.own.v6],
            routes=["10.9.0.0/24", "fd09::/64"],
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Ask the program; its counters are the answer to everything."""
        assert self._control is not None
        assert self._process is not None
        self._control.sendall(json.dumps(request).encode() + b"\n")
        while b"\n" not in self._answers:
            chunk = self._control.recv(1 << 16)
            assert chunk, f"the node has ended:\n{self._process.output}"
            self._answers += chunk
        answer, self._answers = self._answers.split(b"\n", 1)
        counters: dict[str, Any] = json.loads(answer)
        return counters

    @property
    def process(self) -> Process:
        """The running node."""
        assert self._process is not None
        return self._process

    def know(self, endpoint: str | None, preshared_key: bytes = NO_PRESHARED_KEY, keepalive: int = 0) -> None:
        peer = {
            "public_key": str(self.other.key.public),
            "allowed_ips": [f"{self.other.v4}/32", f"{self.other.v6}/128"],
            "preshared_key": preshared_key.hex(),
            "endpoint": [endpoint, PORT] if endpoint else None,
            "persistent_keepalive": keepalive,
        }
        self.ask(do="set_peer", peer=peer)

    def rekey(self) -> None:
        """Make a new keypair now, as after 120 seconds."""
        self.ask(do="rekey", public_key=str(self.other.key.public))

    def statistics(self) -> dict[str, Any]:
        """The counters of device, sessions and engine."""
        return self.ask(do="statistics")

    def stop(self) -> None:
        assert self._process is not None
        assert self._control is not None
        self._process.send_signal(9)
        self._process.wait()
        self._control.close()
        self._answers = b""


class WireGuardGo(WireGuardPeer):
    """Debian's wireguard-go, configured by `wg`."""

    # one thread: only so does it fall behind, and ask for cookies, when a test floods it
    threads = "1"

    def __init__(self, _topology: Topology, host: Host, own: Identity, other: Identity) -> None:
        super().__init__(host, own, other)
        self.inside = host
        self._process: Process | None = None

    def start(self) -> None:
        environment = {"WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD": "1", "LOG_LEVEL": "verbose"}
        environment["GOMAXPROCS"] = self.threads
        name = f"wg-{self.own.name}"
        self._process = self.host.start("wireguard-go", "-f", name, env=environment)
        self._process.wait_for("UAPI listener started")
        key = os.memfd_create("key")
        os.write(key, _base64(self.own.key.private_bytes()).encode())
        try:
            self.host.run("wg", "set", name, "listen-port", str(PORT), "private-key", f"/proc/{os.getpid()}/fd/{key}")
        finally:
            os.close(key)
        self.host.ip(
            f"address add {self.own.v4}/24 dev {name}",
            f"address add {self.own.v6}/64 dev {name} nodad",
            f"link set {name} mtu {MTU} up",
        )

    @property
    def process(self) -> Process:
        """The running daemon."""
        assert self._process is not None
        return self._process

    def know(self, endpoint: str | None, preshared_key: bytes = NO_PRESHARED_KEY, keepalive: int = 0) -> None:
        key = os.memfd_create("preshared")
        os.write(key, _base64(preshared_key).encode())
        where = ["endpoint", f"{endpoint}:{PORT}"] if endpoint else []
        try:
            self.host.run(
                *("wg", "set", f"wg-{self.own.name}", "peer", str(self.other.key.public), *where),
                *("preshared-key", f"/proc/{os.getpid()}/fd/{key}", "persistent-keepalive", str(keepalive)),
                *("allowed-ips", f"{self.other.v4}/32,{self.other.v6}/128"),
            )
        finally:
            os.close(key)

    def forget(self) -> None:
        """Remove the other side."""
        self.host.run("wg", "set", f"wg-{self.own.name}", "peer", str(self.other.key.public), "remove")

    def stop(self) -> None:
        self.process.send_signal(9)
        self.process.wait()


def _base64(secret: bytes) -> str:
    return base64.b64encode(secret).decode()
