# SPDX-License-Identifier: BSD-3-Clause
"""mac1, mac2, cookies, and what "under load" means.

Every handshake message ends in two MACs. mac1 is keyed with the receiver's public key: who does not know that key gets
no answer and costs us one hash. A host under load does not work for a message without a valid mac2; it answers with a
*cookie*, a MAC of the sender's address under a secret of the moment. The sender keeps the cookie and keys mac2 of its
next messages with it: proof that it receives at its address, so its rate can be limited by that address.

    sender (CookieGenerator)                     receiver (CookieChecker)
    initiation, mac1 ──────────────────────────► under load: no valid mac2
                     ◄────────────────────────── cookie, sealed to the message's mac1
    initiation, mac1, mac2 = MAC(cookie, …) ───► valid; RateLimiter lets it pass

A cookie reply never triggers a message: the next regular retry carries mac2.

The encoding of a source address inside a cookie is private to its maker; ours is the whole opaque endpoint.

Source: WireGuard paper, sections 5.3 and 5.4.7.
"""

import hashlib
import hmac
from collections.abc import Callable

import nacl.bindings
import nacl.exceptions

from ts4nsnet.keys import PublicKey
from ts4nsnet.noise import blake2s
from ts4nsnet.wireguard.messages import HOST_BYTES, MAC_BYTES, CookieReply, Endpoint

LABEL_MAC1 = b"mac1----"
LABEL_COOKIE = b"cookie--"
COOKIE_NONCE_BYTES = 24

COOKIE_REFRESH_TIME = 120.0  # seconds; paper, 5.4.7
# ours: a cookie is used a little shorter than its maker honours it, for the time that messages travel
COOKIE_LATENCY = 5.0

# ours, as wireguard-go has them: packets per second and source, and how many may come at once
RATE_PER_SECOND = 20.0
RATE_BURST = 5.0
# ours: sources that are remembered; when more come at a time, the longest silent one is forgotten
MAX_SOURCES = 4096

# ours: one handshake costs about 0.4 ms here, so this much of them is a tenth of a core
LOAD_PER_SECOND = 250.0
LOAD_BURST = 128.0
LOAD_STICKY_TIME = 1.0  # seconds that we stay under load after the last excess

Random = Callable[[int], bytes]

_IPV4_MAPPED = bytes(10) + b"\xff\xff"


def mac(key: bytes, data: bytes) -> bytes:
    """Keyed BLAKE2s with 16 bytes of digest."""
    return hashlib.blake2s(data, digest_size=MAC_BYTES, key=key).digest()


class CookieGenerator:
    """The sender's side: completes handshake messages to one peer, and learns cookies from it."""

    __slots__ = ("_cookie", "_cookie_until", "_last_mac1", "_mac1_key", "_sealing_key")

    def __init__(self, receiver: PublicKey) -> None:
        self._mac1_key = blake2s(LABEL_MAC1 + receiver.raw)
        self._sealing_key = blake2s(LABEL_COOKIE + receiver.raw)
        self._last_mac1 = b""
        self._cookie = b""
        self._cookie_until = 0.0

    def complete(self, message: bytes, now: float) -> bytes:
        """`message` with its two last fields filled: mac1 always, mac2 when there is a fresh cookie."""
        body = message[: -2 * MAC_BYTES]
        mac1 = mac(self._mac1_key, body)
        body += mac1
        self._last_mac1 = mac1
        fresh = self._cookie and now < self._cookie_until
        return body + (mac(self._cookie, body) if fresh else bytes(MAC_BYTES))

    def consume(self, reply: CookieReply, now: float) -> bool:
        """Learn a cookie; False when the reply is not one to our last message. One message brings one cookie."""
        if not self._last_mac1:
            return False
        try:
            cookie = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
                reply.sealed_cookie, self._last_mac1, reply.nonce, self._sealing_key
            )
        except nacl.exceptions.CryptoError:
            return False
        self._last_mac1 = b""
        self._cookie = cookie
        self._cookie_until = now + COOKIE_REFRESH_TIME - COOKIE_LATENCY
        return True


class CookieChecker:
    """The receiver's side: checks the MACs of messages to us, and makes cookies."""

    __slots__ = ("_mac1_key", "_random", "_sealing_key", "_secret", "_secret_until")

    def __init__(self, own: PublicKey, random: Random) -> None:
        self._mac1_key = blake2s(LABEL_MAC1 + own.raw)
        self._sealing_key = blake2s(LABEL_COOKIE + own.raw)
        self._random = random
        self._secret = b""
        self._secret_until = 0.0

    def mac1_is_valid(self, message: bytes) -> bool:
        """Whether the sender knows our public key."""
        body, mac1 = message[: -2 * MAC_BYTES], message[-2 * MAC_BYTES : -MAC_BYTES]
        return hmac.compare_digest(mac(self._mac1_key, body), mac1)

    def mac2_is_valid(self, message: bytes, source: Endpoint, now: float) -> bool:
        """Whether the sender has a cookie that we gave to `source` under today's secret."""
        if now >= self._secret_until:
            return False
        expected = mac(mac(self._secret, source), message[:-MAC_BYTES])
        return hmac.compare_digest(expected, message[-MAC_BYTES:])

    def reply(self, message: bytes, sender_index: int, source: Endpoint, now: float) -> CookieReply:
        """The cookie for `source`, sealed so that only who saw `message` can read it."""
        if now >= self._secret_until:
            self._secret = self._random(32)
            self._secret_until = now + COOKIE_REFRESH_TIME
        cookie = mac(self._secret, source)
        mac1 = message[-2 * MAC_BYTES : -MAC_BYTES]
        nonce = self._random(COOKIE_NONCE_BYTES)
        sealed = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(cookie, mac1, nonce, self._sealing_key)
        return CookieReply(sender_index, nonce, sealed)


class LoadMeter:
    """Whether handshakes come faster than we want to work for them: a leaky bucket, sticky for a second.

    Only messages with a valid mac1 are counted: others cost next to nothing, and a stranger who does not know our
    key shall not be able to make us ask our peers for cookies.
    """

    __slots__ = ("_level", "_measured_at", "_under_load_until")

    def __init__(self) -> None:
        self._level = 0.0
        self._measured_at = 0.0
        self._under_load_until = 0.0

    def count(self, now: float) -> bool:
        """Count one message; True while we are under load."""
        self._level = max(0.0, self._level - (now - self._measured_at) * LOAD_PER_SECOND)
        self._measured_at = now
        if self._level >= LOAD_BURST:
            self._under_load_until = now + LOAD_STICKY_TIME
        else:
            self._level += 1.0
        return now < self._under_load_until


class RateLimiter:
    """A token bucket per source host, at most MAX_SOURCES of them; IPv6 hosts count by their /64."""

    __slots__ = ("_buckets",)

    def __init__(self) -> None:
        self._buckets: dict[bytes, tuple[float, float]] = {}  # tokens, measured at; the longest silent one first

    def allow(self, source: Endpoint, now: float) -> bool:
        """Whether one more message of `source` may be worked for."""
        host = _host(source)
        tokens, measured_at = self._buckets.pop(host, (RATE_BURST, now))
        tokens = min(RATE_BURST, tokens + (now - measured_at) * RATE_PER_SECOND)
        allowed = tokens >= 1.0
        if len(self._buckets) >= MAX_SOURCES:
            del self._buckets[next(iter(self._buckets))]
        self._buckets[host] = (tokens - 1.0 if allowed else tokens, now)
        return allowed


def _host(source: Endpoint) -> bytes:
    host = source[:HOST_BYTES]
    return host if host.startswith(_IPV4_MAPPED) else host[: HOST_BYTES // 2]
