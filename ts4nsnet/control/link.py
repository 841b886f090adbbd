# SPDX-License-Identifier: BSD-3-Clause
"""The one connection to the control server: from nothing to an HTTP/2 session, again and again.

    Idle(retry_at) ─► FetchingKey ─► Dialing ─► Handshaking ─► Online
      ▲   ▲              │              │            │            │
      └───┴── back-off ──┴──────────────┴────────────┴────────────┘

* The server's key is fetched once by `GET /key?v=…`, over TLS where the control URL has it: that is what our trust
  stands on. It is fetched anew after a handshake that failed, since a server with another key looks just like that.
* The channel follows the control URL's scheme and port; no other port is tried.
* Everything before Online has 20 s altogether, in which the adapter's dial may fail on its own first.
* A server whose network has died tells nobody. After 60 s without a byte we send an HTTP/2 ping, after 90 s we hang up.

Source: control.md 2, 3.1, 3.2, 3.4.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ts4nsnet.control.backoff import Backoff, Random
from ts4nsnet.control.errors import ControlError, HandshakeFailed
from ts4nsnet.control.events import Action, Dial, Fetch, HangUp
from ts4nsnet.control.fields import Fields, load
from ts4nsnet.control.http import HttpRequest, HttpResponse, Origin, parse_url
from ts4nsnet.control.session import ClientSession, SessionEvent
from ts4nsnet.control.ts2021 import ClientHandshake
from ts4nsnet.keys import MACHINE_PREFIX, PrivateKey, PublicKey

# ours: the adapter's dial has 10 of them
HANDSHAKE_TIME = 20.0  # seconds
PING_AFTER_TIME = 60.0
DEAD_AFTER_TIME = 90.0


@dataclass(slots=True)
class Idle:
    """No connection; the back-off says when the next attempt is due."""


@dataclass(slots=True)
class FetchingKey:
    """The server's key is being asked for. Allowed: its answer."""

    number: int
    give_up_at: float


@dataclass(slots=True)
class Dialing:
    """The adapter connects. Allowed: success or failure."""

    number: int
    give_up_at: float
    server: PublicKey


@dataclass(slots=True)
class Handshaking:
    """The upgrade is under way. Allowed: bytes of it."""

    number: int
    give_up_at: float
    handshake: ClientHandshake


@dataclass(slots=True)
class Online:
    """The session stands."""

    number: int
    session: ClientSession
    heard_at: float
    pinged: bool = False


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A new session: nothing of the one before is left."""


@dataclass(frozen=True, slots=True)
class LinkDown:
    """No session any more, or once more none came about."""

    reason: str


LinkEvent = LinkUp | LinkDown | SessionEvent


class Link:
    """See the module.

    Args:
        control_url: http(s)://host[:port]; raises `ControlError`.
        machine: our key; the server knows us by it.
        version: the capability version.
        numbers: for actions; shared with whoever else has some.
        now: seconds; the first attempt is due at once.
    """

    def __init__(
        self, control_url: str, machine: PrivateKey, version: int, numbers: Iterator[int], random: Random, now: float
    ) -> None:
        self.origin: Origin = parse_url(control_url)[0]
        self._key_url = f"{control_url.rstrip('/')}/key?v={version}"
        self._machine = machine
        self._version = version
        self._numbers = numbers
        self._random = random
        self._backoff = Backoff(random, now)
        self._server: PublicKey | None = None
        self._state: Idle | FetchingKey | Dialing | Handshaking | Online = Idle()
        self._events: deque[LinkEvent] = deque()
        self._actions: deque[Action] = deque()

    @property
    def session(self) -> ClientSession | None:
        """What stands."""
        return self._state.session if isinstance(self._state, Online) else None

    def want(self, addresses: Sequence[str], now: float) -> None:
        """Connect, if there is no connection and it is time; to one of `addresses` first, where there are any."""
        if not isinstance(self._state, Idle) or now < self._backoff.retry_at:
            return
        if self._server is None:
            number = next(self._numbers)
            self._state = FetchingKey(number, now + HANDSHAKE_TIME)
            self._actions.append(Fetch(number, HttpRequest("GET", self._key_url)))
        else:
            self._dial(self._server, addresses, now + HANDSHAKE_TIME)

    def fetched(self, number: int, response: HttpResponse | str, addresses: Sequence[str], now: float) -> bool:
        """Take the answer to a Fetch, or why there is none; False if it was none of ours."""
        state = self._state
        if not isinstance(state, FetchingKey) or state.number != number:
            return False
        try:
            self._server = _server_key(response)
        except ControlError as error:
            self._fail(str(error), now)
        else:
            self._dial(self._server, addresses, state.give_up_at)
        return True

    def connected(self, number: int, now: float) -> None:
        """The connection stands that was dialled under this number."""
        state = self._state
        if not isinstance(state, Dialing) or state.number != number:
            return
        try:
            ephemeral = PrivateKey(self._random(32))
            handshake = ClientHandshake(self._machine, state.server, ephemeral, self._version, self.origin.authority)
        except ControlError as error:
            self._server = None
            self.drop(str(error), now)
            return
        self._state = Handshaking(number, state.give_up_at, handshake)

    def receive(self, number: int, data: bytes, now: float) -> None:
        """Take bytes of the connection, `b""` at its end."""
        state = self._state
        if isinstance(state, Idle | FetchingKey | Dialing) or state.number != number:
            return
        try:
            if isinstance(state, Handshaking):
                self._shake(state, data, now)
            elif data:
                state.heard_at, state.pinged = now, False
                state.session.receive(data)
                self._take_events(state.session)
            else:
                self.drop("the server has closed the connection", now)
        except HandshakeFailed as error:
            self._server = None
            self.drop(str(error), now)
        except ControlError as error:
            self.drop(str(error), now)

    def disconnected(self, number: int, reason: str, now: float) -> None:
        """The connection has ended, or none came about."""
        if not isinstance(self._state, Idle | FetchingKey) and self._state.number == number:
            self._fail(reason, now)

    def drop(self, reason: str, now: float) -> None:
        """Hang up, and connect anew when it is time."""
        if isinstance(self._state, Idle):
            return
        if not isinstance(self._state, FetchingKey):
            self._actions.append(HangUp(self._state.number))
        self._fail(reason, now)

    def data_to_send(self) -> bytes:
        """Bytes for the connection that was dialled last."""
        match self._state:
            case Handshaking(handshake=handshake):
                return handshake.data_to_send()
            case Online(session=session):
                return session.data_to_send()
            case _:
                return b""

    def next_event(self) -> LinkEvent | None:
        """What has happened, the oldest first."""
        return self._events.popleft() if self._events else None

    def next_action(self) -> Action | None:
        """What the adapter shall do."""
        return self._actions.popleft() if self._actions else None

    def next_timer(self) -> float:
        """When `handle_timer` or `want` has something to do."""
        match self._state:
            case Idle():
                return self._backoff.retry_at
            case Online(heard_at=heard_at, pinged=pinged):
                return heard_at + (DEAD_AFTER_TIME if pinged else PING_AFTER_TIME)
            case unfinished:
                return unfinished.give_up_at

    def handle_timer(self, now: float) -> None:
        """Give up what takes too long."""
        state = self._state
        if isinstance(state, Idle) or now < self.next_timer():
            return
        if not isinstance(state, Online):
            self.drop(f"{self.origin.authority}: no answer within {HANDSHAKE_TIME:g} s", now)
        elif state.pinged:
            self.drop(f"the server has been silent for {DEAD_AFTER_TIME:g} s", now)
        else:
            state.pinged = True
            state.session.ping(self._random(8))

    def _dial(self, server: PublicKey, addresses: Sequence[str], give_up_at: float) -> None:
        number = next(self._numbers)
        self._state = Dialing(number, give_up_at, server)
        self._actions.append(Dial(number, self.origin.host, self.origin.port, self.origin.tls, tuple(addresses)))

    def _shake(self, state: Handshaking, data: bytes, now: float) -> None:
        channel = state.handshake.receive(data)
        if channel is None:
            return
        session = ClientSession(channel, state.handshake.rest)
        self._state = Online(state.number, session, heard_at=now)
        self._backoff.succeeded(now)
        self._events.append(LinkUp())
        self._take_events(session)

    def _take_events(self, session: ClientSession) -> None:
        while (event := session.next_event()) is not None:
            self._events.append(event)

    def _fail(self, reason: str, now: float) -> None:
        self._state = Idle()
        self._backoff.failed(now)
        self._events.append(LinkDown(reason))


def _server_key(response: HttpResponse | str) -> PublicKey:
    """The key in the answer to `GET /key`; raises `ControlError`."""
    if isinstance(response, str):
        raise ControlError(f"the server's key: {response}")
    if response.status != 200:
        raise ControlError(f"the server's key: got status {response.status}, want 200; is this a control server?")
    key = Fields(load(response.body)).key("publicKey", MACHINE_PREFIX)
    if key.is_zero:
        raise ControlError("the server's key: there is none for ts2021; the server is too old")
    return key
