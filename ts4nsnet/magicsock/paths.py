# SPDX-License-Identifier: BSD-3-Clause
"""The paths to one peer: where it may be, where it is, and whether that still holds.

    candidates   UDP endpoints where it may be      best     the one that answered, better than the others that did
    relay        reaches it always, slower          trust    for 6.5 s after its last answer the best path is used

                   user traffic                        an answer
    relay, idle ────────────────► relay, searching ──────────────► direct, a ping every 3 s
         ▲                          │    ▲                            │        │ no answer for 6.5 s
         └── 45 s without traffic ──┘    └────────────────────────────┼────────┘
         └────────────────────────────────────────────────────────────┘ 45 s without traffic, then 6.5 s

Only the answer to a ping of ours makes a path, or keeps it: what else comes from an endpoint proves that a datagram
can come, not that one arrives. While the best path is not trusted the relay carries the traffic alone, where the
reference sends everything twice; so nothing arrives doubled, and what the dead path swallowed within the 6.5 s is lost
either way. A peer without a relay stays on its best path until a ping there was in vain.

A candidate is there as long as somebody stands for it: the coordination server's list, the peer's last invitation, a
ping from there within 45 s; and while it is the best path. Who has moved says so by naming the old endpoint no more:
then the relay takes over at once, until there is an answer again, from there or from elsewhere.

A message may be longer than those of a tailnet if both ends are of this project (see disco.py) and a ping of that
length has just been answered. So each answer on the best path is followed by such a *probe*, as long as the kernel's
way there has room for; it must arrive whole or not at all. Two probes lost while shorter pings pass take the proof
back. Another path, or one that is trusted again, has to prove it anew, which takes a round trip. A relay carries
anything, so it goes on with what was proven last.

Which of two paths is better: the faster one by the ratio of their latencies, in points of 100; a nearby address and
IPv6 add to that; equals stay. So a path that is a bit slower but in our own network wins over one out and back.

Source: tailscale, wgengine/magicsock/endpoint.go; our notes on paths, sections 1, 3 to 5.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from math import inf

from ts4nsnet import derp
from ts4nsnet.endpoint import Endpoint, to_ip
from ts4nsnet.magicsock.endpoints import candidates, is_private
from ts4nsnet.magicsock.events import PeerPaths
from ts4nsnet.tailnet import TAILNET_MTU

TRUST_TIME = 6.5  # seconds
HEARTBEAT_TIME = 3.0
SESSION_TIME = 45.0
PING_SPACING_TIME = 5.0  # between two searching pings to one candidate
INVITATION_SPACING_TIME = 5.0  # likewise between two invitations
ASK_TIME = 5.0  # that somebody who asked for a ping waits for the first answer
UPGRADE_TIME = 60.0  # between two looks for something better than a trusted path
GOOD_LATENCY = 0.005  # than which nothing better is looked for
MAX_CANDIDATES = 100
MAX_LOST_PROBES = 2  # ours
# ours: invitations make us ping wherever they say, so they are worth MAX_CANDIDATES pings in this many seconds
INVITED_TIME = 1.0

LOOPBACK_POINTS, LINK_LOCAL_POINTS, PRIVATE_POINTS, IPV6_POINTS = 50, 30, 20, 10

NOWHERE: Endpoint = bytes(32)  # as WireGuard has it


@dataclass(slots=True, eq=False)
class Candidate:
    """An endpoint where the peer may be, and who stands for it."""

    endpoint: Endpoint
    is_listed: bool = False
    is_invited: bool = False
    heard_at: float = -inf
    pinged_at: float = -inf
    pinged_back_at: float = -inf  # because of a ping from there
    last_transaction: bytes = b""  # of the last ping from there

    def is_backed(self, now: float) -> bool:
        """Whether anybody stands for it."""
        return self.is_listed or self.is_invited or now - self.heard_at < SESSION_TIME


@dataclass(frozen=True, slots=True)
class Best:
    """A direct path that has answered."""

    endpoint: Endpoint
    latency: float


@dataclass(slots=True, eq=False)
class Peer:
    """One peer's paths; `Conn` acts on what it says."""

    number: int
    config: PeerPaths
    candidates: dict[Endpoint, Candidate] = field(default_factory=dict)  # at most MAX_CANDIDATES
    best: Best | None = None
    trusted_until: float = -inf
    trust_due_at: float = inf  # when its end is to be noticed
    learned_relay: Endpoint | None = None  # where it was heard, while its home is unknown
    used_at: float = -inf
    heartbeat_at: float = inf
    searched_at: float = -inf
    invited_at: float = -inf  # when we sent it an invitation last
    invitations_at: float = -inf  # when it began to use up the pings that its invitations are worth
    invited_pings: int = 0  # and how many it has used
    asked_at: float = inf  # since when somebody waits for `Pinged`
    is_ours: bool = False  # it has shown the mark
    proven: int = 0  # bytes of inner packet that the best path, or the last one, has carried
    lost_probes: int = 0  # since one was answered
    announced: tuple[Endpoint, int] | None = None  # the endpoint and MTU that have been told last
    wake_at: float = inf

    # --- what is known ------------------------------------------------------------------------------------------------

    @property
    def relay(self) -> Endpoint | None:
        """The peer behind its relay; None: no relay of it is known."""
        if self.config.wireguard_only:
            return None
        if self.config.home_region:
            return derp.to_endpoint(self.config.home_region, self.config.key)
        return self.learned_relay

    def is_trusted(self, now: float) -> bool:
        """Whether the best path is used alone."""
        return self.best is not None and now < self.trusted_until

    def is_active(self, now: float) -> bool:
        """Whether there was traffic for it lately."""
        return now - self.used_at < SESSION_TIME

    def direct(self, now: float) -> Best | None:
        """The direct path to send on; None: there is none, or the relay is the surer one."""
        return self.best if self.is_trusted(now) or self.relay is None else None

    def endpoint(self, now: float) -> Endpoint:
        """Where WireGuard's datagrams go."""
        if self.config.wireguard_only:
            return next(iter(self.candidates), NOWHERE)
        direct = self.direct(now)
        return direct.endpoint if direct else self.relay or NOWHERE

    @property
    def mtu(self) -> int:
        """Bytes of inner packet that a message to it may have."""
        return TAILNET_MTU if self.config.is_gateway else max(TAILNET_MTU, self.proven)

    def wants_search(self, now: float) -> bool:
        """Whether a better path is to be looked for, or one at all."""
        if not self.is_trusted(now) or self.best is None:
            return True
        return self.best.latency > GOOD_LATENCY and now - self.searched_at >= UPGRADE_TIME

    def next_at(self) -> float:
        """When something is due."""
        return min(self.heartbeat_at, self.trust_due_at, self.asked_at + ASK_TIME)

    def pingable(self, now: float) -> list[Endpoint]:
        """The candidates that a searching ping may go to now."""
        self._prune(now)
        return [c.endpoint for c in self.candidates.values() if now - c.pinged_at >= PING_SPACING_TIME]

    def wants_ping_back(self, endpoint: Endpoint, now: float) -> bool:
        """Whether to answer a ping from this candidate by one of ours, too: what closed the way may be gone now."""
        if self.is_trusted(now) or not (self.is_active(now) or self.relay is None):
            return False
        candidate = self.candidates.get(endpoint)
        if candidate is None or now - candidate.pinged_back_at < PING_SPACING_TIME:
            return False
        candidate.pinged_back_at = now
        return True

    def pingable_now(self, now: float) -> list[Endpoint]:
        """Those that an invitation makes us ping."""
        endpoints = self.pingable(now)[: MAX_CANDIDATES - self.invited_pings]
        self.invited_pings += len(endpoints)
        return endpoints

    # --- what happens -------------------------------------------------------------------------------------------------

    def configure(self, config: PeerPaths, now: float) -> None:
        """Take what the coordination server says; a peer that has started anew has nothing in common with the old."""
        if config.disco_key != self.config.disco_key:
            self.candidates.clear()
            self.forget()
            self.is_ours = False
        if config.is_gateway:
            self.proven = 0
        self.config = config
        listed = candidates(config.endpoints)
        for candidate in self.candidates.values():
            if candidate.is_listed and candidate.endpoint not in listed and not candidate.is_invited:
                self._doubt(candidate)
            candidate.is_listed = candidate.endpoint in listed
        self._prune(now)
        for endpoint in listed:
            if (added := self._add(endpoint, now)) is not None:
                added.is_listed = True

    def hear(self, endpoint: Endpoint, transaction: bytes, now: float) -> bool:
        """A ping came from there; returns whether it is a new one."""
        candidate = self._add(endpoint, now)
        if candidate is None:
            return True
        if candidate.last_transaction == transaction:
            return False
        candidate.heard_at, candidate.last_transaction = now, transaction
        return True

    def invite(self, endpoints: Iterable[Endpoint], now: float) -> None:
        """The peer waits for pings at exactly these endpoints, and beside them where the server says."""
        invited = candidates(endpoints)
        is_flood = now - self.invitations_at < INVITED_TIME
        if not is_flood:
            self.invitations_at, self.invited_pings = now, 0
        for candidate in self.candidates.values():
            if candidate.is_invited and candidate.endpoint not in invited:
                self._doubt(candidate)
            candidate.is_invited = False
            if not is_flood:
                candidate.pinged_at = -inf
        for endpoint in invited:
            if (added := self._add(endpoint, now)) is not None:
                added.is_invited = True
        self._prune(now)

    def answer(self, endpoint: Endpoint, latency: float, now: float) -> None:
        """A pong came for a ping to there."""
        if endpoint not in self.candidates:
            return  # nobody stands for it any more
        new = Best(endpoint, latency)
        if not self.is_trusted(now) or is_better(new, self.best):
            if not self.is_trusted(now) or self.best is None or self.best.endpoint != endpoint:
                self.proven = self.lost_probes = 0
            self.best = new
        if self.best and self.best.endpoint == endpoint:
            self.best = new
            self.trusted_until = self.trust_due_at = now + TRUST_TIME

    def show_mark(self, is_marked: bool) -> None:
        """Something came from it, with the mark or without: who does not take longer messages any more says so."""
        self.is_ours = is_marked
        if not is_marked:
            self.proven = 0

    def prove(self, endpoint: Endpoint, mtu: int) -> None:
        """A probe to there was answered; one of 0 bytes proves that there is no room for any."""
        if self.best and self.best.endpoint == endpoint:
            self.proven, self.lost_probes = mtu, 0

    def lose_probe(self, endpoint: Endpoint) -> None:
        """A probe to there was not answered."""
        if self.best and self.best.endpoint == endpoint:
            self.lost_probes += 1
            if self.lost_probes >= MAX_LOST_PROBES:
                self.proven = 0

    def _doubt(self, candidate: Candidate) -> None:
        """The peer, or the server, does not name this endpoint any more: it may have left it just now."""
        candidate.pinged_at = -inf
        if self.best and self.best.endpoint == candidate.endpoint:
            self.lose_best()

    def lose_best(self) -> None:
        """The best path is none."""
        self.best = None
        self.trusted_until, self.trust_due_at = -inf, inf

    def forget(self) -> None:
        """The network is another one: what was measured in the old one counts for nothing, and nothing waits."""
        self.lose_best()
        self.proven = 0
        self.searched_at = self.invited_at = -inf
        for candidate in self.candidates.values():
            candidate.pinged_at = -inf

    def _add(self, endpoint: Endpoint, now: float) -> Candidate | None:
        """The candidate for an endpoint, made if need be; None when there are too many."""
        if endpoint not in self.candidates:
            if len(self.candidates) >= MAX_CANDIDATES:
                self._prune(now)
            if len(self.candidates) >= MAX_CANDIDATES:
                return None
            self.candidates[endpoint] = Candidate(endpoint)
        return self.candidates[endpoint]

    def _prune(self, now: float) -> None:
        kept = self.best.endpoint if self.best else None
        gone = [c.endpoint for c in self.candidates.values() if c.endpoint != kept and not c.is_backed(now)]
        for endpoint in gone:
            del self.candidates[endpoint]


def is_better(new: Best, old: Best | None) -> bool:
    """Whether to leave `old` for `new`."""
    if old is None or new.endpoint == old.endpoint:
        return old is None
    ours, theirs = _points(new.endpoint), _points(old.endpoint)
    if new.latency > old.latency:
        theirs += 100 - int(100 * old.latency / new.latency)
    elif old.latency > 0:
        ours += 100 - int(100 * new.latency / old.latency)
    if ours <= 1 and theirs == 0:
        return False
    return ours > theirs


def _points(endpoint: Endpoint) -> int:
    address, _ = to_ip(endpoint)
    points = IPV6_POINTS if isinstance(address, IPv6Address) else 0
    if address.is_loopback:
        return points + LOOPBACK_POINTS
    if address.is_link_local:
        return points + LINK_LOCAL_POINTS
    return points + (PRIVATE_POINTS if is_private(address) else 0)
