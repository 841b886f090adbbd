# SPDX-License-Identifier: BSD-3-Clause
"""Ours against Debian's wireguard-go, and against ours: real packets through real namespaces.

alice (ours) ── 192.0.2.1 ──── 192.0.2.2 ── bob (wireguard-go, or ours)
    box-alice  10.9.0.1, fd09::1 ═══ tunnel ═══ 10.9.0.2, fd09::2
"""

import hashlib
import random
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Self

import pytest

from tests.interop.wireguard_peers import ALICE, BOB, PORT, Ours, WireGuardGo, WireGuardPeer
from tests.processes import Namespace
from tests.topology import Topology
from tests.waiting import until
from ts4nsnet.keys import PrivateKey
from ts4nsnet.wireguard.cookies import CookieGenerator
from ts4nsnet.wireguard.handshake import Initiator
from ts4nsnet.wireguard.messages import CookieReply

OUTER = {"alice": "192.0.2.1", "bob": "192.0.2.2"}
MEGABYTE = 1_000_000
TRANSFER_BYTES = 100 * MEGABYTE
TIME_LIMIT = 60.0  # seconds
TRANSFER_TIME = 120.0  # seconds; catches a hang


class Tunnel:
    """Two peers that know each other; Alice is ours."""

    def __init__(self, topology: Topology, other: type[WireGuardPeer]) -> None:
        self.topology = topology
        alice, bob = topology.host("alice"), topology.host("bob")
        self.link = topology.link(alice, f"{OUTER['alice']}/24", bob, f"{OUTER['bob']}/24")
        self.alice = Ours(topology, alice, ALICE, BOB)
        self.bob = other(topology, bob, BOB, ALICE)  # type: ignore[call-arg, arg-type]
        self.alice.start()
        self.bob.start()


@pytest.fixture(params=[WireGuardGo, Ours], ids=["wireguard-go", "ours"])
def tunnel(request: pytest.FixtureRequest, topology: Topology) -> Iterator[Tunnel]:
    """A tunnel with each make of Bob; who knows whom is the test's to say."""
    tunnel = Tunnel(topology, request.param)
    yield tunnel
    tunnel.alice.stop()
    tunnel.bob.stop()


def ping(peer: WireGuardPeer, *, wait: int = 5) -> None:
    """Ping the other side through the tunnel, over both families; the first answer may take `wait` seconds."""
    for address in (peer.other.v4, peer.other.v6):
        peer.inside.run("ping", "-c", "1", "-W", str(wait), address, timeout=30)


def ping_until_answered(peer: WireGuardPeer, seconds: int) -> None:
    """Ping once a second until there is an answer, as traffic that goes on would."""
    peer.inside.run("ping", "-c", "1", "-w", str(seconds), peer.other.v4, timeout=seconds + 5)


class Transfer:
    """A TCP transfer in the background: `size` bytes, or until `stop` is called where that is None."""

    def __init__(self, sender: Namespace, receiver: Namespace, address: str, size: int | None) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = receiver.socket(family, socket.SOCK_STREAM)
        self._listener.bind((address, 0))
        self._listener.listen()
        self._client = sender.socket(family, socket.SOCK_STREAM)
        for sock in (self._listener, self._client):
            sock.settimeout(TRANSFER_TIME)
        self._address = self._listener.getsockname()[:2]
        self._size = size
        self._stopped = threading.Event()
        self._digests: dict[str, tuple[int, bytes]] = {}
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        pattern = random.Random(7).randbytes(MEGABYTE)
        digest = hashlib.sha256()
        sent = 0
        self._client.connect(self._address)
        while sent != self._size and not self._stopped.is_set():
            piece = pattern if self._size is None else pattern[: self._size - sent]
            try:
                self._client.sendall(piece)
            except OSError:
                if self._stopped.is_set():  # the test is over, in whatever way, and has closed it
                    return
                raise
            digest.update(piece)
            sent += len(piece)
        self._client.close()
        self._digests["sent"] = (sent, digest.digest())

    def _receive(self) -> None:
        digest = hashlib.sha256()
        received = 0
        connection, _ = self._listener.accept()
        connection.settimeout(TRANSFER_TIME)
        with connection:
            while piece := connection.recv(1 << 18):
                digest.update(piece)
                received += len(piece)
        self._digests["received"] = (received, digest.digest())

    def stop(self) -> None:
        """Send no more."""
        self._stopped.set()

    def finish(self) -> None:
        """Wait for the end, and compare what was sent with what has come."""
        for thread in self._threads:
            thread.join(TRANSFER_TIME)
        assert self._digests.get("received", "nothing") == self._digests.get("sent", "unfinished")


def keypairs_made(peer: Ours) -> int:
    """How many handshakes have succeeded."""
    made: int = peer.statistics()["device"]["keypairs_made"]
    return made


def rekey(caller: Ours, peer: Ours) -> None:
    """Have one side make a new keypair, until `peer` has it."""
    before = keypairs_made(peer)

    def made() -> bool:
        # again: what a called side wants before the caller's first message, the new keypair has given it already
        caller.rekey()
        return keypairs_made(peer) > before

    until(made, TIME_LIMIT)


# --- handshakes and transfers ---------------------------------------------------------------------------------


def test_alice_calls(tunnel: Tunnel) -> None:
    tunnel.bob.know(None)
    tunnel.alice.know(OUTER["bob"])
    ping(tunnel.alice)
    ping(tunnel.bob)


def test_bob_calls(tunnel: Tunnel) -> None:
    tunnel.alice.know(None)
    tunnel.bob.know(OUTER["alice"])
    ping(tunnel.bob)
    ping(tunnel.alice)


@pytest.mark.parametrize("caller", ["alice", "bob"])
def test_preshared_key(tunnel: Tunnel, caller: str) -> None:
    secret = bytes(range(32))
    tunnel.alice.know(OUTER["bob"], secret)
    tunnel.bob.know(OUTER["alice"], secret)
    ping(tunnel.alice if caller == "alice" else tunnel.bob)


def test_another_preshared_key_gets_nothing_through(tunnel: Tunnel) -> None:
    tunnel.alice.know(OUTER["bob"], bytes(range(32)))
    tunnel.bob.know(OUTER["alice"])
    pinged = tunnel.alice.inside.run("ping", "-c", "1", "-W", "1", BOB.v4, check=False)
    assert pinged.returncode == 1
    assert tunnel.alice.statistics()["device"]["dropped"] == {"response invalid": 1}


def test_transfer_to_bob(tunnel: Tunnel) -> None:
    tunnel.bob.know(None)
    tunnel.alice.know(OUTER["bob"])
    Transfer(tunnel.alice.inside, tunnel.bob.inside, BOB.v4, TRANSFER_BYTES).finish()


def test_transfer_to_alice(tunnel: Tunnel) -> None:
    tunnel.bob.know(None)
    tunnel.alice.know(OUTER["bob"])
    ping(tunnel.alice)
    Transfer(tunnel.bob.inside, tunnel.alice.inside, ALICE.v6, TRANSFER_BYTES).finish()


def test_rekeys_during_a_transfer(tunnel: Tunnel) -> None:
    tunnel.bob.know(OUTER["alice"])
    tunnel.alice.know(OUTER["bob"])
    transfer = Transfer(tunnel.alice.inside, tunnel.bob.inside, BOB.v4, None)
    until(lambda: keypairs_made(tunnel.alice) == 1, TIME_LIMIT)
    rekey(tunnel.alice, tunnel.alice)
    rekey(tunnel.bob if isinstance(tunnel.bob, Ours) else tunnel.alice, tunnel.alice)
    transfer.stop()
    transfer.finish()
    assert "replayed" not in tunnel.alice.statistics()["sessions"]["dropped"]


# --- restarts and roaming -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alice", "bob"])
def test_restarted_side_calls_again(tunnel: Tunnel, name: str) -> None:
    tunnel.alice.know(OUTER["bob"])
    tunnel.bob.know(OUTER["alice"])
    ping(tunnel.alice)
    restarted, other = (tunnel.alice, tunnel.bob) if name == "alice" else (tunnel.bob, tunnel.alice)
    restarted.stop()
    restarted.start()
    restarted.know(OUTER[other.own.name])
    ping(restarted)
    ping(other)


def test_silence_of_a_restarted_bob_makes_alice_call_again(topology: Topology) -> None:
    tunnel = Tunnel(topology, WireGuardGo)
    tunnel.alice.know(OUTER["bob"])
    tunnel.bob.know(None)
    ping(tunnel.alice)
    tunnel.bob.stop()
    tunnel.bob.start()
    tunnel.bob.know(None)
    ping_until_answered(tunnel.alice, seconds=60)
    assert keypairs_made(tunnel.alice) == 2
    tunnel.alice.stop()
    tunnel.bob.stop()


@pytest.mark.parametrize("name", ["alice", "bob"])
def test_address_change(tunnel: Tunnel, name: str) -> None:
    tunnel.alice.know(OUTER["bob"])
    tunnel.bob.know(OUTER["alice"])
    ping(tunnel.alice)
    roaming, other = (tunnel.alice, tunnel.bob) if name == "alice" else (tunnel.bob, tunnel.alice)
    roaming.host.set_address(f"{OUTER[name]}/24", "192.0.2.77/24")
    if isinstance(roaming, WireGuardGo):
        # it goes on using its old source address: this kernel says ENETUNREACH where it waits for EINVAL
        roaming.know(OUTER[other.own.name])
    ping(roaming)
    ping(other)
    assert keypairs_made(tunnel.alice) == 1


def test_address_change_during_a_transfer(tunnel: Tunnel) -> None:
    tunnel.alice.know(OUTER["bob"])
    tunnel.bob.know(OUTER["alice"])
    ping(tunnel.alice)
    transfer = Transfer(tunnel.alice.inside, tunnel.bob.inside, BOB.v4, 30 * MEGABYTE)
    tunnel.alice.host.set_address(f"{OUTER['alice']}/24", "192.0.2.77/24")
    transfer.finish()


# --- cookies --------------------------------------------------------------------------------------------------


class Flood:
    """Initiations with a valid mac1, from a stranger on the other host, as many as `burst` at a time."""

    def __init__(self, source: Namespace, victim: WireGuardPeer, burst: int) -> None:
        stranger = PrivateKey(bytes(range(65, 97)))
        key = victim.own.key.public
        initiation, _ = Initiator.create(stranger, key, stranger.exchange(key), stranger, bytes(12), 7)
        self._datagram = CookieGenerator(key).complete(initiation.emit(), 0.0)
        self._socket = source.socket()
        self._victim = victim
        self._burst = burst
        self._ended = threading.Event()
        self.answers = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._attack()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.25):
            self._attack()

    def _attack(self) -> None:
        # a stopped wireguard-go finds all of them in its queue at once, which is what it calls load
        process = self._victim.process if isinstance(self._victim, WireGuardGo) else None
        if process:
            process.send_signal(signal.SIGSTOP)
        for _ in range(self._burst):
            self._socket.sendto(self._datagram, (OUTER[self._victim.own.name], PORT))
        if process:
            process.send_signal(signal.SIGCONT)
        self._socket.setblocking(False)
        with suppress(BlockingIOError):
            while len(self._socket.recv(200)) == CookieReply.SIZE:
                self.answers += 1


def test_cookie_from_bob_under_a_flood(tunnel: Tunnel) -> None:
    tunnel.bob.know(None)
    with Flood(tunnel.alice.host, tunnel.bob, burst=230) as flood:
        tunnel.alice.know(OUTER["bob"])
        ping(tunnel.alice, wait=15)
        assert tunnel.alice.statistics()["device"]["cookies_received"] >= 1
    assert flood.answers > 0


def test_cookie_to_bob_under_a_flood(tunnel: Tunnel) -> None:
    tunnel.alice.know(None)
    with Flood(tunnel.bob.host, tunnel.alice, burst=230) as flood:
        tunnel.bob.know(OUTER["alice"])
        ping(tunnel.bob, wait=15)
        statistics = tunnel.alice.statistics()["device"]
    assert statistics["cookies_sent"] > flood.answers > 0
    assert statistics["keypairs_made"] == 1
