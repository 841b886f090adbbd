# SPDX-License-Identifier: BSD-3-Clause
"""The device: handshakes and what can go wrong with them, roaming, staging, cookies in both roles, peers, adoption."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any

import pytest

from tests.unit.wireguard.pair import EVERYTHING, VECTORS, WALL_START, Pair, Side, at, endpoint
from ts4nsnet.fair import ENTRY_BYTES
from ts4nsnet.keys import PrivateKey, PublicKey
from ts4nsnet.wireguard.cookies import LOAD_BURST, RATE_BURST, CookieGenerator
from ts4nsnet.wireguard.device import INITIATION_SPACING_TIME, Device, Seal
from ts4nsnet.wireguard.handshake import Initiator, Received, tai64n
from ts4nsnet.wireguard.indices import REST_TIME as INDEX_REST_TIME
from ts4nsnet.wireguard.messages import (
    CookieReply,
    Drop,
    Initiation,
    MessageType,
    Response,
    WireGuardError,
    message_type,
)
from ts4nsnet.wireguard.peer import MAX_ALL_STAGED_BYTES, MAX_STAGED_BYTES, PeerConfig
from ts4nsnet.wireguard.records import NOWHERE, SessionMemory
from ts4nsnet.wireguard.sessions import REJECT_AFTER_MESSAGES, Confirmed, Keypair, KeysZeroed, RekeyWanted, Roamed

INITIATION, RESPONSE = MessageType.INITIATION, MessageType.RESPONSE
COOKIE_REPLY, TRANSPORT = MessageType.COOKIE_REPLY, MessageType.TRANSPORT
DATA = b"d" * 32
KEYS = VECTORS["keys"]


def first_out(side: Side) -> bytes:
    """Take the one message of `side` that is in flight."""
    ((datagram, _),) = side.out
    side.out.clear()
    return datagram


def works(pair: Pair) -> bool:
    """Whether a packet passes in each direction."""
    pair.alice.received.clear()
    pair.bob.received.clear()
    pair.alice.send(b"to bob", pair.now)
    pair.deliver_all()
    pair.bob.send(b"to alice", pair.now)
    pair.deliver_all()
    return [pair.bob.received, pair.alice.received] == [[b"to bob".ljust(16, b"\0")], [b"to alice".ljust(16, b"\0")]]


# --- the recorded handshakes ---


class Drawn:
    """A source of chance that yields a recorded ephemeral key and index in the order in which a device draws."""

    def __init__(self, *drawn: bytes) -> None:
        self.drawn = list(drawn)

    def __call__(self, size: int) -> bytes:
        if size == 2:
            return bytes(2)  # jitter
        value = self.drawn.pop(0)
        assert len(value) == size
        return value


@pytest.mark.parametrize("recorded", VECTORS["handshakes"], ids=["psk", "no psk"])
def test_two_devices_make_a_recorded_handshake_and_its_first_messages(recorded: dict[str, str]) -> None:
    seconds = int.from_bytes(bytes.fromhex(recorded["timestamp_tai64n"])[:8], "big") - 0x400000000000000A
    nanoseconds = int.from_bytes(bytes.fromhex(recorded["timestamp_tai64n"])[8:], "big")
    sides = []
    for name, other in (("initiator", "responder"), ("responder", "initiator")):
        chance = Drawn(
            KEYS[f"{name}_index"].to_bytes(4, "little"),
            bytes.fromhex(KEYS[f"{name}_ephemeral_private"]),
        )
        memory = SessionMemory(bytearray(SessionMemory.size(1)))
        key = PrivateKey(bytes.fromhex(KEYS[f"{name}_static_private"]))
        device = Device(key, memory, chance, lambda: seconds * 10**9 + nanoseconds)
        peer = PublicKey(bytes.fromhex(KEYS[f"{other}_static_public"]))
        psk = bytes.fromhex(recorded["preshared_key"])
        device.set_peer(PeerConfig(peer, preshared_key=psk, endpoint=endpoint(9)), at(0))
        assert device.next_event() == Roamed(0, endpoint(9))
        sides.append(device)
    caller, called = sides

    caller.send(0, [DATA], at(0))
    assert caller.datagrams_to_send() == [(bytes.fromhex(recorded["initiation"]), endpoint(9))]
    called.receive(bytes.fromhex(recorded["initiation"]), endpoint(1), at(0))
    assert called.datagrams_to_send() == [(bytes.fromhex(recorded["response"]), endpoint(1))]
    caller.receive(bytes.fromhex(recorded["response"]), endpoint(9), at(0))

    made = caller.next_event()
    assert isinstance(made, Keypair)
    assert made.keys.send.hex() == recorded["key_initiator_to_responder"]
    assert made.keys.receive.hex() == recorded["key_responder_to_initiator"]
    assert (made.local_index, made.remote_index) == (KEYS["initiator_index"], KEYS["responder_index"])
    assert caller.next_event() == Seal(0, (DATA,))
    assert caller.next_event() is None
    assert called.next_event() == Roamed(0, endpoint(1))
    theirs = called.next_event()
    assert isinstance(theirs, Keypair)
    assert (theirs.keys.send, theirs.keys.receive) == (made.keys.receive, made.keys.send)
    assert (theirs.initiator, made.initiator) == (False, True)


# --- handshakes ---


def test_a_packet_waits_for_the_handshake_and_confirms_it() -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    assert pair.in_flight() == [INITIATION]
    pair.deliver()
    assert pair.in_flight() == [RESPONSE]
    assert pair.bob.slots() == (False, False, True)
    pair.deliver()
    assert pair.in_flight() == [TRANSPORT]  # no keep-alive besides
    pair.deliver()
    assert pair.bob.received == [DATA]
    assert pair.bob.slots() == (False, True, False)
    assert pair.in_flight() == []
    assert pair.alice.device.statistics().initiations_sent == pair.bob.device.statistics().responses_sent == 1
    assert pair.alice.device.statistics().keypairs_made == pair.bob.device.statistics().keypairs_made == 1


def test_a_caller_with_nothing_to_say_confirms_with_a_keepalive() -> None:
    pair = Pair()
    pair.alice.device.notice(RekeyWanted(pair.alice.peer), pair.now)
    pair.alice.settle(pair.now)
    pair.deliver_all()
    assert pair.alice.keepalives() == [0.0]
    assert pair.bob.slots() == (False, True, False)
    assert works(pair)


def test_packets_leave_in_the_order_in_which_they_waited() -> None:
    pair = Pair()
    for number in range(5):
        pair.alice.send(bytes([number]) * 16, pair.now)
    pair.deliver_all()
    assert [packet[0] for packet in pair.bob.received] == [0, 1, 2, 3, 4]


def test_either_side_can_call() -> None:
    pair = Pair()
    pair.bob.send(DATA, pair.now)
    pair.deliver_all()
    assert pair.alice.received == [DATA]
    assert works(pair)


@pytest.mark.parametrize("lost", [INITIATION, RESPONSE, TRANSPORT])
def test_any_message_of_a_handshake_may_be_lost_once(lost: MessageType) -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    while pair.in_flight() != [lost]:
        pair.deliver()
    pair.drop()
    if lost is TRANSPORT:  # lost is lost, but the session still gets confirmed
        pair.run_to(at(1))
        assert pair.bob.slots() == (False, False, True)
        assert works(pair)
    else:
        pair.run_to(at(5.4))
        assert pair.bob.received == [DATA]
        assert works(pair)


def test_lost_response_is_asked_for_again() -> None:
    net = Pair(seed=7)
    net.alice.send(DATA, at(0.0))
    net.deliver()
    net.drop()  # the initiation arrives, its response does not
    net.alice.handle_timer(at(5.4))
    assert net.in_flight() == [INITIATION]


@pytest.mark.parametrize("order", ["both at once", "alice's first", "bob's first"])
def test_both_call_at_the_same_time(order: str) -> None:
    pair = Pair()
    pair.alice.send(b"from alice", pair.now)
    pair.bob.send(b"from bob", pair.now)
    from_alice, from_bob = first_out(pair.alice), first_out(pair.bob)
    deliveries: list[Callable[[], None]] = [
        lambda: pair.bob.receive(from_alice, pair.alice.endpoint, pair.now),
        lambda: pair.alice.receive(from_bob, pair.bob.endpoint, pair.now),
    ]
    if order == "bob's first":
        deliveries.reverse()
    deliveries[0]()
    if order != "both at once":
        pair.deliver_all()  # one handshake is through before the other side's call arrives
    deliveries[1]()
    pair.deliver_all()
    pair.run_to(at(11))
    assert pair.alice.received == [b"from bob".ljust(16, b"\0")]
    assert pair.bob.received == [b"from alice".ljust(16, b"\0")]
    assert works(pair)
    assert len(pair.alice.sent(INITIATION)) + len(pair.bob.sent(INITIATION)) <= 4


def test_who_answers_a_call_no_longer_waits_for_the_response_to_its_own() -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    pair.deliver()
    answer = first_out(pair.bob)
    pair.now = at(6)
    pair.bob.device.notice(RekeyWanted(pair.bob.peer), pair.now)
    pair.bob.settle(pair.now)
    pair.deliver()
    assert pair.in_flight() == [RESPONSE]
    pair.alice.receive(answer, pair.bob.endpoint, pair.now)
    assert pair.alice.dropped() == {Drop.RESPONSE_UNEXPECTED: 1}
    pair.deliver_all()
    assert pair.bob.received == [DATA]


@pytest.mark.parametrize("caller", ["alice", "bob"])
def test_rekeying_at_the_same_time_loses_nothing(caller: str) -> None:
    pair = Pair()
    pair.shake_hands()
    pair.run_to(at(10))
    for side in (pair.alice, pair.bob):
        side.device.notice(RekeyWanted(side.peer), pair.now)
        side.settle(pair.now)
    early = pair.alice if caller == "alice" else pair.bob
    early.send(b"on the way", pair.now)
    pair.deliver_all()
    assert pair.other(early).received == [b"on the way".ljust(16, b"\0")]
    assert works(pair)
    pair.run_to(at(30))
    assert works(pair)


def test_a_peer_that_restarts_is_called_anew() -> None:
    pair = Pair()
    pair.shake_hands()
    pair.run_to(at(20))
    pair.restart(pair.bob)
    pair.bob.send(DATA, pair.now)
    pair.deliver_all()
    assert pair.alice.received == [DATA]
    assert works(pair)


def test_a_peer_that_restarts_and_is_silent_is_called_after_fifteen_seconds() -> None:
    pair = Pair()
    pair.shake_hands()
    pair.run_to(at(20))
    pair.restart(pair.bob)
    pair.alice.send(DATA, pair.now)
    pair.run_to(at(34.9))
    assert pair.bob.dropped() == {Drop.INDEX_UNKNOWN: 1}
    pair.run_to(at(35.4))
    assert works(pair)


def test_another_preshared_key_is_noticed_by_the_caller_and_nothing_passes() -> None:
    pair = Pair(preshared_key=b"a" * 32)
    pair.introduce(pair.bob, replace(pair.config(pair.bob), preshared_key=b"b" * 32))
    pair.alice.send(DATA, pair.now)
    pair.run_to(at(120))
    assert pair.alice.dropped() == {Drop.RESPONSE_INVALID: 20, Drop.HANDSHAKE_FAILED: 1}
    assert pair.bob.received == []
    assert pair.bob.slots() == (False, False, True)
    pair.introduce(pair.bob)
    assert works(pair)


def test_a_preshared_key_that_both_have_works() -> None:
    assert works(Pair(preshared_key=b"p" * 32))


# --- messages that are wrong ---


@pytest.mark.parametrize("byte", range(148))
def test_no_byte_of_an_initiation_can_be_changed(byte: int) -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    call = first_out(pair.alice)
    wrong = bytearray(call)
    wrong[byte] ^= 0x20
    before = bytes(pair.bob.buffer)
    pair.bob.receive(bytes(wrong), endpoint(66), pair.now)
    if byte >= 132:
        # mac2 is not looked at without load: this is a real initiation
        assert pair.in_flight() == [RESPONSE]
        return
    assert pair.in_flight() == []
    assert bytes(pair.bob.buffer) == before
    assert pair.bob.dropped() == {Drop.TYPE if byte < 4 else Drop.MAC1: 1}
    pair.bob.receive(call, pair.alice.endpoint, pair.now)
    pair.deliver_all()
    assert pair.bob.received == [DATA]


@pytest.mark.parametrize("byte", range(92))
def test_no_byte_of_a_response_can_be_changed(byte: int) -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    pair.deliver()
    answer = first_out(pair.bob)
    wrong = bytearray(answer)
    wrong[byte] ^= 0x20
    before = bytes(pair.alice.buffer)
    pair.alice.receive(bytes(wrong), endpoint(66), pair.now)
    if byte >= 76:
        assert pair.in_flight() == [TRANSPORT]
        return
    assert pair.in_flight() == []
    assert bytes(pair.alice.buffer) == before
    assert pair.alice.dropped() == {Drop.TYPE if byte < 4 else Drop.MAC1: 1}
    pair.alice.receive(answer, pair.bob.endpoint, pair.now)
    pair.deliver_all()
    assert pair.bob.received == [DATA]


def resealed(message: bytes, receiver: Side) -> bytes:
    """`message` with its mac1 made right, as somebody would who knows the receiver's key."""
    return CookieGenerator(receiver.key.public).complete(message, at(0))


@pytest.mark.parametrize("byte", range(8, 116))
def test_a_changed_initiation_with_the_right_mac_is_dropped_and_the_right_one_still_works(byte: int) -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    call = first_out(pair.alice)
    wrong = bytearray(call)
    wrong[byte] ^= 0x20
    before = bytes(pair.bob.buffer)
    pair.bob.receive(resealed(bytes(wrong), pair.bob), endpoint(66), pair.now)
    assert pair.in_flight() == []
    assert bytes(pair.bob.buffer) == before
    assert pair.bob.dropped() == {Drop.INITIATION_INVALID: 1}
    pair.bob.receive(call, pair.alice.endpoint, pair.now)
    pair.deliver_all()
    assert pair.bob.received == [DATA]


@pytest.mark.parametrize("byte", range(8, 60))
def test_a_changed_response_with_the_right_mac_is_dropped_and_the_right_one_still_works(byte: int) -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    pair.deliver()
    answer = first_out(pair.bob)
    wrong = bytearray(answer)
    wrong[byte] ^= 0x20
    before = bytes(pair.alice.buffer)
    pair.alice.receive(resealed(bytes(wrong), pair.alice), endpoint(66), pair.now)
    assert pair.in_flight() == []
    assert bytes(pair.alice.buffer) == before
    assert pair.alice.dropped() == {Drop.RESPONSE_UNEXPECTED if byte < 12 else Drop.RESPONSE_INVALID: 1}
    pair.alice.receive(answer, pair.bob.endpoint, pair.now)
    pair.deliver_all()
    assert pair.bob.received == [DATA]


@pytest.mark.parametrize("kind", [INITIATION, RESPONSE, COOKIE_REPLY])
def test_messages_of_a_wrong_size_are_dropped(kind: MessageType) -> None:
    pair = Pair()
    for size in (32, 63, 65, 91, 93, 147, 149, 1500):
        pair.alice.receive(bytes([kind]).ljust(size, b"\0"), endpoint(2), pair.now)
    assert pair.alice.dropped() == {Drop.LENGTH: 8}


def test_short_unknown_and_misdirected_datagrams_are_dropped() -> None:
    pair = Pair()
    for size in (0, 1, 31):
        pair.alice.device.receive(bytes(size), endpoint(2), pair.now)
    pair.alice.device.receive(b"\x07".ljust(64, b"\0"), endpoint(2), pair.now)
    pair.alice.device.receive(b"\x04".ljust(64, b"\0"), endpoint(2), pair.now)  # the session table's
    assert pair.alice.dropped() == {Drop.LENGTH: 3, Drop.TYPE: 2}
    assert pair.alice.device.datagrams_to_send() == []


@pytest.mark.parametrize("as_buffer", [bytes, bytearray, memoryview], ids=["bytes", "bytearray", "memoryview"])
def test_datagrams_may_be_any_buffer(as_buffer: Callable[[bytes], bytes]) -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    pair.bob.device.receive(as_buffer(first_out(pair.alice)), pair.alice.endpoint, pair.now)
    pair.bob.settle(pair.now)
    pair.deliver_all()
    assert pair.bob.received == [DATA]


def test_a_stranger_gets_no_answer() -> None:
    pair = Pair()
    stranger = Pair(seed=8)
    stranger.introduce(
        stranger.alice, PeerConfig(pair.bob.key.public, frozenset({ip_network("10.0.0.9/32")}), endpoint=endpoint(2))
    )
    stranger.alice.send(DATA, pair.now)
    pair.bob.receive(first_out(stranger.alice), endpoint(1), pair.now)
    assert pair.in_flight() == []
    assert pair.bob.dropped() == {Drop.UNKNOWN_PEER: 1}


def test_a_repeated_response_finds_no_handshake() -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    pair.deliver()
    answer = first_out(pair.bob)
    for _ in range(2):
        pair.alice.receive(answer, pair.bob.endpoint, pair.now)
    assert pair.alice.dropped() == {Drop.RESPONSE_UNEXPECTED: 1}
    assert pair.in_flight() == [TRANSPORT]


def test_the_response_to_an_earlier_call_comes_too_late() -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    pair.deliver()
    answer = first_out(pair.bob)
    pair.go_to(at(5.4))
    pair.alice.receive(answer, pair.bob.endpoint, pair.now)
    assert pair.alice.dropped() == {Drop.RESPONSE_UNEXPECTED: 1}
    pair.deliver_all()
    assert pair.bob.received == [DATA]


# --- replayed and flooding initiations ---


def test_a_replayed_initiation_is_refused_also_after_the_session_and_a_restart_of_the_process() -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    call = pair.alice.out[0][0]
    pair.deliver_all()
    for moment in (1, 600):
        pair.run_to(at(moment))
        pair.bob.receive(call, endpoint(66), pair.now)
        assert pair.in_flight() == []
    assert pair.bob.dropped() == {Drop.INITIATION_REPLAYED: 2}
    assert pair.bob.table.endpoint(pair.bob.peer) == pair.alice.endpoint
    pair.restart(pair.bob, keep_memory=True)
    pair.bob.receive(call, endpoint(66), pair.now)
    assert pair.bob.dropped() == {Drop.INITIATION_REPLAYED: 1}
    assert works(pair)


def test_an_older_timestamp_is_refused_whatever_the_order_of_arrival() -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    early = first_out(pair.alice)
    pair.go_to(at(5.4))
    late = first_out(pair.alice)
    pair.bob.receive(late, pair.alice.endpoint, pair.now)
    pair.bob.receive(early, pair.alice.endpoint, at(6))
    assert pair.bob.dropped() == {Drop.INITIATION_REPLAYED: 1}
    assert pair.in_flight() == [RESPONSE]


def calls(pair: Pair, count: int) -> list[bytes]:
    """Initiations of Alice's in their order, with as many timestamps; faster than her device would call."""
    made = []
    for number in range(count):
        secret = pair.alice.key.exchange(pair.bob.key.public)
        stamp = tai64n(WALL_START + number)
        ephemeral = PrivateKey(pair.random.randbytes(32))
        call, _ = Initiator.create(pair.alice.key, pair.bob.key.public, secret, ephemeral, stamp, number)
        made.append(resealed(call.emit(), pair.bob))
    return made


def test_a_peer_is_served_every_twenty_milliseconds_only() -> None:
    pair = Pair()
    for call, moment in zip(calls(pair, 4), (0.0, 0.010, 0.0199, 0.0201), strict=True):
        pair.bob.receive(call, pair.alice.endpoint, at(moment))
    assert INITIATION_SPACING_TIME == 0.020
    assert pair.bob.dropped() == {Drop.INITIATION_FLOOD: 2}
    assert pair.in_flight() == [RESPONSE] * 2


def test_a_burst_of_calls_to_many_peers_does_not_push_timestamps_into_the_future() -> None:
    pair = Pair()
    device = small_device(pair, 100)
    keys = [PrivateKey(pair.random.randbytes(32)) for _ in range(100)]
    for key in keys:
        number = device.set_peer(PeerConfig(key.public, endpoint=endpoint(9)), at(0))
        device.send(number, [DATA], at(0))
    for key, (datagram, _) in zip(keys, device.datagrams_to_send(), strict=True):
        received = Received.open(Initiation.parse(datagram), key)
        assert received.timestamp(key.exchange(pair.alice.key.public)) <= tai64n(WALL_START)


# --- endpoints ---


@pytest.mark.parametrize("kind", [INITIATION, RESPONSE, TRANSPORT])
def test_an_authentic_message_moves_the_endpoint(kind: MessageType) -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    while pair.in_flight() != [kind]:
        pair.deliver()
    sender = pair.bob if kind is RESPONSE else pair.alice
    receiver = pair.other(sender)
    sender.endpoint = endpoint(77)
    pair.deliver()
    assert receiver.table.endpoint(receiver.peer) == endpoint(77)
    pair.deliver_all()
    assert works(pair)
    pair.run_to(at(300))  # the next handshake goes there too
    receiver.send(DATA, pair.now)
    assert receiver.out[-1][1] == endpoint(77)


def test_a_cookie_reply_does_not_move_the_endpoint() -> None:
    pair = Pair()
    under_load(pair.bob, pair)
    pair.alice.send(DATA, pair.now)
    pair.deliver()
    assert pair.in_flight() == [COOKIE_REPLY]
    pair.bob.endpoint = endpoint(77)
    pair.deliver()
    assert pair.alice.table.endpoint(pair.alice.peer) == endpoint(2)


def test_without_roaming_no_message_moves_the_endpoint() -> None:
    pair = Pair(roaming=False)
    pair.alice.send(DATA, pair.now)
    for side in (pair.alice, pair.bob, pair.alice):  # initiation, response, data
        datagram, _ = side.out.popleft()
        pair.other(side).receive(datagram, endpoint(77), pair.now)
    assert pair.bob.received == [DATA]
    assert pair.alice.table.endpoint(pair.alice.peer) == endpoint(2)
    assert pair.bob.table.endpoint(pair.bob.peer) == endpoint(1)


def test_without_roaming_a_peer_that_is_nowhere_gets_an_answer_once_it_is_somewhere() -> None:
    pair = Pair(roaming=False)
    pair.bob.device.remove_peer(pair.alice.key.public)
    pair.introduce(pair.bob, replace(pair.config(pair.bob), endpoint=None))
    pair.alice.send(DATA, pair.now)
    initiation = pair.alice.out[0][0]
    pair.deliver_all()
    assert pair.bob.dropped() == {Drop.NO_ENDPOINT: 1}
    pair.bob.device.set_endpoint(pair.alice.key.public, pair.alice.endpoint, pair.now)
    pair.bob.receive(initiation, pair.alice.endpoint, pair.now)  # it counts as if it had never come
    pair.deliver_all()
    assert pair.bob.received == [DATA]


def test_a_set_endpoint_moves_the_session_and_calls_for_what_waits() -> None:
    pair = Pair(roaming=False)
    pair.bob.device.remove_peer(pair.alice.key.public)
    pair.introduce(pair.bob, replace(pair.config(pair.bob), endpoint=None))
    pair.bob.send(DATA, pair.now)
    pair.bob.device.set_endpoint(pair.alice.key.public, endpoint(1), pair.now)
    pair.bob.settle(pair.now)
    pair.deliver_all()
    assert pair.alice.received == [DATA]
    assert pair.bob.table.endpoint(pair.bob.peer) == endpoint(1)


def test_setting_the_endpoint_that_there_is_or_of_nobody_changes_nothing() -> None:
    pair = Pair()
    pair.shake_hands()
    pair.alice.device.set_endpoint(pair.bob.key.public, endpoint(2), pair.now)
    pair.alice.device.set_endpoint(pair.alice.key.public, endpoint(3), pair.now)
    assert pair.alice.device.next_event() is None


def test_without_an_endpoint_nothing_is_sent_until_there_is_one() -> None:
    pair = Pair()
    pair.alice.device.remove_peer(pair.bob.key.public)
    pair.introduce(pair.alice, replace(pair.config(pair.alice), endpoint=None))
    assert pair.alice.table.endpoint(pair.alice.peer) == NOWHERE
    pair.alice.send(DATA, pair.now)
    assert pair.in_flight() == []
    assert pair.alice.dropped() == {Drop.NO_ENDPOINT: 1}
    pair.introduce(pair.alice)
    pair.deliver_all()
    assert pair.bob.received == [DATA]


def test_without_an_endpoint_we_give_up_too() -> None:
    pair = Pair()
    pair.alice.device.remove_peer(pair.bob.key.public)
    pair.introduce(pair.alice, replace(pair.config(pair.alice), endpoint=None))
    pair.alice.send(DATA, pair.now)
    pair.run_to(at(3600))
    assert pair.alice.dropped() == {Drop.NO_ENDPOINT: 20, Drop.HANDSHAKE_FAILED: 1}


def test_a_configured_endpoint_moves_the_session() -> None:
    pair = Pair()
    pair.shake_hands()
    pair.bob.endpoint = endpoint(88)
    pair.introduce(pair.alice)
    pair.alice.send(DATA, pair.now)
    assert pair.alice.out[-1][1] == endpoint(88)
    pair.deliver_all()
    assert pair.bob.received == [DATA]


# --- staging ---


WAITING = MAX_STAGED_BYTES // (1008 + ENTRY_BYTES)  # packets of 1008 bytes


def test_192_kib_wait_and_the_oldest_leave_first() -> None:
    pair = Pair()
    packets = [number.to_bytes(1008, "big") for number in range(WAITING + 50)]
    for packet in packets:
        pair.alice.send(packet, pair.now)
    assert pair.alice.dropped() == {Drop.STAGING_FULL: 50}
    pair.deliver_all()
    assert pair.bob.received == packets[50:]
    assert MAX_STAGED_BYTES == 192 << 10


def test_one_batch_may_be_larger_than_what_can_wait() -> None:
    pair = Pair()
    packets = [number.to_bytes(1008, "big") for number in range(WAITING + 50)]
    pair.alice.device.send(pair.alice.peer, packets, pair.now)
    pair.alice.settle(pair.now)
    pair.deliver_all()
    assert pair.bob.received == packets[50:]


def test_what_waits_for_many_peers_is_bounded_and_costs_a_peer_with_little_nothing() -> None:
    pair = Pair()
    device = small_device(pair, 64)
    keys = [PrivateKey(pair.random.randbytes(32)).public for _ in range(60)]
    numbers = [device.set_peer(PeerConfig(key), pair.now) for key in keys]
    device.send(numbers[0], [DATA], pair.now)
    for number in numbers[1:]:
        device.send(number, [bytes(1008)] * WAITING, pair.now)
    dropped = device.statistics().dropped[Drop.STAGING_FULL]
    device.remove_peer(keys[0])
    assert device.statistics().dropped[Drop.HANDSHAKE_FAILED] == 1
    for key in keys[1:]:
        device.remove_peer(key)
    left = device.statistics().dropped[Drop.HANDSHAKE_FAILED] - 1
    assert left == 59 * WAITING - dropped
    assert MAX_ALL_STAGED_BYTES - 2 * 1100 < left * (1008 + ENTRY_BYTES) <= MAX_ALL_STAGED_BYTES


def test_packets_handed_over_though_there_is_a_keypair_are_sealed() -> None:
    pair = Pair()
    pair.shake_hands()
    pair.alice.device.send(pair.alice.peer, [DATA], pair.now)
    pair.alice.settle(pair.now)
    pair.deliver_all()
    assert pair.bob.received == [DATA]


def test_a_keypair_with_fewer_counters_than_packets_is_replaced() -> None:
    pair = Pair()
    pair.shake_hands()
    pair.run_to(at(20))
    record = pair.alice.keypair(pair.alice.record.current)
    assert record is not None
    record.send_counter = REJECT_AFTER_MESSAGES - 1
    pair.alice.device.send(pair.alice.peer, [DATA, DATA], pair.now)
    pair.alice.settle(pair.now)
    assert pair.in_flight() == [INITIATION]
    pair.deliver_all()
    assert pair.bob.received == [DATA, DATA]


def test_a_keypair_whose_counters_are_used_up_sends_no_keepalive_but_calls() -> None:
    pair = Pair()
    pair.shake_hands()
    record = pair.bob.keypair(pair.bob.record.current)
    assert record is not None
    record.send_counter = REJECT_AFTER_MESSAGES
    pair.run_to(at(10))
    assert pair.bob.sent(INITIATION) == [pytest.approx(10.0)]
    assert works(pair)


def test_commands_for_a_peer_that_is_gone_do_nothing() -> None:
    pair = Pair()
    pair.alice.device.remove_peer(pair.bob.key.public)
    pair.alice.settle(pair.now)
    pair.alice.device.send(pair.alice.peer, [DATA], pair.now)
    for fact in (Confirmed(pair.alice.peer), Roamed(pair.alice.peer, endpoint(5)), RekeyWanted(pair.alice.peer)):
        pair.alice.device.notice(fact, pair.now)
    assert pair.alice.device.next_event() is None
    assert pair.alice.device.datagrams_to_send() == []
    assert pair.alice.device.next_timer() is None


# --- load and cookies ---


def under_load(side: Side, pair: Pair) -> None:
    """Send so many well-addressed initiations that `side` works for nobody without a cookie; its answers are lost."""
    junk = resealed(Initiation(1, bytes([9]).ljust(32, b"\0"), bytes(48), bytes(28)).emit(), side)
    for _ in range(int(LOAD_BURST) + 1):
        side.device.receive(junk, endpoint(66), pair.now)
    side.device.datagrams_to_send()


def test_a_caller_proves_its_address_with_a_cookie() -> None:
    pair = Pair()
    under_load(pair.bob, pair)
    pair.alice.send(DATA, pair.now)
    pair.deliver()
    assert pair.in_flight() == [COOKIE_REPLY]
    pair.deliver()
    assert pair.in_flight() == []  # a cookie triggers nothing
    pair.go_to(at(5.4))
    assert first_in_flight(pair.alice)[-16:] != bytes(16)
    under_load(pair.bob, pair)
    pair.deliver()
    assert pair.in_flight() == [RESPONSE]
    pair.deliver_all()
    assert pair.bob.received == [DATA]
    assert pair.bob.dropped()[Drop.COOKIE_ASKED] >= 2


def first_in_flight(side: Side) -> bytes:
    return side.out[0][0]


def test_the_called_side_proves_its_address_too() -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    pair.deliver()
    under_load(pair.alice, pair)
    pair.deliver()
    assert pair.in_flight() == [COOKIE_REPLY]
    pair.deliver()
    assert pair.bob.dropped() == {}
    pair.go_to(at(5.4))
    under_load(pair.alice, pair)
    pair.deliver()
    assert first_in_flight(pair.bob)[-16:] != bytes(16)
    pair.deliver_all()
    assert pair.bob.received == [DATA]


def test_a_cookie_of_somewhere_else_does_not_help() -> None:
    pair = Pair()
    under_load(pair.bob, pair)
    pair.alice.send(DATA, pair.now)
    pair.deliver_all()
    pair.go_to(at(5.4))
    under_load(pair.bob, pair)
    pair.alice.endpoint = endpoint(44)
    before = pair.bob.dropped()[Drop.COOKIE_ASKED]
    pair.deliver()
    assert pair.bob.dropped()[Drop.COOKIE_ASKED] == before + 1
    assert pair.in_flight() == [COOKIE_REPLY]


def test_a_cookie_is_forgotten_after_115_seconds() -> None:
    pair = Pair()
    under_load(pair.bob, pair)
    pair.alice.send(DATA, pair.now)
    pair.deliver_all()
    pair.run_to(at(94), lose=EVERYTHING)
    assert pair.alice.history[-1][1][-16:] != bytes(16)
    pair.alice.send(DATA, pair.now)
    pair.run_to(at(125), lose=EVERYTHING)
    assert pair.alice.history[-1][1][-16:] == bytes(16)


def test_a_source_with_a_cookie_is_limited_in_its_rate() -> None:
    pair = Pair()
    under_load(pair.bob, pair)
    generator = CookieGenerator(pair.bob.key.public)
    messages = calls(pair, 10)
    pair.bob.receive(generator.complete(messages[0], pair.now), pair.alice.endpoint, pair.now)
    reply = CookieReply.parse(first_out(pair.bob))
    assert reply.receiver_index == 0
    assert generator.consume(reply, pair.now)
    for number, message in enumerate(messages[1:]):
        pair.bob.receive(generator.complete(message, pair.now), pair.alice.endpoint, at(number / 1000))
    assert pair.bob.dropped()[Drop.RATE_LIMITED] == 9 - RATE_BURST
    assert pair.in_flight() == [RESPONSE]  # all others were a flood


def test_load_ends_a_second_after_the_flood() -> None:
    pair = Pair()
    under_load(pair.bob, pair)
    pair.now = at(1.01)
    pair.alice.send(DATA, pair.now)
    pair.deliver_all()
    assert pair.bob.received == [DATA]


def test_messages_that_do_not_know_our_key_make_no_load() -> None:
    pair = Pair()
    junk = Initiation(1, bytes(32), bytes(48), bytes(28)).emit()
    for _ in range(10 * int(LOAD_BURST)):
        pair.bob.receive(junk, endpoint(66), pair.now)
    assert pair.bob.dropped() == {Drop.MAC1: 10 * int(LOAD_BURST)}
    pair.alice.send(DATA, pair.now)
    pair.deliver_all()
    assert pair.bob.received == [DATA]


def test_cookie_replies_that_nobody_asked_for_are_dropped() -> None:
    pair = Pair()
    pair.alice.receive(CookieReply(5, bytes(24), bytes(32)).emit(), endpoint(2), pair.now)
    assert pair.alice.dropped() == {Drop.COOKIE_UNEXPECTED: 1}
    under_load(pair.bob, pair)
    pair.alice.send(DATA, pair.now)
    pair.deliver()
    reply = first_out(pair.bob)
    wrong = bytearray(reply)
    wrong[-1] ^= 1
    pair.alice.receive(bytes(wrong), endpoint(2), pair.now)
    pair.alice.receive(reply, endpoint(2), pair.now)
    pair.alice.receive(reply, endpoint(2), pair.now)  # relayed twice
    assert pair.alice.dropped() == {Drop.COOKIE_UNEXPECTED: 1, Drop.COOKIE_INVALID: 2}


def test_a_cookie_reply_to_an_index_that_became_a_keypair_is_taken() -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    pair.deliver()
    under_load(pair.alice, pair)
    pair.deliver()  # Bob's response is answered with a cookie, though his index names a keypair by now
    pair.deliver()
    assert Drop.COOKIE_UNEXPECTED not in pair.bob.dropped()


def test_cookies_are_counted() -> None:
    pair = Pair()
    under_load(pair.bob, pair)
    assert pair.bob.device.statistics().cookies_sent == pair.bob.dropped()[Drop.COOKIE_ASKED] == 1


# --- peers ---


def small_device(pair: Pair, peers: int) -> Device:
    return Device(pair.alice.key, SessionMemory(bytearray(SessionMemory.size(peers))), pair.random.randbytes, pair.wall)


def somebody(pair: Pair, *prefixes: str) -> PeerConfig:
    networks = frozenset(ip_network(prefix) for prefix in prefixes)
    return PeerConfig(PrivateKey(pair.random.randbytes(32)).public, networks, endpoint=endpoint(9))


def test_peers_have_numbers_and_routes() -> None:
    pair = Pair()
    device = small_device(pair, 3)
    first, second = somebody(pair, "10.0.0.1/32"), somebody(pair, "10.0.0.2/32", "fd00::/64")
    assert device.set_peer(first, at(0)) == 0
    assert device.set_peer(second, at(0)) == 1
    assert device.set_peer(first, at(0)) == 0
    assert device.routes.lookup(ip_address("10.0.0.2").packed) == 1
    assert device.routes.lookup(ip_address("fd00::9").packed) == 1
    device.set_peer(replace(second, allowed_ips=frozenset({IPv4Network("10.0.0.1/32")})), at(0))
    assert device.routes.lookup(ip_address("10.0.0.1").packed) == 1
    assert device.routes.lookup(ip_address("10.0.0.2").packed) is None


def test_there_is_room_for_as_many_peers_as_the_memory_has() -> None:
    pair = Pair()
    device = small_device(pair, 2)
    first, second, third = (somebody(pair) for _ in range(3))
    device.set_peer(first, at(0))
    device.set_peer(second, at(0))
    with pytest.raises(WireGuardError, match="room for 2 peers"):
        device.set_peer(third, at(0))
    device.remove_peer(first.public_key)
    assert device.set_peer(third, at(0)) == 0


def test_the_number_that_is_unused_longest_is_given_next() -> None:
    pair = Pair()
    device = small_device(pair, 3)
    configs = [somebody(pair) for _ in range(6)]
    for config in configs[:3]:
        device.set_peer(config, at(0))
    for config in (configs[1], configs[0], configs[2]):
        device.remove_peer(config.public_key)
    assert [device.set_peer(config, at(0)) for config in configs[3:]] == [1, 0, 2]


def test_a_removed_peer_is_forgotten_with_keys_and_packets() -> None:
    pair = Pair()
    pair.shake_hands()
    record = pair.alice.keypair(pair.alice.record.current)
    assert record is not None
    secret = record.send_key
    late = pair.bob.table.seal(pair.bob.peer, [DATA], 1420, pair.now) or []
    pair.run_to(at(200))
    pair.alice.send(DATA, pair.now)  # waits
    pair.drop()
    pair.alice.device.remove_peer(pair.bob.key.public)
    pair.alice.settle(pair.now)
    assert secret not in pair.alice.buffer
    assert pair.alice.dropped() == {Drop.HANDSHAKE_FAILED: 1}
    assert pair.alice.device.next_timer() is None
    assert pair.alice.device.routes.lookup(ip_address("10.0.0.2").packed) is None
    pair.alice.receive(late[0], pair.bob.endpoint, pair.now)
    assert pair.alice.dropped()[Drop.INDEX_UNKNOWN] == 1
    pair.bob.send(DATA, pair.now)
    pair.deliver()
    assert pair.alice.dropped()[Drop.UNKNOWN_PEER] == 1
    pair.alice.device.remove_peer(pair.bob.key.public)  # nobody is there any more
    assert pair.alice.device.next_event() is None


def test_a_response_to_a_removed_peers_number_meets_nobody() -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    pair.deliver()
    answer = first_out(pair.bob)
    pair.alice.device.remove_peer(pair.bob.key.public)
    pair.alice.receive(answer, pair.bob.endpoint, pair.now)
    for _ in range(4):  # the number goes round
        number = pair.alice.device.set_peer(somebody(pair), pair.now)
    assert number == pair.alice.peer
    pair.alice.receive(answer, pair.bob.endpoint, pair.now)
    assert pair.alice.dropped()[Drop.RESPONSE_UNEXPECTED] == 2


def test_a_peer_that_comes_back_starts_from_nothing() -> None:
    pair = Pair()
    pair.shake_hands()
    pair.alice.device.remove_peer(pair.bob.key.public)
    pair.introduce(pair.alice)
    assert pair.alice.slots() == (False, False, False)
    pair.run_to(at(6))
    pair.alice.send(DATA, pair.now)
    pair.deliver_all()
    assert pair.bob.received == [DATA]


def test_a_number_used_again_has_nothing_of_the_peer_before() -> None:
    pair = Pair()
    pair.bob.send(DATA, pair.now)
    pair.deliver_all()
    assert any(pair.alice.record.timestamp)
    assert pair.alice.record.received_bytes
    pair.alice.device.remove_peer(pair.bob.key.public)
    for _ in range(4):
        number = pair.alice.device.set_peer(somebody(pair), pair.now)
    pair.alice.settle(pair.now)
    assert number == pair.alice.peer
    assert pair.alice.slots() == (False, False, False)
    assert pair.alice.record.timestamp == bytes(12)
    assert pair.alice.record.received_bytes == 0
    assert pair.alice.table.endpoint(number) == endpoint(9)
    assert pair.alice.table.seal(number, [DATA], 1420, pair.now) is None


def test_a_timer_that_was_moved_does_not_wake_us_at_its_old_time() -> None:
    pair = Pair()
    pair.shake_hands()
    assert pair.bob.device.next_timer() == at(10)
    pair.introduce(pair.bob, replace(pair.config(pair.bob), persistent_keepalive=4.0))
    assert pair.bob.device.next_timer() == at(4)
    pair.go_to(at(4))
    pair.introduce(pair.bob)
    pair.go_to(at(8))
    assert pair.bob.device.next_timer() == at(18)


def test_an_update_that_changes_nothing_does_nothing() -> None:
    pair = Pair()
    pair.shake_hands()
    pair.introduce(pair.alice)
    assert pair.in_flight() == []
    assert works(pair)


@pytest.mark.parametrize("point", VECTORS["low_order_points"]["points"])
def test_a_peer_with_whose_key_no_secret_can_be_agreed_is_called_in_vain(point: str) -> None:
    pair = Pair()
    config = PeerConfig(PublicKey(bytes.fromhex(point)), endpoint=endpoint(9))
    number = pair.alice.device.set_peer(config, pair.now)
    pair.alice.device.send(number, [DATA], pair.now)
    pair.run_to(at(1000))
    assert pair.alice.history == []
    assert pair.alice.dropped() == {Drop.HANDSHAKE_FAILED: 21}


# --- indices ---


class Narrow:
    """A source of chance whose receiver indices are 0, 1, 2, … and start over every so many."""

    def __init__(self, pair: Pair, many: int) -> None:
        self.pair = pair
        self.many = many
        self.drawn = -1

    def __call__(self, size: int) -> bytes:
        if size != 4:
            return self.pair.random.randbytes(size)
        self.drawn += 1
        return (self.drawn % self.many).to_bytes(4, "little")


def test_an_index_is_not_used_again_before_it_has_rested() -> None:
    pair = Pair()
    memory = SessionMemory(bytearray(SessionMemory.size(1)))
    device = Device(pair.alice.key, memory, Narrow(pair, 10), pair.wall)
    number = device.set_peer(pair.config(pair.alice), at(0))
    seen = []
    for moment in (0, 5, INDEX_REST_TIME - 6, INDEX_REST_TIME + 1):
        for _ in range(3):  # asks again for the same one
            device.send(number, [DATA], at(moment))
        for datagram, _ in device.datagrams_to_send():
            seen.append(Initiation.parse(datagram).sender_index)
    assert seen == [0, 1, 2, 3]
    device.send(number, [DATA], at(2 * INDEX_REST_TIME))
    ((datagram, _),) = device.datagrams_to_send()
    assert Initiation.parse(datagram).sender_index == 4


def test_a_number_that_is_taken_is_drawn_again() -> None:
    pair = Pair()
    memory = SessionMemory(bytearray(SessionMemory.size(1)))
    device = Device(pair.alice.key, memory, Narrow(pair, 2), pair.wall)
    number = device.set_peer(pair.config(pair.alice), at(0))
    seen = []
    for moment in (0, 5, INDEX_REST_TIME, INDEX_REST_TIME + 5):
        device.send(number, [DATA], at(moment))
        seen += [Initiation.parse(datagram).sender_index for datagram, _ in device.datagrams_to_send()]
    assert seen == [0, 1, 0, 1]


# --- adoption: another process over the same memory ---


def test_a_new_process_goes_on_with_the_sessions() -> None:
    pair = Pair()
    pair.shake_hands()
    pair.run_to(at(30))
    for side in (pair.alice, pair.bob):
        pair.restart(side, keep_memory=True)
    assert works(pair)
    assert pair.alice.sent(INITIATION) == [0.0]
    assert pair.bob.sent(INITIATION) == []


def test_a_new_process_keeps_the_timers_of_the_sessions() -> None:
    pair = Pair()
    pair.shake_hands()
    pair.restart(pair.bob, keep_memory=True)
    pair.run_to(at(539))
    assert pair.bob.keepalives() == [pytest.approx(10.0)]
    assert pair.bob.slots() == (False, True, False)
    pair.run_to(at(541))
    assert pair.bob.slots() == (False, False, False)


def test_a_new_process_keeps_the_timers_of_an_unconfirmed_session() -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    pair.deliver()
    pair.restart(pair.bob, keep_memory=True)
    assert pair.bob.slots() == (False, False, True)
    answer = Response.parse(pair.bob.history[-1][1])
    pair.alice.receive(answer.emit(), pair.bob.endpoint, pair.now)
    pair.deliver_all()
    assert pair.bob.received == [DATA]
    pair.run_to(at(541))
    assert pair.bob.keepalives() == [pytest.approx(10.0)]
    assert pair.bob.slots() == (False, False, False)


def test_a_new_process_numbers_peers_as_before_and_knows_where_they_are() -> None:
    pair = Pair()
    others = [somebody(pair) for _ in range(3)]
    for config in others:
        pair.alice.device.set_peer(config, pair.now)
    pair.alice.settle(pair.now)
    pair.alice.device.remove_peer(others[1].public_key)
    pair.alice.settle(pair.now)
    generations = [pair.alice.memory.peer(number).generation for number in range(4)]
    fresh = pair.restart(pair.alice, keep_memory=True)
    assert fresh.peer == 0
    assert fresh.device.set_peer(replace(others[2], endpoint=None), pair.now) == 3
    newcomer = somebody(pair)
    assert fresh.device.set_peer(newcomer, pair.now) == 2
    assert fresh.memory.peer(2).generation > max(generations)
    with pytest.raises(WireGuardError, match="room"):
        fresh.device.set_peer(somebody(pair), pair.now)
    fresh.device.send(3, [DATA], pair.now)
    assert [where for _, where in fresh.device.datagrams_to_send()] == [endpoint(9)]


def test_a_new_process_does_not_give_away_indices_in_use() -> None:
    pair = Pair()
    memory = SessionMemory(bytearray(SessionMemory.size(2)))
    memory.entered = 1
    record, keypair = memory.peer(0), memory.keypair(0, 1)
    record.public_key, record.generation, record.current = pair.bob.key.public.raw, 1, 1
    keypair.generation, keypair.local_index, keypair.created_at = 1, 0, at(0)
    device = Device(pair.alice.key, memory, Narrow(pair, 10), pair.wall)
    number = device.set_peer(pair.config(pair.alice), at(200))
    device.send(number, [DATA], at(200))
    ((datagram, _),) = device.datagrams_to_send()
    assert Initiation.parse(datagram).sender_index == 1


def test_what_a_table_shall_do_comes_in_order() -> None:
    pair = Pair()
    device = pair.alice.device
    device.send(pair.alice.peer, [DATA], pair.now)
    ((call, _),) = device.datagrams_to_send()
    pair.bob.receive(call, pair.alice.endpoint, pair.now)
    device.receive(first_out(pair.bob), endpoint(55), pair.now)
    assert [type(event) for event in iter(device.next_event, None)] == [Roamed, Keypair, Seal]
    device.remove_peer(pair.bob.key.public)
    assert device.next_event() == KeysZeroed(pair.alice.peer)


def test_all_that_leaves_is_a_message() -> None:
    pair = Pair()
    assert works(pair)
    pair.run_to(at(1000))
    for side in (pair.alice, pair.bob):
        assert {message_type(message) for _, message in side.history} <= EVERYTHING


# --- what is left of an earlier device ---


def second_device(pair: Pair) -> Device:
    """Another device of Alice over the same memory, which knows no peers."""
    return Device(pair.alice.key, pair.alice.memory, pair.random.randbytes, lambda: WALL_START)


def apply_all(pair: Pair, device: Device) -> None:
    while (command := device.next_event()) is not None:
        assert not isinstance(command, Seal)
        pair.alice.table.apply(command)


def test_who_is_not_configured_again_is_forgotten_with_all_keys() -> None:
    pair = Pair()
    pair.shake_hands()
    slot = pair.alice.memory.peer(pair.alice.peer).current
    secret = pair.alice.memory.keypair(pair.alice.peer, slot).send_key
    device = second_device(pair)
    device.forget_others()
    apply_all(pair, device)
    assert pair.alice.memory.keypair(pair.alice.peer, slot).send_key == bytes(len(secret))
    strangers = [PeerConfig(PrivateKey(pair.random.randbytes(32)).public) for _ in range(pair.alice.memory.peers)]
    for config in strangers:
        device.set_peer(config, pair.now)


def test_who_is_configured_again_is_not_forgotten() -> None:
    pair = Pair()
    pair.shake_hands()
    pair.restart(pair.alice, keep_memory=True)
    pair.alice.device.forget_others()
    pair.alice.settle(pair.now)
    assert works(pair)
    assert pair.in_flight() == []


def test_one_that_is_left_over_can_be_removed() -> None:
    pair = Pair()
    pair.shake_hands()
    device = second_device(pair)
    device.remove_peer(pair.bob.key.public)
    assert device.next_event() == KeysZeroed(pair.alice.peer)


def test_a_recorded_initiation_is_not_answered_after_a_removal() -> None:
    pair = Pair()
    pair.alice.send(DATA, pair.now)
    recorded = first_out(pair.alice)
    pair.bob.receive(recorded, pair.alice.endpoint, pair.now)
    config = PeerConfig(pair.alice.key.public)
    pair.bob.device.remove_peer(config.public_key)
    pair.bob.device.set_peer(config, pair.now)
    pair.bob.settle(pair.now)
    pair.bob.out.clear()
    pair.bob.receive(recorded, endpoint(66), at(1000))
    assert pair.bob.dropped() == {Drop.INITIATION_REPLAYED: 1}
    assert not pair.bob.out


# --- what no peer can be ---


@pytest.mark.parametrize(
    "wrong",
    [
        {"preshared_key": bytes(5)},
        {"endpoint": bytes(3)},
        {"persistent_keepalive": -1.0},
        {"persistent_keepalive": float("inf")},
        {"persistent_keepalive": float("nan")},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_configuration_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(WireGuardError, match="want"):
        PeerConfig(PrivateKey(bytes(32)).public, **wrong)


def test_we_are_no_peer_of_ours() -> None:
    pair = Pair()
    with pytest.raises(WireGuardError, match="our own key"):
        pair.alice.device.set_peer(PeerConfig(pair.alice.key.public), pair.now)


def test_a_peer_whose_key_becomes_ours_is_removed() -> None:
    pair = Pair()
    pair.alice.device.set_private_key(pair.bob.key, pair.now)
    assert pair.alice.device.next_event() == KeysZeroed(pair.alice.peer)


def test_an_initiation_of_the_peer_shows_that_it_lives() -> None:
    pair = Pair()
    pair.shake_hands()
    pair.run_to(at(20))
    pair.alice.send(DATA, pair.now)
    pair.drop()
    pair.now = at(24)
    pair.bob.device.notice(RekeyWanted(pair.bob.peer), pair.now)
    pair.bob.settle(pair.now)
    pair.deliver()  # the initiation alone
    pair.drop()
    sent = pair.alice.device.statistics().initiations_sent
    pair.go_to(at(36))
    assert pair.alice.device.statistics().initiations_sent == sent


# --- another key of ours ---


def renew(pair: Pair) -> PrivateKey:
    """Give Alice another private key."""
    key = PrivateKey(pair.random.randbytes(32))
    pair.alice.device.set_private_key(key, pair.now)
    pair.alice.settle(pair.now)
    return key


def test_another_private_key_calls_the_peers_that_have_a_session() -> None:
    pair = Pair()
    pair.shake_hands()
    key = renew(pair)
    assert pair.in_flight() == [INITIATION]
    pair.bob.device.remove_peer(pair.alice.key.public)
    pair.bob.peer = pair.bob.device.set_peer(
        PeerConfig(key.public, frozenset(), endpoint=pair.alice.endpoint), pair.now
    )
    pair.deliver_all()
    assert works(pair)


def test_sessions_outlive_another_private_key() -> None:
    pair = Pair()
    pair.shake_hands()
    renew(pair)
    pair.drop()
    assert works(pair)


def test_a_peer_without_a_session_is_not_called_for_another_private_key() -> None:
    pair = Pair()
    renew(pair)
    assert pair.in_flight() == []


# --- early retries ---

EARLY = (0.25, 0.5, 1.0)


def calls_until(pair: Pair, end: float) -> list[float]:
    """When Alice calls a Bob who hears nothing."""
    calls = []
    while (timer := pair.alice.device.next_timer()) is not None and timer <= end:
        pair.go_to(timer)
        calls += [timer - at(0)] * len(pair.alice.out)
        pair.drop()
    return calls


def eager(seed: int = 7) -> Pair:
    """A pair whose Alice repeats her first calls early."""
    pair = Pair(seed)
    alice = pair.alice
    alice.device = Device(alice.key, alice.memory, pair.random.randbytes, lambda: WALL_START, early_retries=EARLY)
    alice.peer = alice.device.set_peer(PeerConfig(pair.bob.key.public, endpoint=pair.bob.endpoint), pair.now)
    alice.settle(pair.now)
    return pair


def test_first_calls_are_repeated_early_and_then_as_ever() -> None:
    pair = eager()
    pair.alice.send(DATA, at(0))
    pair.drop()
    calls = calls_until(pair, at(14))
    gaps = [after - before for before, after in zip([0.0, *calls], calls, strict=False)]
    for gap, wanted in zip(gaps, (*EARLY, 5.0, 5.0), strict=True):
        assert wanted <= gap <= wanted + 0.333


def test_packets_do_not_make_early_calls_more_frequent() -> None:
    pair = eager()
    for moment in range(100):
        pair.now = at(moment / 100)
        pair.alice.send(DATA, pair.now)
    assert pair.in_flight() == [INITIATION] * 3


def test_a_peer_that_has_answered_is_called_as_ever() -> None:
    pair = eager()
    pair.shake_hands()
    pair.alice.device.notice(RekeyWanted(pair.alice.peer), at(10))
    pair.alice.settle(at(10))
    pair.drop()
    first = calls_until(pair, at(16))[0]
    assert 15.0 <= first <= 15.333
