# SPDX-License-Identifier: BSD-3-Clause
"""What the kernel makes of our ICMP: who has no way is told at once, who sends too much learns what fits.

A container's TUN is served by a thread that answers every packet with what `answer` makes of it, and carries none.
"""

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from statistics import median

import pytest

from tests.topology import Container, Topology
from ts4nsnet.filter import answers
from ts4nsnet.netns import Link, Route, Target, configure, open_tun
from ts4nsnet.packet import parse_ip
from ts4nsnet.uring.segment import VnetHeader, segment

FOUR, SIX = "100.64.0.7", "fd7a:115c:a1e0::7"
NOWHERE = {socket.AF_INET: "198.51.100.9", socket.AF_INET6: "2001:db8::9"}
FAMILIES = [socket.AF_INET, socket.AF_INET6]
LINK = Link("tap0", (FOUR, SIX), (Route("0.0.0.0/0", priority=1000), Route("::/0", priority=1000)))
REFUSED = {socket.AF_INET: errno.EHOSTUNREACH, socket.AF_INET6: errno.EACCES}
AT_ONCE = 0.05  # seconds
MTU = 1300
# IP_MTU_DISCOVER and IPV6_MTU_DISCOVER, and two of their values: <linux/in.h>, <linux/in6.h>
MTU_DISCOVER = {socket.AF_INET: (socket.IPPROTO_IP, 10), socket.AF_INET6: (socket.IPPROTO_IPV6, 23)}
DONT, WANT = 0, 1

Answer = Callable[[bytes], bytes | None]


@contextmanager
def served(box: Container, answer: Answer) -> Iterator[threading.Semaphore]:
    """Within the block, answer what the container sends; gives one permit for each answer that the kernel has taken."""
    target, answered = Target(box.pid), threading.Semaphore(0)
    with closing(open_tun(target, "tap0")) as tun, closing(os.fdopen(os.eventfd(0), "r+b", 0)) as stop:
        configure(target, LINK)

        def serve() -> None:
            while stop.fileno() not in select.select([tun.fds[0], stop.fileno()], [], [])[0]:
                for packet in segment(os.read(tun.fds[0], 1 << 17)):
                    reply = answer(packet)
                    if reply is not None:
                        os.write(tun.fds[0], VnetHeader().emit() + reply)
                        answered.release()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield answered
        finally:
            os.eventfd_write(stop.fileno(), 1)
            thread.join()


def failing(call: Callable[[], object]) -> tuple[float, int | None]:
    """How long a call takes to fail, and with what."""
    begin = time.monotonic()
    try:
        call()
    except OSError as error:
        return time.monotonic() - begin, error.errno
    raise AssertionError("it did not fail")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_connection_without_a_way_fails_at_once(topology: Topology, family: socket.AddressFamily) -> None:
    box = topology.container("box")
    with served(box, answers.refusal):
        clients = [box.socket(family, socket.SOCK_STREAM) for _ in range(5)]
        failures = [failing(lambda client=client: client.connect((NOWHERE[family], 80))) for client in clients]  # type: ignore[misc]
    assert {error for _, error in failures} == {REFUSED[family]}
    assert median(took for took, _ in failures) < AT_ONCE


@pytest.mark.parametrize("family", FAMILIES)
def test_a_datagram_without_a_way_fails_at_once(topology: Topology, family: socket.AddressFamily) -> None:
    box = topology.container("box")
    client = box.socket(family, socket.SOCK_DGRAM)

    def ask() -> None:
        client.send(b"name")
        client.recv(100)

    with served(box, answers.refusal):
        client.connect((NOWHERE[family], 53))
        failures = [failing(ask) for _ in range(5)]
    assert {error for _, error in failures} == {REFUSED[family]}
    assert median(took for took, _ in failures) < AT_ONCE


@pytest.mark.parametrize(
    ("family", "discover"), [(socket.AF_INET, DONT), (socket.AF_INET, WANT), (socket.AF_INET6, WANT)]
)
def test_the_kernel_learns_what_fits(topology: Topology, family: socket.AddressFamily, discover: int) -> None:
    """Also where it may fragment IPv4 anyway: it then does so itself from the next datagram on."""
    box, sizes = topology.container("box"), list[int]()

    def answer(packet: bytes) -> bytes | None:
        if parse_ip(packet).destination != socket.inet_pton(family, NOWHERE[family]):
            return None  # what the kernel says for itself
        sizes.append(len(packet))
        return answers.too_big(packet, MTU) if len(packet) > MTU else answers.refusal(packet)

    client = box.socket(family, socket.SOCK_DGRAM)
    level, mtu_discover = MTU_DISCOVER[family]
    client.setsockopt(level, mtu_discover, discover)
    with served(box, answer) as answered:
        client.connect((NOWHERE[family], 9))
        client.send(bytes(3000))
        assert answered.acquire(timeout=10)
        client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # some are told so, which is not what is asked here
        client.send(bytes(3000))
        assert answered.acquire(timeout=10)
    assert sizes[0] > MTU >= max(sizes[1:])


def test_a_service_answers_pings(topology: Topology) -> None:
    box = topology.container("box")
    with served(box, answers.echo_reply):
        for service in ("100.100.100.100", "fd7a:115c:a1e0::53"):
            assert "1 received" in box.run("ping", "-c", "1", "-W", "5", service).stdout
