# SPDX-License-Identifier: BSD-3-Clause
"""The body of a poll: frames, limits, sleep; what a client does with them is in test_polling.py."""

import json

import pytest
import zstandard

from tests.unit.control.fake_server import START, WALL_START, Json, peer
from ts4nsnet.control.errors import Malformed
from ts4nsnet.control.mapstream import (
    MAX_MESSAGE_BYTES,
    WATCHDOG_TIME,
    MapMessage,
    MapStream,
    decompress,
    frame_message,
)

SELF = {"ID": 1, "StableID": "n1", "Name": "a.b.", "Key": f"nodekey:{1:064x}", "Addresses": ["100.64.0.1/32"]}


def frame(message: Json) -> bytes:
    return frame_message(json.dumps(message).encode())


def messages(stream: MapStream, now: float = START) -> list[MapMessage]:
    return list(iter(lambda: stream.next_message(now, WALL_START), None))


def raw(body: bytes) -> bytes:
    """A frame whose body is no zstd of ours."""
    return len(body).to_bytes(4, "little") + body


@pytest.mark.parametrize("pieces", [1, 7, 10_000])
def test_frames_in_pieces_of_any_size(pieces: int) -> None:
    stream = MapStream(None, None, START)
    data = frame({"Node": SELF}) + frame({"KeepAlive": True}) + frame({"PeersChanged": [peer(2)]})
    seen = []
    for start in range(0, len(data), pieces):
        stream.receive(data[start : start + pieces], START)
        seen += messages(stream)
    first, keep_alive, delta = seen
    assert json.loads(first.snapshot) == {"Node": SELF}
    assert keep_alive.delta is None
    assert delta.netmap is not None
    assert len(delta.netmap.peers) == 1
    assert delta.snapshot == b""


def test_a_stored_frame_without_compression_is_a_zstd_frame() -> None:
    keep_alive = bytes.fromhex("28b52ffda0120000009100007b224b656570416c697665223a747275657d")
    assert decompress(keep_alive) == b'{"KeepAlive":true}'


def test_a_frame_of_unknown_content_size() -> None:
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    assert decompress(compressor.compress(b"x" * 1000) + compressor.flush()) == b"x" * 1000


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (bytes(4), "message of 0 bytes"),
        ((MAX_MESSAGE_BYTES + 1).to_bytes(4, "little"), "a message of"),
        (raw(b"{}"), "zstd"),
        (raw(zstandard.compress(b"{}")[:-1] + b"\x00"), "JSON|zstd"),
        (raw(zstandard.compress(bytes(MAX_MESSAGE_BYTES + 1))), "unpacked"),
        (frame({"KeepAlive": 3}), "KeepAlive"),
        (frame({"PeersRemoved": [1]}), "Node"),
    ],
)
def test_what_cannot_be_a_message_is_malformed(data: bytes, text: str) -> None:
    stream = MapStream(None, None, START)
    stream.receive(data, START)
    with pytest.raises(Malformed, match=text):
        messages(stream)


def test_the_watchdog_runs_from_the_request_and_from_each_part_of_a_message() -> None:
    stream = MapStream(None, None, START)
    assert stream.next_timer() == START + WATCHDOG_TIME
    stream.receive(b"\x01", START + 100.0)
    assert stream.next_timer() == START + 100.0 + WATCHDOG_TIME


def test_the_watchdog_sleeps_while_we_do() -> None:
    stream = MapStream(None, None, START)
    stream.receive(frame({"Node": SELF, "Debug": {"SleepSeconds": 250}}) + frame({"KeepAlive": True}), START)
    assert len(messages(stream)) == 1
    assert stream.next_timer() == START + 250.0
    assert messages(stream, START + 249.0) == []
    assert len(messages(stream, START + 250.0)) == 1
    assert stream.next_timer() == START + 250.0 + WATCHDOG_TIME


def test_there_is_nothing_to_resume_without_a_handle() -> None:
    stream = MapStream(None, None, START)
    assert stream.resume is None
    stream.receive(frame({"Node": SELF, "Seq": 4}), START)
    messages(stream)
    assert stream.resume is None
