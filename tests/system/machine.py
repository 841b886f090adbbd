# SPDX-License-Identifier: BSD-3-Clause
"""A machine with a container tool's view of us: our command line, its file descriptors, a container, a tailnet.

The tailnet's servers run on the same machine, once for all tests of a file; nodes reach each other by its relay.
"""

import json
import os
import select
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from tests.processes import Process
from tests.topology import Container, Host, Topology

SCRIPT = Path(sys.executable).with_name("ts4nsnet")
ADDRESS = "192.0.2.1"
TIME_LIMIT = 20.0  # seconds


class Started:
    """A network command, as the container tool that has started it sees it."""

    def __init__(self, process: Process, box: Container, name: str, runtime: Path, ready: int, leave: int) -> None:
        self.process = process
        self.box = box
        self.folder = runtime / "ts4nsnet" / "nodes" / name
        self._ready, self._leave = ready, leave

    def wait_until_ready(self) -> None:
        """Until it has written to ready-fd."""
        assert select.select([self._ready], [], [], TIME_LIMIT)[0], f"not ready:\n{self.process.output}"
        assert os.read(self._ready, 16) == b"1", self.process.output

    def is_ready_within(self, time: float) -> bool:
        """Whether there is something on ready-fd within so many seconds."""
        return bool(select.select([self._ready], [], [], time)[0])

    def was_never_ready(self) -> bool:
        """Whether it has closed ready-fd and not written to it."""
        return os.read(self._ready, 1) == b""

    def speak(self) -> None:
        """Write to exit-fd, which nobody does; it means the same as closing it."""
        os.write(self._leave, b"x")

    def leave(self) -> int:
        """Close exit-fd; the exit code is returned."""
        self.close()
        return self.process.wait(TIME_LIMIT)

    def close(self) -> None:
        """Close what is ours."""
        for fd in (self._ready, self._leave):
            if fd >= 0:
                os.close(fd)
        self._ready = self._leave = -1

    def child(self, program: str) -> int:
        """The keeper's child that runs this module: its process id; 0 while there is none."""
        for pid in self.children():
            with suppress(OSError):  # it has ended
                if program.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return 0

    def children(self) -> list[int]:
        """All that belong to the keeper: node, worker, netns children."""
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return list(map(int, text.split()))

    @property
    def log(self) -> str:
        """What the node has said."""
        return (self.folder / "log").read_text()

    def addresses(self, interface: str = "tap0") -> set[str]:
        """Of the interface in the container, with their prefixes; without the kernel's own."""
        (link,) = json.loads(self.box.run("ip", "-json", "address", "show", "dev", interface).stdout)
        return {f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["scope"] == "global"}

    def routes(self, family: int = 4, interface: str = "tap0") -> dict[str, int]:
        """The MTU of each route through the interface; 0 for the device's own."""
        routes = json.loads(self.box.run("ip", "-json", f"-{family}", "route", "show", "dev", interface).stdout)
        found = {}
        for route in routes:
            metrics = {key: value for part in route.get("metrics", []) for key, value in part.items()}
            found[route["dst"]] = int(metrics.get("mtu", 0))
        return found


def start_command(
    host: Host, box: Container, words: Sequence[str], env: Mapping[str, str], wrapper: Sequence[str] = ()
) -> Started:
    """Start our command on a host, with `words`, ready-fd and exit-fd; `wrapper`: a command that executes it."""
    ready, ready_theirs = os.pipe()
    leave_theirs, leave = os.pipe()
    command = [*wrapper, str(SCRIPT), "-r", str(ready_theirs), "-e", str(leave_theirs), *words]
    process = host.start(*command, pass_fds=[ready_theirs, leave_theirs], env=env)
    os.close(ready_theirs)
    os.close(leave_theirs)
    return Started(process, box, env["TS_HOSTNAME"], Path(env["XDG_RUNTIME_DIR"]), ready, leave)


class Machine:
    """What the `machine` fixture gives."""

    def __init__(self, topology: Topology, folder: Path) -> None:
        self._topology = topology
        self.folder = folder
        self.host: Host = topology.host("machine")
        self.host.ip(
            "link add eth0 type veth peer name eth1",
            f"address add {ADDRESS}/24 dev eth0",
            *(f"link set {d} up" for d in ("eth0", "eth1")),
        )
        serve = [str(SCRIPT), "lab", "serve", "--listen", f"{ADDRESS}:443", "--state", str(folder / "lab")]
        lab = self.host.start(*serve)
        told = json.loads(lab.wait_for("control_url", TIME_LIMIT))
        self.variables = {
            "TS_AUTHKEY": told["auth_key"],
            "TS_CONTROL_URL": told["control_url"],
            "SSL_CERT_FILE": told["ca"],
            "XDG_RUNTIME_DIR": str(folder),
            "TS4NSNET_LOG_LEVEL": "debug",
        }
        self._started: list[Started] = []

    def container(self, name: str) -> Container:
        """One more container."""
        return self._topology.container(name)

    def start(self, box: Container, *words: str, wrapper: Sequence[str] = (), **variables: str) -> Started:
        """Start our command with `words`, ready-fd and exit-fd; `wrapper`: a command that executes it."""
        env = {**self.variables, "TS_HOSTNAME": box.name, **variables}
        self._started.append(start_command(self.host, box, words, env, wrapper))
        return self._started[-1]

    def close(self) -> None:
        """Let go of all that was started."""
        for started in self._started:
            started.close()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with a tailnet on it."""
    topology = Topology()
    made = None
    try:
        folder = tmp_path_factory.mktemp("machine")
        folder.chmod(0o700)
        made = Machine(topology, folder)
        yield made
    finally:
        if made:
            made.close()
        topology.close()
