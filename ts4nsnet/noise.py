# SPDX-License-Identifier: BSD-3-Clause
"""The symmetric state of a Noise handshake over BLAKE2s and ChaCha20-Poly1305.

A Noise handshake hashes everything that passes into `h` and mixes every agreed secret into the chaining key `ck`;
each mix yields a fresh cipher key whose nonce starts at 0. WireGuard (Noise_IKpsk2) and Tailscale's ts2021 (Noise_IK)
are two patterns over this one object; their order of tokens stands where they live.

WireGuard's paper writes KDF1 where Noise says MixKey: the cipher key that MixKey also yields is simply not used.

Source: The Noise Protocol Framework, revision 34, sections 4, 5.1 and 5.2.
"""

import hashlib
import hmac
from copy import copy

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from ts4nsnet.errors import Ts4nsnetError

HASH_BYTES = 32
TAG_BYTES = 16


class DecryptionFailed(Ts4nsnetError):
    """A handshake field was not sealed with the key that both sides should have by now."""


def blake2s(data: bytes) -> bytes:
    """BLAKE2s-256 of `data`: 32 bytes (RFC 7693)."""
    return hashlib.blake2s(data).digest()


def hkdf(chaining_key: bytes, material: bytes, outputs: int) -> tuple[bytes, ...]:
    """HKDF of Noise 4.3: `outputs` keys of 32 bytes each, at most 255."""
    secret = hmac.digest(chaining_key, material, "blake2s")
    keys: list[bytes] = []
    block = b""
    for number in range(1, outputs + 1):
        block = hmac.digest(secret, block + bytes([number]), "blake2s")
        keys.append(block)
    return tuple(keys)


class SymmetricState:
    """`ck`, `h` and the current cipher key of one handshake (Noise 5.2).

    Args:
        protocol_name: the full Noise name; longer than 32 bytes it is hashed.
        prologue: what both sides must agree on beforehand.
    """

    __slots__ = ("_chaining_key", "_cipher", "_hash", "_nonce")

    def __init__(self, protocol_name: bytes, prologue: bytes) -> None:
        name = protocol_name.ljust(HASH_BYTES, b"\0")
        self._hash = name if len(name) == HASH_BYTES else blake2s(name)
        self._chaining_key = self._hash
        self._cipher: ChaCha20Poly1305 | None = None
        self._nonce = 0
        self.mix_hash(prologue)

    def copy(self) -> "SymmetricState":
        """An independent state at this point: a message that turns out to be wrong must not spoil the real one."""
        return copy(self)

    def mix_hash(self, data: bytes) -> None:
        """Bind `data` to the handshake."""
        self._hash = blake2s(self._hash + data)

    def mix_key(self, material: bytes) -> None:
        """Mix a secret in; the next field is sealed with a key from it."""
        self._chaining_key, key = hkdf(self._chaining_key, material, 2)
        self._cipher, self._nonce = ChaCha20Poly1305(key), 0

    def mix_key_and_hash(self, material: bytes) -> None:
        """Mix a pre-shared key in (the psk token)."""
        self._chaining_key, binding, key = hkdf(self._chaining_key, material, 3)
        self.mix_hash(binding)
        self._cipher, self._nonce = ChaCha20Poly1305(key), 0

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        """Seal a field: 16 bytes longer than `plaintext`."""
        sealed = self._keyed().encrypt(self._next_nonce(), plaintext, self._hash)
        self.mix_hash(sealed)
        return sealed

    def decrypt_and_hash(self, sealed: bytes) -> bytes:
        """Open a field; raises `DecryptionFailed`, after which this state is of no use."""
        try:
            plaintext = self._keyed().decrypt(self._next_nonce(), sealed, self._hash)
        except InvalidTag:
            raise DecryptionFailed("handshake field: authentication failed") from None
        self.mix_hash(sealed)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        """The transport keys, 32 bytes each: the initiator's for sending, then the responder's."""
        first, second = hkdf(self._chaining_key, b"", 2)
        return first, second

    def _keyed(self) -> ChaCha20Poly1305:
        if self._cipher is None:
            raise RuntimeError("no key has been mixed in yet: the pattern's order of tokens is wrong")
        return self._cipher

    def _next_nonce(self) -> bytes:
        nonce = bytes(4) + self._nonce.to_bytes(8, "little")
        self._nonce += 1
        return nonce
