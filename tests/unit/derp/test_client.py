# SPDX-License-Identifier: BSD-3-Clause
"""One connection: upgrade, hello, the table of phases, every frame's effect, limits, silence."""

from itertools import product
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.derp.relays import BOB, CAROL, CLIENT, SERVER, FakeRelay, at
from ts4nsnet.derp.client import Client, Phase, TokenBucket
from ts4nsnet.derp.errors import Drop, Lost, Malformed, Refused
from ts4nsnet.derp.events import (
    Connected,
    Disconnected,
    Event,
    HealthChanged,
    PeerGone,
    Probed,
    Received,
    Restarting,
)
from ts4nsnet.derp.frames import (
    HEADER,
    MAX_PACKET_BYTES,
    Frame,
    FrameType,
    Health,
    KeepAlive,
    NotePreferred,
    Ping,
    Pong,
    RecvPacket,
    SendPacket,
    ServerInfo,
    ServerKey,
)
from ts4nsnet.derp.frames import PeerGone as PeerGoneFrame
from ts4nsnet.derp.frames import Restarting as RestartingFrame
from ts4nsnet.derp.hello import ClientDetails, ServerDetails

REGION = 7
ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Version: 2\r\n\r\n"


def new_client(*, fast: bool = False, preferred: bool = False, ideal_node: str = "") -> Client:
    return Client(
        REGION,
        CLIENT,
        Random(7).randbytes,
        at(0),
        host="relay.example",
        server_key=SERVER.public if fast else None,
        ideal_node=ideal_node,
        preferred=preferred,
    )


def events(client: Client) -> list[Event]:
    return list(iter(client.next_event, None))


def talk(client: Client, relay: FakeRelay, now: float) -> None:
    """Carry bytes until neither has any."""
    while (data := client.data_to_send()) or relay.out:
        relay.receive(data)
        if relay.out:
            client.receive(relay.data_to_send(), now)


def connect(client: Client, relay: FakeRelay) -> None:
    talk(client, relay, at(0.1))
    assert events(client) == [Connected(REGION, SERVER.public)]


def open_pair(**details: int) -> tuple[Client, FakeRelay]:
    client, relay = new_client(), FakeRelay(details=ServerDetails(**details))
    connect(client, relay)
    return client, relay


def error_of(client: Client) -> Exception:
    (event,) = events(client)
    assert isinstance(event, Disconnected)
    assert client.statistics().phase is Phase.CLOSED
    assert client.next_timer() is None
    assert client.data_to_send() == b""
    return event.error


# --- upgrade and hello ------------------------------------------------------------------------------------------------


def test_request_asks_for_derp() -> None:
    relay = FakeRelay()
    relay.receive(new_client().data_to_send())
    assert relay.request_line == "GET /derp HTTP/1.1"
    assert relay.request == {"host": "relay.example", "connection": "Upgrade", "upgrade": "DERP"}


def test_request_names_the_ideal_node_when_this_is_another() -> None:
    relay = FakeRelay()
    relay.receive(new_client(ideal_node="7a").data_to_send())
    assert relay.request["ideal-node"] == "7a"


def test_hello_is_said_after_the_upgrade() -> None:
    client, relay = new_client(), FakeRelay()
    connect(client, relay)
    assert relay.client is not None
    assert relay.client.key == CLIENT.public
    assert relay.client_details == ClientDetails(can_ack_pings=True)
    assert relay.received == []
    assert client.statistics().phase is Phase.OPEN


def test_fast_start_says_request_and_hello_in_one_write() -> None:
    client, relay = new_client(fast=True, preferred=True), FakeRelay()
    client.send(BOB, b"early", at(0))
    relay.receive(client.data_to_send())
    assert relay.request["derp-fast-start"] == "1"
    assert relay.client is not None
    assert relay.received == [SendPacket(BOB, b"early"), NotePreferred(True)]
    client.receive(relay.data_to_send(), at(0.1))  # no HTTP, but the server's key, which we know
    assert events(client) == [Connected(REGION, SERVER.public)]


@pytest.mark.parametrize("fast", [False, True])
def test_hello_may_come_byte_by_byte(fast: bool) -> None:
    client, relay = new_client(fast=fast), FakeRelay()
    for _ in range(3):
        relay.receive(client.data_to_send())
        for byte in relay.data_to_send():
            client.receive(bytes([byte]), at(0.1))
    assert events(client) == [Connected(REGION, SERVER.public)]


def test_other_information_before_the_upgrade_is_passed_over() -> None:
    client = new_client()
    client.receive(b"HTTP/1.1 103 Early Hints\r\n\r\n" + ANSWER + ServerKey(SERVER.public).emit(), at(0.1))
    assert client.statistics().phase is Phase.INFO


def test_home_is_noted_right_behind_the_hello() -> None:
    client, relay = new_client(preferred=True), FakeRelay(admits=False)
    talk(client, relay, at(0.1))
    assert relay.received == [NotePreferred(True)]


def test_a_change_of_home_is_noted_once() -> None:
    client, relay = open_pair()
    for preferred in (True, True, False):
        client.preferred = preferred
        assert client.wants_write or preferred
        talk(client, relay, at(1))
    assert not client.wants_write
    assert relay.received == [NotePreferred(True), NotePreferred(False)]


# what the relay says first, the error
BAD_ANSWERS = [
    (b"HTTP/1.1 426 Upgrade Required\r\n\r\n", Refused, "relay: got HTTP status 426, want 101"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Refused, "relay: got HTTP status 200, want 101"),
    (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", Malformed, "relay's answer: got no HTTP"),
    (b"x" * 100_000, Malformed, "relay's answer: got no HTTP"),
    (b"", Lost, "ended the connection in phase upgrade"),
    (ANSWER + KeepAlive().emit(), Malformed, "frame in phase hello: got KEEP_ALIVE"),
    (ANSWER + b"\x77\0\0\0\0", Malformed, "first frame: got type 0x77, want SERVER_KEY"),
    (ANSWER + HEADER.pack(1, 1025), Malformed, "got 1025, want at most 1024"),
    (ANSWER + HEADER.pack(1, 40) + bytes(40), Malformed, "SERVER_KEY magic"),
    (ANSWER + HEADER.pack(1, 39) + bytes(39), Malformed, "SERVER_KEY payload"),
    (ANSWER + ServerKey(BOB).emit() + HEADER.pack(3, 12) + bytes(12), Malformed, "SERVER_INFO payload"),
    (ANSWER + ServerKey(BOB).emit() + ServerInfo(bytes(60)).emit(), Malformed, "sealed box"),
    (ANSWER + HEADER.pack(1, 40) + b"DERP\xf0\x9f\x94\x91" + bytes(32), Malformed, "point of low order"),
]


@pytest.mark.parametrize(("said", "kind", "message"), BAD_ANSWERS)
def test_a_bad_hello_ends_the_connection(said: bytes, kind: type[Exception], message: str) -> None:
    client = new_client()
    client.receive(said, at(0.1))
    error = error_of(client)
    assert type(error) is kind
    assert message in str(error)
    client.receive(KeepAlive().emit(), at(0.2))  # too late
    assert events(client) == []


def test_an_end_instead_of_the_hello_is_a_refusal() -> None:
    client, relay = new_client(), FakeRelay(admits=False)
    talk(client, relay, at(0.1))
    client.receive(b"", at(0.2))
    error = error_of(client)
    assert type(error) is Refused
    assert "is this node registered?" in str(error)


@pytest.mark.parametrize("host", ["relay\r\nX: y", "relay\0"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(Malformed, match="relay's host or node name"):
        Client(REGION, CLIENT, Random(7).randbytes, at(0), host=host)


# --- the table of phases ----------------------------------------------------------------------------------------------

EVERY_FRAME: dict[FrameType, bytes] = {
    FrameType.SERVER_KEY: ServerKey(SERVER.public).emit(),
    FrameType.SERVER_INFO: ServerDetails().seal(SERVER, CLIENT.public, Random(2).randbytes).emit(),
    FrameType.RECV_PACKET: RecvPacket(BOB, b"packet").emit(),
    FrameType.KEEP_ALIVE: KeepAlive().emit(),
    FrameType.PEER_GONE: PeerGoneFrame(BOB, 1).emit(),
    FrameType.PEER_PRESENT: HEADER.pack(9, 32) + BOB.raw,
    FrameType.PING: Ping(b"12345678").emit(),
    FrameType.PONG: Pong(b"12345678").emit(),
    FrameType.HEALTH: Health("bad").emit(),
    FrameType.RESTARTING: RestartingFrame(1, 2).emit(),
    FrameType.CLIENT_INFO: HEADER.pack(2, 72) + bytes(72),
    FrameType.SEND_PACKET: SendPacket(BOB, b"").emit(),
    FrameType.NOTE_PREFERRED: NotePreferred(True).emit(),
    FrameType.FORWARD_PACKET: HEADER.pack(10, 64) + bytes(64),
    FrameType.WATCH_CONNS: HEADER.pack(16, 0),
    FrameType.CLOSE_PEER: HEADER.pack(17, 32) + bytes(32),
}
_OF_CLIENTS = {2, 4, 7, 0x0A, 0x10, 0x11}


def in_phase(phase: Phase) -> Client:
    client = new_client()
    if phase is Phase.HELLO:
        client.receive(ANSWER, at(0.1))
    elif phase is not Phase.UPGRADE:
        talk(client, FakeRelay(admits=phase is Phase.OPEN), at(0.1))
    events(client)
    assert client.statistics().phase is phase
    return client


@pytest.mark.parametrize(("phase", "kind"), list(product((Phase.HELLO, Phase.INFO, Phase.OPEN), FrameType)))
def test_what_follows_every_frame_in_every_phase(phase: Phase, kind: FrameType) -> None:
    client = in_phase(phase)
    client.receive(EVERY_FRAME[kind], at(1))
    if phase is Phase.HELLO:
        want = Phase.INFO if kind is FrameType.SERVER_KEY else Phase.CLOSED
    elif kind in _OF_CLIENTS:
        want = Phase.CLOSED
    else:
        want = Phase.OPEN if kind is FrameType.SERVER_INFO else phase
    assert client.statistics().phase is want


# --- frames -----------------------------------------------------------------------------------------------------------

# what the relay says, what happens
FACTS: list[tuple[Frame, list[Event]]] = [
    (RecvPacket(BOB, b"packet"), [Received(REGION, BOB, (b"packet",))]),
    (PeerGoneFrame(BOB, 1), [PeerGone(REGION, BOB, 1)]),
    (Health("slow"), [HealthChanged(REGION, "slow")]),
    (RestartingFrame(0.5, 3), [Restarting(REGION, 0.5)]),
    (KeepAlive(), []),
    (Pong(b"unasked."), []),
]


@pytest.mark.parametrize(("frame", "want"), FACTS)
def test_frames_become_facts(frame: Frame, want: list[Event]) -> None:
    client, relay = open_pair()
    relay.say(frame)
    talk(client, relay, at(1))
    assert events(client) == want
    assert client.statistics().last_frame_at == at(1)


def test_all_frames_of_a_read_are_taken_at_once() -> None:
    client, relay = open_pair()
    relay.say(*(RecvPacket(BOB, bytes([n])) for n in range(100)))
    client.receive(relay.data_to_send(), at(1))
    assert events(client) == [Received(REGION, BOB, tuple(bytes([n]) for n in range(100)))]
    assert client.statistics().packets_received == 100


def test_packets_of_a_read_come_by_peer_in_their_order() -> None:
    client, relay = open_pair()
    relay.say(RecvPacket(BOB, b"1"), RecvPacket(BOB, b"2"), RecvPacket(CAROL, b"3"), Health("bad"))
    relay.say(RecvPacket(CAROL, b"4"), RecvPacket(BOB, b"5"))
    client.receive(relay.data_to_send(), at(1))
    assert events(client) == [
        Received(REGION, BOB, (b"1", b"2")),
        Received(REGION, CAROL, (b"3",)),
        HealthChanged(REGION, "bad"),
        Received(REGION, CAROL, (b"4",)),
        Received(REGION, BOB, (b"5",)),
    ]


def test_all_packets_leave_in_one_write() -> None:
    client, relay = open_pair()
    for n in range(32):
        client.send(BOB if n % 2 else CAROL, bytes([n]), at(1))
    relay.receive(client.data_to_send())
    assert relay.packets() == [(BOB if n % 2 else CAROL, bytes([n])) for n in range(32)]
    assert client.data_to_send() == b""
    assert client.statistics().packets_sent == 32


def test_a_ping_is_answered_the_newest_only() -> None:
    client, relay = open_pair()
    relay.say(Ping(b"first..."), Ping(b"second.."))
    client.receive(relay.data_to_send(), at(1))
    assert client.wants_write
    talk(client, relay, at(1))
    assert relay.received == [Pong(b"second..")]


def test_unknown_and_short_frames_are_counted_and_passed_over() -> None:
    client, relay = open_pair()
    relay.out += b"\x77\0\0\0\x03abc" + b"\x08\0\0\0\x03abc" + b"\x12\0\0\0\0"
    relay.say(RecvPacket(BOB, b"packet"))
    talk(client, relay, at(1))
    assert events(client) == [Received(REGION, BOB, (b"packet",))]
    assert client.statistics().dropped == {Drop.FRAME_UNKNOWN: 1, Drop.FRAME_MALFORMED: 2}


def test_a_frame_beyond_the_limit_ends_the_connection_after_those_before_it() -> None:
    client, relay = open_pair()
    relay.say(RecvPacket(BOB, b"packet"))
    relay.out += HEADER.pack(5, (1 << 20) + 1)
    client.receive(relay.data_to_send(), at(1))
    first, last = events(client)
    assert first == Received(REGION, BOB, (b"packet",))
    assert isinstance(last, Disconnected)


# --- what may be sent -------------------------------------------------------------------------------------------------


def test_packets_are_dropped_before_the_hello_and_after_the_end() -> None:
    client, relay = new_client(), FakeRelay()
    client.send(BOB, b"early", at(0))
    connect(client, relay)
    client.receive(b"", at(1))
    client.send(BOB, b"late", at(1))
    assert "ended the connection in phase open" in str(error_of(client))
    assert client.statistics().dropped == {Drop.NOT_READY: 2}
    assert relay.packets() == []


def test_a_packet_has_at_most_64_kib() -> None:
    client, relay = open_pair()
    client.send(BOB, bytes(MAX_PACKET_BYTES), at(1))
    client.send(BOB, bytes(MAX_PACKET_BYTES + 1), at(1))
    relay.receive(client.data_to_send())
    assert relay.packets() == [(BOB, bytes(MAX_PACKET_BYTES))]
    assert client.statistics().dropped == {Drop.PACKET_TOO_LARGE: 1}


def test_what_the_relay_does_not_take_is_dropped() -> None:
    client, relay = open_pair(bytes_per_second=1000, burst_bytes=2 * 137)
    for _ in range(3):  # 5 + 32 + 100 bytes each
        client.send(BOB, bytes(100), at(1))
    client.send(BOB, bytes(100), at(1.14))
    talk(client, relay, at(2))
    assert len(relay.packets()) == 3
    assert client.statistics().dropped == {Drop.RATE_LIMITED: 1}


def test_limits_can_change_later() -> None:
    client, relay = open_pair(bytes_per_second=1, burst_bytes=1)
    relay.say(ServerDetails().seal(SERVER, CLIENT.public, Random(2).randbytes))
    talk(client, relay, at(1))
    client.send(BOB, bytes(1000), at(1))
    talk(client, relay, at(1))
    assert len(relay.packets()) == 1
    assert events(client) == []  # we were connected already


def test_without_a_burst_one_largest_packet_is_one() -> None:
    bucket = TokenBucket(1000, 0, at(0))
    assert bucket.take(37 + MAX_PACKET_BYTES, at(0))
    assert not bucket.take(1000, at(0.9))
    assert bucket.take(1000, at(1.0))


@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 300)), max_size=50))
def test_no_more_than_rate_and_burst_leaves_in_any_time(steps: list[tuple[float, int]]) -> None:
    bucket, now, sent = TokenBucket(100, 250, 0.0), 0.0, 0
    for pause, size in steps:
        now += pause
        sent += size if bucket.take(size, now) else 0
        assert sent <= 250 + 100 * now + 1e-6


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.UPGRADE, Phase.HELLO, Phase.INFO])
def test_the_hello_has_ten_seconds(phase: Phase) -> None:
    client = in_phase(phase)
    if phase is Phase.INFO:
        client.receive(KeepAlive().emit(), at(9))  # gives no more time
    assert client.next_timer() == at(10)
    client.handle_timer(at(9.99))
    assert events(client) == []
    client.handle_timer(at(10))
    assert str(error_of(client)) == f"no hello from the relay within 10 s, waited for: {phase.value}"


def test_two_minutes_of_silence_end_the_connection() -> None:
    client, relay = open_pair()
    relay.say(KeepAlive())
    talk(client, relay, at(60))
    client.handle_timer(at(179.9))
    assert client.next_timer() == at(180)
    client.handle_timer(at(180))
    assert str(error_of(client)) == "nothing from the relay for 120 s"
    client.handle_timer(at(500))
    assert events(client) == []


def test_a_probe_is_answered() -> None:
    client, relay = open_pair()
    client.probe(at(5))
    client.probe(at(6))  # one at a time
    relay.receive(client.data_to_send())
    (ping,) = relay.received
    assert isinstance(ping, Ping)
    relay.say(Pong(b"wrong..."), Pong(ping.data), Pong(ping.data))
    talk(client, relay, at(5.25))
    assert events(client) == [Probed(REGION, 0.25)]
    assert client.next_timer() == at(5.25 + 120)


def test_a_probe_without_an_answer_ends_the_connection() -> None:
    client, relay = open_pair()
    client.probe(at(5))
    relay.say(KeepAlive())
    talk(client, relay, at(7))
    assert client.next_timer() == at(8)
    client.handle_timer(at(8))
    assert str(error_of(client)) == "no answer to a ping within 3 s"


def test_only_an_open_connection_is_probed() -> None:
    client = in_phase(Phase.INFO)
    client.data_to_send()
    client.probe(at(1))
    assert client.data_to_send() == b""
