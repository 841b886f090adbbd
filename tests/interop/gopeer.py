# SPDX-License-Identifier: BSD-3-Clause
"""Tailscale's own code as the other side: nodes and a server of the Go program in tests/interop/tsnet.

    def test_echo(topology: Topology, tsnet: Tsnet, tmp_path: Path) -> None:
        …
        server = tsnet.server(host, "192.0.2.1:443", tmp_path)
        alice = tsnet.node(other_host, server.control_url, "alice", tmp_path / "alice", trust=server.ca)
        alice.wait_for("status", lambda status: "bob" in status["peers"])
        assert alice.ask("tcp", address="bob:7", payload="hello") == "hello"

What the program can do is said at the top of its files; `ask` is a request and its answer, `wait_for` waits for an
event. We talk to it over a socket of its own, so that what it logs is kept with other processes' output.

**Building** is the Makefile's: `make build/tsnet`, which `make test` does first. It is asked for here again, for who
has changed the program and runs pytest by hand: there is no network here, but Go's caches have what that takes.
"""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.topology import Host

PROJECT = Path(__file__).resolve().parents[2]
PROGRAM = PROJECT / "build" / "tsnet"
ECHO_PORT = 7
TIME_LIMIT = 20.0  # seconds; the program's own commands give up after 15


class GoPeer:
    """A running program: `node` or `server`, with its arguments."""

    def __init__(self, host: Host, *arguments: str, env: dict[str, str]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            channel = ("-channel", str(theirs.fileno()))
            self.process = host.start(str(PROGRAM), *arguments, *channel, pass_fds=[theirs.fileno()], env=env)
        self._channel = ours
        self._received = b""
        self._requests = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._events: dict[str, Any] = {}  # the latest of each name

    def send(self, do: str, **arguments: object) -> int:
        """Ask for something; `answer` takes the number."""
        self._requests += 1
        request = {"id": self._requests, "do": do, "with": arguments}
        self._channel.sendall(json.dumps(request).encode() + b"\n")
        return self._requests

    def answer(self, number: int) -> Any:
        """Wait for the answer to a request; AssertionError when it says why not."""
        self._read_until(lambda: number in self._answers)
        answer = self._answers.pop(number)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def ask(self, do: str, **arguments: object) -> Any:
        """Ask for something and wait for the answer."""
        return self.answer(self.send(do, **arguments))

    def wait_for(self, event: str, accept: Callable[[Any], bool] = lambda _: True) -> Any:
        """The value of the latest event of that name, as soon as it is one that `accept` takes."""
        self._read_until(lambda: event in self._events and accept(self._events[event]))
        return self._events[event]

    def close(self) -> int:
        """End it in good order, as its channel does; its exit code."""
        self._channel.settimeout(TIME_LIMIT)
        self._channel.shutdown(socket.SHUT_WR)
        while self._channel.recv(1 << 16):
            pass
        self._channel.close()
        return self.process.wait()

    def _read_until(self, done: Callable[[], bool]) -> None:
        until = time.monotonic() + TIME_LIMIT
        while not done():
            self._channel.settimeout(max(until - time.monotonic(), 0.001))
            try:
                chunk = self._channel.recv(1 << 16)
            except TimeoutError:
                pytest.fail(f"it did not come to that in {TIME_LIMIT:.0f} s; latest events: {self._events}")
            assert chunk, f"it has ended; latest events: {self._events}"
            *lines, self._received = (self._received + chunk).split(b"\n")
            for line in lines:
                self._take(json.loads(line))

    def _take(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self._events[message["event"]] = message["value"]
        else:
            self._answers[message["id"]] = message


class TsnetServer(GoPeer):
    """Coordination server, relay and STUN server."""

    def __init__(self, host: Host, *arguments: str, env: dict[str, str]) -> None:
        super().__init__(host, "server", *arguments, env=env)
        serving = self.wait_for("serving")
        self.control_url: str = serving["control_url"]
        self.ca = Path(serving["ca"])


class TsnetNode(GoPeer):
    """A node."""

    def __init__(self, host: Host, *arguments: str, env: dict[str, str]) -> None:
        super().__init__(host, "node", *arguments, env=env)

    def wait_until_running(self) -> list[str]:
        """Wait until it has joined; its addresses, IPv4 first."""
        status = self.wait_for("status", lambda status: status["state"] == "Running")
        addresses: list[str] = status["addresses"]
        return addresses

    def wait_for_peer(self, name: str) -> list[str]:
        """Wait until it knows a peer and the relay that this is reached over; the peer's addresses, IPv4 first."""
        status = self.wait_for("status", lambda status: name in status["peers"] and status["peers"][name]["relay"])
        addresses: list[str] = status["peers"][name]["addresses"]
        return addresses


class Tsnet:
    """What the `tsnet` fixture gives: starts the program."""

    def server(self, host: Host, listen: str, folder: Path, *options: str, key: str = "") -> TsnetServer:
        """Start a server; with `key`, that is the only auth key it takes."""
        return TsnetServer(host, "-listen", listen, "-dir", str(folder), *options, env={"TS_AUTHKEY": key})

    def node(
        self, host: Host, control_url: str, name: str, folder: Path, *options: str, trust: Path, key: str = ""
    ) -> TsnetNode:
        """Start a node; with its folder, an earlier one comes back."""
        arguments = ("-control", control_url, "-hostname", name, "-dir", str(folder), "-echo", str(ECHO_PORT))
        environment = {"TS_AUTHKEY": key, "SSL_CERT_FILE": str(trust), "TS_LOGS_DIR": str(folder)}
        return TsnetNode(host, *arguments, *options, env=environment)


@pytest.fixture(scope="session")
def tsnet() -> Tsnet:
    """The Go program, built; skips where that is impossible for want of Go."""
    if not PROGRAM.exists() and not shutil.which("go"):
        reason = "no go on the path, which builds tests/interop/tsnet"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    subprocess.run(["make", "--silent", str(PROGRAM.relative_to(PROJECT))], cwd=PROJECT, check=True)
    return Tsnet()
