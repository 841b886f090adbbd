# SPDX-License-Identifier: BSD-3-Clause
"""Malformed input for WireGuard: a hundred thousand datagrams, of which nine in ten were valid messages once.

A round is a pair of sides in one situation (a session, a call under way, load, an old keypair, …) and a corpus of
messages that they really sent. A case takes a message, damages it in one way or two, and lets one side receive it,
from anywhere. Answers join the corpus. Nothing may raise, every reason to drop something must be met, and after each
round the two must still be able to talk.
"""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_network
from random import Random

from tests.unit.wireguard.pair import VECTORS, WALL_START, Pair, Side, endpoint
from ts4nsnet.keys import PrivateKey
from ts4nsnet.wireguard.cookies import LOAD_BURST, CookieGenerator
from ts4nsnet.wireguard.handshake import Initiator, tai64n
from ts4nsnet.wireguard.messages import CookieReply, Drop, Initiation, MessageType
from ts4nsnet.wireguard.peer import MAX_STAGED_BYTES, PeerConfig
from ts4nsnet.wireguard.sessions import REJECT_AFTER_MESSAGES, RekeyWanted

CASES = 1_000_000 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 100_000
CASES_PER_ROUND = 500
CORPUS = 64  # messages at most; a new one takes the place of any
LOW_ORDER_POINTS = [bytes.fromhex(point) for point in VECTORS["low_order_points"]["points"]]
HANDSHAKE_SIZES = {148, 92}

Damage = Callable[[Random, bytearray, list[bytes]], bytes]


# --- ways to damage a message ---


def flip(random: Random, message: bytearray, _corpus: list[bytes]) -> bytes:
    for _ in range(random.choice([1, 1, 1, 2, 8])):
        message[random.randrange(len(message))] ^= 1 << random.randrange(8)
    return bytes(message)


def truncate(random: Random, message: bytearray, _corpus: list[bytes]) -> bytes:
    return bytes(message[: random.randrange(len(message))])


def extend(random: Random, message: bytearray, _corpus: list[bytes]) -> bytes:
    return bytes(message) + random.choice([bytes(1), bytes(16), random.randbytes(random.randrange(1, 64))])


def splice(random: Random, message: bytearray, corpus: list[bytes]) -> bytes:
    """Put a field of another message at its place."""
    other = random.choice(corpus)
    begin, end = random.choice(
        [(4, 8), (8, 12), (8, 16), (8, 40), (12, 44), (40, 88), (88, 116), (-32, -16), (-16, None)]
    )
    part = other[begin:end]
    message[begin : end if end is not None else len(message)] = part
    return bytes(message) or b"\0"


def reindex(random: Random, message: bytearray, corpus: list[bytes]) -> bytes:
    """Name another index, perhaps one that is in use."""
    at = random.choice([4, 8])
    message[at : at + 4] = random.choice([random.randbytes(4), bytes(4), random.choice(corpus)[4:8]])
    return bytes(message)


def retype(random: Random, message: bytearray, _corpus: list[bytes]) -> bytes:
    message[:4] = random.choice([0, 1, 2, 3, 4, 5, 0x0104, 1 << 31]).to_bytes(4, "little")
    return bytes(message)


def recount(random: Random, message: bytearray, _corpus: list[bytes]) -> bytes:
    """Another counter; of a handshake message, part of a key."""
    counter = random.choice([0, 1, 8128, 1 << 40, REJECT_AFTER_MESSAGES - 1, REJECT_AFTER_MESSAGES, (1 << 64) - 1])
    message[8:16] = counter.to_bytes(8, "little")
    return bytes(message)


def weaken(random: Random, message: bytearray, _corpus: list[bytes]) -> bytes:
    """An ephemeral key with which no secret can be agreed."""
    at = 8 if len(message) == 148 else 12
    message[at : at + 32] = random.choice(LOW_ORDER_POINTS)
    return bytes(message)


def repeat(_random: Random, message: bytearray, _corpus: list[bytes]) -> bytes:
    return bytes(message)


DAMAGES: list[Damage] = [flip, flip, flip, truncate, extend, splice, splice, reindex, retype, recount, weaken, repeat]


# --- situations ---


@dataclass
class Round:
    """A pair in one situation, and what was ever on the wire between the two."""

    random: Random
    pair: Pair
    corpus: list[bytes] = field(default_factory=list)

    def add(self, message: bytes) -> None:
        if len(self.corpus) < CORPUS:
            self.corpus.append(message)
        else:
            self.corpus[self.random.randrange(CORPUS)] = message

    def collect(self) -> None:
        """Take what both sides have sent: most of it goes nowhere."""
        for side in (self.pair.alice, self.pair.bob):
            for message, _ in side.out:
                self.add(message)
            side.out.clear()
            side.history.clear()
            side.received.clear()

    def receive(self, side: Side, datagram: bytes, source: bytes) -> None:
        side.receive(datagram, source, self.pair.now)
        self.collect()


def session(round_: Round) -> None:
    """Both have a confirmed session, and messages that never arrived."""
    pair = round_.pair
    pair.alice.send(b"first", pair.now)
    for _ in range(8):
        for side in (pair.alice, pair.bob):
            for message, _ in side.out:
                round_.add(message)
        pair.deliver()
    for number in range(20):
        pair.alice.send(b"a" * number * 10, pair.now)
        pair.bob.send(b"b" * number * 10, pair.now)
    round_.collect()


def call_under_way(round_: Round) -> None:
    """There is a session, and Alice waits for the response to another call."""
    session(round_)
    pair = round_.pair
    pair.now += 6
    pair.alice.device.notice(RekeyWanted(pair.alice.peer), pair.now)
    pair.alice.settle(pair.now)
    call = pair.alice.out[-1][0]
    round_.collect()
    pair.bob.receive(call, pair.alice.endpoint, pair.now)
    round_.collect()  # among it the response, which may or may not arrive


def load(round_: Round) -> None:
    """Bob is under load, Alice has a cookie of his, and calls more often than she should."""
    call_under_way(round_)
    pair = round_.pair
    generator = CookieGenerator(pair.bob.key.public)
    for number, call in enumerate(calls(round_, int(LOAD_BURST) + 20, generator)):
        pair.bob.receive(generator.complete(call, pair.now), pair.alice.endpoint, pair.now)
        for answer, _ in pair.bob.out:
            if len(answer) == CookieReply.SIZE and number < LOAD_BURST + 5:
                generator.consume(CookieReply.parse(answer), pair.now)
        if number % 16 == 0:
            round_.add(call)
        round_.collect()


def calls(round_: Round, count: int, generator: CookieGenerator) -> list[bytes]:
    """Valid initiations of Alice's, each newer than the one before."""
    pair = round_.pair
    secret = pair.alice.key.exchange(pair.bob.key.public)
    made = []
    for number in range(count):
        stamp = tai64n(WALL_START + 10**12 + number)
        ephemeral = PrivateKey(round_.random.randbytes(32))
        call, _ = Initiator.create(pair.alice.key, pair.bob.key.public, secret, ephemeral, stamp, number)
        made.append(generator.complete(call.emit(), pair.now))
    return made


def old_keypair(round_: Round) -> None:
    """The session is too old, but its index is not forgotten yet."""
    session(round_)
    round_.pair.now += 200


def stranger(round_: Round) -> None:
    """Somebody whom Bob does not know calls him."""
    session(round_)
    other = Pair(round_.random.randrange(1 << 32))
    config = PeerConfig(round_.pair.bob.key.public, frozenset({ip_network("10.9.9.9/32")}), endpoint=endpoint(2))
    other.introduce(other.alice, config)
    other.alice.send(b"hello", round_.pair.now)
    call = other.alice.out[-1][0]
    for _ in range(8):
        round_.add(call)
    round_.receive(round_.pair.bob, call, endpoint(9))


def waiting(round_: Round) -> None:
    """Nobody answers: more packets wait than may, and in the end they are dropped."""
    session(round_)
    pair = round_.pair
    pair.now += 200
    for _ in range(MAX_STAGED_BYTES // 1300 + 50):
        pair.alice.send(bytes(1300), pair.now)
    pair.run_to(pair.now + 120, lose=MessageType)
    round_.collect()


def nowhere(round_: Round) -> None:
    """Bob has restarted, does not know where Alice is, and has something to say to her."""
    session(round_)
    pair = round_.pair
    bob = pair.restart(pair.bob)
    bob.device.remove_peer(pair.alice.key.public)
    bob.settle(pair.now)
    config = pair.config(bob)
    pair.introduce(bob, PeerConfig(config.public_key, config.allowed_ips))
    bob.send(b"where are you?", pair.now)
    round_.collect()


SITUATIONS = [session, call_under_way, load, old_keypair, stranger, waiting, nowhere]


# --- the cases ---


def mutant(round_: Round, receiver: Side) -> bytes:
    """A message of the corpus, damaged; handshake messages often with a mac1 that is right again."""
    random = round_.random
    message = random.choice(DAMAGES)(random, bytearray(random.choice(round_.corpus)), round_.corpus)
    if message and random.random() < 0.1:
        message = random.choice(DAMAGES)(random, bytearray(message), round_.corpus)
    if len(message) in HANDSHAKE_SIZES and random.random() < 0.4:
        message = CookieGenerator(receiver.key.public).complete(message, round_.pair.now)
    return message


def noise(random: Random) -> bytes:
    message = random.randbytes(random.choice([0, 1, 31, 32, 64, 92, 148, random.randrange(1500)]))
    # half of them get further than the first word
    return bytes([random.randrange(1, 5), 0, 0, 0]) + message[4:] if random.random() < 0.5 else message


def recovers(round_: Round) -> bool:
    """Whether the two can still talk, once they know where the other is and nothing is lost."""
    pair = round_.pair
    pair.now += 10
    for side in (pair.alice, pair.bob):
        pair.introduce(side)
    for side in (pair.alice, pair.bob, pair.alice, pair.bob):
        side.send(b"are you there?", pair.now)
        pair.run_to(pair.now + 16)
    return bool(pair.alice.received and pair.bob.received)


def test_malformed_input_is_dropped_and_counted_and_nothing_else() -> None:
    random = Random(20_260_101)
    kinds: Counter[str] = Counter()
    dropped: Counter[Drop] = Counter()
    while kinds.total() < CASES:
        round_ = Round(random, Pair(random.randrange(1 << 32)))
        pair = round_.pair
        SITUATIONS[kinds.total() // CASES_PER_ROUND % len(SITUATIONS)](round_)
        for number in range(CASES_PER_ROUND):
            receiver = random.choice([pair.alice, pair.bob])
            source = pair.other(receiver).endpoint if random.random() < 0.8 else endpoint(random.randrange(256))
            kind = "random bytes" if number % 10 == 0 else "mutants"
            datagram = noise(random) if number % 10 == 0 else mutant(round_, receiver)
            round_.receive(receiver, datagram, source)
            kinds[kind] += 1
            if number % 50 == 0:
                pair.go_to(pair.now + random.choice([0.0, 0.001, 0.03, 1.0]))
                round_.collect()
        assert recovers(round_)
        for side in (pair.alice, pair.bob):
            dropped.update(side.dropped())

    assert kinds.total() >= 100_000
    assert kinds["mutants"] * 10 >= kinds.total() * 9
    assert {reason for reason in Drop if not dropped[reason]} == set()


def test_every_prefix_and_every_byte_of_each_message_is_survived() -> None:
    pair = Pair()
    pair.shake_hands()
    pair.bob.send(b"back" * 8, pair.now)
    messages = [message for side in (pair.alice, pair.bob) for _, message in side.history]
    messages.append(CookieReply(1, bytes(24), bytes(32)).emit())
    assert {len(message) for message in messages} >= {Initiation.SIZE, 92, 64}
    for message in messages:
        variants = [message[:size] for size in range(len(message))]
        variants += [
            message[:at] + bytes([value]) + message[at + 1 :] for at in range(len(message)) for value in (0, 255)
        ]
        for side in (pair.alice, pair.bob):
            for variant in set(variants) - {message}:
                side.receive(variant, endpoint(3), pair.now)
    pair.drop()
    for side in (pair.alice, pair.bob):
        pair.introduce(side)
        assert side.received == []
