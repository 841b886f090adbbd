# SPDX-License-Identifier: BSD-3-Clause
"""The peers of one node: set and removed in WireGuard and in the transport together, and what is known of them."""

from collections.abc import Callable, Mapping
from typing import Protocol

from ts4nsnet.endpoint import to_text
from ts4nsnet.keys import ZERO_KEY, PublicKey
from ts4nsnet.magicsock import Path, PeerPaths
from ts4nsnet.node.view import PeerState
from ts4nsnet.node.wiring import Changes, Prefix, WiredPeer
from ts4nsnet.wireguard import Device, SessionMemory, WireGuardError

ACTIVE_TIME = 120.0  # seconds since a packet went to a peer; the reference's `tailscale status` says "active" so long


class Ways(Protocol):
    """What is asked of the transport."""

    def set_peer(self, paths: PeerPaths, now: float) -> None:
        """Add a peer that the device has, or change its ways."""

    def remove_peer(self, key: PublicKey) -> None:
        """Forget a peer."""

    def path(self, key: PublicKey) -> Path | None:
        """The way to a peer; None for one that is unknown."""


class Peers:
    """Whoever the netmap has us talk to.

    Args:
        device: WireGuard.
        memory: of its sessions.
        transport: the ways to peers.
        say: takes what a user should read.
    """

    def __init__(self, device: Device, memory: SessionMemory, transport: Ways, say: Callable[[str], None]) -> None:
        self._device = device
        self._memory = memory
        self._transport = transport
        self._say = say
        self._numbers: dict[PublicKey, int] = {}
        self._keys: dict[int, PublicKey] = {}
        self._disco_keys: dict[PublicKey, PublicKey] = {}
        self._exits: set[int] = set()

    @property
    def exits(self) -> frozenset[int]:
        """Numbers of the peers that take what is not the tailnet's."""
        return frozenset(self._exits)

    def apply(self, changes: Changes, now: float) -> dict[int, frozenset[Prefix]]:
        """Do what the netmap's change asks for; the engine and the transport have still to be told.

        Returns: what belongs to the numbers that have changed, in their order; nothing to those that are gone.
        """
        routes: dict[int, frozenset[Prefix]] = {}
        for key in changes.removed:
            self._remove(key, routes)
        for peer in changes.peers:
            try:
                self._set(peer, now, routes)
            except WireGuardError as error:
                self._say(f"left out of the tailnet: {error}")
                break  # there is no room for the others either
        return routes

    def key(self, number: int) -> PublicKey | None:
        """Whose number it is."""
        return self._keys.get(number)

    def number(self, key: PublicKey) -> int | None:
        """A peer's number; None for one that is unknown."""
        return self._numbers.get(key)

    def states(self, now: float, wall: float) -> Mapping[PublicKey, PeerState]:
        """All of them as they are.

        Args:
            now, wall: the same moment by both clocks.
        """
        return {key: self._state(key, number, now, wall - now) for key, number in self._numbers.items()}

    def _remove(self, key: PublicKey, routes: dict[int, frozenset[Prefix]]) -> None:
        number = self._numbers.pop(key, -1)
        routes.pop(number, None)  # so that the order is that of the last change
        routes[number] = frozenset()
        self._exits.discard(number)
        self._keys.pop(number, None)
        self._disco_keys.pop(key, None)
        self._transport.remove_peer(key)
        self._device.remove_peer(key)

    def _set(self, peer: WiredPeer, now: float, routes: dict[int, frozenset[Prefix]]) -> None:
        key, disco_key = peer.paths.key, peer.paths.disco_key
        known = self._disco_keys.get(key, ZERO_KEY)
        if not known.is_zero and known != disco_key:
            # it was started anew and knows nothing of our session, which our timers would see after 15 s
            self._remove(key, routes)
        number = self._device.set_peer(peer.config, now)
        routes.pop(number, None)
        routes[number] = peer.config.allowed_ips
        self._numbers[key], self._keys[number], self._disco_keys[key] = number, key, disco_key
        if any(prefix.prefixlen == 0 for prefix in peer.config.allowed_ips):
            self._exits.add(number)
        else:
            self._exits.discard(number)
        self._transport.set_peer(peer.paths, now)

    def _state(self, key: PublicKey, number: int, now: float, to_wall: float) -> PeerState:
        record = self._memory.peer(number)
        made_at = self._memory.keypair(number, record.current).created_at if record.current else 0.0
        path = self._transport.path(key)
        return PeerState(
            cur_addr=to_text(path.endpoint) if path is not None and path.is_direct else "",
            rx_bytes=record.received_bytes,
            tx_bytes=record.sent_bytes,
            last_handshake=made_at + to_wall if made_at else None,
            last_write=record.sent_at + to_wall if record.sent_at else None,
            active=bool(record.sent_at) and now - record.sent_at < ACTIVE_TIME,
        )
