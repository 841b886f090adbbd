# SPDX-License-Identifier: BSD-3-Clause
"""The socket between node and worker: what waits, what is dropped, and in which order the rest arrives."""

import socket
from collections.abc import Iterator
from contextlib import closing
from select import select
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ts4nsnet.uring.commands import TO_NODE, TO_WORKER, Complete, Heard, Packets, Relayed, RoutesSet, ToNode, ToWorker
from ts4nsnet.uring.events import Local, Slow, Unsealed
from ts4nsnet.uring.link import MAX_PASSING_BYTES, Link
from ts4nsnet.uring.trains import Train
from ts4nsnet.wireguard import RekeyWanted, Seal
from ts4nsnet.wireguard.sessions import Confirmed, KeysZeroed, Roamed

ENDPOINTS = [bytes([number]) * 32 for number in range(3)]
LARGE = bytes(10_000)


class Pair:
    """Both ends."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.node: Link[ToNode] = Link(ours, TO_NODE)
        self.worker: Link[ToWorker] = Link(theirs, TO_WORKER)

    def heard_by_node(self) -> list[ToNode]:
        """All that the worker has said."""
        return _heard(self.worker, self.node)

    def heard_by_worker(self) -> list[ToWorker]:
        """All that the node has said."""
        return _heard(self.node, self.worker)

    def fill(self) -> int:
        """Let the worker say things until the socket has no room for more; returns how many it had to say."""
        said = 0
        while self.worker.flush():
            self.worker.put(Local(said.to_bytes(4, "big") + LARGE))
            said += 1
        return said

    def close(self) -> None:
        """Close both."""
        self.node.sock.close()
        self.worker.sock.close()


def _heard(speaker: Link[Any], listener: Link[Heard]) -> list[Heard]:
    """Let one end hear the other until that has no more to say."""
    heard: list[Heard] = []
    all_sent = False
    while not all_sent or select([listener.sock], [], [], 0)[0]:
        all_sent = speaker.flush()
        heard += listener.receive() or []
    return heard


@pytest.fixture
def pair() -> Iterator[Pair]:
    with closing(Pair()) as made:
        yield made


def test_nothing_is_there(pair: Pair) -> None:
    assert pair.worker.flush()
    assert pair.node.receive() == []


def test_what_is_said_at_once_comes_at_once(pair: Pair) -> None:
    said: list[ToNode] = [Confirmed(1), Roamed(1, ENDPOINTS[1]), Slow(b"a", ENDPOINTS[0]), Local(b"b")]
    for message in said:
        pair.worker.put(message)
    assert pair.worker.flush()
    assert pair.node.receive() == said
    assert pair.node.receive() == []


def test_a_long_message(pair: Pair) -> None:
    long = Packets(tuple(bytes([number]) * 50_000 for number in range(20)))
    pair.node.put(Complete())
    pair.node.put(long)
    pair.node.put(Packets((b"short",)))
    assert pair.heard_by_worker() == [Complete(), long, Packets((b"short",))]


def test_commands_keep_their_order_and_go_before_packets(pair: Pair) -> None:
    commands: list[ToWorker] = [KeysZeroed(1), KeysZeroed(2), Roamed(1, ENDPOINTS[1]), Complete(), KeysZeroed(3)]
    packets: list[ToWorker] = [Seal(4, (b"a",)), Seal(4, (b"b",)), Packets((b"c",))]
    for message in (*packets[:1], *commands[:3], *packets[1:], *commands[3:]):
        pair.node.put(message)
    assert pair.node.flush()
    assert pair.worker.receive() == commands + packets


def test_packets_of_a_forgotten_peer_are_not_sealed_for_who_has_its_number_then(pair: Pair) -> None:
    for message in (Seal(1, (b"old",)), Seal(2, (b"other",)), KeysZeroed(1), Seal(1, (b"new",))):
        pair.node.put(message)
    pair.node.flush()
    assert pair.worker.receive() == [KeysZeroed(1), Seal(2, (b"other",)), Seal(1, (b"new",))]
    assert pair.node.dropped == 1


# --- an end that does not read ------------------------------------------------------------------------------------


def relayed(peer: int, number: int) -> Relayed:
    return Relayed(Train((number.to_bytes(1000, "big"),), 1000, 1, ENDPOINTS[peer]))


@pytest.mark.parametrize("message", [Slow(b"handshake", ENDPOINTS[1]), Unsealed(3, (b"a", b"b")), relayed(1, 7)])
def test_a_flood_for_one_peer_costs_no_other_and_none_waits_behind_it(pair: Pair, message: ToNode) -> None:
    pair.fill()
    for number in range(3 * MAX_PASSING_BYTES // 1000):
        pair.worker.put(relayed(0, number))
    pair.worker.put(message)
    for number in range(3 * MAX_PASSING_BYTES // 1000):
        pair.worker.put(relayed(0, number))
    dropped = pair.worker.dropped
    heard = pair.heard_by_node()
    assert dropped > 4 * MAX_PASSING_BYTES // 1100
    behind = heard[heard.index(message) :]
    assert len(behind) > MAX_PASSING_BYTES // 1200  # of the flood's, which was there before
    assert pair.worker.dropped == dropped


FLOODS = st.lists(st.tuples(st.integers(3, 5), st.sampled_from([1, 30])), max_size=8)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 2), FLOODS), max_size=30))
def test_any_flood_spares_who_has_little(turns: list[tuple[int, list[tuple[int, int]]]]) -> None:
    said: list[Unsealed] = []
    with closing(Pair()) as pair:
        pair.fill()
        for number, (peer, floods) in enumerate([*turns, (0, [(4, 300)])]):
            said.append(Unsealed(peer, (number.to_bytes(1000, "big"),)))
            pair.worker.put(said[-1])
            for flood, packets in floods:
                for _ in range(packets):
                    pair.worker.put(Unsealed(flood, (LARGE,)))
        assert pair.worker.dropped > 100
        heard = [message for message in pair.heard_by_node() if isinstance(message, Unsealed)]
    for peer in range(3):
        assert [each for each in heard if each.peer == peer] == [each for each in said if each.peer == peer]


def test_an_end_that_does_not_read_loses_the_oldest_packets(pair: Pair) -> None:
    said = pair.fill()
    more = 2 * MAX_PASSING_BYTES // len(LARGE)
    for number in range(said, said + more):
        pair.worker.put(Local(number.to_bytes(4, "big") + LARGE))
    dropped = pair.worker.dropped
    assert more // 3 < dropped < more
    numbers = [
        int.from_bytes(message.packet[:4], "big") for message in pair.heard_by_node() if isinstance(message, Local)
    ]
    assert len(numbers) == said + more - dropped
    assert numbers == sorted(numbers)
    assert numbers[-1] == said + more - 1
    assert pair.worker.dropped == dropped


def test_facts_are_not_dropped_and_only_the_last_one_waits(pair: Pair) -> None:
    pair.fill()
    for number in range(9_999):
        pair.worker.put(Roamed(number % 3, ENDPOINTS[number // 3 % 3]))
        pair.worker.put(RekeyWanted(number % 3))
        pair.worker.put(Local(LARGE))
    facts = [message for message in pair.heard_by_node() if not isinstance(message, Local)]
    last = ENDPOINTS[3332 % 3]
    assert facts == [each for peer in range(3) for each in (Roamed(peer, last), RekeyWanted(peer))]


def test_a_fact_that_was_sent_is_sent_anew(pair: Pair) -> None:
    for _ in range(2):
        pair.worker.put(Confirmed(1))
        assert pair.worker.flush()
        assert pair.node.receive() == [Confirmed(1)]


def test_commands_are_never_dropped(pair: Pair) -> None:
    said: list[ToWorker] = []
    for number in range(20_000):
        command = RoutesSet(number, frozenset())
        pair.node.put(command)
        pair.node.put(Packets((LARGE,)))
        said.append(command)
    heard = pair.heard_by_worker()
    assert [message for message in heard if not isinstance(message, Packets)] == said
    assert pair.node.dropped > 10_000


def test_an_end_with_too_much_to_say_gives_up(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ts4nsnet.uring.link.MAX_KEPT_BYTES", 10_000)
    for number in range(2000):
        pair.node.put(RoutesSet(number, frozenset()))
    assert pair.node.receive() is None
    assert pair.worker.receive() is None


def test_the_other_end_is_gone(pair: Pair) -> None:
    pair.worker.put(Confirmed(1))
    pair.worker.flush()
    pair.worker.sock.close()
    assert pair.node.receive() == [Confirmed(1)]
    assert pair.node.receive() is None
    pair.node.put(Complete())
    assert pair.node.flush()
    assert pair.node.receive() is None


def test_what_is_not_understood_is_counted(pair: Pair) -> None:
    pair.worker.sock.send(b"nonsense")
    assert pair.node.receive() == []
    assert pair.node.malformed == 1
