# SPDX-License-Identifier: BSD-3-Clause
"""ts2021 on both sides: the recorded vector byte for byte, and all that a server or a client can do wrong."""

import base64

import pytest

from ts4nsnet.control.errors import ControlError, HandshakeFailed
from ts4nsnet.control.ts2021 import (
    MAX_EARLY_BYTES,
    MAX_FRAME_BYTES,
    MAX_PLAINTEXT_BYTES,
    UPGRADE,
    Channel,
    ClientHandshake,
    EarlyPayload,
    Initiator,
    accept,
    early_payload,
    error_frame,
    parse_handshake_header,
)
from ts4nsnet.keys import PrivateKey, PublicKey

# control.md 3.3: computed by hand, cross-checked with an independent Noise library
SERVER, MACHINE, CLIENT_EPHEMERAL, SERVER_EPHEMERAL = (PrivateKey(bytes([byte]) * 32) for byte in b"\x11\x22\x33\x44")
VERSION = 130
INITIATION = bytes.fromhex(
    "0082010060"
    "7b0d47d93427f8311160781c7c733fd89f88970aef490d8aa0ee19a4cb8a1b14"
    "b903b541e3810f9a9f788541f1d8f2ec482568e39b9f0f56a9f4a7a56450f31ade9436f45e581ddb408735b43af11fed"
    "ec97d5c88d8ca7ef2bf1e62d1ffb5417"
)
RESPONSE = bytes.fromhex(
    "020030ff2ee45601ec1b67310c7790404585ae697331eee1c1f8cf2419731c1fff3e6bddfb23d2a2a4143a7034ba87a5f7377a"
)
RECORDS = [
    bytes.fromhex("04001514a9f922c148802d01a653ad5bc589a481c5458acc"),
    bytes.fromhex("0400152383fda3ae9709b771c7e70e177f2d20b9151658f9"),  # a little-endian nonce would give 7c3f0e…
]
HEAD = f"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {UPGRADE}\r\n\r\n".encode()
# a point of low order: no secret can be agreed with it (RFC 7748, 6.1)
LOW_ORDER = PublicKey(bytes(32))


def initiator() -> Initiator:
    return Initiator.create(MACHINE, SERVER.public, CLIENT_EPHEMERAL, VERSION)[1]


def handshake(server: PublicKey = SERVER.public) -> ClientHandshake:
    return ClientHandshake(MACHINE, server, CLIENT_EPHEMERAL, VERSION, "h:8080")


def pair() -> tuple[Channel, Channel]:
    """The channels of a client and a server."""
    response, server = accept(INITIATION, SERVER, SERVER_EPHEMERAL)
    return initiator().finish(response[3:]), server


# --- the vector -----------------------------------------------------------------------------------------------


def test_the_recorded_handshake_byte_for_byte() -> None:
    initiation, waiting = Initiator.create(MACHINE, SERVER.public, CLIENT_EPHEMERAL, VERSION)
    assert initiation == INITIATION
    response, server = accept(initiation, SERVER, SERVER_EPHEMERAL)
    assert response == RESPONSE
    assert server.peer == MACHINE.public
    assert server.version == VERSION
    client = waiting.finish(response[3:])
    assert [client.seal(b"hello") for _ in RECORDS] == RECORDS
    assert server.open(b"".join(RECORDS)) == b"hellohello"
    assert client.open(server.seal(b"x")) == b"x"
    assert client.peer == SERVER.public


# --- records --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, MAX_PLAINTEXT_BYTES, MAX_PLAINTEXT_BYTES + 1, 100_000])
def test_any_length_is_split_into_records(size: int) -> None:
    client, server = pair()
    frames = client.seal(bytes(size))
    assert len(frames) == size + 19 * -(-size // MAX_PLAINTEXT_BYTES)
    assert server.open(frames) == bytes(size)


def test_records_arrive_byte_by_byte() -> None:
    client, server = pair()
    plaintext = b"".join(server.open(bytes([byte])) for byte in client.seal(b"hello") + client.seal(b"world"))
    assert plaintext == b"helloworld"


def test_an_empty_record_says_nothing() -> None:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    channel = Channel(bytes(32), bytes(32), SERVER.public, VERSION)
    empty = ChaCha20Poly1305(bytes(32)).encrypt(bytes(12), b"", None)
    assert channel.open(b"\x04\x00\x10" + empty) == b""
    assert channel.open(Channel(bytes(32), bytes(32), SERVER.public, VERSION).seal(b"")) == b""


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        (RECORDS[0][:-1] + b"\x00", "not sealed by the other side"),
        (RECORDS[1], "not sealed by the other side"),  # out of order
        (b"\x03" + RECORDS[0][1:], "frame of type 3"),
        (b"\x04\x00\x0f" + bytes(15), "record of 15 bytes"),
        (b"\x04\x0f\xfe", "frame of 4097 bytes"),
        (b"\x04\xff\xff", "frame of 65538 bytes"),
    ],
)
def test_a_bad_record_kills_the_channel(frames: bytes, text: str) -> None:
    with pytest.raises(ControlError, match=text):
        pair()[1].open(frames)


# --- the server's side ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("initiation", "text"),
    [
        (b"", "got 0 bytes"),
        (INITIATION + b"x", "got 102 bytes"),
        (b"\x00\x81" + INITIATION[2:], "not for this server"),  # another version than its prologue
        (INITIATION[:2] + b"\x02" + INITIATION[3:], "wrong type or length"),
        (INITIATION[:4] + b"\x61" + INITIATION[5:], "wrong type or length"),
        (INITIATION[:5] + bytes(32) + INITIATION[37:], "not for this server"),
        (INITIATION[:-1] + b"\x00", "not for this server"),
    ],
)
def test_a_bad_initiation_is_refused(initiation: bytes, text: str) -> None:
    with pytest.raises(HandshakeFailed, match=text):
        accept(initiation, SERVER, SERVER_EPHEMERAL)


def test_an_initiation_for_another_server_is_refused() -> None:
    with pytest.raises(HandshakeFailed, match="not for this server"):
        accept(INITIATION, SERVER_EPHEMERAL, SERVER_EPHEMERAL)


@pytest.mark.parametrize("value", ["", "====", "ä", base64.b64encode(INITIATION).decode()[:-1]])
def test_a_handshake_header_that_is_no_initiation(value: str) -> None:
    with pytest.raises(HandshakeFailed):
        accept(parse_handshake_header(value), SERVER, SERVER_EPHEMERAL)


# --- the client's side ----------------------------------------------------------------------------------------


def test_the_upgrade_request() -> None:
    ours = handshake()
    head, _, body = ours.data_to_send().partition(b"\r\n\r\n")
    assert body == b""
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /ts2021 HTTP/1.1"
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    assert headers == {
        "host": "h:8080",
        "connection": "upgrade",
        "upgrade": UPGRADE,
        "x-tailscale-handshake": base64.b64encode(INITIATION).decode(),
        "content-length": "0",
    }
    assert parse_handshake_header(headers["x-tailscale-handshake"]) == INITIATION
    assert ours.data_to_send() == b""


@pytest.mark.parametrize("pieces", [1, 5, 1000])
def test_the_response_may_share_a_segment_with_the_head_and_with_records(pieces: int) -> None:
    _, server = accept(INITIATION, SERVER, SERVER_EPHEMERAL)
    stream = HEAD + RESPONSE + server.seal(b"hello")
    ours = handshake()
    channel = None
    received = b""
    for start in range(0, len(stream), pieces):
        piece = stream[start : start + pieces]
        if channel is not None:
            received += channel.open(piece)
        elif (channel := ours.receive(piece)) is not None:
            received = channel.open(ours.rest)
    assert received == b"hello"


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "got 404, want 101"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "got 100, want 101"),
        (b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n", "want tailscale-control-protocol"),
        (b"HTTP/1.1 101 x\r\n\r\n", "want tailscale-control-protocol"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + bytes(70000), "not HTTP"),
        (HEAD + error_frame("go away"), "'go away'"),
        (HEAD + RESPONSE[:-1] + b"\x00", "not from the owner of the server's key"),
        (HEAD + b"\x02\x00\x30" + bytes(48), "not from the owner of the server's key"),
        (HEAD + b"\x02\x00\x2f" + bytes(47), "want a response of 48"),
        (HEAD + RECORDS[0], "frame of type 4"),
    ],
)
def test_a_failed_handshake_says_why(stream: bytes, text: str) -> None:
    with pytest.raises(HandshakeFailed, match=text):
        handshake().receive(stream)


def test_a_frame_that_is_too_long_is_an_error_in_the_handshake_as_well() -> None:
    with pytest.raises(ControlError, match="want at most 4096"):
        handshake().receive(HEAD + b"\x02\xff\xff")


@pytest.mark.parametrize(
    ("before", "text"),
    [(b"", "not HTTP|no answer"), (HEAD[:20], "not HTTP"), (HEAD, "its key"), (HEAD + RESPONSE[:20], "its key")],
)
def test_an_end_within_the_handshake(before: bytes, text: str) -> None:
    ours = handshake()
    if before:
        assert ours.receive(before) is None
    with pytest.raises(HandshakeFailed, match=text):
        ours.receive(b"")


def test_a_servers_key_with_which_nothing_can_be_agreed() -> None:
    with pytest.raises(HandshakeFailed, match="of no use"):
        handshake(LOW_ORDER)


def test_an_error_frame_is_no_longer_than_a_frame() -> None:
    assert len(error_frame("x" * 10000)) == MAX_FRAME_BYTES


# --- the early payload ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [1, 4, 1000])
@pytest.mark.parametrize("early", [b"", early_payload(SERVER.public)])
def test_an_early_payload_is_skipped_where_there_is_one(early: bytes, pieces: int) -> None:
    http2 = b"\x00\x00\x12\x04\x00\x00\x00\x00\x00 and so on"
    stream = early + http2
    skipper = EarlyPayload()
    assert b"".join(skipper.skip(stream[i : i + pieces]) for i in range(0, len(stream), pieces)) == http2


def test_an_early_payload_holds_a_challenge() -> None:
    assert early_payload(SERVER.public)[9:] == b'{"nodeKeyChallenge":"chalpub:%s"}' % SERVER.public.raw.hex().encode()


def test_a_long_early_payload_is_refused() -> None:
    with pytest.raises(ControlError, match="early payload"):
        EarlyPayload().skip(b"\xff\xff\xffTS" + (MAX_EARLY_BYTES + 1).to_bytes(4, "big"))
