# SPDX-License-Identifier: BSD-3-Clause
"""Two sides and a network that loses, reorders, repeats, replays and damages: what must hold at every step.

hypothesis chooses what happens; `Misfortune` says what may, and after each step asks

  * that each packet sent is delivered at most once and unchanged,
  * that no key ever seals two messages with one counter,
  * that no queue grows beyond its bound, slots and records agree, and no timer lies in the past.

At the end the network becomes perfect: within 200 seconds both directions must deliver again.

The second part lets a thousand hours pass and counts what was said in them.
"""

from dataclasses import replace

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.wireguard.pair import EVERYTHING, Pair, Side, at, endpoint
from ts4nsnet.wireguard.messages import Drop, MessageType, message_type
from ts4nsnet.wireguard.peer import MAX_STAGED_BYTES
from ts4nsnet.wireguard.records import KEYPAIRS_PER_PEER, KeypairRecord

INITIATION, RESPONSE, TRANSPORT = MessageType.INITIATION, MessageType.RESPONSE, MessageType.TRANSPORT
NAMES = st.sampled_from(["alice", "bob"])
# seconds: a round trip, every bound of the protocol and a bit more
STEPS = st.sampled_from([0.001, 0.03, 0.4, 1.0, 5.0, 5.4, 10.0, 15.4, 60.0, 119.0, 121.0, 165.5, 181.0, 541.0, 700.0])
REMEMBERED = 300  # messages that may be replayed
HOSTS = st.integers(1, 6)

Flight = tuple[str, bytes, bytes]  # the receiver's name, datagram, source


class Misfortune(RuleBasedStateMachine):
    """Alice and Bob in bad times."""

    @initialize(seed=st.integers(0, 1 << 32), psk=st.booleans(), keepalive=st.sampled_from([0.0, 0.0, 25.0]))
    def meet(self, seed: int, psk: bool, keepalive: float) -> None:
        self.pair = Pair(seed, preshared_key=b"p" * 32 if psk else bytes(32), keepalive=keepalive)
        self.flight: list[Flight] = []
        self.past: list[Flight] = []
        self.sent: dict[str, set[bytes]] = {"alice": set(), "bob": set()}
        self.arrived: dict[str, set[bytes]] = {"alice": set(), "bob": set()}
        self.counters: set[tuple[bytes, int]] = set()
        self.number = 0

    def sides(self) -> tuple[Side, Side]:
        return self.pair.alice, self.pair.bob

    def side(self, name: str) -> Side:
        return self.pair.alice if name == "alice" else self.pair.bob

    def collect(self) -> None:
        """Take what the sides have sent out of their hands, and what they got."""
        for side in self.sides():
            receiver = self.pair.other(side)
            for datagram, destination in side.out:
                if message_type(datagram) is TRANSPORT:
                    self.note_counter(side, datagram)
                if destination == receiver.endpoint:
                    self.flight.append((receiver.name, datagram, side.endpoint))
            side.out.clear()
            for packet in side.received:
                whole = packet.rstrip(b"\0")
                assert whole in self.sent[receiver.name], "never sent"
                assert whole not in self.arrived[side.name], "delivered twice"
                self.arrived[side.name].add(whole)
            side.received.clear()
            side.history.clear()
        self.past = (self.past + self.flight)[-REMEMBERED:]

    def note_counter(self, side: Side, datagram: bytes) -> None:
        remote_index, counter = datagram[4:8], int.from_bytes(datagram[8:16], "little")
        # indices are drawn from 2^32: in one run they name keypairs uniquely
        nonce = side.name.encode() + remote_index, counter
        assert nonce not in self.counters, "a counter was used twice"
        self.counters.add(nonce)

    def arrive(self, receiver: str, datagram: bytes, source: bytes) -> None:
        side = self.side(receiver)
        side.receive(datagram, source, self.pair.now)
        # one message sets free at most what waited
        assert sum(len(out) for out, _ in side.out if message_type(out) is TRANSPORT) <= MAX_STAGED_BYTES
        self.collect()

    # --- what may happen ---

    @rule(name=NAMES, count=st.integers(1, 4))
    def send(self, name: str, count: int, size: int = 0) -> None:
        for _ in range(count):
            self.number += 1
            packet = f"{name} {self.number}".encode().ljust(size)
            self.sent[name].add(packet)
            self.side(name).send(packet, self.pair.now)
        self.collect()

    @rule(name=NAMES)
    def send_a_flood(self, name: str) -> None:
        self.send(name, MAX_STAGED_BYTES // 1400 + 20, 1400)

    @rule(seconds=STEPS)
    def wait(self, seconds: float, *, perfect: bool = False) -> None:
        end = self.pair.now + seconds
        for _ in range(100_000):
            timers = [due for side in self.sides() if (due := side.device.next_timer()) is not None]
            if not timers or min(timers) > end:
                break
            self.pair.go_to(max(self.pair.now, min(timers)))
            for side in self.sides():
                due = side.device.next_timer()
                assert due is None or due > self.pair.now, "a timer in the past"
            self.collect()
            if perfect:
                self.deliver_all()
        self.pair.now = end

    @rule()
    def deliver_all(self) -> None:
        for _ in range(40):
            batch, self.flight = self.flight, []
            for receiver, datagram, source in batch:
                self.arrive(receiver, datagram, source)

    @precondition(lambda self: self.flight)
    @rule(choice=st.integers(0, 1 << 16))
    def deliver_one(self, choice: int) -> None:
        self.arrive(*self.flight.pop(choice % len(self.flight)))

    @precondition(lambda self: self.flight)
    @rule(choice=st.integers(0, 1 << 16))
    def repeat_one(self, choice: int) -> None:
        self.arrive(*self.flight[choice % len(self.flight)])

    @precondition(lambda self: self.flight)
    @rule(choice=st.integers(0, 1 << 16))
    def lose_one(self, choice: int) -> None:
        del self.flight[choice % len(self.flight)]

    @rule()
    def lose_all(self) -> None:
        self.flight.clear()

    @precondition(lambda self: self.past)
    @rule(choice=st.integers(0, 1 << 16), source=st.none() | HOSTS)
    def replay(self, choice: int, source: int | None) -> None:
        receiver, datagram, known = self.past[choice % len(self.past)]
        self.arrive(receiver, datagram, known if source is None else endpoint(source))

    @precondition(lambda self: self.past)
    @rule(choice=st.integers(0, 1 << 16), name=NAMES)
    def misdirect(self, choice: int, name: str) -> None:
        _, datagram, source = self.past[choice % len(self.past)]
        self.arrive(name, datagram, source)

    @precondition(lambda self: self.flight)
    @rule(choice=st.integers(0, 1 << 16), byte=st.integers(0, 1 << 16), bit=st.integers(0, 7))
    def damage(self, choice: int, byte: int, bit: int) -> None:
        receiver, datagram, source = self.flight.pop(choice % len(self.flight))
        damaged = bytearray(datagram)
        damaged[byte % len(damaged)] ^= 1 << bit
        self.arrive(receiver, bytes(damaged), source)

    @rule(name=NAMES, apart=st.booleans())
    def exchange(self, name: str, apart: bool) -> None:
        """Let node and worker hear of each other, and perhaps not of what follows."""
        side = self.side(name)
        side.exchange(self.pair.now)
        side.settle(self.pair.now)
        side.apart = apart
        self.collect()

    @rule(name=NAMES, keep_memory=st.booleans())
    def restart(self, name: str, keep_memory: bool) -> None:
        self.pair.restart(self.side(name), keep_memory=keep_memory)
        self.collect()

    @rule(name=NAMES)
    def come_back(self, name: str) -> None:
        side = self.side(name)
        side.device.remove_peer(self.pair.other(side).key.public)
        side.settle(self.pair.now)
        self.collect()
        self.pair.introduce(side)
        self.collect()

    @rule(name=NAMES, host=HOSTS)
    def move(self, name: str, host: int) -> None:
        side = self.side(name)
        if endpoint(host) != self.pair.other(side).endpoint:
            side.endpoint = endpoint(host)

    @rule(name=NAMES, keepalive=st.sampled_from([0.0, 3.0, 25.0]), tell_endpoint=st.booleans())
    def reconfigure(self, name: str, keepalive: float, tell_endpoint: bool) -> None:
        side = self.side(name)
        config = replace(self.pair.config(side), persistent_keepalive=keepalive)
        self.pair.introduce(side, config if tell_endpoint else replace(config, endpoint=None))
        self.collect()

    # --- what always holds ---

    @invariant()
    def slots_and_records_agree(self) -> None:
        for side in self.sides() if hasattr(self, "pair") else ():
            named = [slot for slot in (side.record.previous, side.record.current, side.record.next) if slot]
            assert len(named) == len(set(named)) <= KEYPAIRS_PER_PEER
            indices = set()
            for slot in range(1, KEYPAIRS_PER_PEER + 1):
                record = side.memory.keypair(side.peer, slot)
                at = record.at
                if slot in named:
                    assert record.generation
                    assert record.peer == side.peer
                    assert any(record.send_key)
                    assert any(record.receive_key)
                    assert record.created_at <= self.pair.now
                    indices.add(record.local_index)
                elif not side.apart:
                    assert not any(side.buffer[at : at + KeypairRecord.SIZE])
            assert len(indices) == len(named)

    @invariant()
    def nothing_waits_between_node_and_worker(self) -> None:
        for side in self.sides() if hasattr(self, "pair") else ():
            if not side.apart:
                assert side.device.next_event() is None
                assert side.table.next_event() is None

    def teardown(self) -> None:
        """Recovery: all arrives at once, each knows where the other is, and both have something to say."""
        if not hasattr(self, "pair"):
            return
        for side in self.sides():
            side.apart = False
            side.settle(self.pair.now)
        self.collect()
        self.deliver_all()  # what comes from an old address moves the endpoint there: let it come first
        for side in self.sides():
            self.pair.introduce(side)
        self.collect()
        before = {name: len(arrived) for name, arrived in self.arrived.items()}
        for second in range(200):
            for name in ("alice", "bob"):
                self.wait(0.5, perfect=True)
                self.send(name, 1)
                self.deliver_all()
            if second >= 10 and all(len(self.arrived[name]) > before[name] + 5 for name in before):
                return
        raise AssertionError("the two did not find each other again")


TestMisfortune = Misfortune.TestCase
TestMisfortune.settings = settings(suppress_health_check=[HealthCheck.too_slow])


# --- a thousand hours ---

HOUR = 3600


def test_700_idle_hours() -> None:
    pair = Pair()
    pair.shake_hands()
    pair.run_to(at(700 * HOUR))
    # initiation, response, data; and the keep-alive that answers the data
    assert [len(pair.alice.history), len(pair.bob.history)] == [2, 2]


def test_200_hours_with_a_packet_every_hour() -> None:
    pair = Pair()
    for hour in range(200):
        pair.run_to(at(hour * HOUR))
        pair.alice.send(b"hourly %d" % hour, pair.now)
        pair.run_to(pair.now)
    pair.run_to(at(200 * HOUR))
    assert len(pair.bob.received) == 200
    assert len(pair.alice.sent(INITIATION)) == len(pair.bob.sent(RESPONSE)) == 200
    assert len(pair.alice.sent(TRANSPORT)) == len(pair.bob.keepalives()) == 200
    assert len(pair.alice.history) + len(pair.bob.history) == 4 * 200
    assert pair.alice.dropped() == pair.bob.dropped() == {}


def test_50_hours_with_a_persistent_keepalive() -> None:
    pair = Pair()
    pair.introduce(pair.alice, replace(pair.config(pair.alice), persistent_keepalive=25.0))
    pair.run_to(at(50 * HOUR - 1))
    # a cycle is 125 s: five keep-alives, of which the fifth is the first after 120 s; then a call and its confirmation
    cycles = 50 * HOUR // 125
    assert len(pair.alice.sent(INITIATION)) == len(pair.bob.sent(RESPONSE)) == cycles
    assert len(pair.alice.keepalives()) == 6 * cycles - 1  # nothing comes before the first call
    assert pair.bob.keepalives() == pair.bob.sent(INITIATION) == []
    assert pair.alice.dropped() == pair.bob.dropped() == {}


def test_50_hours_with_a_peer_that_is_dead_half_of_the_time() -> None:
    pair = Pair()
    for five_minutes in range(50 * 12):
        dead = five_minutes // 12 % 2 == 1
        pair.alice.send(b"packet %d" % five_minutes, pair.now)
        pair.run_to(pair.now + 300, lose=EVERYTHING if dead else ())
    assert pair.now == at(50 * HOUR)
    assert len(pair.bob.received) == 300
    assert len(pair.bob.sent(RESPONSE)) == 300  # each packet finds a keypair of 300 s, and needs a new one
    assert len(pair.alice.sent(INITIATION)) == 300 + 20 * 300
    assert pair.alice.dropped() == {Drop.HANDSHAKE_FAILED: 300}
    assert pair.bob.dropped() == {}
