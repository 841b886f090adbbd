# SPDX-License-Identifier: BSD-3-Clause
"""Noise_IKpsk2: two messages that make a pair of transport keys.

    initiator                                             responder
    Initiator.create ──── e, es, s, ss, {timestamp} ────► Received.open, .timestamp
    Initiator.finish ◄──── e, ee, se, psk, {} ─────────── Received.respond

The responder learns who calls only after two decryptions, and nothing of the peer may change before the timestamp has
decrypted. A response that is wrong leaves the initiator's state as it was: the right one may still come. Everything
random (ephemeral key, index) and the timestamp come in as arguments, so a test can replay a recorded handshake byte
for byte. The mac fields are left empty here; cookies.py fills them.

Source: WireGuard paper, sections 5.4.2 to 5.4.5.
"""

from dataclasses import dataclass, field

from ts4nsnet.keys import PrivateKey, PublicKey
from ts4nsnet.noise import SymmetricState
from ts4nsnet.wireguard.messages import Initiation, Response

CONSTRUCTION = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"

NO_PRESHARED_KEY = bytes(32)

_START = SymmetricState(CONSTRUCTION, IDENTIFIER)


@dataclass(frozen=True, slots=True)
class TransportKeys:
    """What a handshake yields, 32 bytes each; never shown."""

    send: bytes = field(repr=False)
    receive: bytes = field(repr=False)


class Initiator:
    """Our initiation is out; what is needed to accept its response."""

    __slots__ = ("_ephemeral", "_noise", "_static")

    def __init__(self, noise: SymmetricState, static: PrivateKey, ephemeral: PrivateKey) -> None:
        self._noise = noise
        self._static = static
        self._ephemeral = ephemeral

    @classmethod
    def create(
        cls,
        static: PrivateKey,
        responder: PublicKey,
        static_static: bytes,
        ephemeral: PrivateKey,
        timestamp: bytes,
        index: int,
    ) -> "tuple[Initiation, Initiator]":
        """Call `responder`.

        Args:
            static_static: what both static keys agree on; the caller keeps it, as it never changes.
            timestamp: TAI64N, 12 bytes, greater than any that was sent to this peer.
            index: the receiver index that the peer shall use.
        """
        noise = _START.copy()
        noise.mix_hash(responder.raw)
        noise.mix_hash(ephemeral.public.raw)
        noise.mix_key(ephemeral.public.raw)
        noise.mix_key(ephemeral.exchange(responder))
        sealed_static = noise.encrypt_and_hash(static.public.raw)
        noise.mix_key(static_static)
        sealed_timestamp = noise.encrypt_and_hash(timestamp)
        initiation = Initiation(index, ephemeral.public.raw, sealed_static, sealed_timestamp)
        return initiation, cls(noise, static, ephemeral)

    def finish(self, response: Response, preshared_key: bytes) -> TransportKeys:
        """Accept the response; raises `DecryptionFailed` or `InvalidKey`, and may then be asked again."""
        noise = self._noise.copy()
        remote = PublicKey(response.ephemeral)
        noise.mix_hash(remote.raw)
        noise.mix_key(remote.raw)
        noise.mix_key(self._ephemeral.exchange(remote))
        noise.mix_key(self._static.exchange(remote))
        noise.mix_key_and_hash(preshared_key)
        noise.decrypt_and_hash(response.sealed_nothing)
        send, receive = noise.split()
        return TransportKeys(send, receive)


class Received:
    """An initiation that has come; `static` says who claims to call. The timestamp proves it."""

    __slots__ = ("_noise", "_remote_ephemeral", "_sealed_timestamp", "_sender_index", "static")

    static: PublicKey

    def __init__(self, initiation: Initiation, noise: SymmetricState, static: PublicKey) -> None:
        self._noise = noise
        self._remote_ephemeral = PublicKey(initiation.ephemeral)
        self._sealed_timestamp = initiation.sealed_timestamp
        self._sender_index = initiation.sender_index
        self.static = static

    @classmethod
    def open(cls, initiation: Initiation, own: PrivateKey) -> "Received":
        """Learn who calls; raises `DecryptionFailed` or `InvalidKey`."""
        noise = _START.copy()
        remote = PublicKey(initiation.ephemeral)
        noise.mix_hash(own.public.raw)
        noise.mix_hash(remote.raw)
        noise.mix_key(remote.raw)
        noise.mix_key(own.exchange(remote))
        static = PublicKey(noise.decrypt_and_hash(initiation.sealed_static))
        return cls(initiation, noise, static)

    def timestamp(self, static_static: bytes) -> bytes:
        """Prove who calls: 12 bytes of TAI64N; raises `DecryptionFailed`."""
        self._noise.mix_key(static_static)
        return self._noise.decrypt_and_hash(self._sealed_timestamp)

    def respond(self, ephemeral: PrivateKey, preshared_key: bytes, index: int) -> tuple[Response, TransportKeys]:
        """Answer, after `timestamp`; raises `InvalidKey` for a caller's ephemeral key of low order."""
        noise = self._noise
        noise.mix_hash(ephemeral.public.raw)
        noise.mix_key(ephemeral.public.raw)
        noise.mix_key(ephemeral.exchange(self._remote_ephemeral))
        noise.mix_key(ephemeral.exchange(self.static))
        noise.mix_key_and_hash(preshared_key)
        response = Response(index, self._sender_index, ephemeral.public.raw, noise.encrypt_and_hash(b""))
        receive, send = noise.split()
        return response, TransportKeys(send, receive)


# 2^62 + 10: TAI64 counts from 1970 with the ten leap seconds of then
TAI64_EPOCH = 0x4000_0000_0000_000A
# nanoseconds; both known implementations round so, lest the exact time of a handshake be told
TIMESTAMP_STEP = 1 << 24


class Timestamps:
    """TAI64N stamps for our initiations to one peer, 12 bytes each: every one is greater than the one before it.

    A wall clock that was set back must not make the peer ignore us, so time then goes on in small steps.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def next(self, wall: int) -> bytes:
        """The stamp for `wall`, nanoseconds since 1970 (UTC)."""
        seconds, nanoseconds = divmod(wall, 1_000_000_000)
        stamp = seconds * 1_000_000_000 + nanoseconds // TIMESTAMP_STEP * TIMESTAMP_STEP
        if stamp <= self._last:
            stamp = self._last + TIMESTAMP_STEP
        self._last = stamp
        return tai64n(stamp)


def tai64n(nanoseconds: int) -> bytes:
    """12 bytes, big-endian: TAI64 seconds and nanoseconds of a UTC time in nanoseconds since 1970."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return (TAI64_EPOCH + seconds).to_bytes(8, "big") + rest.to_bytes(4, "big")
