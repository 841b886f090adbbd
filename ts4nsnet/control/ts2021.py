# SPDX-License-Identifier: BSD-3-Clause
"""ts2021: a Noise channel inside an upgraded HTTP/1.1 connection.

    client                                                   server
    POST /ts2021, Upgrade, X-Tailscale-Handshake ──────────► HTTP head
                 (initiation, 101 bytes, base64)             accept()
    HTTP head ◄───────────────────────────────────────────── 101 Switching Protocols
    response, 51 bytes ◄──────────────────────────────────── or an error frame, before the end
    records ◄──────────────────────────────────────────────► records

The pattern is Noise_IK: the client knows the server's key from `GET /key`, the server learns the client's machine key,
and both have proved theirs when the channel stands. So it does not matter who terminates TLS in between.

Records hold at most 4077 bytes of plaintext. Their nonce is **big-endian**: a stock Noise library reads record 0 and
fails at record 1. An empty record is legal and says nothing. Whatever goes wrong is final: the counters are lost.

What the server says first may be an *early payload*, nine bytes of head and a JSON object with a challenge that no
client answers; then HTTP/2 follows (session.py). `EarlyPayload` takes it off the stream of plaintext.

    ClientHandshake   HTTP head, response, early payload: gives a Channel   (client)
    accept            initiation in, response and Channel out              (server)
    Channel           seal and open records                                (both)

A server that cannot decrypt our initiation closes after the 101 and says nothing: wrong key, wrong machine or a
version that it does not like look the same.

Source: protocol notes, control.md 3.1, 3.3, 3.4; The Noise Protocol Framework, 7.5 (IK).
"""

import base64
import binascii
import json
from dataclasses import dataclass
from enum import IntEnum

import h11
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from ts4nsnet.control.errors import ControlError, HandshakeFailed
from ts4nsnet.keys import InvalidKey, PrivateKey, PublicKey
from ts4nsnet.noise import TAG_BYTES, DecryptionFailed, SymmetricState

PATH = "/ts2021"
UPGRADE = "tailscale-control-protocol"  # compared exactly
HANDSHAKE_HEADER = "X-Tailscale-Handshake"

PROTOCOL_NAME = b"Noise_IK_25519_ChaChaPoly_BLAKE2s"
INITIATION_BYTES = 101
RESPONSE_BYTES = 51
HEADER_BYTES = 3  # type, length; the initiation has its version in front of them

MAX_FRAME_BYTES = 4096  # header and tag included
MAX_PLAINTEXT_BYTES = MAX_FRAME_BYTES - HEADER_BYTES - TAG_BYTES

EARLY_MAGIC = b"\xff\xff\xffTS"
EARLY_HEADER_BYTES = len(EARLY_MAGIC) + 4
# ours: the reference takes 10 MiB, tailscale-rs 1 KiB; the object has one key in it
MAX_EARLY_BYTES = 64 * 1024
# ours: h11 refuses a longer head
MAX_HEAD_BYTES = 16 * 1024


class FrameType(IntEnum):
    """First byte of a frame; of the initiation's, the third."""

    INITIATION = 1
    RESPONSE = 2
    ERROR = 3
    RECORD = 4


class Channel:
    """The record layer of one side: plaintext in, frames out, and back.

    Args:
        send_key: 32 bytes.
        receive_key: 32 bytes.
        peer: whose static key the handshake proved: the server's, or the client's machine key.
        version: the capability version of the client's initiation.
    """

    __slots__ = ("_buffer", "_opener", "_received", "_sealer", "_sent", "peer", "version")

    def __init__(self, send_key: bytes, receive_key: bytes, peer: PublicKey, version: int) -> None:
        self._sealer = ChaCha20Poly1305(send_key)
        self._opener = ChaCha20Poly1305(receive_key)
        self._sent = 0
        self._received = 0
        self._buffer = bytearray()
        self.peer = peer
        self.version = version

    def seal(self, plaintext: bytes) -> bytes:
        """Frames that carry `plaintext`, of any length; nothing for nothing."""
        frames: list[bytes] = []
        for start in range(0, len(plaintext), MAX_PLAINTEXT_BYTES):
            part = plaintext[start : start + MAX_PLAINTEXT_BYTES]
            frames.append(_header(FrameType.RECORD, len(part) + TAG_BYTES))
            frames.append(self._sealer.encrypt(_nonce(self._sent), part, None))
            self._sent += 1
        return b"".join(frames)

    def open(self, data: bytes) -> bytes:
        """The plaintext that `data` completes, maybe none; raises `ControlError`, after which the channel is dead."""
        self._buffer += data
        plaintexts: list[bytes] = []
        while (frame := _take_frame(self._buffer)) is not None:
            kind, body = frame
            if kind != FrameType.RECORD:
                raise ControlError(f"ts2021: got a frame of type {kind} after the handshake, want {FrameType.RECORD:d}")
            if len(body) < TAG_BYTES:
                raise ControlError(f"ts2021: got a record of {len(body)} bytes, want at least {TAG_BYTES}")
            try:
                plaintexts.append(self._opener.decrypt(_nonce(self._received), body, None))
            except InvalidTag:
                raise ControlError(f"ts2021: record {self._received} was not sealed by the other side") from None
            self._received += 1
        return b"".join(plaintexts)


class Initiator:
    """The client's side of Noise_IK: our initiation is out; what is needed to accept the response."""

    __slots__ = ("_ephemeral", "_machine", "_noise", "_server", "_version")

    def __init__(
        self, noise: SymmetricState, machine: PrivateKey, ephemeral: PrivateKey, server: PublicKey, version: int
    ) -> None:
        self._noise = noise
        self._machine = machine
        self._ephemeral = ephemeral
        self._server = server
        self._version = version

    @classmethod
    def create(
        cls, machine: PrivateKey, server: PublicKey, ephemeral: PrivateKey, version: int
    ) -> "tuple[bytes, Initiator]":
        """The initiation, 101 bytes, and what waits for its answer.

        Args:
            machine: our static key; the server will know us by it.
            server: from `GET /key`.
            ephemeral: a fresh key, never used twice.
            version: the capability version, 1 to 65535.

        Raises:
            HandshakeFailed: no secret can be agreed with `server`.
        """
        noise = SymmetricState(PROTOCOL_NAME, _prologue(version))
        noise.mix_hash(server.raw)
        noise.mix_hash(ephemeral.public.raw)
        try:
            noise.mix_key(ephemeral.exchange(server))
            sealed_static = noise.encrypt_and_hash(machine.public.raw)
            noise.mix_key(machine.exchange(server))
        except InvalidKey as error:
            raise HandshakeFailed(f"ts2021: the server's key is of no use: {error}") from None
        tag = noise.encrypt_and_hash(b"")
        body = ephemeral.public.raw + sealed_static + tag
        initiation = version.to_bytes(2, "big") + _header(FrameType.INITIATION, len(body)) + body
        return initiation, cls(noise, machine, ephemeral, server, version)

    def finish(self, body: bytes) -> Channel:
        """Accept the response's body, 48 bytes; raises `HandshakeFailed`."""
        remote = PublicKey(body[:32])
        self._noise.mix_hash(remote.raw)
        try:
            self._noise.mix_key(self._ephemeral.exchange(remote))
            self._noise.mix_key(self._machine.exchange(remote))
            self._noise.decrypt_and_hash(body[32:])
        except (DecryptionFailed, InvalidKey):
            raise HandshakeFailed("ts2021: the response is not from the owner of the server's key") from None
        send_key, receive_key = self._noise.split()
        return Channel(send_key, receive_key, self._server, self._version)


def accept(initiation: bytes, server: PrivateKey, ephemeral: PrivateKey) -> tuple[bytes, Channel]:
    """The server's side: take an initiation, give the response (51 bytes, sent after the 101) and the channel.

    The channel's `peer` is the client's machine key, proved; its `version` the capability version announced.

    Raises:
        HandshakeFailed: the initiation is malformed, or not for this key and version; `error_frame` may tell it so.
    """
    if len(initiation) != INITIATION_BYTES:
        raise HandshakeFailed(f"initiation: got {len(initiation)} bytes, want {INITIATION_BYTES}")
    version = int.from_bytes(initiation[:2], "big")
    body = initiation[2 + HEADER_BYTES :]
    if initiation[2 : 2 + HEADER_BYTES] != _header(FrameType.INITIATION, len(body)):
        raise HandshakeFailed("initiation: wrong type or length field")
    remote_ephemeral = PublicKey(body[:32])
    noise = SymmetricState(PROTOCOL_NAME, _prologue(version))
    noise.mix_hash(server.public.raw)
    noise.mix_hash(remote_ephemeral.raw)
    try:
        noise.mix_key(server.exchange(remote_ephemeral))
        machine = PublicKey(noise.decrypt_and_hash(body[32:80]))
        noise.mix_key(server.exchange(machine))
        noise.decrypt_and_hash(body[80:])
        noise.mix_hash(ephemeral.public.raw)
        noise.mix_key(ephemeral.exchange(remote_ephemeral))
        noise.mix_key(ephemeral.exchange(machine))
    except (DecryptionFailed, InvalidKey):
        raise HandshakeFailed("initiation: not for this server's key and version") from None
    tag = noise.encrypt_and_hash(b"")
    receive_key, send_key = noise.split()
    response_body = ephemeral.public.raw + tag
    response = _header(FrameType.RESPONSE, len(response_body)) + response_body
    return response, Channel(send_key, receive_key, machine, version)


def error_frame(text: str) -> bytes:
    """What a server may send in place of the response; an unauthenticated hint."""
    body = text.encode()[: MAX_FRAME_BYTES - HEADER_BYTES]
    return _header(FrameType.ERROR, len(body)) + body


def parse_handshake_header(value: str) -> bytes:
    """The initiation in the header X-Tailscale-Handshake (server); raises `HandshakeFailed`."""
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise HandshakeFailed("invalid tailscale handshake header: not base64") from None


def early_payload(challenge: PublicKey) -> bytes:
    """The optional first plaintext of a server."""
    body = json.dumps({"nodeKeyChallenge": challenge.to_text("chalpub:")}, separators=(",", ":")).encode()
    return EARLY_MAGIC + len(body).to_bytes(4, "big") + body


class EarlyPayload:
    """Takes the early payload, if there is one, off the plaintext's beginning."""

    __slots__ = ("_buffer", "_done")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._done = False

    def skip(self, plaintext: bytes) -> bytes:
        """What of `plaintext`, and of what came before, is HTTP/2; raises `ControlError` if the payload is too long."""
        if self._done:
            return plaintext
        self._buffer += plaintext
        head = bytes(self._buffer[:EARLY_HEADER_BYTES])
        if not (EARLY_MAGIC.startswith(head) or head.startswith(EARLY_MAGIC)):
            return self._finish(0)
        if len(head) < EARLY_HEADER_BYTES:
            return b""
        length = int.from_bytes(head[len(EARLY_MAGIC) :], "big")
        if length > MAX_EARLY_BYTES:
            raise ControlError(f"ts2021: early payload: got {length} bytes, want at most {MAX_EARLY_BYTES}")
        if len(self._buffer) < EARLY_HEADER_BYTES + length:
            return b""
        return self._finish(EARLY_HEADER_BYTES + length)

    def _finish(self, skipped_bytes: int) -> bytes:
        self._done = True
        rest = bytes(self._buffer[skipped_bytes:])
        self._buffer.clear()
        return rest


@dataclass(slots=True)
class _AwaitingHead:
    """The upgrade request is out. Allowed: the HTTP head of its response."""

    http: h11.Connection


@dataclass(slots=True)
class _AwaitingResponse:
    """101 has come. Allowed: the Noise response, or an error frame."""

    buffer: bytearray


class ClientHandshake:
    """The client's way to a channel: upgrade request out, HTTP head and Noise response in.

    Args:
        machine: our static key.
        server: the server's key, from `GET /key`.
        ephemeral: a fresh key.
        version: the capability version, 1 to 65535.
        host: the Host header, with the port if it is not the scheme's own.
    """

    __slots__ = ("_initiator", "_request", "_state", "rest")

    rest: bytes  # after the channel stands: what came behind the response, records to open

    def __init__(self, machine: PrivateKey, server: PublicKey, ephemeral: PrivateKey, version: int, host: str) -> None:
        initiation, self._initiator = Initiator.create(machine, server, ephemeral, version)
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        request = h11.Request(
            method="POST",
            target=PATH,
            headers=[
                ("Host", host),
                ("Connection", "upgrade"),
                ("Upgrade", UPGRADE),
                (HANDSHAKE_HEADER, base64.b64encode(initiation).decode()),
                ("Content-Length", "0"),
            ],
        )
        self._request = http.send(request) + http.send(h11.EndOfMessage())
        self._state: _AwaitingHead | _AwaitingResponse = _AwaitingHead(http)
        self.rest = b""

    def data_to_send(self) -> bytes:
        """The upgrade request, once."""
        request, self._request = self._request, b""
        return request

    def receive(self, data: bytes) -> Channel | None:
        """Take bytes of the connection, `b""` at its end; a channel once it stands (then see `rest`).

        Raises:
            HandshakeFailed: refused, with the reason as far as the server gives one.
        """
        if isinstance(self._state, _AwaitingHead):
            after_head = self._receive_head(self._state.http, data)
            if after_head is None:
                return None
            self._state = _AwaitingResponse(bytearray(after_head))
        elif not data:
            raise HandshakeFailed(
                "ts2021: closed after the upgrade: the server accepts neither our idea of its key nor, maybe, our "
                "protocol version"
            )
        else:
            self._state.buffer += data
        return self._receive_response(self._state.buffer)

    def _receive_head(self, http: h11.Connection, data: bytes) -> bytes | None:
        """What follows the response's head, once that is complete."""
        try:
            http.receive_data(data)
            event = http.next_event()
        except h11.RemoteProtocolError as error:
            raise HandshakeFailed(f"ts2021: the answer to the upgrade is not HTTP: {error}") from None
        if event is h11.NEED_DATA:
            return None
        if not isinstance(event, h11.InformationalResponse) or event.status_code != 101:
            status = event.status_code if isinstance(event, h11.InformationalResponse | h11.Response) else "no answer"
            raise HandshakeFailed(f"ts2021: upgrade refused: got {status}, want 101; is this a control server?")
        upgrades = [value for name, value in event.headers if name == b"upgrade"]
        if upgrades != [UPGRADE.encode()]:
            raise HandshakeFailed(f"ts2021: upgraded to {upgrades!r}, want {UPGRADE}")
        return http.trailing_data[0]

    def _receive_response(self, buffer: bytearray) -> Channel | None:
        frame = _take_frame(buffer)
        if frame is None:
            return None
        kind, body = frame
        if kind == FrameType.ERROR:
            raise HandshakeFailed(f"ts2021: the server refuses the handshake: {body.decode(errors='replace')!r}")
        if kind != FrameType.RESPONSE or len(body) != RESPONSE_BYTES - HEADER_BYTES:
            raise HandshakeFailed(
                f"ts2021: got a frame of type {kind} and {len(body)} bytes, want a response of "
                f"{RESPONSE_BYTES - HEADER_BYTES}"
            )
        channel = self._initiator.finish(body)
        self.rest = bytes(buffer)
        return channel


def _prologue(version: int) -> bytes:
    return b"Tailscale Control Protocol v%d" % version


def _header(kind: FrameType, length: int) -> bytes:
    return bytes([kind]) + length.to_bytes(2, "big")


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")  # of the 2^64 that there are no connection sees the last


def _take_frame(buffer: bytearray) -> tuple[int, bytes] | None:
    """Cut one frame off the front of `buffer`, if it is complete."""
    if len(buffer) < HEADER_BYTES:
        return None
    end = HEADER_BYTES + int.from_bytes(buffer[1:HEADER_BYTES], "big")
    if end > MAX_FRAME_BYTES:
        raise ControlError(f"ts2021: got a frame of {end} bytes, want at most {MAX_FRAME_BYTES}")
    if len(buffer) < end:
        return None
    frame = buffer[0], bytes(buffer[HEADER_BYTES:end])
    del buffer[:end]
    return frame
