# SPDX-License-Identifier: BSD-3-Clause
"""The device: peers, handshakes, cookies, timers and cryptokey routing; everything but transport data.

    datagrams of types 1 to 3 ──► receive ─┐                      ┌─► datagrams_to_send   handshakes, cookies
    packets without a session ──► send     ├─► one peer's state ──┼─► next_event          Keypair, Seal, Roamed,
    facts of the session table ─► notice   │                      │                       KeysZeroed
    the time ───────────────────► handle_timer                    └─► next_timer

A handshake has three states: idle; *initiated*, waiting for the response (or for the retry timer); and, for who is
called, the moment between initiation and response, which never outlives `receive`. Packets that have no keypair are
staged: they wait, MAX_STAGED_BYTES for each peer and MAX_ALL_STAGED_BYTES for all, and leave in a `Seal` once there is
one. The oldest are dropped, of whom most wait.

We never call a peer more often than every 5 seconds, nor earlier than that after we have answered it; the retry timer
sees to it that what is put off by this rule happens. When nobody has answered for 90 seconds the staged packets are
dropped; the next packet starts over. In a tailnet peers learn of us, and of a new key of ours, a moment later than we
of them, and ignore us until then; `early_retries` are for the first calls to a peer that has not answered yet.

Nothing that comes from outside raises here. What is refused is counted under its `Drop` and otherwise ignored.

Source: WireGuard paper, sections 5 and 6; details as in wireguard-go's device/ (send.go, receive.go, timers.go).
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from ts4nsnet.fair import FairQueue
from ts4nsnet.keys import InvalidKey, PrivateKey, PublicKey
from ts4nsnet.noise import DecryptionFailed
from ts4nsnet.wireguard.cookies import CookieChecker, LoadMeter, Random, RateLimiter
from ts4nsnet.wireguard.handshake import Initiator, Received
from ts4nsnet.wireguard.indices import ReceiverIndices
from ts4nsnet.wireguard.messages import (
    Buffer,
    CookieReply,
    Drop,
    Endpoint,
    Initiation,
    Malformed,
    MessageType,
    Response,
    WireGuardError,
    message_type,
)
from ts4nsnet.wireguard.peer import MAX_ALL_STAGED_BYTES, MAX_STAGED_BYTES, Idle, Initiated, Peer, PeerConfig
from ts4nsnet.wireguard.records import NOWHERE, SessionMemory
from ts4nsnet.wireguard.roster import Roster
from ts4nsnet.wireguard.routing import AllowedIPs
from ts4nsnet.wireguard.sessions import (
    REJECT_AFTER_MESSAGES,
    REJECT_AFTER_TIME,
    REKEY_TIMEOUT,
    Confirmed,
    Fact,
    Keypair,
    KeysZeroed,
    RekeyWanted,
    Roamed,
)
from ts4nsnet.wireguard.timers import JITTER_TIME, MAX_RETRIES, Expiry, PeerTimers

# a peer is not served more often; paper, 5.1: "at most once every 50th of a second" in both known implementations
INITIATION_SPACING_TIME = 0.020  # seconds


@dataclass(frozen=True, slots=True)
class Seal:
    """`packets` can leave now: seal them with the current keypair of `peer`; b"" is a keep-alive."""

    peer: int
    packets: tuple[bytes, ...]


# what a device tells the pipeline; all but Seal are for its session table
Command = Keypair | Seal | Roamed | KeysZeroed


@dataclass(frozen=True, slots=True)
class DeviceStatistics:
    """What a device has done so far."""

    initiations_sent: int
    responses_sent: int
    cookies_sent: int
    cookies_received: int
    keypairs_made: int
    dropped: Mapping[Drop, int]


class Device:
    """A WireGuard interface without its transport data.

    Args:
        private_key: our static key.
        memory: where keypairs live; the session table is over the same.
        random: yields unpredictable bytes (`os.urandom`).
        wall: nanoseconds since 1970 UTC; only initiations' timestamps are made of it.
        early_retries: seconds after the first, second, … call to a peer that has never answered our key, in place of
            the protocol's 5.
        roaming: whether peers' handshakes move them; False: `set_peer` and `set_endpoint` alone do.
    """

    def __init__(
        self,
        private_key: PrivateKey,
        memory: SessionMemory,
        random: Random,
        wall: Callable[[], int],
        *,
        early_retries: Sequence[float] = (),
        roaming: bool = True,
    ) -> None:
        self.routes = AllowedIPs()
        self._key = private_key
        self._memory = memory
        self._random = random
        self._wall = wall
        self._early_retries = early_retries
        self._roaming = roaming
        self._checker = CookieChecker(private_key.public, random)
        self._load = LoadMeter()
        self._limiter = RateLimiter()
        self._peers: dict[int, Peer] = {}
        self._by_key: dict[PublicKey, Peer] = {}
        self._staged: FairQueue[int] = FairQueue(MAX_ALL_STAGED_BYTES, MAX_STAGED_BYTES, MAX_STAGED_BYTES)
        self._roster = Roster(memory)
        self._indices = ReceiverIndices(random)
        self._alarms: list[tuple[float, int]] = []  # a heap of (time, peer number); stale ones are passed over
        self._datagrams: list[tuple[bytes, Endpoint]] = []
        self._events: deque[Command] = deque()
        self._dropped: Counter[Drop] = Counter()
        self._sent: Counter[MessageType] = Counter()
        self._keypairs_made = 0
        self._cookies_received = 0
        self._receivers = {
            MessageType.INITIATION: self._receive_initiation,
            MessageType.RESPONSE: self._receive_response,
            MessageType.COOKIE_REPLY: self._receive_cookie_reply,
        }

    # --- configuration ----------------------------------------------------------------------------------------

    def set_peer(self, config: PeerConfig, now: float) -> int:
        """Add a peer, or change what differs; returns its number, which packets and events name it by.

        Raises: WireGuardError when the session memory has no room for another peer, or the peer is we.
        """
        if config.public_key == self._key.public:
            raise WireGuardError(f"peer {config.public_key}: this is our own key")
        peer = self._by_key.get(config.public_key) or self._add(config.public_key)
        peer.preshared_key = config.preshared_key
        peer.timers.persistent_keepalive = config.persistent_keepalive
        self.routes.set(peer.number, config.allowed_ips)
        self.set_endpoint(config.public_key, config.endpoint or peer.endpoint, now)
        self._schedule(peer, now)
        return peer.number

    def set_endpoint(self, public_key: PublicKey, endpoint: Endpoint, now: float) -> None:
        """Send to this peer there from now on; what waits for a handshake asks for one. Nothing for an unknown peer."""
        peer = self._by_key.get(public_key)
        if peer is not None and endpoint != peer.endpoint:
            peer.endpoint = endpoint
            self._events.append(Roamed(peer.number, endpoint))
            if self._staged.waiting(peer.number):
                self._initiate(peer, now)
                self._schedule(peer, now)

    def remove_peer(self, public_key: PublicKey) -> None:
        """Forget a peer, its keys and its packets; nothing happens when there is none."""
        peer = self._by_key.pop(public_key, None)
        if peer is not None:
            self._drop_staged(peer)
            self.routes.set(peer.number, ())
            del self._peers[peer.number]
        self._forget([peer.number] if peer is not None else self._roster.take_left_over(public_key))

    def forget_others(self) -> None:
        """All peers are configured: forget those that an earlier device over this memory had and this one has not."""
        self._forget(self._roster.take_left_over())

    def _forget(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self._events.append(KeysZeroed(number))
            self._roster.leave(number)

    def set_private_key(self, private_key: PrivateKey, now: float) -> None:
        """Go on under another key. Sessions live on until their time is over; peers with one are called anew."""
        self._key = private_key
        self._checker = CookieChecker(private_key.public, self._random)
        self.remove_peer(private_key.public)
        for peer in self._peers.values():
            peer.static_static = b""
            peer.state = Idle()
            peer.calls, peer.has_answered = 0, False
            if peer.record.current:
                peer.handshake_sent_at = -inf
                self._initiate(peer, now)
                self._schedule(peer, now)

    def _add(self, public_key: PublicKey) -> Peer:
        number = self._roster.enter(public_key)
        record = self._memory.peer(number)
        peer = Peer(number, public_key, record, PeerTimers(record, self._jitter))
        for slot in filter(None, (record.previous, record.current, record.next)):  # the newest last
            keypair = self._memory.keypair(number, slot)
            peer.timers.keypair_made(keypair.created_at)
            self._indices.reserve(keypair.local_index, peer.number, keypair.created_at)
        self._peers[number] = self._by_key[public_key] = peer
        return peer

    # --- the five verbs ---------------------------------------------------------------------------------------

    def receive(self, datagram: Buffer, source: Endpoint, now: float) -> None:
        """Take a datagram that is no transport data."""
        try:
            receiver = self._receivers.get(message_type(datagram))
            if receiver is None:  # transport data, which is the session table's
                self._dropped[Drop.TYPE] += 1
            else:
                receiver(bytes(datagram), source, now)
        except Malformed as malformed:
            self._dropped[malformed.drop] += 1

    def send(self, number: int, packets: Sequence[bytes], now: float) -> None:
        """Take packets for peer `number` that could not be sealed: they leave once there is a keypair."""
        peer = self._peers.get(number)
        if peer is None:
            return
        self._dropped[Drop.STAGING_FULL] += self._staged.put(number, packets)
        if self._can_seal(peer, self._staged.waiting(number), now):
            self._seal_staged(peer)
        else:
            self._initiate(peer, now)
            self._schedule(peer, now)

    def notice(self, fact: Fact, now: float) -> None:
        """Take a fact of the session table."""
        peer = self._peers.get(fact.peer)
        if peer is None:
            return
        match fact:
            case Confirmed():
                peer.timers.handshake_finished()
                self._seal_staged(peer)
            case Roamed():
                peer.endpoint = fact.endpoint
            case RekeyWanted():  # pragma: no branch
                self._initiate(peer, now)
        self._schedule(peer, now)

    def datagrams_to_send(self) -> list[tuple[bytes, Endpoint]]:
        """Handshake messages and cookie replies that are to leave now."""
        datagrams, self._datagrams = self._datagrams, []
        return datagrams

    def next_event(self) -> Command | None:
        """The next thing for the session table to do, or None."""
        return self._events.popleft() if self._events else None

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called; None for never."""
        while self._alarms:
            at, number = self._alarms[0]
            peer = self._peers.get(number)
            if peer is not None and peer.wake_at == at:
                return at
            heapq.heappop(self._alarms)
        return None

    def handle_timer(self, now: float) -> None:
        """Do what is due; nothing before its time."""
        while (at := self.next_timer()) is not None and at <= now:
            _, number = heapq.heappop(self._alarms)
            peer = self._peers[number]
            peer.wake_at = inf
            for expiry in peer.timers.expired(now):
                self._expire(peer, expiry, now)
            self._schedule(peer, now)

    def statistics(self) -> DeviceStatistics:
        """Counters since the device was made."""
        return DeviceStatistics(
            initiations_sent=self._sent[MessageType.INITIATION],
            responses_sent=self._sent[MessageType.RESPONSE],
            cookies_sent=self._sent[MessageType.COOKIE_REPLY],
            cookies_received=self._cookies_received,
            keypairs_made=self._keypairs_made,
            dropped=dict(+self._dropped),  # without zeroes
        )

    # --- timers -----------------------------------------------------------------------------------------------

    def _schedule(self, peer: Peer, now: float) -> None:
        at = peer.timers.next_at(now)
        if at < peer.wake_at:
            peer.wake_at = at
            heapq.heappush(self._alarms, (at, peer.number))

    def _expire(self, peer: Peer, expiry: Expiry, now: float) -> None:
        match expiry:
            case Expiry.RETRANSMIT if peer.attempts >= MAX_RETRIES:
                self._give_up(peer, now)
            case Expiry.RETRANSMIT:
                peer.attempts += 1
                self._call(peer, now)
            case Expiry.KEEPALIVE | Expiry.PERSISTENT_KEEPALIVE if self._can_seal(peer, 1, now):
                self._events.append(Seal(peer.number, (b"",)))
            case Expiry.KEEPALIVE | Expiry.PERSISTENT_KEEPALIVE | Expiry.NEW_HANDSHAKE:
                self._initiate(peer, now)
            case Expiry.ZERO_KEYS:  # pragma: no branch
                self._forget_keys(peer)

    def _jitter(self) -> float:
        return int.from_bytes(self._random(2), "little") / 0xFFFF * JITTER_TIME

    # --- calling ----------------------------------------------------------------------------------------------

    def _initiate(self, peer: Peer, now: float) -> None:
        """Somebody wants a new keypair: whatever number of retries is under way, it starts anew."""
        peer.attempts = 0
        self._call(peer, now)

    def _call(self, peer: Peer, now: float) -> None:
        rest = self._spacing(peer)
        if now - peer.handshake_sent_at < rest:
            peer.timers.retransmit_later(peer.handshake_sent_at, rest, postponed=True)
            return
        peer.calls += 1
        peer.timers.retransmit_later(now, self._spacing(peer))
        if peer.endpoint == NOWHERE:
            self._dropped[Drop.NO_ENDPOINT] += 1
            return
        try:
            static_static = self._static_static(peer)
            index = self._indices.issue(peer.number, now)
            timestamp = peer.timestamps.next(self._wall())
            initiation, initiator = Initiator.create(
                self._key, peer.public_key, static_static, PrivateKey(self._random(32)), timestamp, index
            )
        except InvalidKey:
            # a configured key with which no secret can be agreed: this peer can never answer
            self._dropped[Drop.HANDSHAKE_FAILED] += 1
            return
        peer.state = Initiated(index, initiator)
        self._transmit(peer, MessageType.INITIATION, initiation.emit(), now)

    def _spacing(self, peer: Peer) -> float:
        """How long to wait for an answer to the last call; seconds."""
        early = not peer.has_answered and 0 < peer.calls <= len(self._early_retries)
        return self._early_retries[peer.calls - 1] if early else REKEY_TIMEOUT

    def _transmit(self, peer: Peer, kind: MessageType, message: bytes, now: float) -> None:
        peer.handshake_sent_at = now
        peer.timers.handshake_sent(now)
        self._datagrams.append((peer.cookies.complete(message, now), peer.endpoint))
        self._sent[kind] += 1

    def _give_up(self, peer: Peer, now: float) -> None:
        peer.state = Idle()
        peer.timers.gave_up(now)
        self._drop_staged(peer)

    # --- being called, and the answers ------------------------------------------------------------------------

    def _receive_initiation(self, datagram: bytes, source: Endpoint, now: float) -> None:
        initiation = Initiation.parse(datagram)
        if not self._macs_pass(datagram, initiation.sender_index, source, now):
            return
        reason = self._answer(initiation, source, now)
        if reason is not None:
            self._dropped[reason] += 1

    def _answer(self, initiation: Initiation, source: Endpoint, now: float) -> Drop | None:
        """Respond to an initiation, or say why not: up to the timestamp nothing of the peer has changed."""
        try:
            received = Received.open(initiation, self._key)
            peer = self._by_key.get(received.static)
            if peer is None:
                return Drop.UNKNOWN_PEER
            timestamp = received.timestamp(self._static_static(peer))
            if timestamp <= peer.record.timestamp:
                return Drop.INITIATION_REPLAYED
            if now - peer.initiation_received_at < INITIATION_SPACING_TIME:
                return Drop.INITIATION_FLOOD
            if peer.endpoint == NOWHERE and not self._roaming:
                return Drop.NO_ENDPOINT
            index = self._indices.issue(peer.number, now)
            response, keys = received.respond(PrivateKey(self._random(32)), peer.preshared_key, index)
        except (DecryptionFailed, InvalidKey):
            return Drop.INITIATION_INVALID
        peer.record.timestamp = timestamp
        peer.initiation_received_at = now
        peer.state = Idle()
        peer.timers.handshake_received(now)
        self._roam(peer, source)
        self._transmit(peer, MessageType.RESPONSE, response.emit(), now)
        self._made(peer, Keypair(peer.number, index, initiation.sender_index, keys, initiator=False, created_at=now))
        self._schedule(peer, now)
        return None

    def _receive_response(self, datagram: bytes, source: Endpoint, now: float) -> None:
        response = Response.parse(datagram)
        if not self._macs_pass(datagram, response.sender_index, source, now):
            return
        peer = self._owner(response.receiver_index)
        state = peer.state if peer is not None else Idle()
        if peer is None or isinstance(state, Idle) or state.index != response.receiver_index:
            self._dropped[Drop.RESPONSE_UNEXPECTED] += 1
            return
        try:
            keys = state.initiator.finish(response, peer.preshared_key)
        except (DecryptionFailed, InvalidKey):
            self._dropped[Drop.RESPONSE_INVALID] += 1
            return
        peer.state = Idle()
        peer.timers.handshake_received(now)
        self._roam(peer, source)
        self._made(peer, Keypair(peer.number, state.index, response.sender_index, keys, initiator=True, created_at=now))
        peer.timers.handshake_finished()
        # the peer may not use its new keypair before it has heard from us with it
        if not self._staged.waiting(peer.number):
            self._staged.put(peer.number, (b"",))
        self._seal_staged(peer)
        self._schedule(peer, now)

    def _receive_cookie_reply(self, datagram: bytes, _source: Endpoint, now: float) -> None:
        reply = CookieReply.parse(datagram)
        peer = self._owner(reply.receiver_index)
        if peer is None:
            self._dropped[Drop.COOKIE_UNEXPECTED] += 1
        elif peer.cookies.consume(reply, now):
            self._cookies_received += 1
        else:
            self._dropped[Drop.COOKIE_INVALID] += 1

    def _macs_pass(self, datagram: bytes, sender_index: int, source: Endpoint, now: float) -> bool:
        """Whether to work for this message; under load a cookie reply may be all the answer there is."""
        if not self._checker.mac1_is_valid(datagram):
            self._dropped[Drop.MAC1] += 1
            return False
        if not self._load.count(now):
            return True
        if not self._checker.mac2_is_valid(datagram, source, now):
            reply = self._checker.reply(datagram, sender_index, source, now)
            self._datagrams.append((reply.emit(), source))
            self._sent[MessageType.COOKIE_REPLY] += 1
            self._dropped[Drop.COOKIE_ASKED] += 1
            return False
        if not self._limiter.allow(source, now):
            self._dropped[Drop.RATE_LIMITED] += 1
            return False
        return True

    # --- what the above share ---------------------------------------------------------------------------------

    def _made(self, peer: Peer, keypair: Keypair) -> None:
        peer.timers.keypair_made(keypair.created_at)
        peer.has_answered = True
        self._keypairs_made += 1
        self._events.append(keypair)

    def _seal_staged(self, peer: Peer) -> None:
        if staged := self._staged.take_of(peer.number):
            self._events.append(Seal(peer.number, staged))

    def _forget_keys(self, peer: Peer) -> None:
        peer.state = Idle()
        self._drop_staged(peer)
        self._events.append(KeysZeroed(peer.number))

    def _drop_staged(self, peer: Peer) -> None:
        self._dropped[Drop.HANDSHAKE_FAILED] += len(self._staged.take_of(peer.number))

    def _roam(self, peer: Peer, source: Endpoint) -> None:
        if self._roaming and source != peer.endpoint:
            peer.endpoint = source
            self._events.append(Roamed(peer.number, source))

    def _can_seal(self, peer: Peer, packets: int, now: float) -> bool:
        """Whether the session table, asked now, would seal so many packets for this peer."""
        slot = peer.record.current
        if not slot:
            return False
        keypair = self._memory.keypair(peer.number, slot)
        if now - keypair.created_at >= REJECT_AFTER_TIME:
            return False
        return keypair.send_counter + packets <= REJECT_AFTER_MESSAGES

    def _static_static(self, peer: Peer) -> bytes:
        if not peer.static_static:
            peer.static_static = self._key.exchange(peer.public_key)
        return peer.static_static

    def _owner(self, index: int) -> Peer | None:
        """The peer that a message with this receiver index can be from."""
        return self._peers.get(self._indices.owner(index))
