# SPDX-License-Identifier: BSD-3-Clause
"""Session memory: the layout that a compiled twin relies on, and that another process can map and use it."""

import mmap
import multiprocessing
import os
from itertools import pairwise
from multiprocessing.connection import Connection

import pytest

from tests.unit.wireguard.pair import MTU, VECTORS, Pair, endpoint
from ts4nsnet.wireguard.messages import WireGuardError
from ts4nsnet.wireguard.records import (
    KEYPAIRS_PER_PEER,
    MAGIC,
    NOWHERE,
    RECORD,
    VERSION,
    Field,
    KeypairRecord,
    PeerRecord,
    Record,
    SessionMemory,
)
from ts4nsnet.wireguard.sessions import SessionTable

# name, struct format, offset: what the C structs say too; a change here is a new VERSION
PEER_LAYOUT = (
    ("generation", "<Q", 0),
    ("public_key", "<32s", 8),
    ("timestamp", "<12s", 40),
    ("previous", "<B", 52),
    ("current", "<B", 53),
    ("next", "<B", 54),
    ("endpoint", "<32s", 55),
    ("sent_at", "<d", 88),
    ("received_at", "<d", 96),
    ("data_sent_at", "<d", 104),
    ("data_received_at", "<d", 112),
    ("unanswered_at", "<d", 120),
    ("unheard_at", "<d", 128),
    ("sent_bytes", "<Q", 136),
    ("received_bytes", "<Q", 144),
)
KEYPAIR_LAYOUT = (
    ("generation", "<Q", 0),
    ("send_key", "<32s", 8),
    ("receive_key", "<32s", 40),
    ("local_index", "<I", 72),
    ("remote_index", "<I", 76),
    ("peer", "<I", 80),
    ("initiator", "<I", 84),
    ("created_at", "<d", 88),
    ("send_counter", "<Q", 96),
    ("replay", "<1032s", 104),
)


def test_the_layout_is_what_version_2_says() -> None:
    assert VERSION == 2
    assert RECORD == {"peer": PEER_LAYOUT, "keypair": KEYPAIR_LAYOUT}
    assert (PeerRecord.SIZE, KeypairRecord.SIZE) == (192, 1152)


@pytest.mark.parametrize("layout", RECORD.values(), ids=RECORD)
def test_fields_are_aligned_and_do_not_overlap(layout: tuple[tuple[str, str, int], ...]) -> None:
    sizes = {"Q": 8, "d": 8, "I": 4, "B": 1}
    ends = [0]
    for name, form, offset in layout:
        size = int(form[1:-1]) if form.endswith("s") else sizes[form[1:]]
        assert offset % (1 if form.endswith("s") else size) == 0, name
        assert offset >= ends[-1], name
        ends.append(offset + size)
    assert all(earlier <= later for earlier, later in pairwise(ends))


def test_a_record_cannot_hold_more_than_its_size() -> None:
    with pytest.raises(TypeError, match="Small: 16 bytes of fields in a record of 15"):

        class Small(Record, size=15):
            one = Field[int]("Q")
            two = Field[int]("Q")


def test_a_fresh_buffer_gets_a_header_and_holds_as_many_peers_as_it_has_room_for() -> None:
    buffer = bytearray(SessionMemory.size(5) + 100)
    memory = SessionMemory(buffer)
    assert memory.peers == 5
    assert buffer[:16] == MAGIC + VERSION.to_bytes(4, "little") + (5).to_bytes(4, "little")
    assert SessionMemory(buffer).peers == 5


def test_how_many_were_used_stands_in_the_header() -> None:
    buffer = bytearray(SessionMemory.size(5))
    SessionMemory(buffer).entered = 3
    memory = SessionMemory(buffer)
    assert memory.entered == int.from_bytes(buffer[48:52], "little") == 3
    memory.peer(3).generation = 1
    assert not memory.is_used  # nobody looks behind them
    memory.peer(2).generation = 1
    assert memory.is_used


def test_records_lie_side_by_side() -> None:
    buffer = bytearray(SessionMemory.size(3))
    memory = SessionMemory(buffer)
    starts = [(memory.peer(number).at, PeerRecord.SIZE) for number in range(3)]
    starts += [
        (memory.keypair(number, slot).at, KeypairRecord.SIZE)
        for number in range(3)
        for slot in range(1, KEYPAIRS_PER_PEER + 1)
    ]
    assert starts[0][0] == 64
    for (start, size), (following, _) in pairwise(starts):
        assert start + size == following
    assert sum(starts[-1]) == len(buffer)


def test_values_come_back_and_erase_makes_all_of_them_zero() -> None:
    buffer = bytearray(SessionMemory.size(2))
    memory = SessionMemory(buffer)
    before = bytes(buffer)
    record = memory.keypair(1, 3)
    record.generation, record.send_key, record.created_at = 7, bytes(range(32)), 12.5
    record.window().accept(99)
    again = SessionMemory(buffer).keypair(1, 3)
    assert (again.generation, again.send_key, again.created_at) == (7, bytes(range(32)), 12.5)
    assert not again.window().check(99)
    record.erase()
    assert bytes(buffer) == before


@pytest.mark.parametrize(
    ("at", "value", "wrong"),
    [
        (0, b"other!!!", "another magic"),
        (8, (VERSION + 1).to_bytes(4, "little"), "another version"),
        (12, (6).to_bytes(4, "little"), "more peers than room"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_memory_of_something_else_is_refused(at: int, value: bytes, wrong: str) -> None:
    del wrong
    buffer = bytearray(SessionMemory.size(5))
    SessionMemory(buffer)
    buffer[at : at + len(value)] = value
    with pytest.raises(WireGuardError, match=r"session memory: got .* want"):
        SessionMemory(buffer)


def test_nowhere_is_an_empty_endpoint() -> None:
    assert SessionMemory(bytearray(SessionMemory.size(1))).peer(0).endpoint == NOWHERE


def _open_in_another_process(fd: int, datagram: bytes, now: float, answer: Connection) -> None:
    with mmap.mmap(fd, 0) as shared:
        table = SessionTable(SessionMemory(shared))
        opened = table.open(datagram, endpoint(9), now)
        sealed = table.seal(opened[0], (b"from the child",), MTU, now) if opened else None
        answer.send((opened, sealed, table.open(datagram, endpoint(9), now)))
        del table  # it looks into the mapping, which is closed now


def test_another_process_maps_the_memory_and_goes_on_with_the_session() -> None:
    pair = Pair()
    pair.shake_hands()
    pair.bob.send(b"to be opened elsewhere", pair.now)
    datagram, _ = pair.bob.out.popleft()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    fd = os.memfd_create("session memory")
    try:
        os.pwrite(fd, bytes(pair.alice.buffer), 0)
        child = context.Process(target=_open_in_another_process, args=(fd, datagram, pair.now, theirs))
        child.start()
        assert ours.poll(30)
        opened, sealed, again = ours.recv()
        child.join(30)
        assert child.exitcode == 0
        pair.alice.buffer[:] = os.pread(fd, len(pair.alice.buffer), 0)
    finally:
        os.close(fd)

    assert opened == (pair.alice.peer, b"to be opened elsewhere".ljust(32, b"\0"))
    assert again is None  # the child's window knows it
    pair.bob.receive(sealed[0], pair.alice.endpoint, pair.now)
    assert pair.bob.received == [b"from the child".ljust(16, b"\0")]
    # what the child wrote is what we see: the window, the counter, the endpoint
    assert pair.alice.table.open(datagram, endpoint(9), pair.now) is None
    assert pair.alice.table.endpoint(pair.alice.peer) == endpoint(9)
    pair.bob.endpoint = endpoint(9)
    pair.alice.send(b"and from the parent again", pair.now)
    pair.deliver_all()
    assert pair.bob.received[-1] == b"and from the parent again".ljust(32, b"\0")


def test_vectors_say_where_they_come_from() -> None:
    assert "wireguard-go" in VECTORS["description"]
