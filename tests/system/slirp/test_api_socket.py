# SPDX-License-Identifier: BSD-3-Clause
"""--api-socket: the original's answers, and ports of the host that lead into the container."""

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.api_requests import ADD, REFUSED
from tests.processes import Process
from tests.system.machine import ADDRESS, Machine, Started
from tests.topology import Container
from tests.waiting import until

Start = Callable[[], Started]
TIME_LIMIT = 10.0
GUEST = "10.0.2.100"
PORT, GUEST_PORT = 8080, 80
# what is done, in this order; the answers are the original's
DIALOGUE: list[str] = [
    '{"execute":"list_hostfwd"}',
    ADD % '{"proto":"tcp","host_port":8080,"guest_port":80}',
    ADD % '{"proto":"tcp","host_addr":"127.0.0.1","host_port":8080,"guest_port":80}',
    ADD % '{"proto":"udp","host_addr":"127.0.0.1","host_port":8080,"guest_addr":"10.0.2.99","guest_port":53.9}',
    ADD % '{"proto":"udp","host_addr":"127.0.0.1","host_port":8080,"guest_port":53}',
    ADD % '{"proto":"tcp","host_addr":"192.0.2.77","host_port":8081,"guest_port":80}',
    ADD % '{"proto":"tcp","host_addr":"","host_port":8081,"guest_addr":"","guest_port":80}',
    '{"execute":"list_hostfwd"} and more',
    '{"execute":"remove_hostfwd","arguments":{"id":1}}',
    '{"execute":"remove_hostfwd","arguments":{"id":1}}',
    '{"execute":"remove_hostfwd","arguments":{"id":"2"}}',
    '{"execute":"remove_hostfwd"}',
    ADD % '{"proto":"tcp","host_addr":"127.0.0.1","host_port":8080,"guest_port":80}',
    '{"execute":"list_hostfwd"}',
]


def ask(path: Path, *segments: bytes, end: bool = True) -> bytes:
    """The answer to a request."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(TIME_LIMIT)
        sock.connect(str(path))
        for segment in segments:
            sock.sendall(segment)
        if end:
            sock.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while chunk := sock.recv(1 << 16):
                answer += chunk
        except ConnectionResetError:  # as with the original, when it has not read all
            pass
        return answer


def publish(path: Path, proto: str, port: int = PORT) -> int:
    arguments = json.dumps({"proto": proto, "host_addr": ADDRESS, "host_port": port, "guest_port": GUEST_PORT})
    answer: dict[str, Any] = json.loads(ask(path, (ADD % arguments).encode()))
    number: int = answer["return"]["id"]
    return number


@pytest.fixture
def box(machine: Machine, request: pytest.FixtureRequest) -> Container:
    """A container of the test's own."""
    names = request.node.name.removeprefix("test_").partition("[")[0].split("_")
    return machine.container("-".join(names)[:15].rstrip("-"))


@pytest.fixture
def path(machine: Machine, box: Container) -> Path:
    """Where the API socket is to be."""
    return machine.folder / f"{box.name}.sock"


@pytest.fixture
def start(machine: Machine, box: Container, path: Path) -> Iterator[Start]:
    """Starts a node in the container; it leaves with the test."""
    nodes: list[Started] = []

    def start() -> Started:
        nodes.append(machine.start(box, "--api-socket", str(path), str(box.pid), "tap0"))
        nodes[-1].wait_until_ready()
        return nodes[-1]

    yield start
    for node in nodes:
        node.leave()


def listen(box: Container) -> socket.socket:
    """What listens in the container."""
    listener = box.socket(kind=socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((GUEST, GUEST_PORT))
    listener.listen()
    return listener


@contextmanager
def connected(machine: Machine, listener: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection to the published port: the client's end and that in the container."""
    client = machine.host.socket(kind=socket.SOCK_STREAM)
    client.connect((ADDRESS, PORT))
    inner, (source, _) = listener.accept()
    assert source == GUEST  # as with podman's own port handler
    with client, inner:
        inner.settimeout(TIME_LIMIT)
        yield client, inner


# --- the original ---------------------------------------------------------------------------------------------------


@contextmanager
def original(machine: Machine, box: Container, path: Path) -> Iterator[Process]:
    """The real slirp4netns."""
    program = shutil.which("slirp4netns")
    if program is None:
        pytest.skip("slirp4netns is not installed: apt-get install slirp4netns")
    ready, theirs = os.pipe()
    command = [program, "-c", "-r", str(theirs), "--api-socket", str(path), str(box.pid), "tap0"]
    process = machine.host.start(*command, pass_fds=[theirs])
    os.close(theirs)
    with open(ready, "rb", 0) as file:
        assert file.read(1) == b"1", process.output
    yield process
    process.stop()


def test_answers_of_the_original(machine: Machine, path: Path, start: Start) -> None:
    machine.host.run("ip", "link", "set", "lo", "up")
    dialogue = [data for data, _ in REFUSED] + [text.encode() for text in DIALOGUE]
    with original(machine, machine.container("original"), path):
        want = [ask(path, data) for data in dialogue]
    start()
    for data, answer in zip(dialogue, want, strict=True):
        assert ask(path, data) == answer, data
    assert b"slirp_add_hostfwd failed" in b"".join(want)


# --- ports ----------------------------------------------------------------------------------------------------------


def test_tcp(machine: Machine, box: Container, path: Path, start: Start) -> None:
    """All bytes, both ways at once, and the end of one direction before that of the other."""
    start()
    number = publish(path, "tcp")
    data = os.urandom(8 << 20)
    with connected(machine, listen(box)) as ends, ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(end.sendall, data) for end in ends]
        received = [pool.submit(read, end, len(data)) for end in ends]
        assert [future.result(30) for future in received] == [data, data]
        assert [future.result(30) for future in sent] == [None, None]
        ends[0].shutdown(socket.SHUT_WR)
        assert ends[1].recv(1) == b""
        ends[1].sendall(b"still here")
        assert read(ends[0], 10) == b"still here"
    assert ask(path, b'{"execute":"remove_hostfwd","arguments":{"id":%d}}' % number) == b'{"return":{}}'
    with pytest.raises(ConnectionRefusedError):
        machine.host.socket(kind=socket.SOCK_STREAM).connect((ADDRESS, PORT))


def read(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (chunk := sock.recv(1 << 16)):
        data += chunk
    return bytes(data)


def test_nobody_listens(machine: Machine, path: Path, start: Start) -> None:
    start()
    publish(path, "tcp")
    client = machine.host.socket(kind=socket.SOCK_STREAM)
    client.connect((ADDRESS, PORT))
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_udp(machine: Machine, box: Container, path: Path, start: Start) -> None:
    """Each client has its own answers."""
    start()
    publish(path, "udp")
    server = box.socket()
    server.bind((GUEST, GUEST_PORT))
    sources = set()
    for text in (b"one", b"two", b"x" * 5000):
        client = machine.host.socket()
        client.sendto(text, (ADDRESS, PORT))
        received, source = server.recvfrom(10_000)
        assert received == text
        server.sendto(text[::-1], source)
        assert client.recvfrom(10_000) == (text[::-1], (ADDRESS, PORT))
        sources.add(source)
    assert len(sources) == 3


def test_a_port_for_the_privileged(path: Path, start: Start) -> None:
    """As the original's sandbox leaves that one capability: who may have port 80 publishes it."""
    start()
    assert publish(path, "tcp", port=80) == 1


def test_a_request_in_pieces(path: Path, start: Start) -> None:
    start()
    request = b'{"execute":"list_hostfwd"}'
    pieces = [request[at : at + 1] for at in range(len(request))]
    assert ask(path, *pieces, end=False) == b'{"entries":[]}'


# --- the end --------------------------------------------------------------------------------------------------------


def test_the_end_leaves_neither_socket_nor_port(machine: Machine, path: Path, start: Start) -> None:
    started = start()
    publish(path, "tcp")
    assert started.leave() == 0
    assert not path.exists()
    with pytest.raises(ConnectionRefusedError):
        machine.host.socket(kind=socket.SOCK_STREAM).connect((ADDRESS, PORT))


def test_the_next_start_has_the_same_path_and_ports_at_once(
    machine: Machine, box: Container, path: Path, start: Start
) -> None:
    """podman restarts a container before its old node has logged out."""
    first = start()
    publish(path, "tcp")
    first.close()
    second = start()
    publish(path, "tcp")
    assert first.process.wait(TIME_LIMIT) == 0
    with connected(machine, listen(box)) as (client, inner):
        client.sendall(b"hello")
        assert inner.recv(10) == b"hello"
    assert ask(path, b'{"execute":"remove_hostfwd","arguments":{"id":1}}') == b'{"return":{}}'
    assert second.leave() == 0


def test_a_node_that_dies_has_its_ports_again(machine: Machine, box: Container, path: Path, start: Start) -> None:
    """Its successor publishes them, by the same numbers."""
    started = start()
    publish(path, "udp")
    publish(path, "tcp")
    assert ask(path, b'{"execute":"remove_hostfwd","arguments":{"id":1}}') == b'{"return":{}}'
    listed = ask(path, b'{"execute":"list_hostfwd"}')
    about = json.loads((started.folder / "about.json").read_text())
    listener = listen(box)
    os.kill(about["node_pid"], signal.SIGKILL)
    until(lambda: "another is started" in started.log, TIME_LIMIT)
    until(lambda: answers(path, listed), TIME_LIMIT)
    with connected(machine, listener) as (client, inner):
        client.sendall(b"hello")
        assert inner.recv(10) == b"hello"


def answers(path: Path, answer: bytes) -> bool:
    try:
        return ask(path, b'{"execute":"list_hostfwd"}') == answer
    except OSError:
        return False


def test_signal(path: Path, start: Start) -> None:
    """The original leaves its socket behind then."""
    started = start()
    started.process.send_signal(signal.SIGTERM)
    assert started.process.wait(TIME_LIMIT) == 0
    assert not path.exists()


def test_a_node_that_must_be_killed_leaves_no_socket(path: Path, start: Start) -> None:
    started = start()
    node = json.loads((started.folder / "about.json").read_text())["node_pid"]
    os.kill(node, signal.SIGSTOP)
    assert started.leave() == 0
    assert not path.exists()


def test_a_socket_that_cannot_be_had(machine: Machine, box: Container) -> None:
    started = machine.start(box, "-a", "/no/such/folder/api.sock", str(box.pid), "tap0")
    assert started.process.wait(TIME_LIMIT) == 1
    said = "--api-socket /no/such/folder/api.sock: cannot listen there: No such file or directory"
    assert said in started.process.output
    assert started.was_never_ready()
