# SPDX-License-Identifier: BSD-3-Clause
"""Tailnet lock, as far as a node needs it to be let in: signing its own node key.

In a locked tailnet peers accept a node key only with a signature that leads to a trusted key. We can make two kinds,
both a *rotation* that nests an older signature:

    wrapped auth key  tskey-auth-…--TL<signature>-<private>   a trusted key delegated to <private> (a *credential*)
    key renewal       the server returns our old signature     our own lock key was authorised by it

    {1: 2 rotation, 2: "np" + node key, 4: Ed25519 over BLAKE2s of the map without 4, 5: {nested}}      canonical CBOR

The nested signature is read only to see that it is one, and goes into ours as it came. Peers' signatures are not
verified here.

Source: RFC 8949 4.2.1 (canonical CBOR); tailscale tka/sig.go; new-features.md 1.
"""

import base64
import binascii
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ts4nsnet.control.errors import ControlError
from ts4nsnet.keys import PublicKey
from ts4nsnet.noise import blake2s

SEPARATOR = "--TL"
_KIND, _PUBKEY, _SIGNATURE, _NESTED = 1, 2, 4, 5
_ROTATION, _CREDENTIAL = 2, 3
_NODE_PREFIX = b"np"  # binary form of a node key
_SEED_BYTES = 32
_UINT, _BYTES, _MAP = 0, 2, 5  # CBOR major types
# ours: the reference refuses more nesting as well
_MAX_DEPTH = 16

_Cbor = int | bytes | dict[int, "_Cbor"]


class LockKey:
    """An Ed25519 key that signs node keys; never shown."""

    __slots__ = ("_key", "public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != _SEED_BYTES:
            raise ControlError(f"lock key: got {len(seed)} bytes, want {_SEED_BYTES}")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._key.public_key().public_bytes_raw()

    def sign_rotation(self, node: PublicKey, nested: bytes) -> bytes:
        """Sign `node` on the strength of `nested`, an encoded signature; raises `ControlError` if that is none."""
        inner = _decode(nested)
        if not isinstance(inner, dict) or _KIND not in inner:
            raise ControlError("tailnet lock: got something else than a node key signature")
        pubkey = _NODE_PREFIX + node.raw
        if inner.get(_PUBKEY) == pubkey:
            return nested  # it is good for this very key
        fields = {_KIND: _encode(_UINT, _ROTATION), _PUBKEY: _encode(_BYTES, len(pubkey)) + pubkey, _NESTED: nested}
        signature = self._key.sign(blake2s(_map(fields)))
        return _map({**fields, _SIGNATURE: _encode(_BYTES, len(signature)) + signature})

    def __repr__(self) -> str:
        return "<LockKey>"


@dataclass(frozen=True, slots=True)
class Wrapping:
    """What a wrapped auth key has beside the auth key."""

    key: LockKey
    credential: bytes = field(repr=False)  # an encoded signature that delegates to `key`

    def sign(self, node: PublicKey) -> bytes:
        """The NodeKeySignature that lets `node` into a locked tailnet."""
        return self.key.sign_rotation(node, self.credential)


def unwrap(text: str) -> tuple[str, Wrapping | None]:
    """Cut an auth key into what the server gets and what we sign with; raises `ControlError`, which shows nothing."""
    auth_key, separator, suffix = text.partition(SEPARATOR)
    if not separator:
        return text, None
    signature_text, dash, private_text = suffix.partition("-")
    if not dash:
        raise ControlError(f"wrapped auth key: want two parts behind {SEPARATOR}, is it cut off?")
    credential, private = _unpadded(signature_text), _unpadded(private_text)
    fields = _decode(credential)
    if not isinstance(fields, dict) or fields.get(_KIND) != _CREDENTIAL:
        raise ControlError(f"wrapped auth key: what is behind {SEPARATOR} is no credential")
    # 64 bytes: seed and public key
    return auth_key, Wrapping(LockKey(private[:_SEED_BYTES]), credential)


def _unpadded(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ControlError(f"wrapped auth key: what is behind {SEPARATOR} is not base64, is it cut off?") from None


def _encode(major: int, value: int) -> bytes:
    """The head of a CBOR item, in its shortest form."""
    if value < 24:
        return bytes([major << 5 | value])
    code, size = (24, 1) if value < 1 << 8 else (25, 2) if value < 1 << 16 else (26, 4)
    return bytes([major << 5 | code]) + value.to_bytes(size, "big")


def _map(fields: dict[int, bytes]) -> bytes:
    """A map of small integer keys, sorted, to encoded values."""
    return _encode(_MAP, len(fields)) + b"".join(bytes([key]) + fields[key] for key in sorted(fields))


def _decode(data: bytes) -> _Cbor:
    """One CBOR item of the three kinds that signatures are made of, and nothing behind it; raises `ControlError`."""
    value, rest = _decode_item(data, _MAX_DEPTH)
    if rest:
        raise ControlError("tailnet lock: a signature has something behind it")
    return value


def _decode_item(data: bytes, depth: int) -> tuple[_Cbor, bytes]:
    major, argument, rest = _decode_head(data)
    if major == _UINT:
        return argument, rest
    if major == _BYTES and argument <= len(rest):
        return rest[:argument], rest[argument:]
    if major != _MAP or not depth:
        raise ControlError("tailnet lock: a signature is not what it should be: integers, bytes and maps in CBOR")
    fields: dict[int, _Cbor] = {}
    for _ in range(argument):
        key, rest = _decode_item(rest, 0)
        if not isinstance(key, int) or key in fields:
            raise ControlError("tailnet lock: a signature's fields should have different integers as names")
        fields[key], rest = _decode_item(rest, depth - 1)
    return fields, rest


def _decode_head(data: bytes) -> tuple[int, int, bytes]:
    """Major type, argument, and what follows."""
    sizes = {24: 1, 25: 2, 26: 4, 27: 8}
    code = data[0] & 31 if data else 31
    if code < 24:
        return data[0] >> 5, code, data[1:]
    size = sizes.get(code, 0)
    if not size or len(data) < 1 + size:
        raise ControlError("tailnet lock: a signature is cut off, or is not CBOR")
    return data[0] >> 5, int.from_bytes(data[1 : 1 + size], "big"), data[1 + size :]
