# SPDX-License-Identifier: BSD-3-Clause
"""Sessions: sealing and opening transport messages with the keypairs in session memory.

Exactly one process owns the `SessionTable`: it alone seals, opens, and switches keypairs. It knows nothing of
handshakes. The node's `Device` makes keypairs and hands them over; back go facts that the device's timers need:

    Device ── Keypair, Roamed, KeysZeroed ──► SessionTable.apply
    Device ◄── Confirmed, Roamed, RekeyWanted ── SessionTable.next_event

A peer has up to three keypairs. It sends with `current` alone, and receives with all of them:

    we called      a new keypair is `current` at once; what was current becomes `previous`
    they called    a new keypair is `next`, and becomes `current` with the first message that opens with it: before
                   that we do not know whether our response has arrived, and must not send with it

A peer *roams*: its messages go where its last authentic one came from. In a tailnet they do not; there disco alone
says where a peer is.

What is refused is counted by reason and causes nothing, not even a look at the rest of the message.

Source: WireGuard paper, sections 5.4.6, 6.1, 6.2; keypair slots as in the Linux implementation.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from struct import Struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from ts4nsnet.wireguard.handshake import TransportKeys
from ts4nsnet.wireguard.messages import (
    TRANSPORT_HEADER,
    TRANSPORT_HEADER_BYTES,
    TRANSPORT_OVERHEAD_BYTES,
    Buffer,
    Drop,
    Endpoint,
    MessageType,
    padded_size,
)
from ts4nsnet.wireguard.records import KEYPAIRS_PER_PEER, KeypairRecord, PeerRecord, SessionMemory

REKEY_AFTER_MESSAGES = 1 << 60  # paper, 6.1
REJECT_AFTER_MESSAGES = (1 << 64) - (1 << 13) - 1
REKEY_AFTER_TIME = 120.0  # seconds; paper, 6.1
REJECT_AFTER_TIME = 180.0
REKEY_TIMEOUT = 5.0
KEEPALIVE_TIMEOUT = 10.0
# who called asks for a new keypair when it hears something this late: there must be one before the old one is refused
REKEY_ON_RECEIVE_TIME = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT

_NONCE = Struct("<4xQ")


@dataclass(frozen=True, slots=True)
class Keypair:
    """A handshake has made a keypair: install it."""

    peer: int
    local_index: int  # what the peer's messages name
    remote_index: int  # what our messages name
    keys: TransportKeys
    initiator: bool  # whether the handshake was ours
    created_at: float


@dataclass(frozen=True, slots=True)
class KeysZeroed:
    """The keypairs of `peer` are no longer wanted: forget them."""

    peer: int


@dataclass(frozen=True, slots=True)
class Roamed:
    """An authentic message of `peer` came from a new endpoint, or a new one was configured."""

    peer: int
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The first message with a keypair that `peer` asked for has come: it is current now."""

    peer: int


@dataclass(frozen=True, slots=True)
class RekeyWanted:
    """The current keypair of `peer` is old, or its counters are used up."""

    peer: int


# what a session table tells the device
Fact = Confirmed | Roamed | RekeyWanted


@dataclass(frozen=True, slots=True)
class SessionStatistics:
    """What a table has done so far."""

    sealed: int
    opened: int
    dropped: Mapping[Drop, int]


class _Session:
    """A keypair at work: its record, and the ciphers made from its keys."""

    __slots__ = (
        "created_at",
        "initiator",
        "last_minute_asked",
        "opener",
        "peer",
        "record",
        "rekey_asked_at",
        "sealer",
        "slot",
        "window",
    )

    def __init__(self, peer: PeerRecord, record: KeypairRecord, slot: int) -> None:
        self.peer = peer
        self.record = record
        self.slot = slot
        self.sealer = ChaCha20Poly1305(record.send_key)
        self.opener = ChaCha20Poly1305(record.receive_key)
        self.window = record.window()
        self.created_at = record.created_at
        self.initiator = bool(record.initiator)
        self.rekey_asked_at = -REKEY_TIMEOUT
        self.last_minute_asked = False


class SessionTable:
    """All keypairs of a device, over its session memory; sessions that stand there already are taken up.

    Args:
        roaming: whether peers' messages move them; False: the device's word alone does.
    """

    __slots__ = (
        "_by_index",
        "_dropped",
        "_events",
        "_generation",
        "_memory",
        "_opened",
        "_roaming",
        "_sealed",
        "_sessions",
    )

    def __init__(self, memory: SessionMemory, *, roaming: bool = True) -> None:
        self._memory = memory
        self._roaming = roaming
        self._by_index: dict[int, _Session] = {}
        self._sessions: dict[tuple[int, int], _Session] = {}  # by peer and slot
        self._events: deque[Fact] = deque()
        self._dropped: Counter[Drop] = Counter()
        self._sealed = 0
        self._opened = 0
        self._generation = 0
        for number in range(memory.entered):
            peer = memory.peer(number)
            if peer.generation or peer.previous or peer.current or peer.next:
                self._adopt(number, peer)

    def _adopt(self, number: int, peer: PeerRecord) -> None:
        """Take up what another table left. Where it died in the middle of a change, a keypair may be half written, be
        named twice, or have no name yet: that one goes, and the rest goes on. Of a removed peer, all go."""
        if not peer.generation:
            peer.current = peer.next = peer.previous = 0
        peer.current = self._adopted(number, peer.current)
        peer.next = self._adopted(number, peer.next)
        peer.previous = self._adopted(number, peer.previous)
        for slot in range(1, KEYPAIRS_PER_PEER + 1):
            if (number, slot) not in self._sessions:
                self._memory.keypair(number, slot).erase()

    def _adopted(self, number: int, slot: int) -> int:
        if not slot or (number, slot) in self._sessions or not self._memory.keypair(number, slot).generation:
            return 0
        self._take_up(number, slot)
        return slot

    # --- commands of the device -------------------------------------------------------------------------------

    def apply(self, command: Keypair | Roamed | KeysZeroed) -> None:
        """Do what the device says."""
        match command:
            case Keypair():
                self._install(command)
            case Roamed():
                self._memory.peer(command.peer).endpoint = command.endpoint
            case KeysZeroed():  # pragma: no branch
                for slot in range(1, KEYPAIRS_PER_PEER + 1):
                    self._destroy(command.peer, slot)
                peer = self._memory.peer(command.peer)
                peer.previous = peer.current = peer.next = 0

    def _install(self, keypair: Keypair) -> None:
        number = keypair.peer
        peer = self._memory.peer(number)
        if not keypair.initiator:
            self._destroy(number, peer.next)
            self._destroy(number, peer.previous)
            peer.previous = 0
            peer.next = self._store(keypair)
            return
        # our handshake and theirs may have crossed: what they asked for is then the one they may still send with
        self._destroy(number, peer.previous)
        if peer.next:
            self._destroy(number, peer.current)
            peer.previous = peer.next
        else:
            peer.previous = peer.current
        peer.next = 0
        peer.current = self._store(keypair)

    def _store(self, keypair: Keypair) -> int:
        """Write `keypair` into a free slot; returns the slot."""
        number = keypair.peer
        slot = next(slot for slot in range(1, KEYPAIRS_PER_PEER + 1) if (number, slot) not in self._sessions)
        record = self._memory.keypair(number, slot)
        record.erase()
        record.send_key = keypair.keys.send
        record.receive_key = keypair.keys.receive
        record.local_index = keypair.local_index
        record.remote_index = keypair.remote_index
        record.peer = number
        record.initiator = int(keypair.initiator)
        record.created_at = keypair.created_at
        self._generation += 1
        record.generation = self._generation
        self._take_up(number, slot)
        return slot

    def _take_up(self, number: int, slot: int) -> None:
        record = self._memory.keypair(number, slot)
        session = _Session(self._memory.peer(number), record, slot)
        self._sessions[number, slot] = self._by_index[record.local_index] = session
        self._generation = max(self._generation, record.generation)

    def _destroy(self, number: int, slot: int) -> None:
        session = self._sessions.pop((number, slot), None)
        if session is not None:
            if self._by_index.get(session.record.local_index) is session:
                del self._by_index[session.record.local_index]
            session.record.erase()

    # --- the way out ------------------------------------------------------------------------------------------

    def seal(self, number: int, packets: Sequence[bytes], mtu: int, now: float) -> list[bytes] | None:
        """Make transport messages of `packets` for peer `number`, in their order; b"" is a keep-alive.

        Args:
            mtu: of the path to this peer, bytes of inner packet: no padding goes beyond it.

        Returns: the messages, or None when there is no keypair to send with: the device has to make one.
        """
        peer = self._memory.peer(number)
        session = self._sessions.get((number, peer.current))
        if session is None or now - session.created_at >= REJECT_AFTER_TIME:
            return None
        record = session.record
        counter = record.send_counter
        after = counter + len(packets)
        if after > REJECT_AFTER_MESSAGES:
            return None
        record.send_counter = after
        index = record.remote_index
        encrypt = session.sealer.encrypt
        messages = []
        for packet in packets:
            plaintext = packet.ljust(padded_size(len(packet), mtu), b"\0")
            header = TRANSPORT_HEADER.pack(MessageType.TRANSPORT, index, counter)
            messages.append(header + encrypt(_NONCE.pack(counter), plaintext, None))
            counter += 1
        self._sealed += len(messages)
        self._note_sent(peer, sum(map(len, messages)), any(packets), now)
        age = now - session.created_at
        if after > REKEY_AFTER_MESSAGES or (session.initiator and age > REKEY_AFTER_TIME):
            self._want_rekey(number, session, now)
        return messages

    def endpoint(self, number: int) -> Endpoint:
        """Where messages to peer `number` go; all zero when that is not known."""
        return self._memory.peer(number).endpoint

    @staticmethod
    def _note_sent(peer: PeerRecord, size: int, data: bool, now: float) -> None:
        peer.sent_at = now
        peer.unanswered_at = 0.0
        peer.sent_bytes += size
        if data:
            peer.data_sent_at = now
            if not peer.unheard_at:
                peer.unheard_at = now

    # --- the way in -------------------------------------------------------------------------------------------

    def open(self, datagram: Buffer, source: Endpoint, now: float) -> tuple[int, bytes] | None:
        """Open a transport message from `source`.

        Returns: the peer's number and the packet with its padding (b"" for a keep-alive), or None when the message
            was dropped.
        """
        opened = self._decrypt(datagram, now)
        if isinstance(opened, Drop):
            self._dropped[opened] += 1
            return None
        session, packet = opened
        number = session.record.peer
        self._opened += 1
        self._note_received(session, number, source, now)
        self._note_traffic(session.peer, len(datagram), bool(packet), now)
        return number, packet

    def _decrypt(self, datagram: Buffer, now: float) -> tuple[_Session, bytes] | Drop:
        if len(datagram) < TRANSPORT_OVERHEAD_BYTES:
            return Drop.LENGTH
        kind, index, counter = TRANSPORT_HEADER.unpack_from(datagram)
        if kind != MessageType.TRANSPORT:
            return Drop.TYPE
        session = self._by_index.get(index)
        if session is None:
            return Drop.INDEX_UNKNOWN
        if now - session.created_at >= REJECT_AFTER_TIME:
            return Drop.KEYPAIR_EXPIRED
        if counter >= REJECT_AFTER_MESSAGES:
            return Drop.COUNTER_EXHAUSTED
        if not session.window.check(counter):
            return Drop.REPLAYED
        try:
            packet = session.opener.decrypt(_NONCE.pack(counter), datagram[TRANSPORT_HEADER_BYTES:], None)
        except InvalidTag:
            return Drop.AUTHENTICATION
        session.window.accept(counter)
        return session, packet

    def _note_received(self, session: _Session, number: int, source: Endpoint, now: float) -> None:
        peer = session.peer
        if self._roaming and peer.endpoint != source:
            peer.endpoint = source
            self._events.append(Roamed(number, source))
        if session.slot == peer.next:
            peer.previous, peer.current, peer.next = peer.current, peer.next, 0
            self._events.append(Confirmed(number))
        current = self._sessions.get((number, peer.current))
        if (
            current is not None
            and current.initiator
            and not current.last_minute_asked
            and now - current.created_at > REKEY_ON_RECEIVE_TIME
        ):
            current.last_minute_asked = True
            self._want_rekey(number, current, now)

    @staticmethod
    def _note_traffic(peer: PeerRecord, size: int, data: bool, now: float) -> None:
        peer.received_at = now
        peer.unheard_at = 0.0
        peer.received_bytes += size
        if data:
            peer.data_received_at = now
            if not peer.unanswered_at:
                peer.unanswered_at = now

    def _want_rekey(self, number: int, session: _Session, now: float) -> None:
        # every message of an old keypair would ask; the device does not call more often than this anyway
        if now - session.rekey_asked_at >= REKEY_TIMEOUT:
            session.rekey_asked_at = now
            self._events.append(RekeyWanted(number))

    # --- what happened ----------------------------------------------------------------------------------------

    def next_event(self) -> Fact | None:
        """The next fact for the device, or None."""
        return self._events.popleft() if self._events else None

    def statistics(self) -> SessionStatistics:
        """Counters since the table was made."""
        return SessionStatistics(self._sealed, self._opened, dict(self._dropped))
