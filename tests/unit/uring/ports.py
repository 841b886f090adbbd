# SPDX-License-Identifier: BSD-3-Clause
"""Two compiled ports, each with a pair of Unix sockets for its TUN, and a loopback interface for the world.

frames ─► alice's TUN ─► port ─► UDP ─► port ─► bob's TUN ─► frames
"""

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.filters import open_filter
from tests.unit.uring.test_reference import ALICE, BOB
from ts4nsnet.endpoint import to_endpoint
from ts4nsnet.sockets import open_socket
from ts4nsnet.uring.backends import open_port
from ts4nsnet.uring.segment import segment
from ts4nsnet.wireguard import AllowedIPs, Keypair, Seal, SessionMemory
from ts4nsnet.wireguard.handshake import TransportKeys
from ts4nsnet.wireguard.sessions import Roamed

pipeline = pytest.importorskip("ts4nsnet.uring.pipeline", reason="the engine is not compiled")
sessions = pytest.importorskip("ts4nsnet.uring.sessions", reason="the engine is not compiled")

DISABLED = Path("/proc/sys/kernel/io_uring_disabled")
MTU = 1280
FIRST, SECOND = bytes(range(32)), bytes(range(32, 64))


class End:
    """One port, and the container's side of its TUN.

    Args:
        other: the other container's address.
        control: see `Port`.
        tun: an fd to be used instead of the socket.
        vnet_hdr: whether frames have one.
        open_sock: makes the UDP socket.
    """

    def __init__(
        self,
        engine: str,
        opened: ExitStack,
        other: bytes,
        control: int = -1,
        *,
        tun: int = -1,
        vnet_hdr: bool = True,
        open_sock: Callable[[], socket.socket] = lambda: open_socket(0),
    ) -> None:
        ours, self.container = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.vnet_hdr = vnet_hdr
        self.sock = open_sock()
        for each in (ours, self.container, self.sock):
            opened.enter_context(closing(each))
        ours.setblocking(False)
        self.container.settimeout(5)
        routes = AllowedIPs()
        routes.set(1, [ip_network(other)])
        self.pipeline = pipeline.Pipeline(
            sessions.Sessions(SessionMemory(bytearray(SessionMemory.size(2))), roaming=False),
            routes,
            open_filter(),
            mtu=MTU,
            vnet_hdr=vnet_hdr,
        )
        self.port = open_port(engine, self.pipeline, ours.fileno() if tun < 0 else tun, self.sock, print, control)

    @property
    def endpoint(self) -> bytes:
        return to_endpoint(("::1", self.sock.getsockname()[1], 0, 0))

    def know(self, endpoint: bytes, keys: TransportKeys, *, initiator: bool, now: float) -> None:
        """Have a session with the other side, who is there."""
        self.port.apply(Keypair(1, 7 + initiator, 8 - initiator, keys, initiator, now), now)
        self.port.apply(Roamed(1, endpoint), now)

    def written(self) -> list[bytes]:
        """The packets that the container has got."""
        self.container.setblocking(False)
        packets: list[bytes] = []
        while True:
            try:
                frame = self.container.recv(1 << 17)
                packets += segment(frame) if self.vnet_hdr else [frame]
            except BlockingIOError:
                return packets


class Ends:
    """Alice and bob; `options` are an `End`'s, but for `tun`, which is bob's alone."""

    def __init__(self, engine: str, opened: ExitStack, tun: int = -1, **options: Any) -> None:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.alice = End(engine, opened, BOB, **options)
        self.bob = End(engine, opened, ALICE, tun=tun, **options)
        self.alice.know(self.bob.endpoint, TransportKeys(FIRST, SECOND), initiator=True, now=now)
        self.bob.know(self.alice.endpoint, TransportKeys(SECOND, FIRST), initiator=False, now=now)
        self.now = now
        # the called side may send once it has heard something
        self.alice.port.apply(Seal(1, (b"",)), now)
        self.carry()
        while self.bob.port.next_event() is not None:
            pass

    def carry(self) -> None:
        """Let both carry what there is; loopback has delivered a datagram when the send returns."""
        for _ in range(3):
            for end in (self.alice, self.bob):
                end.port.carry(0)


def skip_unless_it_works(engine: str) -> None:
    """io_uring may be off on this machine."""
    if engine == "uring" and DISABLED.exists() and DISABLED.read_text().strip() != "0":
        pytest.skip("io_uring is off on this machine")
