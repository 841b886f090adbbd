# SPDX-License-Identifier: BSD-3-Clause
"""Which way WireGuard's datagrams take to each peer: the verbs.

    set_peer, remove_peer   the coordination server's word ─┐              ┌─► datagrams_to_send   disco
    set_own_endpoints       this host's addresses ──────────┼─ paths.Peer ─┼─► next_event          PathChanged, …
    receive                 disco, from UDP and relays ─────┤   one each   └─► next_timer
    note_sent               there is traffic for a peer ────┘

Traffic makes a search: a ping to every candidate and, by the relay, an invitation to ping us at our endpoints, so that
a firewall which lets in only answers is open on both sides. Traffic also keeps the path: a heartbeat every 3 s, until
there has been none for 45 s. Who only receives does nothing but answer. But who is searching, or has no relay to send
by, follows a ping by one of his own to where it came from, at once: that it has come may mean that a firewall has just
been opened, and the reference finds this out up to 5 s later.

What is sealed for an older key of ours, from strangers, repeated, unexpected or unknown is dropped and counted. Before
the first datagram to an endpoint, and with each further ping, `is_direct` is asked whether the way leads through an
overlay of this host (see endpoints.py). If it does, nothing is sent there, no answers either: the other side, which
cannot see this, must not take it for a path.

Source: tailscale, wgengine/magicsock; our notes on disco, section 6, and on paths, sections 3 to 6.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from math import inf

from ts4nsnet import derp
from ts4nsnet.endpoint import Endpoint, ip_endpoint
from ts4nsnet.keys import PrivateKey, PublicKey
from ts4nsnet.magicsock import disco
from ts4nsnet.magicsock.disco import (
    MARK,
    MARKED_PING_BYTES,
    TRANSACTION_BYTES,
    Boxes,
    CallMeMaybe,
    Malformed,
    Message,
    Ping,
    Pong,
)
from ts4nsnet.magicsock.endpoints import is_candidate
from ts4nsnet.magicsock.events import Drop, Event, OwnEndpointsChanged, Path, PathChanged, PeerPaths, Pinged, Statistics
from ts4nsnet.magicsock.paths import ASK_TIME, HEARTBEAT_TIME, INVITATION_SPACING_TIME, Peer
from ts4nsnet.tailnet import TAILNET_MTU

OVERHEAD_BYTES = 32  # of a WireGuard message, beside the packet
PING_TIME = 5.0  # seconds after which an unanswered ping is forgotten
RELAY_ADDRESS = IPv4Address("127.3.3.40")  # what a pong says of a ping that came by a relay; the port is the region

Datagram = tuple[bytes, Endpoint, PublicKey | None]


@dataclass(frozen=True, slots=True)
class _Sent:
    """A ping of ours that waits for its pong."""

    peer: Peer
    endpoint: Endpoint
    sent_at: float
    mtu: int  # of a probe: bytes of inner packet that it stands for; 0: it is none
    is_marked: bool


class Conn:
    """The paths to all peers.

    Args:
        disco_key: made for this process alone.
        random: yields unpredictable bytes (`os.urandom`).
        is_direct: whether datagrams to an endpoint of UDP leave this host by no overlay.
        mtu: how long an inner packet may be so that its message leaves for an endpoint of UDP in one piece.

    Attributes:
        takes_long: whether we take messages that are longer than a tailnet's; may be changed at any time.
    """

    def __init__(
        self,
        disco_key: PrivateKey,
        random: disco.Random,
        is_direct: Callable[[Endpoint], bool],
        mtu: Callable[[Endpoint], int] = lambda _: TAILNET_MTU,
    ) -> None:
        self._boxes = Boxes(disco_key, random)
        self._random = random
        self._is_direct = is_direct
        self._mtu = mtu
        self.takes_long = True
        self._node_key: PublicKey | None = None
        self._own: tuple[Endpoint, ...] = ()
        self._peers: dict[PublicKey, Peer] = {}
        self._by_disco: dict[PublicKey, list[Peer]] = {}  # more than one: a node that is in the tailnet twice
        self._peers_made = 0
        self._pings: dict[bytes, _Sent] = {}  # by transaction, the oldest first; all are younger than PING_TIME
        self._alarms: list[tuple[float, int, Peer]] = []  # a heap; stale ones are passed over
        self._datagrams: list[Datagram] = []
        self._events: deque[Event] = deque()
        self._counts: Counter[str] = Counter()
        self._dropped: Counter[Drop] = Counter()

    # --- configuration ------------------------------------------------------------------------------------------------

    def set_node_key(self, key: PublicKey | None) -> None:
        """Be the node with this WireGuard key from now on; None: nobody, who neither answers nor asks."""
        self._node_key = key

    def set_own_endpoints(self, endpoints: Sequence[Endpoint], now: float) -> None:
        """Peers can reach us here. Where an address is gone, all paths are to be found anew."""
        before, self._own = self._own, tuple(endpoints)
        if set(before) == set(self._own):
            return
        self._events.append(OwnEndpointsChanged(self._own))
        gone = set(before) - set(self._own)
        for peer in self._peers.values():
            if gone:
                peer.forget()
            peer.invited_at = -inf
            if peer.is_active(now) and not peer.is_trusted(now):
                self._search(peer, now)
            self._settle(peer, now)

    @property
    def own_endpoints(self) -> tuple[Endpoint, ...]:
        """Where peers can reach us."""
        return self._own

    def set_peer(self, config: PeerPaths, now: float) -> None:
        """Add a peer, or change what differs. One with a new disco key has started anew: its paths are forgotten."""
        peer = self._peers.get(config.key)
        if peer is None:
            self._peers_made += 1
            peer = self._peers[config.key] = Peer(self._peers_made, PeerPaths(config.key))
        if peer.config.disco_key != config.disco_key:
            self._forget_disco_key(peer)
            if not config.disco_key.is_zero:
                self._by_disco.setdefault(config.disco_key, []).append(peer)
        peer.configure(config, now)
        if peer.is_active(now) and not peer.is_trusted(now):
            self._search(peer, now)
        self._settle(peer, now)

    def remove_peer(self, key: PublicKey) -> None:
        """Forget a peer; nothing happens when there is none."""
        peer = self._peers.pop(key, None)
        if peer is not None:
            self._forget_disco_key(peer)
            peer.wake_at = inf

    def _forget_disco_key(self, peer: Peer) -> None:
        for transaction in [number for number, sent in self._pings.items() if sent.peer is peer]:
            del self._pings[transaction]
        key = peer.config.disco_key
        sharing = [other for other in self._by_disco.pop(key, ()) if other is not peer]
        if sharing:
            self._by_disco[key] = sharing
        else:
            self._boxes.forget(key)

    # --- the verbs ----------------------------------------------------------------------------------------------------

    def receive(self, datagram: disco.Buffer, source: Endpoint, now: float, sender: PublicKey | None = None) -> None:
        """Take a datagram for which `is_disco`.

        Args:
            source: of UDP, or the sender behind the relay that it came by.
            sender: the node that the relay says it is from; None over UDP.
        """
        reason = self._receive(datagram, source, now, sender)
        if reason is not None:
            self._dropped[reason] += 1

    def note_sent(self, key: PublicKey, now: float) -> None:
        """Traffic leaves for this peer. Once a second is often enough; nothing happens for an unknown peer."""
        peer = self._peers.get(key)
        if peer is None:
            return
        was_active, peer.used_at = peer.is_active(now), now
        if not was_active:
            self._beat(peer, now)
        elif not peer.is_trusted(now):
            self._search(peer, now)
        self._settle(peer, now)

    def note_relayed(self, key: PublicKey, endpoint: Endpoint, now: float) -> bool:
        """Something of this peer's came by a relay: the way to answer as long as its own relay is unknown.

        Returns: whether it is another one than before, so that there may be an event.
        """
        peer = self._peers.get(key)
        if peer is None or peer.learned_relay == endpoint:
            return False
        peer.learned_relay = endpoint
        self._settle(peer, now)
        return True

    def ping(self, key: PublicKey, now: float) -> None:
        """Look for the peer on the trusted path, else on all ways: `Pinged` follows. Nothing for an unknown peer."""
        peer = self._peers.get(key)
        if peer is None:
            return
        peer.asked_at = now
        if peer.best and peer.is_trusted(now):
            self._ping(peer, peer.best.endpoint, now)
        else:
            for endpoint in (*filter(None, [peer.relay]), *peer.candidates):
                self._ping(peer, endpoint, now)
        self.note_sent(key, now)

    def datagrams_to_send(self) -> list[Datagram]:
        """What is to leave now, to where, and for relays whose it is."""
        datagrams, self._datagrams = self._datagrams, []
        return datagrams

    def next_event(self) -> Event | None:
        """What happened next, or None."""
        return self._events.popleft() if self._events else None

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called; None for never."""
        while self._alarms and self._alarms[0][2].wake_at != self._alarms[0][0]:
            heapq.heappop(self._alarms)
        alarm = self._alarms[0][0] if self._alarms else inf
        oldest = self._oldest_ping()
        at = min(alarm, oldest.sent_at + PING_TIME if oldest else inf)
        return at if at < inf else None

    def handle_timer(self, now: float) -> None:
        """Do what is due; nothing before its time."""
        while (sent := self._oldest_ping()) is not None and now >= sent.sent_at + PING_TIME:
            del self._pings[next(iter(self._pings))]
            self._ping_was_lost(sent, now)
        while self._alarms and self._alarms[0][0] <= now:
            at, _, peer = heapq.heappop(self._alarms)
            if peer.wake_at == at:
                peer.wake_at = inf
                self._wake(peer, now)
                self._settle(peer, now)

    def path(self, key: PublicKey, now: float) -> Path | None:
        """How this peer is reached at the moment; None for an unknown one."""
        peer = self._peers.get(key)
        if peer is None:
            return None
        direct = peer.direct(now)
        is_direct = direct is not None or (peer.config.wireguard_only and bool(peer.candidates))
        return Path(peer.endpoint(now), is_direct, direct.latency if direct else None, peer.is_active(now))

    def statistics(self) -> Statistics:
        """Counters since the beginning."""
        return Statistics(
            pings_sent=self._counts["ping sent"],
            pings_received=self._counts["ping received"],
            pongs_sent=self._counts["pong sent"],
            pongs_received=self._counts["pong received"],
            invitations_sent=self._counts["invitation sent"],
            invitations_received=self._counts["invitation received"],
            dropped=dict(self._dropped),
        )

    # --- what comes ---------------------------------------------------------------------------------------------------

    def _receive(self, datagram: disco.Buffer, source: Endpoint, now: float, sender: PublicKey | None) -> Drop | None:
        if self._node_key is None:
            return Drop.NO_NODE_KEY
        if not disco.is_disco(datagram):
            return Drop.UNREADABLE
        key = disco.sender(datagram)
        peers = [peer for peer in self._by_disco.get(key, ()) if sender is None or peer.config.key == sender]
        if not peers:
            return Drop.UNKNOWN_SENDER
        if sender is None and not is_candidate(source):
            return Drop.UNEXPECTED
        try:
            message = self._boxes.open(datagram)
        except Malformed:
            return Drop.UNREADABLE
        match message:
            case Ping():
                return self._take_ping(message, peers, source, now, sender)
            case Pong():
                return self._take_pong(message, key, now, relayed=sender is not None)
            case CallMeMaybe():  # pragma: no branch
                return self._take_invitation(message, peers[0], now, relayed=sender is not None)

    def _take_ping(
        self, ping: Ping, peers: Sequence[Peer], source: Endpoint, now: float, sender: PublicKey | None
    ) -> Drop | None:
        if sender is not None:
            self.note_relayed(sender, source, now)
            region = derp.from_endpoint(source)
            seen = ip_endpoint(RELAY_ADDRESS, region[0] & 0xFFFF if region else 0)
        else:
            if not self._is_direct(source):
                return Drop.OVERLAY
            fresh = [peer.hear(source, ping.transaction, now) for peer in peers]
            if not any(fresh):
                return Drop.REPEATED
            seen = source
        self._counts["ping received"] += 1
        self._counts["pong sent"] += 1
        for peer in peers:
            peer.show_mark(ping.is_marked)
            self._settle(peer, now)
        self._send(Pong(ping.transaction, seen, ping.is_marked and self.takes_long), peers[0], source)
        if sender is None:
            for peer in peers:
                if peer.wants_ping_back(source, now):
                    self._ping(peer, source, now)
        return None

    def _take_pong(self, pong: Pong, key: PublicKey, now: float, *, relayed: bool) -> Drop | None:
        sent = self._pings.get(pong.transaction)
        if sent is None or sent.peer.config.disco_key != key or relayed == is_candidate(sent.endpoint):
            return Drop.UNEXPECTED
        del self._pings[pong.transaction]
        self._counts["pong received"] += 1
        peer, latency = sent.peer, now - sent.sent_at
        if sent.is_marked:
            peer.show_mark(pong.is_marked)
        if sent.mtu:
            peer.prove(sent.endpoint, sent.mtu)
        elif not relayed:
            peer.answer(sent.endpoint, latency, now)
            if peer.best and peer.best.endpoint == sent.endpoint:
                self._probe(peer, sent.endpoint, now)
        if peer.asked_at <= sent.sent_at:
            peer.asked_at = inf
            self._events.append(Pinged(peer.config.key, sent.endpoint, latency))
        self._settle(peer, now)
        return None

    def _take_invitation(self, invitation: CallMeMaybe, peer: Peer, now: float, *, relayed: bool) -> Drop | None:
        if not relayed:
            return Drop.UNEXPECTED
        self._counts["invitation received"] += 1
        peer.invite(invitation.endpoints, now)
        for endpoint in peer.pingable_now(now):
            self._ping(peer, endpoint, now)
        self._settle(peer, now)
        return None

    # --- what is due --------------------------------------------------------------------------------------------------

    def _wake(self, peer: Peer, now: float) -> None:
        if now >= peer.trust_due_at:
            peer.trust_due_at = inf
            if peer.is_active(now):
                self._search(peer, now)
        if now >= peer.heartbeat_at:
            self._beat(peer, now)
        if now >= peer.asked_at + ASK_TIME:
            peer.asked_at = inf
            self._events.append(Pinged(peer.config.key, peer.endpoint(now), None))

    def _beat(self, peer: Peer, now: float) -> None:
        if not peer.is_active(now) or peer.config.disco_key.is_zero:
            peer.heartbeat_at = inf
            return
        peer.heartbeat_at = now + HEARTBEAT_TIME
        if peer.best and not self._ping(peer, peer.best.endpoint, now):
            peer.lose_best()
        if peer.wants_search(now):
            self._search(peer, now)

    def _search(self, peer: Peer, now: float) -> None:
        """Ping all candidates whose turn it is, and invite the peer to do the same."""
        if peer.config.disco_key.is_zero:
            return
        peer.searched_at = now
        for endpoint in peer.pingable(now):
            self._ping(peer, endpoint, now)
        relay = peer.relay
        if relay and self._own and now - peer.invited_at >= INVITATION_SPACING_TIME:
            peer.invited_at = now
            if self._send(CallMeMaybe(self._own), peer, relay):
                self._counts["invitation sent"] += 1

    def _ping_was_lost(self, sent: _Sent, now: float) -> None:
        peer = sent.peer
        if sent.mtu:
            peer.lose_probe(sent.endpoint)
        elif peer.best and peer.best.endpoint == sent.endpoint and not peer.is_trusted(now):
            peer.lose_best()
        self._settle(peer, now)

    def _oldest_ping(self) -> _Sent | None:
        return next(iter(self._pings.values()), None)

    # --- what the above share -----------------------------------------------------------------------------------------

    def _probe(self, peer: Peer, endpoint: Endpoint, now: float) -> None:
        """See whether messages may be longer than a tailnet's."""
        if not peer.is_ours or peer.config.is_gateway:
            return
        mtu = self._mtu(endpoint)
        if mtu > TAILNET_MTU:
            self._ping(peer, endpoint, now, mtu)
        else:
            peer.prove(endpoint, 0)

    def _ping(self, peer: Peer, endpoint: Endpoint, now: float, mtu: int = 0) -> bool:
        """Send a ping there, or a probe; False when it may not go there, or nowhere."""
        candidate = peer.candidates.get(endpoint)
        if candidate is not None:
            candidate.pinged_at = now
            if not self._is_direct(endpoint):
                return False
        transaction = self._random(TRANSACTION_BYTES)
        unpadded = MARKED_PING_BYTES if self.takes_long else MARKED_PING_BYTES - len(MARK)
        padding = max(0, mtu + OVERHEAD_BYTES - unpadded)
        if not self._send(Ping(transaction, self._node_key, padding, is_marked=self.takes_long), peer, endpoint):
            return False
        self._pings[transaction] = _Sent(peer, endpoint, now, mtu, self.takes_long)
        self._counts["ping sent"] += 1
        return True

    def _send(self, message: Message, peer: Peer, endpoint: Endpoint) -> bool:
        if self._node_key is None or peer.config.disco_key.is_zero:
            return False
        try:
            datagram = self._boxes.seal(message, peer.config.disco_key)
        except Malformed:
            return False  # no secret can be agreed with its key: nobody has that one
        self._datagrams.append((datagram, endpoint, peer.config.key if derp.from_endpoint(endpoint) else None))
        return True

    def _settle(self, peer: Peer, now: float) -> None:
        """Tell where its datagrams go, and how long they may be, if that is new; see when to look at it again."""
        state = endpoint, mtu = peer.endpoint(now), peer.mtu
        if state != peer.announced:
            peer.announced = state
            direct = peer.direct(now)
            self._events.append(PathChanged(peer.config.key, endpoint, direct.latency if direct else None, mtu))
        at = peer.next_at()
        if at < peer.wake_at:
            peer.wake_at = at
            heapq.heappush(self._alarms, (at, peer.number, peer))
