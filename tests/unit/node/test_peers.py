# SPDX-License-Identifier: BSD-3-Clause
"""Peers: set, removed and started anew in WireGuard and the transport together."""

from dataclasses import replace
from ipaddress import ip_address, ip_network
from random import Random

import pytest

from tests.unit.wireguard.pair import START, WALL_START
from ts4nsnet.control import Node
from ts4nsnet.endpoint import ip_endpoint
from ts4nsnet.keys import PrivateKey, PublicKey
from ts4nsnet.magicsock import Path, PeerPaths
from ts4nsnet.node.peers import Peers
from ts4nsnet.node.wiring import Changes, wired_peer
from ts4nsnet.wireguard import AllowedIPs, Device, SessionMemory
from ts4nsnet.wireguard.sessions import KeysZeroed

WALL = 1_800_000_000.0


def key(number: int) -> PublicKey:
    return PublicKey(number.to_bytes(32, "big"))


BOB = Node(2, key=key(2), disco_key=key(20), addresses=(ip_address("100.64.0.2"),), home_derp=1)
GATE = Node(3, key=key(3), addresses=(ip_address("100.64.0.3"),), home_derp=1, allowed_ips=(ip_network("0.0.0.0/0"),))


class Wired:
    """Peers, and a transport that remembers what it was told."""

    def __init__(self, room: int = 8) -> None:
        random = Random(7)
        self.memory = SessionMemory(bytearray(SessionMemory.size(room)))
        self.device = Device(PrivateKey(random.randbytes(32)), self.memory, random.randbytes, lambda: WALL_START)
        self.told: list[str] = []
        self.known: dict[PublicKey, PeerPaths] = {}
        self.direct: set[PublicKey] = set()
        self.routes = AllowedIPs()
        self.peers = Peers(self.device, self.memory, self, self.told.append)

    def set_peer(self, paths: PeerPaths, now: float) -> None:
        self.known[paths.key] = paths

    def remove_peer(self, key: PublicKey) -> None:
        del self.known[key]

    def path(self, key: PublicKey) -> Path | None:
        return Path(ip_endpoint(ip_address("192.0.2.1"), 5), key in self.direct, 0.01, True)

    def apply(self, *nodes: Node, removed: tuple[PublicKey, ...] = ()) -> None:
        wired = tuple(wired_peer(node, is_exit=node is GATE) for node in nodes)
        for number, prefixes in self.peers.apply(Changes(removed, wired), START).items():
            self.routes.set(number, prefixes)

    @property
    def agrees(self) -> bool:
        """Whether who follows the routes knows what the device knows."""
        return all(self.routes.prefixes(number) == self.device.routes.prefixes(number) for number in range(8))

    def commands(self) -> list[object]:
        found: list[object] = []
        while (command := self.device.next_event()) is not None:
            found.append(command)
        return found


def test_peers_are_known_to_both_and_forgotten_by_both() -> None:
    wired = Wired()
    wired.apply(BOB, GATE)
    number = wired.device.routes.lookup(BOB.addresses[0].packed)
    assert number is not None
    assert wired.peers.key(number) == BOB.key
    assert set(wired.known) == {BOB.key, GATE.key}
    assert wired.peers.exits == {wired.device.routes.lookup(ip_address("9.9.9.9").packed)}
    wired.apply(removed=(BOB.key, GATE.key))
    assert wired.known == {}
    assert wired.peers.key(number) is None
    assert wired.peers.exits == frozenset()
    assert wired.device.routes.lookup(BOB.addresses[0].packed) is None


def test_routes_are_told_in_an_order_that_can_be_followed() -> None:
    wired = Wired()
    wired.apply(BOB, replace(GATE, allowed_ips=(ip_network("10.0.0.0/8"),)))
    assert wired.agrees
    wired.apply(replace(BOB, allowed_ips=(ip_network("10.0.0.0/8"),)))  # moves
    assert wired.agrees
    wired.apply(replace(BOB, key=key(9)), removed=(BOB.key,))
    assert wired.agrees
    wired.apply(replace(BOB, key=key(9), disco_key=key(21)))
    assert wired.agrees


def test_exit_node_that_is_one_no_longer() -> None:
    wired = Wired()
    wired.apply(GATE)
    wired.apply(replace(GATE, allowed_ips=()))
    assert wired.peers.exits == frozenset()


def test_peer_that_was_started_anew_gets_a_new_session() -> None:
    wired = Wired()
    wired.apply(BOB)
    wired.commands()
    wired.apply(replace(BOB, disco_key=key(21)))
    assert any(isinstance(command, KeysZeroed) for command in wired.commands())
    assert wired.known[BOB.key].disco_key == key(21)


@pytest.mark.parametrize("before", [BOB, replace(BOB, disco_key=PublicKey(bytes(32)))])
def test_what_is_no_new_start_leaves_the_session(before: Node) -> None:
    wired = Wired()
    wired.apply(before)
    wired.commands()
    wired.apply(replace(BOB, home_derp=2))
    assert wired.commands() == []


def test_peers_for_whom_there_is_no_room_are_told() -> None:
    wired = Wired(room=1)
    wired.apply(BOB, GATE)
    assert set(wired.known) == {BOB.key}
    assert wired.told[0].startswith("left out of the tailnet: ")


def test_states_are_in_wall_time() -> None:
    wired = Wired()
    wired.apply(BOB, GATE)
    wired.direct.add(BOB.key)
    number = wired.device.routes.lookup(BOB.addresses[0].packed)
    assert number is not None
    record = wired.memory.peer(number)
    record.sent_at, record.sent_bytes, record.received_bytes, record.current = START, 7, 5, 1
    wired.memory.keypair(number, 1).created_at = START - 10
    states = wired.peers.states(START + 60, WALL)
    bob, gate = states[BOB.key], states[GATE.key]
    assert (bob.cur_addr, bob.tx_bytes, bob.rx_bytes, bob.active) == ("192.0.2.1:5", 7, 5, True)
    assert (bob.last_write, bob.last_handshake) == (WALL - 60, WALL - 70)
    assert (gate.cur_addr, gate.last_write, gate.last_handshake, gate.active) == ("", None, None, False)
    assert not wired.peers.states(START + 121, WALL)[BOB.key].active
