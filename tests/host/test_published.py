# SPDX-License-Identifier: BSD-3-Clause
"""Ports that podman and rootlesskit publish by our API socket, in the place of their own port handlers."""

import socket
import sys
from pathlib import Path

from tests.host.podman import ADDRESS, Machine
from tests.host.test_podman import containers_conf
from tests.host.test_rootlesskit import start
from tests.processes import Namespace
from tests.waiting import until

__all__ = ["containers_conf"]  # the fixture

NETWORK = "slirp4netns:port_handler=slirp4netns"
SERVE = ("httpd", "-f", "-p", "80", "-h", "/www")


def sockets(machine: Machine) -> list[str]:
    """API sockets that there are."""
    return [path.name for path in machine.path(machine.runtime / "libpod/tmp").glob("*.net")]


def test_podman(machine: Machine) -> None:
    """The page of a web server, from the host; then nothing is left, the socket neither."""
    before = machine.traces()
    box = machine.container("olga", "-p", f"{ADDRESS}:18082:80", network=NETWORK, command=SERVE)
    until(lambda: machine.get(18082) == "hello\n", 10)  # it may not listen yet
    assert len(sockets(machine)) == 1
    assert not machine.processes("rootlessport")
    box.remove()
    machine.wait_for_traces(before)


def test_podman_udp(machine: Machine) -> None:
    """The container's server is one of ours in its network namespace; a range is published port by port."""
    ports = ("-p", f"{ADDRESS}:18083:9000/udp", "-p", f"{ADDRESS}:18090-18099:18090-18099")
    box = machine.container("paul", *ports, network=NETWORK)
    inside = Namespace("paul", str(machine.path(Path(f"/proc/{box.inspect('{{.State.Pid}}')}/ns/net"))))
    with inside.socket() as server, machine.socket() as client:
        server.bind(("10.0.2.100", 9000))
        client.sendto(b"hello", (ADDRESS, 18083))
        received, source = server.recvfrom(100)
        server.sendto(received[::-1], source)
        assert client.recvfrom(100) == (b"olleh", (ADDRESS, 18083))
    with inside.socket(kind=socket.SOCK_STREAM) as server, machine.socket(kind=socket.SOCK_STREAM) as stream:
        server.bind(("10.0.2.100", 18099))
        server.listen()
        stream.connect((ADDRESS, 18099))
        server.accept()[0].close()
        assert stream.recv(1) == b""


def test_podman_says_which_port_is_taken(machine: Machine) -> None:
    before = machine.traces()
    taken = machine.socket(kind=socket.SOCK_STREAM)
    taken.bind((ADDRESS, 18084))
    taken.listen()
    arguments = machine.podman_run("quin", "-p", f"{ADDRESS}:18084:80", network=NETWORK)
    done = machine.podman(*arguments, env=machine.variables("quin"), check=False)
    assert done.returncode == 126
    assert "slirp_add_hostfwd failed" in done.stderr
    machine.podman("rm", "--force", "quin")
    until(lambda: not machine.ours(), 5)
    assert machine.nodes().keys() == set(before["nodes"])


def test_podmans_restart_has_its_port_again(machine: Machine, containers_conf: None) -> None:
    """The old node may still be logging out."""
    options = ("--restart=always", "-p", f"{ADDRESS}:18085:80")
    box = machine.container("rosa", *options, network=NETWORK, tool=None, command=SERVE)
    until(lambda: machine.get(18085) == "hello\n", 10)
    machine.kill([int(box.inspect("{{.State.Pid}}"))])
    until(lambda: box.inspect("{{.State.Status}} {{.RestartCount}}") == "running 1", 20)
    until(lambda: machine.get(18085) == "hello\n", 10)
    assert len(sockets(machine)) == 1


def test_rootlesskit(machine: Machine) -> None:
    ports = ("--port-driver=slirp4netns", "-p", f"{ADDRESS}:18086:80/tcp")
    start(machine, "saul", *ports, script=f"exec {sys.executable} -I -m http.server --bind 0.0.0.0 80")
    until(lambda: "Directory listing" in machine.get(18086), 30)
