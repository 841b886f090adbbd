# SPDX-License-Identifier: BSD-3-Clause
"""The sealed part of the hello: what client and server tell each other about themselves.

It is JSON in NaCl's crypto_box (X25519, XSalsa20-Poly1305) between the client's node key and the server's key, on the
wire nonce, tag, ciphertext. So the server knows that the client owns the key which packets will be addressed to, and
nobody between them learns who connects.

Names are matched without regard to case, and unknown ones ignored, as the reference does. `meshKey` is never sent: the
reference refuses an empty one, and we belong to no mesh.

Source: tailscale's derp/derp_client.go; our notes on DERP, section 2.2.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from nacl.exceptions import CryptoError
from nacl.public import Box
from nacl.public import PrivateKey as BoxPrivateKey
from nacl.public import PublicKey as BoxPublicKey

from ts4nsnet.derp.errors import Malformed
from ts4nsnet.derp.frames import NONCE_BYTES, ClientInfo, ServerInfo
from ts4nsnet.keys import PrivateKey, PublicKey

Random = Callable[[int], bytes]  # so many unpredictable bytes

PROTOCOL_VERSION = 2


@dataclass(frozen=True, slots=True)
class ClientDetails:
    """What a client says about itself."""

    version: int = PROTOCOL_VERSION
    can_ack_pings: bool = True
    is_prober: bool = False
    app_name: str = ""

    @classmethod
    def open(cls, info: ClientInfo, server: PrivateKey) -> Self:
        """Unseal and read; raises `Malformed`, also when the client does not own the key that it names."""
        fields = _read_json(_unseal(info.sealed, server, info.key), "ClientInfo")
        return cls(
            version=_number(fields, "version"),
            can_ack_pings=fields.get("canackpings") is True,
            is_prober=fields.get("isprober") is True,
            app_name=str(fields.get("appname") or ""),
        )

    def seal(self, client: PrivateKey, server: PublicKey, random: Random) -> ClientInfo:
        """The frame that tells this to `server`; raises `Malformed` for a key no secret can be agreed with."""
        fields: dict[str, object] = {"version": self.version, "CanAckPings": self.can_ack_pings}
        if self.is_prober:
            fields["IsProber"] = True
        if self.app_name:
            fields["AppName"] = self.app_name
        return ClientInfo(client.public, _seal(fields, client, server, random))


@dataclass(frozen=True, slots=True)
class ServerDetails:
    """What a server says about itself: above all how much it wants to get. 0: not said."""

    version: int = PROTOCOL_VERSION
    bytes_per_second: int = 0  # of whole frames
    burst_bytes: int = 0

    @classmethod
    def open(cls, info: ServerInfo, client: PrivateKey, server: PublicKey) -> Self:
        """Unseal and read; raises `Malformed`."""
        fields = _read_json(_unseal(info.sealed, client, server), "ServerInfo")
        return cls(
            version=_number(fields, "version"),
            bytes_per_second=_number(fields, "tokenbucketbytespersecond"),
            burst_bytes=_number(fields, "tokenbucketbytesburst"),
        )

    def seal(self, server: PrivateKey, client: PublicKey, random: Random) -> ServerInfo:
        """The frame that tells this to `client`; raises `Malformed` for a key no secret can be agreed with."""
        fields: dict[str, object] = {"version": self.version}
        if self.bytes_per_second:
            fields["TokenBucketBytesPerSecond"] = self.bytes_per_second
        if self.burst_bytes:
            fields["TokenBucketBytesBurst"] = self.burst_bytes
        return ServerInfo(_seal(fields, server, client, random))


def _box(private: PrivateKey, public: PublicKey) -> Box:
    try:
        return Box(BoxPrivateKey(private.private_bytes()), BoxPublicKey(public.raw))
    except CryptoError:
        raise Malformed("public key", got="a point of low order", want="a key to agree on a secret with") from None


def _seal(fields: Mapping[str, object], private: PrivateKey, public: PublicKey, random: Random) -> bytes:
    return bytes(_box(private, public).encrypt(json.dumps(fields, separators=(",", ":")).encode(), random(NONCE_BYTES)))


def _unseal(sealed: bytes, private: PrivateKey, public: PublicKey) -> bytes:
    try:
        return _box(private, public).decrypt(sealed)
    except CryptoError:
        raise Malformed("sealed box", got="one that does not open", want="one made with the key it names") from None


def _read_json(text: bytes, what: str) -> dict[str, object]:
    # the reference matches names without regard to case
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise Malformed(what, got="no JSON", want="a JSON object") from None
    if not isinstance(value, dict):
        raise Malformed(what, got=type(value).__name__, want="a JSON object")
    return {name.lower(): content for name, content in value.items()}


def _number(fields: Mapping[str, object], name: str) -> int:
    value = fields.get(name, 0)
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise Malformed(name, got=repr(value)[:40], want="a whole number")
    return value
