# SPDX-License-Identifier: BSD-3-Clause
"""HTTP/2 over the channel: a client's and a server's session back to back."""

from typing import Any

import pytest
from hpack import Encoder

from tests.unit.control.test_ts2021 import SERVER, pair
from ts4nsnet.control.errors import ControlError
from ts4nsnet.control.session import (
    MAX_STREAMS,
    STREAM_WINDOW_BYTES,
    ClientSession,
    DataReceived,
    HeadersReceived,
    PingAnswered,
    RequestReceived,
    ServerSession,
    Session,
    StreamEnded,
    StreamReset,
    WentAway,
)
from ts4nsnet.control.ts2021 import early_payload


class Pair:
    """Both ends; nothing passes until the test says so."""

    def __init__(self, early: bytes = b"") -> None:
        ours, theirs = pair()
        self.server = ServerSession(theirs, early)
        self.client = ClientSession(ours, self.server.data_to_send())

    def deliver(self) -> None:
        """Pass everything on, both ways."""
        while (out := self.client.data_to_send()) or (back := self.server.data_to_send()):
            if out:
                self.server.receive(out)
                continue
            self.client.receive(back)

    def request(self, body: bytes = b"", method: str = "POST") -> int:
        return self.client.request(method, "/p?q=1", {"ts-lb": "x"}, body, "control.example.com:8443")


def events(session: Session) -> list[Any]:
    return list(iter(session.next_event, None))


@pytest.mark.parametrize("early", [b"", early_payload(SERVER.public)])
def test_a_request_and_its_answer(early: bytes) -> None:
    both = Pair(early)
    stream = both.request(b"ask")
    both.deliver()
    head, data, end = events(both.server)
    assert head == RequestReceived(stream, "POST", "/p?q=1", {"ts-lb": "x"})
    assert (data, end) == (DataReceived(stream, b"ask"), StreamEnded(stream))
    both.server.respond(stream, 200, {"content-type": "text/plain"}, b"tell")
    both.deliver()
    assert events(both.client) == [
        HeadersReceived(stream, 200, {"content-type": "text/plain"}),
        DataReceived(stream, b"tell"),
        StreamEnded(stream),
    ]


def test_requests_and_answers_without_a_body() -> None:
    both = Pair()
    stream = both.request(method="HEAD")
    both.deliver()
    assert [type(event) for event in events(both.server)] == [RequestReceived, StreamEnded]
    both.server.respond(stream, 204)
    both.deliver()
    assert [type(event) for event in events(both.client)] == [HeadersReceived, StreamEnded]


@pytest.mark.parametrize("size", [100_000, 3 * STREAM_WINDOW_BYTES])
def test_bodies_beyond_the_window_arrive_whole(size: int) -> None:
    both = Pair()
    stream = both.request(bytes(size))
    both.deliver()
    assert sum(len(event.data) for event in events(both.server) if isinstance(event, DataReceived)) == size
    both.server.respond(stream, 200, end=False)
    both.server.send_data(stream, bytes(size))
    assert both.server.queued_bytes(stream) == max(size - STREAM_WINDOW_BYTES, 0)
    both.server.send_data(stream, b"", end=True)
    both.deliver()
    assert both.server.queued_bytes(stream) == 0
    received = events(both.client)
    assert sum(len(event.data) for event in received if isinstance(event, DataReceived)) == size
    assert received[-1] == StreamEnded(stream)


def test_many_streams_at_once_and_one_too_many() -> None:
    both = Pair()
    both.deliver()
    for _ in range(MAX_STREAMS):
        both.request()
    with pytest.raises(ControlError, match="HTTP/2"):
        both.request()
    both.deliver()


def test_a_stream_that_was_given_up_is_told_and_swallows_what_is_sent() -> None:
    both = Pair()
    stream = both.request(b"ask")
    both.deliver()
    events(both.server)
    both.server.respond(stream, 200, end=False)
    both.server.send_data(stream, bytes(2 * STREAM_WINDOW_BYTES))
    both.client.reset(stream)
    both.client.reset(stream)
    both.deliver()
    assert events(both.server) == [StreamReset(stream, 8)]
    both.server.send_data(stream, b"more")
    both.server.respond(stream, 200)
    assert both.server.queued_bytes(stream) == 0
    both.deliver()
    assert [event for event in events(both.client) if isinstance(event, StreamEnded | StreamReset)] == []
    both.server.reset(77)


def test_a_ping_is_answered() -> None:
    both = Pair()
    both.client.ping(b"12345678")
    both.deliver()
    assert events(both.client) == [PingAnswered(b"12345678")]


def headers_frame(stream: int, fields: list[tuple[bytes, bytes]]) -> bytes:
    """A HEADERS frame that ends the stream, whatever its fields are."""
    block = Encoder().encode(fields)
    return len(block).to_bytes(3, "big") + b"\x01\x05" + stream.to_bytes(4, "big") + block


def test_a_host_that_differs_from_the_authority_is_taken() -> None:
    both = Pair()
    both.deliver()
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a:1"), (b"host", b"a")]
    both.server.receive(both.client.channel.seal(headers_frame(1, fields)))
    assert events(both.server)[0] == RequestReceived(1, "POST", "/", {"host": "a"})


def test_the_end_of_the_connection_is_told_and_nothing_more_can_be_sent() -> None:
    both = Pair()
    both.deliver()
    goaway = both.server.channel.seal(bytes.fromhex("000008070000000000" + "00000000" + "00000002"))
    both.client.receive(goaway)
    assert events(both.client) == [WentAway(2)]
    with pytest.raises(ControlError, match="HTTP/2"):
        both.request()
    with pytest.raises(ControlError, match="HTTP/2"):
        both.client.ping(b"12345678")


@pytest.mark.parametrize(
    "frame",
    [
        bytes.fromhex("000000040000000001"),  # SETTINGS on a stream
        bytes.fromhex("0040010000000001") + bytes(16387),  # longer than we allow
        bytes.fromhex("000001010500000001ff"),  # HEADERS that are none
    ],
)
def test_what_is_no_http2_kills_the_session(frame: bytes) -> None:
    both = Pair()
    both.request()
    both.deliver()
    with pytest.raises(ControlError, match="HTTP/2"):
        both.client.receive(both.server.channel.seal(frame))


@pytest.mark.parametrize("status", [b"abc", b"", b"\xc2\xb2"])
def test_a_status_that_is_no_number_kills_the_session(status: bytes) -> None:
    both = Pair()
    stream = both.request()
    both.deliver()
    with pytest.raises(ControlError, match="HTTP/2"):
        both.client.receive(both.server.channel.seal(headers_frame(stream, [(b":status", status)])))


def test_a_session_that_is_dead_swallows_answers() -> None:
    both = Pair()
    stream = both.request()
    both.deliver()
    both.server.respond(stream, 200, end=False)
    with pytest.raises(ControlError):
        both.server.receive(both.client.channel.seal(bytes.fromhex("000000040000000001")))
    both.server.send_data(stream, b"x")
    both.server.respond(stream, 200, body=b"x")
    assert both.server.queued_bytes(stream) == 0
