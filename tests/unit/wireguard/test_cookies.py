# SPDX-License-Identifier: BSD-3-Clause
"""mac1, mac2, cookies, load and rates: each class alone, with its numbers. Both roles at work: test_device.py."""

from random import Random

import pytest

from tests.unit.wireguard.pair import START, VECTORS, endpoint
from ts4nsnet.keys import PublicKey
from ts4nsnet.noise import blake2s
from ts4nsnet.wireguard.cookies import (
    COOKIE_LATENCY,
    COOKIE_REFRESH_TIME,
    LABEL_COOKIE,
    LABEL_MAC1,
    LOAD_BURST,
    LOAD_PER_SECOND,
    LOAD_STICKY_TIME,
    MAX_SOURCES,
    RATE_BURST,
    RATE_PER_SECOND,
    CookieChecker,
    CookieGenerator,
    LoadMeter,
    RateLimiter,
    mac,
)
from ts4nsnet.wireguard.messages import CookieReply

COOKIE = VECTORS["cookie"]
KEYS = VECTORS["keys"]
INITIATION = bytes.fromhex(VECTORS["handshakes"][0]["initiation"])
RESPONSE = bytes.fromhex(VECTORS["handshakes"][0]["response"])
WITH_MAC2 = bytes.fromhex(COOKIE["initiation_with_mac2"])
REPLY = CookieReply.parse(bytes.fromhex(COOKIE["cookie_reply"]))
CALLER = PublicKey(bytes.fromhex(KEYS["initiator_static_public"]))
CALLED = PublicKey(bytes.fromhex(KEYS["responder_static_public"]))
NOW = START


def bare(message: bytes) -> bytes:
    """`message` with nothing in its mac fields."""
    return message[:-32] + bytes(32)


# --- the vectors ---


def test_constants_of_the_vectors() -> None:
    constants = VECTORS["constants"]
    assert constants["label_mac1"].encode() == LABEL_MAC1
    assert constants["label_cookie"].encode() == LABEL_COOKIE
    assert blake2s(LABEL_MAC1 + CALLED.raw).hex() == COOKIE["mac1_key_responder"]
    assert blake2s(LABEL_MAC1 + CALLER.raw).hex() == COOKIE["mac1_key_initiator"]
    assert blake2s(LABEL_COOKIE + CALLED.raw).hex() == COOKIE["cookie_key"]


def test_a_cookie_is_a_mac_of_the_source() -> None:
    secret, source = bytes.fromhex(COOKIE["cookie_secret"]), bytes.fromhex(COOKIE["source_address_bytes"])
    assert mac(secret, source).hex() == COOKIE["cookie"]


@pytest.mark.parametrize("recorded", VECTORS["handshakes"], ids=["psk", "no psk"])
def test_mac1_of_recorded_messages(recorded: dict[str, str]) -> None:
    for message, receiver in ((recorded["initiation"], CALLED), (recorded["response"], CALLER)):
        datagram = bytes.fromhex(message)
        assert CookieGenerator(receiver).complete(bare(datagram), NOW) == datagram
        assert CookieChecker(receiver, Random(1).randbytes).mac1_is_valid(datagram)


def test_a_recorded_cookie_reply_is_read_and_used() -> None:
    generator = CookieGenerator(CALLED)
    assert generator.complete(bare(INITIATION), NOW)[-32:-16].hex() == COOKIE["aad_mac1_of_initiation"]
    assert generator.consume(REPLY, NOW)
    assert generator.complete(bare(INITIATION), NOW) == WITH_MAC2


def test_a_recorded_cookie_reply_is_made_again() -> None:
    # the checker draws its secret first, then the nonce
    drawn = iter([bytes.fromhex(COOKIE["cookie_secret"]), bytes.fromhex(COOKIE["nonce"])])
    checker = CookieChecker(CALLED, lambda size: next(drawn)[:size])
    source = bytes.fromhex(COOKIE["source_address_bytes"])
    assert checker.reply(INITIATION, KEYS["initiator_index"], source, NOW) == REPLY
    assert checker.mac2_is_valid(WITH_MAC2, source, NOW)
    assert not checker.mac2_is_valid(INITIATION, source, NOW)


# --- checking ---


@pytest.mark.parametrize("at", range(132))
def test_mac1_covers_every_byte_before_it(at: int) -> None:
    wrong = bytearray(INITIATION)
    wrong[at] ^= 1
    assert not CookieChecker(CALLED, Random(1).randbytes).mac1_is_valid(bytes(wrong))


def test_mac1_does_not_cover_mac2() -> None:
    assert CookieChecker(CALLED, Random(1).randbytes).mac1_is_valid(WITH_MAC2)


class Talk:
    """A generator, a checker, and what the first got from the second."""

    def __init__(self) -> None:
        self.generator = CookieGenerator(CALLED)
        self.checker = CookieChecker(CALLED, Random(1).randbytes)
        self.source = endpoint(1)

    def ask(self, now: float) -> CookieReply:
        return self.checker.reply(self.generator.complete(bare(INITIATION), now), 1, self.source, now)

    def passes(self, now: float) -> bool:
        return self.checker.mac2_is_valid(self.generator.complete(bare(INITIATION), now), self.source, now)


def test_before_any_cookie_nothing_passes() -> None:
    assert not Talk().passes(NOW)


def test_mac2_is_bound_to_source_and_every_byte() -> None:
    talk = Talk()
    assert talk.generator.consume(talk.ask(NOW), NOW)
    message = talk.generator.complete(bare(INITIATION), NOW)
    assert talk.checker.mac2_is_valid(message, talk.source, NOW)
    assert not talk.checker.mac2_is_valid(message, endpoint(2), NOW)
    assert not talk.checker.mac2_is_valid(message, endpoint(1, port=1), NOW)
    for at in range(len(message)):
        wrong = bytearray(message)
        wrong[at] ^= 1
        assert not talk.checker.mac2_is_valid(bytes(wrong), talk.source, NOW)


def test_a_cookie_is_used_115_seconds_long() -> None:
    talk = Talk()
    assert talk.generator.consume(talk.ask(NOW), NOW)
    until = COOKIE_REFRESH_TIME - COOKIE_LATENCY
    assert until == 115.0
    assert talk.passes(NOW + until - 0.001)
    assert not talk.passes(NOW + until)
    assert talk.generator.complete(bare(INITIATION), NOW + until)[-16:] == bytes(16)


def test_the_secret_is_renewed_after_120_seconds() -> None:
    talk = Talk()
    assert talk.generator.consume(talk.ask(NOW), NOW)
    late = NOW + COOKIE_REFRESH_TIME - 1
    assert talk.generator.consume(talk.ask(late), late)  # still the same secret: this cookie will not last
    assert talk.passes(NOW + COOKIE_REFRESH_TIME - 0.001)
    assert not talk.passes(NOW + COOKIE_REFRESH_TIME)
    after = NOW + COOKIE_REFRESH_TIME + 1
    assert talk.generator.consume(talk.ask(after), after)
    assert talk.passes(after)


# --- learning ---


def test_no_cookie_is_learned_before_a_message_was_sent() -> None:
    assert not CookieGenerator(CALLED).consume(REPLY, NOW)


def test_one_message_brings_one_cookie() -> None:
    talk = Talk()
    reply = talk.ask(NOW)
    assert talk.generator.consume(reply, NOW)
    assert not talk.generator.consume(reply, NOW)


def test_a_reply_to_an_earlier_message_is_refused() -> None:
    talk = Talk()
    reply = talk.ask(NOW)
    talk.generator.complete(bare(RESPONSE), NOW)
    assert not talk.generator.consume(reply, NOW)


@pytest.mark.parametrize("at", range(8, 64))
def test_a_changed_reply_is_refused_and_the_right_one_is_still_accepted(at: int) -> None:
    talk = Talk()
    reply = talk.ask(NOW)
    wrong = bytearray(reply.emit())
    wrong[at] ^= 1
    assert not talk.generator.consume(CookieReply.parse(bytes(wrong)), NOW)
    assert not talk.passes(NOW)
    talk = Talk()
    reply = talk.ask(NOW)
    assert not talk.generator.consume(CookieReply.parse(bytes(wrong)), NOW)
    assert talk.generator.consume(reply, NOW)


def test_nonces_are_fresh() -> None:
    talk = Talk()
    assert talk.ask(NOW).nonce != talk.ask(NOW).nonce


# --- load ---


def flood(meter: LoadMeter, messages: int, now: float) -> list[bool]:
    return [meter.count(now) for _ in range(messages)]


def test_a_burst_within_bounds_is_no_load() -> None:
    meter = LoadMeter()
    assert not any(flood(meter, int(LOAD_BURST), NOW))
    assert meter.count(NOW)


def test_load_lasts_a_second_after_the_last_excess() -> None:
    meter = LoadMeter()
    flood(meter, int(LOAD_BURST) + 1, NOW)
    assert meter.count(NOW + LOAD_STICKY_TIME - 0.001)
    assert not meter.count(NOW + LOAD_STICKY_TIME)


def test_a_rate_below_the_bound_is_never_load() -> None:
    meter = LoadMeter()
    assert not any(meter.count(NOW + number / LOAD_PER_SECOND) for number in range(5000))


def test_a_rate_above_the_bound_becomes_load_and_stays_it() -> None:
    meter = LoadMeter()
    seen = [meter.count(NOW + number / (2 * LOAD_PER_SECOND)) for number in range(2000)]
    first = seen.index(True)
    assert LOAD_BURST <= first <= 2 * LOAD_BURST + 2
    assert all(seen[first:])


# --- rates ---


def test_a_source_has_a_burst_and_a_rate() -> None:
    limiter = RateLimiter()
    assert [limiter.allow(endpoint(1), NOW) for _ in range(7)] == [True] * int(RATE_BURST) + [False] * 2
    refilled = NOW + 1 / RATE_PER_SECOND + 0.001
    assert [limiter.allow(endpoint(1), refilled) for _ in range(2)] == [True, False]
    later = NOW + 3600
    assert [limiter.allow(endpoint(1), later) for _ in range(6)] == [True] * int(RATE_BURST) + [False]


def test_twenty_messages_a_second_pass() -> None:
    limiter = RateLimiter()
    passed = sum(limiter.allow(endpoint(1), NOW + number / 100) for number in range(1000))
    assert passed == pytest.approx(10 * RATE_PER_SECOND + RATE_BURST, abs=2)


def test_ports_share_the_rate_of_their_host() -> None:
    limiter = RateLimiter()
    for port in range(int(RATE_BURST)):
        assert limiter.allow(endpoint(1, port), NOW)
    assert not limiter.allow(endpoint(1, 99), NOW)
    assert limiter.allow(endpoint(2), NOW)


def test_ipv6_hosts_share_the_rate_of_their_network() -> None:
    limiter = RateLimiter()

    def allow(network: int, host: int) -> bool:
        address = bytes.fromhex("20010db80000") + network.to_bytes(2, "big") + host.to_bytes(8, "big")
        return limiter.allow(address.ljust(32, b"\0"), NOW)

    assert [allow(1, host) for host in range(6)] == [True] * int(RATE_BURST) + [False]
    assert allow(2, 0)


def test_the_longest_silent_source_is_forgotten_first() -> None:
    limiter = RateLimiter()
    hosts = [bytes(10) + b"\xff\xff" + number.to_bytes(4, "big") + bytes(16) for number in range(MAX_SOURCES)]
    for host in hosts:
        for _ in range(int(RATE_BURST)):
            limiter.allow(host, NOW)
    assert not limiter.allow(hosts[0], NOW)  # heard again: it is the youngest now
    assert limiter.allow(endpoint(1), NOW)  # one too many
    assert not limiter.allow(hosts[0], NOW)
    assert not limiter.allow(hosts[2], NOW)
    assert limiter.allow(hosts[1], NOW)
