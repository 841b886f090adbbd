# SPDX-License-Identifier: BSD-3-Clause
"""Every row of the timers' table with exact times: first a peer's timers alone, then two sides that talk.

Jitter is drawn where the table says "+ jitter": such a time lies between its bound and 0.333 s after it.
"""

from dataclasses import replace
from itertools import pairwise

import pytest

from tests.unit.wireguard.pair import EVERYTHING, START, Pair, Side, at
from ts4nsnet.wireguard.messages import Drop, Initiation, MessageType
from ts4nsnet.wireguard.records import PeerRecord, SessionMemory
from ts4nsnet.wireguard.timers import JITTER_TIME, Expiry, PeerTimers

INITIATION, RESPONSE, TRANSPORT = MessageType.INITIATION, MessageType.RESPONSE, MessageType.TRANSPORT
INITIATIONS = 20  # the first one and 19 retries
DATA = b"d" * 32


def about(seconds: float) -> object:
    """That time, up to the rounding of floats."""
    return pytest.approx(seconds, abs=1e-6)


def within_jitter(seconds: float, bound: float) -> bool:
    return bound - 1e-6 <= seconds <= bound + JITTER_TIME + 1e-6


# --- a peer's timers alone ---


class Bench:
    """A peer's timers with a constant jitter, and the record that the session table would write."""

    JITTER = 0.25

    def __init__(self) -> None:
        self.record: PeerRecord = SessionMemory(bytearray(SessionMemory.size(1))).peer(0)
        self.timers = PeerTimers(self.record, lambda: self.JITTER)
        self.now = START

    def session(self) -> None:
        self.timers.keypair_made(self.now)
        self.timers.handshake_finished()

    def data_sent(self) -> None:
        self.keepalive_sent()
        self.record.data_sent_at = self.now
        self.record.unheard_at = self.record.unheard_at or self.now

    def data_received(self) -> None:
        self.keepalive_received()
        self.record.data_received_at = self.now
        self.record.unanswered_at = self.record.unanswered_at or self.now

    def keepalive_sent(self) -> None:
        self.record.sent_at, self.record.unanswered_at = self.now, 0.0

    def keepalive_received(self) -> None:
        self.record.received_at, self.record.unheard_at = self.now, 0.0

    def run(self, seconds: float) -> list[tuple[float, Expiry]]:
        """Go on to `seconds` after the start; what ran out on the way. Keep-alives are sent, as a device would."""
        told = []
        while (due := self.timers.next_at(self.now)) <= at(seconds):
            self.now = max(self.now, due)
            for expiry in self.timers.expired(self.now):
                told.append((round(self.now - START, 6), expiry))
                if expiry in (Expiry.KEEPALIVE, Expiry.PERSISTENT_KEEPALIVE):
                    self.keepalive_sent()
            assert self.timers.next_at(self.now) > self.now
        self.now = at(seconds)
        return told


def test_nothing_runs_at_the_start() -> None:
    assert Bench().run(1e9) == []


def test_retransmit_is_told_once() -> None:
    bench = Bench()
    bench.timers.retransmit_later(bench.now)
    assert bench.run(1000) == [(5.25, Expiry.RETRANSMIT)]


def test_a_finished_handshake_stops_the_retransmit_timer() -> None:
    bench = Bench()
    bench.timers.retransmit_later(bench.now)
    bench.run(5)
    bench.timers.handshake_finished()
    assert bench.run(1000) == []


def test_a_postponed_call_does_not_move_a_retry_that_is_due_already() -> None:
    bench = Bench()
    bench.timers.retransmit_later(bench.now)
    bench.run(3)
    bench.timers.retransmit_later(bench.now, postponed=True)
    assert bench.run(1000) == [(5.25, Expiry.RETRANSMIT)]
    bench.timers.retransmit_later(at(998), postponed=True)
    assert bench.run(2000) == [(1003.25, Expiry.RETRANSMIT)]


def test_keepalive_follows_the_first_data_received() -> None:
    bench = Bench()
    bench.session()
    bench.data_received()
    assert bench.run(100) == [(10.0, Expiry.KEEPALIVE)]


def test_keepalive_is_stopped_by_anything_sent() -> None:
    for send in (Bench.data_sent, Bench.keepalive_sent, lambda bench: bench.timers.handshake_sent(bench.now)):
        bench = Bench()
        bench.session()
        bench.data_received()
        bench.run(9.9)
        send(bench)
        told = bench.run(100)
        assert [expiry for _, expiry in told if expiry is Expiry.KEEPALIVE] == []


def test_a_keepalive_received_asks_for_none() -> None:
    bench = Bench()
    bench.session()
    bench.keepalive_received()
    assert bench.run(100) == []


def test_data_received_while_a_keepalive_is_due_asks_for_another() -> None:
    bench = Bench()
    bench.session()
    bench.data_received()
    bench.run(5)
    bench.data_received()
    assert bench.run(100) == [(10.0, Expiry.KEEPALIVE), (20.0, Expiry.KEEPALIVE)]


def test_another_keepalive_asks_for_another_if_more_data_has_come() -> None:
    bench = Bench()
    bench.session()
    for second in range(0, 25, 5):  # up to 20
        bench.run(second)
        bench.data_received()
    told = [when for when, _ in bench.run(100)]
    assert told == [30.0, 40.0]


def test_another_keepalive_is_stopped_by_anything_sent() -> None:
    for send in (Bench.data_sent, Bench.keepalive_sent, lambda bench: bench.timers.handshake_sent(bench.now)):
        bench = Bench()
        bench.session()
        bench.data_received()
        bench.run(5)
        bench.data_received()
        assert bench.run(12) == [(10.0, Expiry.KEEPALIVE)]
        send(bench)
        assert [expiry for _, expiry in bench.run(100) if expiry is Expiry.KEEPALIVE] == []


def test_giving_up_stops_keepalives() -> None:
    bench = Bench()
    bench.session()
    bench.data_received()
    bench.run(5)
    bench.data_received()
    bench.run(11)
    bench.timers.gave_up(bench.now)
    assert bench.run(500) == []


def test_data_after_a_handshake_message_needs_a_keepalive_ten_seconds_after_that_message_at_the_latest() -> None:
    bench = Bench()
    bench.session()
    bench.data_received()
    bench.run(3)
    bench.timers.handshake_sent(bench.now)
    bench.run(4)
    bench.data_received()  # that it was the first since is not known: the record has the first one since data was sent
    assert bench.run(100) == [(13.0, Expiry.KEEPALIVE), (23.0, Expiry.KEEPALIVE)]


def test_a_new_handshake_follows_fifteen_seconds_without_an_answer() -> None:
    bench = Bench()
    bench.session()
    bench.data_sent()
    bench.run(7)
    bench.data_sent()  # the first one counts
    assert bench.run(100) == [(15.25, Expiry.NEW_HANDSHAKE)]


def test_a_new_handshake_is_stopped_by_anything_received() -> None:
    for receive in (
        Bench.data_received,
        Bench.keepalive_received,
        lambda bench: bench.timers.handshake_received(bench.now),
    ):
        bench = Bench()
        bench.session()
        bench.data_sent()
        bench.run(14.9)
        receive(bench)
        assert [expiry for _, expiry in bench.run(100) if expiry is Expiry.NEW_HANDSHAKE] == []


def test_a_keepalive_sent_asks_for_no_answer() -> None:
    bench = Bench()
    bench.session()
    bench.keepalive_sent()
    assert bench.run(100) == []


def test_more_data_into_the_silence_asks_for_a_new_handshake_again() -> None:
    bench = Bench()
    bench.session()
    bench.data_sent()
    assert bench.run(20) == [(15.25, Expiry.NEW_HANDSHAKE)]
    bench.data_sent()
    assert bench.run(100) == [(30.5, Expiry.NEW_HANDSHAKE)]


def test_keys_are_zeroed_540_seconds_after_the_last_keypair() -> None:
    bench = Bench()
    bench.session()
    bench.run(100)
    bench.session()
    assert bench.run(10_000) == [(640.0, Expiry.ZERO_KEYS)]


def test_giving_up_zeroes_what_is_left_540_seconds_later() -> None:
    bench = Bench()
    bench.timers.gave_up(bench.now)
    assert bench.run(10_000) == [(540.0, Expiry.ZERO_KEYS)]
    bench.session()
    bench.run(10_100)
    bench.timers.gave_up(bench.now)
    assert bench.run(20_000) == [(10_540.0, Expiry.ZERO_KEYS)]


def test_persistent_keepalive_runs_from_anything_sent_or_received() -> None:
    for traffic in (
        Bench.keepalive_sent,
        Bench.keepalive_received,
        lambda bench: bench.timers.handshake_sent(bench.now),
        lambda bench: bench.timers.handshake_received(bench.now),
    ):
        bench = Bench()
        bench.timers.persistent_keepalive = 25.0
        bench.keepalive_sent()
        bench.run(7)
        traffic(bench)
        assert bench.run(90) == [(when, Expiry.PERSISTENT_KEEPALIVE) for when in (32.0, 57.0, 82.0)]
        bench.timers.persistent_keepalive = 0.0
        assert bench.run(1000) == []


def test_while_packets_can_flow_we_look_every_ten_seconds() -> None:
    bench = Bench()
    bench.session()
    assert bench.timers.next_at(at(0)) == at(10)
    assert bench.timers.next_at(at(179.9)) == at(189.9)
    assert bench.timers.next_at(at(180)) == at(540)


def test_traffic_seen_only_at_the_next_look_is_still_in_time() -> None:
    for offset in (0.001, 3.0, 9.999, 10.0, 177.0, 179.999):
        bench = Bench()
        bench.session()
        bench.run(offset)  # traffic passes elsewhere: nobody calls us
        bench.data_received()
        told = bench.run(offset + 50)
        assert told == [(round(offset + 10, 6), Expiry.KEEPALIVE)]


# --- calling and retrying ---


def test_an_unanswered_call_is_repeated_19_times_and_then_there_is_silence() -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    pair.run_to(at(3600), lose=EVERYTHING)
    calls = pair.alice.sent(INITIATION)
    assert len(calls) == INITIATIONS
    assert calls[0] == 0.0
    assert all(within_jitter(later - earlier, 5.0) for earlier, later in pairwise(calls))
    assert 95.0 <= calls[-1] <= 19 * 5.333
    assert pair.alice.dropped() == {Drop.HANDSHAKE_FAILED: 1}
    assert pair.alice.device.next_timer() is None


def test_each_call_has_a_fresh_index_ephemeral_key_and_timestamp() -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    pair.run_to(at(200), lose=EVERYTHING)
    calls = [Initiation.parse(datagram) for _, datagram in pair.alice.history]
    for field in ("sender_index", "ephemeral", "sealed_static", "sealed_timestamp", "mac1"):
        assert len({getattr(call, field) for call in calls}) == INITIATIONS


def test_after_giving_up_new_traffic_starts_over() -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    pair.run_to(at(300), lose=EVERYTHING)
    pair.alice.send(b"again", pair.now)
    pair.run_to(at(1000), lose=EVERYTHING)
    calls = pair.alice.sent(INITIATION)
    assert len(calls) == 2 * INITIATIONS
    assert calls[INITIATIONS] == about(300)
    pair.alice.send(b"at last", pair.now)
    pair.run_to(at(1001))
    assert pair.bob.received == [b"at last".ljust(16, b"\0")]


def test_traffic_during_the_retries_lengthens_them_but_makes_no_call_early() -> None:
    pair = Pair()
    for second in range(60):
        pair.run_to(at(second), lose=EVERYTHING)
        pair.alice.send(DATA, pair.now)
    pair.run_to(at(1000), lose=EVERYTHING)
    calls = pair.alice.sent(INITIATION)
    assert all(within_jitter(later - earlier, 5.0) for earlier, later in pairwise(calls))
    assert 59 + 90 <= calls[-1] <= 59 + 20 * 5.333


def test_jitter_differs_from_retry_to_retry() -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    pair.run_to(at(200), lose=EVERYTHING)
    gaps = [later - earlier for earlier, later in pairwise(pair.alice.sent(INITIATION))]
    assert len({round(gap, 4) for gap in gaps}) > 15
    assert max(gaps) - min(gaps) > 0.1


def test_no_call_sooner_than_five_seconds_after_our_own_response() -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    pair.deliver()
    pair.drop()  # Bob's response
    pair.now = at(1)
    pair.bob.send(DATA, pair.now)  # he has no confirmed keypair, and may not call yet
    assert pair.in_flight() == []
    pair.bob.handle_timer(at(4.999))
    assert pair.in_flight() == []
    pair.alice.device.remove_peer(pair.bob.key.public)  # she does not call again
    pair.run_to(at(6), lose=EVERYTHING)
    (call,) = pair.bob.sent(INITIATION)
    assert within_jitter(call, 5.0)


def test_a_session_that_came_meanwhile_takes_the_postponed_call_back() -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    pair.deliver()
    pair.bob.send(b"from bob", pair.now)  # postponed: he has just answered
    pair.deliver_all()
    assert pair.alice.received == [b"from bob".ljust(16, b"\0")]
    pair.run_to(at(100))
    assert pair.bob.sent(INITIATION) == []


# --- rekeying ---


def talk(pair: Pair, until: float, every: float, speaker: Side) -> None:
    """Let `speaker` send a packet at each multiple of `every`."""
    count = int((pair.now - START) / every)
    while (when := count * every) <= until:
        pair.run_to(at(when))
        speaker.send(DATA, pair.now)
        count += 1


def test_the_caller_calls_again_when_it_sends_after_120_seconds() -> None:
    pair = Pair()
    pair.shake_hands()
    talk(pair, 400, 1.0, pair.alice)
    assert pair.alice.sent(INITIATION) == [0.0, about(121), about(242), about(363)]
    assert pair.bob.sent(INITIATION) == []
    assert len(pair.bob.received) == 401 - 1  # the first call's packet was taken by shake_hands; the last is on its way


def test_the_called_side_never_calls_while_packets_flow() -> None:
    pair = Pair()
    pair.shake_hands()
    talk(pair, 400, 1.0, pair.bob)
    assert pair.bob.sent(INITIATION) == []
    calls = pair.alice.sent(INITIATION)
    # Alice sends keep-alives only, every ten seconds: those after 120 s ask for a new keypair
    assert all(120 < later - earlier <= 131 for earlier, later in pairwise(calls))
    assert len(calls) == 4


def test_who_called_and_only_receives_asks_165_seconds_later() -> None:
    pair = Pair()
    pair.shake_hands()
    # a keep-alive of Alice's would ask too: let none be due between 120 and 165 s
    pair.run_to(at(100))
    pair.bob.send(DATA, pair.now)
    pair.run_to(at(164.9))
    pair.bob.send(DATA, pair.now)
    pair.deliver_all()
    assert pair.alice.sent(INITIATION) == [0.0]
    pair.now = at(165.1)
    pair.bob.send(DATA, pair.now)
    pair.deliver()
    assert pair.alice.sent(INITIATION) == [0.0, about(165.1)]


def test_a_keypair_of_180_seconds_is_not_used_and_the_packet_waits_for_a_new_one() -> None:
    for side_name in ("alice", "bob"):
        pair = Pair()
        pair.shake_hands()
        pair.run_to(at(180))
        side: Side = getattr(pair, side_name)
        before = len(side.sent(TRANSPORT))
        side.send(DATA, pair.now)
        assert pair.in_flight() == [INITIATION]
        pair.deliver_all()
        assert pair.other(side).received == [DATA]
        assert len(side.sent(TRANSPORT)) == before + 1


# --- keep-alives and silence ---


def test_a_keepalive_leaves_ten_seconds_after_data_that_nobody_answered() -> None:
    pair = Pair()
    pair.shake_hands()
    pair.run_to(at(100))
    assert pair.bob.keepalives() == [about(10.0)]
    assert pair.alice.keepalives() == []


def test_two_packets_bring_two_keepalives() -> None:
    pair = Pair()
    pair.shake_hands()
    pair.run_to(at(5))
    pair.alice.send(DATA, pair.now)
    pair.run_to(at(100))
    assert pair.bob.keepalives() == [about(10.0), about(20.0)]


def test_who_answers_sends_no_keepalives() -> None:
    pair = Pair()
    pair.shake_hands()
    for second in range(1, 100):
        pair.run_to(at(second))
        (pair.alice if second % 2 else pair.bob).send(DATA, pair.now)
    assert pair.alice.keepalives() == pair.bob.keepalives() == []


def test_silence_after_data_brings_a_call_after_fifteen_seconds() -> None:
    pair = Pair()
    pair.shake_hands()
    pair.run_to(at(50))
    pair.alice.send(DATA, pair.now)
    pair.run_to(at(70), lose={TRANSPORT})
    (_, call) = pair.alice.sent(INITIATION)
    assert within_jitter(call, 65.0)
    assert pair.bob.sent(RESPONSE)[-1] == about(call)


def test_a_peer_that_keeps_alive_is_not_called() -> None:
    pair = Pair()
    pair.shake_hands()
    for second in range(10, 110, 10):
        pair.run_to(at(second))
        pair.alice.send(DATA, pair.now)
    assert pair.alice.sent(INITIATION) == [0.0]


def test_a_peer_that_vanishes_is_called_until_the_keypair_is_old_and_then_for_98_seconds() -> None:
    pair = Pair()
    pair.shake_hands()
    pair.alice.send(DATA, pair.now)
    pair.run_to(at(3600), lose=EVERYTHING)
    calls = pair.alice.sent(INITIATION)[1:]
    assert within_jitter(calls[0], 15.0)
    assert len(calls) == INITIATIONS


def test_idle_sides_say_nothing() -> None:
    pair = Pair()
    pair.shake_hands()
    pair.run_to(at(36_000))
    assert len(pair.alice.history) + len(pair.bob.history) == 4
    assert pair.alice.device.next_timer() is None
    assert pair.bob.device.next_timer() is None


# --- persistent keep-alive ---


def keep_alive(pair: Pair, seconds: float) -> None:
    """Configure Alice to keep her session alive."""
    pair.introduce(pair.alice, replace(pair.config(pair.alice), persistent_keepalive=seconds))


def test_persistent_keepalive_calls_without_any_traffic() -> None:
    pair = Pair()
    keep_alive(pair, 25.0)
    pair.run_to(at(0))
    assert pair.alice.sent(INITIATION) == [0.0]
    assert pair.bob.slots() == (False, True, False)


def test_persistent_keepalives_come_at_their_interval_and_renew_the_session() -> None:
    pair = Pair()
    keep_alive(pair, 25.0)
    pair.run_to(at(999))
    sent = sorted(pair.alice.keepalives() + pair.alice.sent(INITIATION))
    assert all(later - earlier <= 25.0 + 1e-6 for earlier, later in pairwise(sent))
    assert len(pair.alice.keepalives()) in range(40, 50)
    assert len(pair.alice.sent(INITIATION)) == 8  # each 125 s: the first keep-alive after 120 s
    assert pair.bob.keepalives() == pair.bob.sent(INITIATION) == []


def test_persistent_keepalive_goes_on_for_ever_without_an_answer() -> None:
    pair = Pair()
    keep_alive(pair, 25.0)
    pair.run_to(at(4 * 3600), lose=EVERYTHING)
    bursts: list[list[float]] = [[]]
    for call in pair.alice.sent(INITIATION):
        if bursts[-1] and call - bursts[-1][-1] > 6:
            assert call - bursts[-1][-1] == about(25.0)
            bursts.append([])
        bursts[-1].append(call)
    assert all(len(burst) == INITIATIONS for burst in bursts[:-1])
    assert len(bursts) == 117  # each lasts about 98.5 + 25 s
    assert bursts[-1][-1] > 4 * 3600 - 25
    pair.run_to(at(4 * 3600 + 30))
    assert pair.bob.slots() == (False, True, False)


def test_persistent_keepalive_without_an_endpoint_waits_for_the_peer_to_call() -> None:
    pair = Pair()
    pair.alice.device.remove_peer(pair.bob.key.public)
    pair.introduce(pair.alice, replace(pair.config(pair.alice), persistent_keepalive=25.0, endpoint=None))
    pair.run_to(at(600))
    assert pair.in_flight() == []
    assert pair.alice.dropped()[Drop.NO_ENDPOINT] > 20
    pair.bob.send(DATA, pair.now)
    pair.deliver_all()
    assert pair.alice.received == [DATA]


def test_a_persistent_keepalive_that_is_taken_away_stops() -> None:
    pair = Pair()
    keep_alive(pair, 25.0)
    pair.run_to(at(100))
    keep_alive(pair, 0.0)
    pair.run_to(at(1000))
    assert max(pair.alice.keepalives()) <= 100


# --- zeroing ---


def keys(side: Side) -> list[bytes]:
    record = side.keypair(side.record.current)
    assert record is not None
    return [record.send_key, record.receive_key]


def test_keys_are_erased_540_seconds_after_the_handshake_on_both_sides() -> None:
    pair = Pair()
    pair.shake_hands()
    secrets = {side.name: keys(side) for side in (pair.alice, pair.bob)}
    pair.run_to(at(539.99))
    for side in (pair.alice, pair.bob):
        assert all(key in side.buffer for key in secrets[side.name])
    pair.run_to(at(540))
    for side in (pair.alice, pair.bob):
        assert not any(key in side.buffer for key in secrets[side.name])
        assert side.slots() == (False, False, False)


def test_an_unconfirmed_keypair_is_erased_after_540_seconds_too() -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    pair.deliver()
    record = pair.bob.keypair(pair.bob.record.next)
    assert record is not None
    secrets = [record.send_key, record.receive_key]
    pair.alice.device.remove_peer(pair.bob.key.public)
    pair.run_to(at(539.99), lose=EVERYTHING)
    assert all(key in pair.bob.buffer for key in secrets)
    pair.run_to(at(540), lose=EVERYTHING)
    assert not any(key in pair.bob.buffer for key in secrets)


def test_the_next_keypair_lengthens_the_life_of_the_one_before() -> None:
    pair = Pair()
    pair.shake_hands()
    first = keys(pair.alice)
    pair.run_to(at(200))
    pair.alice.send(DATA, pair.now)
    pair.run_to(at(739.9))
    assert all(key in pair.alice.buffer for key in first)
    pair.run_to(at(740.1))
    assert not any(key in pair.alice.buffer for key in first)


def test_zeroing_drops_what_still_waits() -> None:
    pair = Pair()
    pair.shake_hands()
    pair.run_to(at(500))
    pair.alice.send(DATA, pair.now)
    pair.run_to(at(540), lose=EVERYTHING)
    assert pair.alice.dropped()[Drop.HANDSHAKE_FAILED] == 1
