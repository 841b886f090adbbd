# SPDX-License-Identifier: BSD-3-Clause
"""Frames in table form both ways, the stream cut anywhere, limits, and the sealed hello with its known vector."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.public import Box
from nacl.public import PrivateKey as BoxPrivateKey
from nacl.public import PublicKey as BoxPublicKey

from ts4nsnet.derp.errors import Malformed
from ts4nsnet.derp.frames import (
    CLIENT_LIMITS,
    HEADER,
    MAGIC,
    MAX_FRAME_BYTES,
    SERVER_LIMITS,
    ClientInfo,
    Frame,
    FrameBuffer,
    FrameType,
    Health,
    KeepAlive,
    NotePreferred,
    PeerGone,
    PeerGoneReason,
    Ping,
    Pong,
    RecvPacket,
    Restarting,
    SendPacket,
    ServerInfo,
    ServerKey,
    parse,
)
from ts4nsnet.derp.hello import ClientDetails, ServerDetails
from ts4nsnet.keys import PrivateKey, PublicKey

KEY = PublicKey(bytes(range(32)))
SEALED = bytes(40) + b"json"

# name, value, whole frame
CASES: list[tuple[str, Frame, bytes]] = [
    ("server key", ServerKey(KEY), b"\x01\0\0\0\x28" + b"DERP\xf0\x9f\x94\x91" + KEY.raw),
    ("client info", ClientInfo(KEY, SEALED), b"\x02\0\0\0\x4c" + KEY.raw + SEALED),
    ("server info", ServerInfo(SEALED), b"\x03\0\0\0\x2c" + SEALED),
    ("send packet", SendPacket(KEY, b"packet"), b"\x04\0\0\0\x26" + KEY.raw + b"packet"),
    ("send nothing", SendPacket(KEY, b""), b"\x04\0\0\0\x20" + KEY.raw),
    ("packet", RecvPacket(KEY, b"packet"), b"\x05\0\0\0\x26" + KEY.raw + b"packet"),
    ("keep-alive", KeepAlive(), b"\x06\0\0\0\0"),
    ("home", NotePreferred(True), b"\x07\0\0\0\x01\x01"),
    ("not home", NotePreferred(False), b"\x07\0\0\0\x01\0"),
    ("peer left", PeerGone(KEY, PeerGoneReason.DISCONNECTED), b"\x08\0\0\0\x21" + KEY.raw + b"\0"),
    ("peer not here", PeerGone(KEY, PeerGoneReason.NOT_HERE), b"\x08\0\0\0\x21" + KEY.raw + b"\x01"),
    ("peer gone, reason of later", PeerGone(KEY, 0xEE), b"\x08\0\0\0\x21" + KEY.raw + b"\xee"),
    ("ping", Ping(b"12345678"), b"\x12\0\0\0\x0812345678"),
    ("pong", Pong(b"12345678"), b"\x13\0\0\0\x0812345678"),
    ("health", Health("too många"), b"\x14\0\0\0\x0atoo m\xc3\xa5nga"),
    ("healthy", Health(""), b"\x14\0\0\0\0"),
    ("restarting", Restarting(1.5, 0.25), b"\x15\0\0\0\x08\0\0\x05\xdc\0\0\0\xfa"),
]
# frames with a minimum size, and with what may follow it
SHORTEST = [
    (FrameType.SERVER_KEY, 40),
    (FrameType.CLIENT_INFO, 72),
    (FrameType.SERVER_INFO, 40),
    (FrameType.SEND_PACKET, 32),
    (FrameType.RECV_PACKET, 32),
    (FrameType.PEER_GONE, 32),
    (FrameType.PING, 8),
    (FrameType.PONG, 8),
    (FrameType.RESTARTING, 8),
]


def read(data: bytes) -> list[tuple[int, bytes]]:
    buffer = FrameBuffer(CLIENT_LIMITS)
    buffer.receive(data)
    return list(iter(buffer.next_frame, None))


@pytest.mark.parametrize(("value", "wire"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_every_frame_is_written_and_read_alike(value: Frame, wire: bytes) -> None:
    assert value.emit() == wire
    ((kind, payload),) = read(wire)
    assert kind == value.TYPE
    assert parse(kind, payload) == value
    assert parse(kind, memoryview(payload)) == value


@pytest.mark.parametrize(("kind", "size"), SHORTEST, ids=[case[0].name for case in SHORTEST])
def test_a_frame_shorter_than_its_layout_is_malformed(kind: FrameType, size: int) -> None:
    payload = MAGIC + bytes(size)
    assert parse(kind, payload[:size]) is not None
    with pytest.raises(Malformed, match=f"{kind.name} payload: got {size - 1} bytes, want at least {size}"):
        parse(kind, payload[: size - 1])


@pytest.mark.parametrize(
    "value", [ServerKey(KEY), KeepAlive(), PeerGone(KEY, 1), Ping(b"12345678"), Pong(b"12345678"), Restarting(1, 2)]
)
def test_what_follows_the_layout_is_ignored(value: Frame) -> None:
    assert parse(value.TYPE, value.emit()[HEADER.size :] + b"of a later version") == value


def test_a_peer_gone_of_old_servers_has_no_reason() -> None:
    assert parse(FrameType.PEER_GONE, KEY.raw) == PeerGone(KEY, PeerGoneReason.DISCONNECTED)


@pytest.mark.parametrize("payload", [b"", b"\1\1"])
def test_note_preferred_is_exactly_one_byte(payload: bytes) -> None:
    with pytest.raises(Malformed, match=f"NOTE_PREFERRED payload: got {len(payload)} bytes"):
        parse(FrameType.NOTE_PREFERRED, payload)


def test_another_magic_is_malformed() -> None:
    with pytest.raises(Malformed, match="SERVER_KEY magic: got 0000000000000000, want 44455250f09f9491"):
        parse(FrameType.SERVER_KEY, bytes(40))


def test_health_that_is_not_utf8_is_shown_as_far_as_possible() -> None:
    assert parse(FrameType.HEALTH, b"bad \xff") == Health("bad �")


@pytest.mark.parametrize("kind", [FrameType.PEER_PRESENT, FrameType.FORWARD_PACKET, FrameType.CLOSE_PEER, 0, 0x77, 255])
def test_frames_of_the_mesh_and_unknown_ones_have_no_layout(kind: int) -> None:
    assert parse(kind, b"whatever") is None


@given(st.data())
def test_a_stream_may_be_cut_anywhere(data: st.DataObject) -> None:
    wires = [wire for _, _, wire in CASES]
    stream = b"".join(wires)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    buffer, frames = FrameBuffer(CLIENT_LIMITS), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        buffer.receive(stream[begin:end])
        frames += list(iter(buffer.next_frame, None))
    assert [HEADER.pack(kind, len(payload)) + payload for kind, payload in frames] == wires


OTHER_KEY = PublicKey(bytes(KEY.raw[:-1]) + b"x")
PACKETS = st.builds(RecvPacket, st.sampled_from([KEY, OTHER_KEY]), st.sampled_from([b"", b"a", b"b", b"longer"]))
ANY_FRAME = PACKETS.map(RecvPacket.emit) | st.sampled_from([KeepAlive().emit(), b"\x05\0\0\0\x03abc"])


@given(st.lists(st.lists(ANY_FRAME).map(b"".join)), st.integers(0, 60))
def test_packets_taken_together_are_those_of_the_frames(pieces: list[bytes], cut: int) -> None:
    stream = b"".join(pieces)
    together = FrameBuffer(CLIENT_LIMITS)
    found: list[tuple[int, bytes]] = []
    for piece in (stream[:cut], stream[cut:]):
        together.receive(piece)
        while True:
            key, packets = together.next_packets(FrameType.RECV_PACKET)
            found += [(FrameType.RECV_PACKET, key + packet) for packet in packets]
            # whatever is not taken with others is a frame of another kind or peer, or short
            frame = None if packets else together.next_frame()
            if frame is None and not packets:
                break
            if frame is not None:
                assert frame[0] != FrameType.RECV_PACKET or len(frame[1]) < 32
                found.append(frame)
    assert found == read(stream)


def test_packets_of_one_key_are_taken_together_until_something_else_comes() -> None:
    buffer = FrameBuffer(CLIENT_LIMITS)
    frames: list[Frame] = [RecvPacket(KEY, b"a"), RecvPacket(KEY, b"bc"), RecvPacket(OTHER_KEY, b"d"), KeepAlive()]
    buffer.receive(b"".join(frame.emit() for frame in frames) + RecvPacket(KEY, b"cut").emit()[:-1])
    assert buffer.next_packets(FrameType.RECV_PACKET) == (KEY.raw, [b"a", b"bc"])
    assert buffer.next_packets(FrameType.RECV_PACKET) == (OTHER_KEY.raw, [b"d"])
    assert buffer.next_packets(FrameType.RECV_PACKET)[1] == []
    assert buffer.next_frame() == (FrameType.KEEP_ALIVE, b"")
    assert buffer.next_packets(FrameType.RECV_PACKET)[1] == []
    assert buffer.next_frame() is None


# who reads, type, the longest payload
LIMITS = [
    (CLIENT_LIMITS, FrameType.SERVER_KEY, 1024),
    (CLIENT_LIMITS, FrameType.RECV_PACKET, MAX_FRAME_BYTES),
    (CLIENT_LIMITS, 0x77, MAX_FRAME_BYTES),
    (SERVER_LIMITS, FrameType.CLIENT_INFO, 262144),
    (SERVER_LIMITS, FrameType.SEND_PACKET, 65568),
    (SERVER_LIMITS, FrameType.PING, 1000),
    (SERVER_LIMITS, FrameType.NOTE_PREFERRED, MAX_FRAME_BYTES),
]


@pytest.mark.parametrize(("limits", "kind", "longest"), LIMITS)
def test_a_length_beyond_the_limit_ends_the_stream_at_once(limits: dict[int, int], kind: int, longest: int) -> None:
    allowed = FrameBuffer(limits)
    allowed.receive(HEADER.pack(kind, longest) + bytes(longest))
    assert allowed.next_frame() == (kind, bytes(longest))
    refused = FrameBuffer(limits)
    refused.receive(KeepAlive().emit() + HEADER.pack(kind, longest + 1) + bytes(longest + 1))
    assert refused.next_frame() == (FrameType.KEEP_ALIVE, b"")
    assert refused.next_packets(FrameType(kind) if kind in set(FrameType) else FrameType.PING)[1] == []
    with pytest.raises(Malformed, match=f"type {kind:#04x}: got {longest + 1}, want at most {longest}"):
        refused.next_frame()


# --- the hello --------------------------------------------------------------------------------------------------------

CLIENT = PrivateKey(bytes(range(0x40, 0x60)))
SERVER = PrivateKey(bytes(range(0x60, 0x80)))
NONCE = bytes(range(0xC8, 0xE0))


def nonce(size: int) -> bytes:
    return NONCE[:size]


def sealed(sender: PrivateKey, receiver: PublicKey, text: bytes) -> bytes:
    return bytes(Box(BoxPrivateKey(sender.private_bytes()), BoxPublicKey(receiver.raw)).encrypt(text, NONCE))


def client_info(text: bytes) -> ClientInfo:
    return ClientInfo(CLIENT.public, sealed(CLIENT, SERVER.public, text))


def server_info(text: bytes) -> ServerInfo:
    return ServerInfo(sealed(SERVER, CLIENT.public, text))


def test_hello_of_the_notes() -> None:
    assert ServerKey(SERVER.public).emit().hex() == (
        "010000002844455250f09f9491675dd574ed7789310b3d2e7681f3790b466c773b1521fecf36577958371ea52f"
    )
    info = ClientDetails().seal(CLIENT, SERVER.public, nonce)
    assert info.emit().hex() == (
        "020000006879a631eede1bf9c98f12032cdeadd0e7a079398fc786b88cc846ec89af85a51a"
        "c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedf"
        "d99426724e31aa33fe7fa9c856823d6eb945135e9d655541379e8f86acabfd10"
        "eb72f8de0f7c8c6c28acd80aec083449"
    )
    assert ClientDetails.open(info, SERVER) == ClientDetails()


@given(st.builds(ClientDetails, st.integers(0, 9), st.booleans(), st.booleans(), st.text(max_size=40)))
def test_what_a_client_seals_the_server_opens(details: ClientDetails) -> None:
    assert ClientDetails.open(details.seal(CLIENT, SERVER.public, nonce), SERVER) == details


@given(st.builds(ServerDetails, st.integers(0, 9), st.integers(0, 1 << 40), st.integers(0, 1 << 40)))
def test_what_a_server_seals_the_client_opens(details: ServerDetails) -> None:
    assert ServerDetails.open(details.seal(SERVER, CLIENT.public, nonce), CLIENT, SERVER.public) == details


def test_a_server_says_no_more_than_it_must() -> None:
    assert ServerDetails().seal(SERVER, CLIENT.public, nonce) == server_info(b'{"version":2}')


def test_an_unused_mesh_key_is_not_sent() -> None:
    details = ClientDetails(is_prober=True, app_name="ours")
    want = b'{"version":2,"CanAckPings":true,"IsProber":true,"AppName":"ours"}'
    assert details.seal(CLIENT, SERVER.public, nonce) == client_info(want)


def test_names_that_another_client_invented_are_ignored() -> None:
    text = b'{"can_ack_pings":false,"is_prober":false,"mesh_key":"none","version":2}'  # tailscale-rs
    assert ClientDetails.open(client_info(text), SERVER) == ClientDetails(can_ack_pings=False)


def test_names_are_matched_without_regard_to_case() -> None:
    text = json.dumps({"VERSION": 3, "canAckPings": True, "APPNAME": "x"}).encode()
    assert ClientDetails.open(client_info(text), SERVER) == ClientDetails(3, True, False, "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "ServerInfo: got no JSON"),
        (b"\xff", "ServerInfo: got no JSON"),
        (b"[" * 100_000, "ServerInfo: got no JSON"),
        (b"[]", "ServerInfo: got list, want a JSON object"),
        (b'{"version":"2"}', "version: got '2', want a whole number"),
        (b'{"version":true}', "version: got True"),
        (b'{"TokenBucketBytesPerSecond":-1}', "tokenbucketbytespersecond: got -1"),
        (b'{"TokenBucketBytesBurst":1.5}', "tokenbucketbytesburst: got 1.5"),
        (b'{"TokenBucketBytesBurst":1' + b"0" * 400 + b"}", "tokenbucketbytesburst: got 1000"),
    ],
)
def test_other_contents_of_the_box_are_malformed(text: bytes, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        ServerDetails.open(server_info(text), CLIENT, SERVER.public)


def test_who_does_not_own_the_key_is_found_out() -> None:
    stolen = ClientInfo(SERVER.public, client_info(b"{}").sealed)
    with pytest.raises(Malformed, match="sealed box: got one that does not open"):
        ClientDetails.open(stolen, SERVER)


@pytest.mark.parametrize("low", [bytes(32), b"\1" + bytes(31)])
def test_a_key_of_low_order_is_refused_before_the_box(low: bytes) -> None:
    with pytest.raises(Malformed, match="public key: got a point of low order"):
        ClientDetails().seal(CLIENT, PublicKey(low), nonce)
    with pytest.raises(Malformed, match="public key: got a point of low order"):
        ClientDetails.open(ClientInfo(PublicKey(low), bytes(60)), SERVER)
