# SPDX-License-Identifier: BSD-3-Clause
"""X25519 keys as types of their own.

A private key is never shown: its `repr` and its pickled form hold no secret, and nothing but `private_bytes()` gives
it away. A public key is a value: compared, hashed and shown in WireGuard's text form (base64).

Both machines and nodes of a tailnet, and WireGuard's peers, have keys of this one kind (RFC 7748).

A coordination server writes them in hexadecimal behind a prefix that says whose they are (`nodekey:…`), and 32 zero
bytes for "none": `ZERO_KEY`. Source of the text forms: tailscale, types/key.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import NoReturn

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from ts4nsnet.errors import Ts4nsnetError

KEY_BYTES = 32
MACHINE_PREFIX = "mkey:"  # a client's installation, and the control server
NODE_PREFIX = "nodekey:"  # WireGuard's key, which is the address at a relay, too
DISCO_PREFIX = "discokey:"
CHALLENGE_PREFIX = "chalpub:"  # a control server's, for one connection
PRIVATE_PREFIX = "privkey:"

_HEX = re.compile(r"[0-9a-fA-F]{64}")


class InvalidKey(Ts4nsnetError):
    """A key has the wrong form, or is a point of low order: no secret can be agreed with it (RFC 7748, 6.1)."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The public half of an X25519 key pair: 32 bytes."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_BYTES:
            raise InvalidKey(f"public key: got {len(self.raw)} bytes, want {KEY_BYTES}")

    @classmethod
    def from_base64(cls, text: str) -> "PublicKey":
        """Read WireGuard's text form, 44 characters; raises `InvalidKey`."""
        return cls(_from_base64(text, "public key"))

    @classmethod
    def from_text(cls, text: str, prefix: str) -> "PublicKey":
        """Read `prefix` and 64 hexadecimal digits; raises `InvalidKey`."""
        return cls(_from_hex(text, prefix, "public key"))

    def to_text(self, prefix: str) -> str:
        """`prefix` and 64 lower-case hexadecimal digits."""
        return prefix + self.raw.hex()

    @property
    def is_zero(self) -> bool:
        """Whether this stands for no key."""
        return self.raw == ZERO_KEY.raw

    def __str__(self) -> str:
        return base64.b64encode(self.raw).decode()


ZERO_KEY = PublicKey(bytes(KEY_BYTES))


class PrivateKey:
    """The private half of an X25519 key pair; clamping is done at use."""

    __slots__ = ("_key", "public")

    public: PublicKey

    def __init__(self, raw: bytes) -> None:
        if len(raw) != KEY_BYTES:
            raise InvalidKey(f"private key: got {len(raw)} bytes, want {KEY_BYTES}")
        self._key = X25519PrivateKey.from_private_bytes(raw)
        self.public = PublicKey(self._key.public_key().public_bytes_raw())

    @classmethod
    def from_base64(cls, text: str) -> "PrivateKey":
        """Read WireGuard's text form, 44 characters; raises `InvalidKey`, whose text holds nothing of the key."""
        return cls(_from_base64(text, "private key"))

    @classmethod
    def from_text(cls, text: str) -> "PrivateKey":
        """Read `privkey:` and 64 hexadecimal digits; raises `InvalidKey`, whose text holds nothing of the key."""
        return cls(_from_hex(text, PRIVATE_PREFIX, "private key"))

    def exchange(self, public: PublicKey) -> bytes:
        """Agree on 32 secret bytes with the owner of `public`; raises `InvalidKey` for a point of low order."""
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(public.raw))
        except ValueError:
            raise InvalidKey("public key: a point of low order") from None

    def private_bytes(self) -> bytes:
        """The 32 secret bytes, for a state file of ours."""
        return self._key.private_bytes_raw()

    def to_text(self) -> str:
        """The secret as `privkey:` and 64 hexadecimal digits, for a state file of ours."""
        return PRIVATE_PREFIX + self.private_bytes().hex()

    def __repr__(self) -> str:
        return f"<PrivateKey of {self.public}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key is not pickled")


def _from_base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidKey(f"{what}: not base64, want 44 characters") from None


def _from_hex(text: str, prefix: str, what: str) -> bytes:
    if not text.startswith(prefix) or not _HEX.fullmatch(text, len(prefix)):
        raise InvalidKey(f"{what}: want {prefix!r} and 64 hexadecimal digits")
    return bytes.fromhex(text[len(prefix) :])
