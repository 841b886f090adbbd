# SPDX-License-Identifier: BSD-3-Clause
"""The control client: what has to be asked of the server, when, and what its answers mean.

                    node                                                        server
    set_host, logout, … │                            ┌── register, held for a login ──►
                        ▼                            ├── map poll, for ever ──────────►
    next_event ◄──── Client ── Link: one session ────┼── lite updates ──────────────►
                        ▲                            └── answers to pings ────────────►
    next_action, data_to_send, receive, connected, disconnected, fetched      adapter

After everything that happens `_advance` looks at what should be under way and is not, and starts it: a connection, a
registration that is due (register.py), the poll (mapstream.py), an update of what the server knows of us. So there is
no order of steps that can be left half done. Each of these has its own back-off; a lost connection ends all of them,
and they start anew. The last netmap stays good meanwhile.

* The poll is opened in the same flight as the first update, right after registering.
* An update goes out when host, network or endpoints change, after registering, and every four minutes: some servers
  delete a node without a word, and only a request is answered by 404.
* 404 to a poll or an update: the node is not known; register.py finds out what is left to be done.
* 500 to a poll, or 120 s without a message: the server may be stopping, so the whole connection is dropped.

Source: control.md 4.4, 4.5, 5.9, 11.
"""

from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from math import inf

from ts4nsnet.control import events
from ts4nsnet.control.backoff import Random
from ts4nsnet.control.c2n import ChannelAnswer, Pings
from ts4nsnet.control.config import Config, Identity, State, Status
from ts4nsnet.control.enrolment import Enrolment
from ts4nsnet.control.errors import ControlError
from ts4nsnet.control.expiry import Due, KeyExpiry
from ts4nsnet.control.hostinfo import OwnEndpoint, OwnHostinfo
from ts4nsnet.control.http import HttpRequest, HttpResponse
from ts4nsnet.control.link import Link, LinkDown, LinkEvent, LinkUp
from ts4nsnet.control.mapstream import MAP_PATH
from ts4nsnet.control.messages import PingRequest
from ts4nsnet.control.poll import MapPoll
from ts4nsnet.control.register import REGISTER_PATH, Authorized, KeyExpired, Why
from ts4nsnet.control.replies import REPLY_TIME, Purpose, Replies, Reply
from ts4nsnet.control.session import DataReceived, HeadersReceived, StreamEnded, StreamReset, WentAway
from ts4nsnet.control.updates import Updates
from ts4nsnet.keys import NODE_PREFIX

# see the package's essay for what it promises
CAPABILITY_VERSION = 130


class Client:
    """A node's client of its control server.

    Args:
        config: which server, and how to get in.
        identity: our keys.
        host: what the server shall know of us.
        random: as `os.urandom`.
        wall: unix seconds at each call.
        now: seconds; everything starts at once.
        snapshot: the last one of an `events.NetMapChanged`, from an earlier run: that netmap is told at once. What
            cannot be read is passed over.

    Raises:
        ControlError: `config.control_url` is no URL, or the lock key no key.
    """

    def __init__(
        self,
        config: Config,
        identity: Identity,
        host: OwnHostinfo,
        *,
        random: Random,
        wall: Callable[[], float],
        now: float,
        snapshot: bytes = b"",
    ) -> None:
        self._random, self._wall = random, wall
        self._events: deque[events.Event] = deque()
        self._actions: deque[events.Action] = deque()
        self._numbers = count(1)
        self._link = Link(config.control_url, identity.machine, CAPABILITY_VERSION, self._numbers, random, now)
        self._replies = Replies()
        self._enrolment = Enrolment(config, identity, CAPABILITY_VERSION, self._events, random, now)
        self._login = self._enrolment.login
        self._key_fetch = 0  # number of the Fetch that the enrolment waits for
        self._poll = MapPoll(self._events, random, wall, snapshot, now)
        self._expiry = KeyExpiry()
        self._updates = Updates(CAPABILITY_VERSION, identity.disco, host, random, now)
        self._pings = Pings()
        self._leaving = self._left = False
        self._last_error = ""
        self._settle(now)

    # --- the node's verbs -------------------------------------------------------------------------------------

    def set_host(self, host: OwnHostinfo, now: float) -> None:
        """Tell the server what has changed of us, or of our network; nothing happens if nothing has."""
        self._updates.set_host(host, now)
        self._settle(now)

    def set_endpoints(self, endpoints: Sequence[OwnEndpoint], now: float) -> None:
        """Tell the server where peers may reach us; nothing happens if it knows."""
        self._updates.set_endpoints(endpoints, now)
        self._settle(now)

    def check_in(self, now: float) -> None:
        """Send an update at once: all peers have fallen silent, are we still known?"""
        self._updates.want(now)
        self._settle(now)

    def renew_key(self, now: float) -> None:
        """Ask for another node key while the current one is good; `events.Registered` tells when it counts."""
        self._login.renew(Why.RENEW)
        self._settle(now)

    def answer_ping(self, number: int, result: events.PingResult, now: float) -> None:
        """Tell the server what the ping of an `events.PingRequested` has found."""
        self._answer(self._pings.finish(number, result), now)
        self._settle(now)

    def logout(self, now: float) -> None:
        """Tell the server that this node is gone; `events.LoggedOut` tells that it knows."""
        if self._leaving:
            return
        self._leaving = True
        for purpose in (Purpose.POLL, Purpose.REGISTER, Purpose.UPDATE):
            self._cancel(purpose)
        if not self._enrolment.may_be_known:
            self._leave(confirmed=True, now=now)
        self._settle(now)

    def status(self) -> Status:
        """What the client is doing."""
        return Status(
            state=self._state(),
            node_key=self._login.key.public,
            login_url=self._enrolment.login_url,
            last_error=self._enrolment.last_error or self._last_error,
            key_expired=self._expiry.expired,
            polls=self._poll.polls,
            map_messages=self._poll.messages,
            updates=self._updates.taken,
            pings_answered=self._pings.answered,
            pings_ignored=self._pings.ignored,
        )

    def next_event(self) -> events.Event | None:
        """What has happened, the oldest first."""
        return self._events.popleft() if self._events else None

    # --- the adapter's verbs ----------------------------------------------------------------------------------

    def next_action(self) -> events.Action | None:
        """What the adapter shall do, in this order."""
        return self._actions.popleft() if self._actions else self._link.next_action()

    def data_to_send(self) -> bytes:
        """Bytes for the connection that was dialled last."""
        return self._link.data_to_send()

    def connected(self, number: int, now: float) -> None:
        """A `Dial` has succeeded."""
        self._link.connected(number, now)
        self._settle(now)

    def receive(self, number: int, data: bytes, now: float) -> None:
        """Bytes of the connection; `b""` at its end."""
        self._link.receive(number, data, now)
        self._settle(now)

    def disconnected(self, number: int, reason: str, now: float) -> None:
        """A `Dial` has failed, or its connection has broken."""
        self._link.disconnected(number, reason, now)
        self._settle(now)

    def fetched(self, number: int, response: HttpResponse | str, now: float) -> None:
        """A `Fetch` has its response, or a text why there is none."""
        if number == self._key_fetch:
            self._fetch_key(self._enrolment.conversed(response, now))
        else:
            self._link.fetched(number, response, self._poll.addresses, now)
        self._settle(now)

    def next_timer(self) -> float | None:
        """When `handle_timer` has something to do; None: never."""
        if self._left:
            return None
        times = [self._link.next_timer(), self._replies.next_timer(), self._poll.next_timer()]
        if not self._leaving:
            times += [self._expiry.next_timer(), self._enrolment.begin_at()]
            if self._link.session is not None:
                times += self._due().values()
        return min(times)

    def handle_timer(self, now: float) -> None:
        """Let time pass."""
        self._link.handle_timer(now)
        if self._poll.is_silent(now):
            self._link.drop("no map message for 120 s", now)
        else:
            self._read_poll(now)
        for reply in self._replies.overdue(now):
            if reply.purpose is Purpose.ANSWER:
                self._give_up(reply)
            else:
                self._link.drop(f"a request was not answered within {REPLY_TIME:g} s", now)
        if now >= self._expiry.next_timer():
            self._look_at_expiry(now)
        self._settle(now)

    # --- what should be under way -----------------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        """Take what has happened, start what is due, until nothing more follows."""
        while True:
            event = self._link.next_event()
            if event is None:
                self._advance(now)
                event = self._link.next_event()
            if event is None:
                return
            self._take(event, now)

    def _due(self) -> dict[Purpose, float]:
        """When each request is due that is not under way."""
        due = {Purpose.REGISTER: self._enrolment.due_at()}
        if self._login.may_poll:
            due[Purpose.POLL] = self._poll.due_at
            due[Purpose.UPDATE] = self._updates.due_at
        return {purpose: at for purpose, at in due.items() if purpose not in self._replies}

    def _advance(self, now: float) -> None:
        if self._left:
            return
        if not self._leaving:
            self._fetch_key(self._enrolment.begin(now))
        self._link.want(self._poll.addresses, now)
        if self._link.session is None:
            return
        if self._leaving:
            if Purpose.LOGOUT not in self._replies:
                self._send_logout(now)
            return
        for purpose, at in self._due().items():
            if now >= at:
                self._send(purpose, now)

    def _send(self, purpose: Purpose, now: float) -> None:
        match purpose:
            case Purpose.REGISTER:
                request = self._enrolment.request(self._updates.hostinfo, now)
                give_up_at = inf if request.followup else now + REPLY_TIME
                self._request(purpose, REGISTER_PATH, request.emit(), give_up_at, now)
            case Purpose.POLL:
                body = self._updates.request(self._login.key.public, stream=True, resume=self._poll.open(now))
                self._request(purpose, MAP_PATH, body, inf, now)
            case _:
                body = self._updates.request(self._login.key.public, stream=False)
                self._updates.sent()
                self._request(purpose, MAP_PATH, body, now + REPLY_TIME, now)

    def _send_logout(self, now: float) -> None:
        request = self._enrolment.logout_request(self._updates.hostinfo)
        self._request(Purpose.LOGOUT, REGISTER_PATH, request.emit(), now + REPLY_TIME, now)

    def _request(
        self, purpose: Purpose, path: str, body: bytes, give_up_at: float, now: float, *, method: str = "POST"
    ) -> None:
        session = self._link.session
        if session is None:
            return
        headers = {"ts-lb": self._login.key.public.to_text(NODE_PREFIX)}
        try:
            stream = session.request(method, path, headers, body, self._link.origin.authority)
        except ControlError as error:
            self._link.drop(str(error), now)
        else:
            self._replies.add(stream, purpose, give_up_at)

    def _cancel(self, purpose: Purpose) -> None:
        """Give up a request that is under way; the connection lives on."""
        if (reply := self._replies.of(purpose)) is not None:
            self._give_up(reply)
        if purpose is Purpose.POLL:
            self._poll.close()

    def _give_up(self, reply: Reply) -> None:
        self._replies.remove(reply)
        if self._link.session is not None:
            self._link.session.reset(reply.stream)

    def _fetch_key(self, request: HttpRequest | None) -> None:
        if request is not None:
            self._key_fetch = next(self._numbers)
            self._actions.append(events.Fetch(self._key_fetch, request))

    # --- what has happened ------------------------------------------------------------------------------------

    def _take(self, event: LinkEvent, now: float) -> None:
        match event:
            case LinkUp():
                self._last_error = ""
            case LinkDown(reason) if not self._left:
                self._lose_session(reason, now)
            case HeadersReceived(stream, status, headers) if reply := self._replies.get(stream):
                reply.status, reply.headers = status, headers
            case DataReceived(stream, data) if reply := self._replies.get(stream):
                if reply.purpose is Purpose.POLL and reply.status == 200:
                    self._read_poll(now, data)
                else:
                    reply.add(data)
            case StreamEnded(stream) if reply := self._replies.get(stream):
                self._replies.remove(reply)
                self._finish(reply, now)
            case StreamReset(stream, error_code) if reply := self._replies.get(stream):
                self._replies.remove(reply)
                reply.status, reply.body = 0, bytearray(b"the server has given it up (%d)" % error_code)
                self._finish(reply, now)
            case WentAway(error_code):
                self._link.drop(f"the server ends the connection ({error_code})", now)
            case _:
                pass

    def _lose_session(self, reason: str, now: float) -> None:
        if Purpose.REGISTER in self._replies:
            self._enrolment.failed(reason, now)
        if Purpose.UPDATE in self._replies:
            self._updates.want(now)
        if Purpose.POLL in self._replies:
            self._poll.failed(reason, now)
        self._replies.clear()
        self._last_error = reason
        self._poll.close()
        self._poll.lost(reason)

    def _finish(self, reply: Reply, now: float) -> None:
        match reply.purpose:
            case Purpose.REGISTER:
                self._finish_register(reply, now)
            case Purpose.POLL:
                self._finish_poll(reply, now)
            case Purpose.UPDATE:
                self._finish_update(reply, now)
            case Purpose.LOGOUT:
                # whatever a 200 says: Go's test server refuses each request without its key, and yet has heard us
                self._leave(confirmed=reply.status in (200, 404), now=now)
            case _:
                pass  # the answer to an answer says nothing

    def _finish_register(self, reply: Reply, now: float) -> None:
        if not reply.status:
            self._enrolment.failed(f"register: {reply.response.text}", now)
            return
        https_only = self._link.origin.tls
        match self._enrolment.take(reply.response, https_only=https_only, now=now, wall=self._wall()):
            case Authorized():
                # a poll under the key before would go on, and tell us of that key
                self._cancel(Purpose.POLL)
                self._poll.close(forget=True)
                self._poll.at_once(now)
                self._expiry.forget()
                self._updates.want(now)
            case KeyExpired():
                self._tell_expired()
            case _:
                pass

    def _finish_poll(self, reply: Reply, now: float) -> None:
        self._last_error = self._poll.ended(reply.response, now)
        if reply.status == 404:
            self._doubt()
        if reply.status >= 500:
            self._link.drop(self._last_error, now)

    def _finish_update(self, reply: Reply, now: float) -> None:
        self._updates.answered(reply.status, reply.headers, now, self._wall())
        if reply.status == 200:
            self._events.append(events.HostTold())
        else:
            self._last_error = f"update: got status {reply.status}, want 200: {reply.response.text}"
        if reply.status == 404:
            self._cancel(Purpose.POLL)
            self._poll.failed(self._last_error, now)
            self._doubt()

    def _doubt(self) -> None:
        """The server says that it does not know our node key."""
        if self._login.may_poll:
            self._cancel(Purpose.REGISTER)  # a renewal would be of no use
            self._login.doubt()

    def _read_poll(self, now: float, data: bytes = b"") -> None:
        """Take what has come of the poll; a message that cannot be read ends it."""
        try:
            for message in self._poll.read(now, data):
                if (ping := message.response.ping_request) is not None:
                    self._take_ping(ping, now)
                if message.delta is not None and (message.delta.self_node or message.snapshot):
                    self._look_at_expiry(now)
        except ControlError as error:
            self._last_error = f"map poll: {error}"
            self._cancel(Purpose.POLL)
            self._poll.failed(self._last_error, now)

    def _look_at_expiry(self, now: float) -> None:
        netmap = self._poll.netmap
        if netmap is None or netmap.self_node.key != self._login.key.public:
            return
        renewable = self._login.credential is not None
        match self._expiry.look(netmap, now, self._wall(), renewable=renewable):
            case Due.RENEWAL:
                self._login.renew(Why.RENEW)
            case Due.EXPIRY:
                self._events.append(events.NodeKeyExpired())
                self._login.renew(Why.EXPIRED)
            case Due.REVIVAL:
                self._login.cancel_renewal()
                self._cancel(Purpose.REGISTER)
            case _:
                pass

    def _tell_expired(self) -> None:
        if not self._expiry.expired:
            self._expiry.expired = True
            self._events.append(events.NodeKeyExpired())

    def _take_ping(self, ping: PingRequest, now: float) -> None:
        answer = self._pings.take(ping, next(self._numbers))
        if isinstance(answer, events.PingRequested):
            self._events.append(answer)
        else:
            self._answer(answer, now)

    def _answer(self, answer: ChannelAnswer | HttpRequest | None, now: float) -> None:
        match answer:
            case ChannelAnswer(method, path, body):
                self._request(Purpose.ANSWER, path, body, now + REPLY_TIME, now, method=method)
            case HttpRequest():
                self._actions.append(events.Fetch(next(self._numbers), answer))
            case _:
                pass

    def _leave(self, *, confirmed: bool, now: float) -> None:
        self._left = True
        self._replies.clear()
        self._link.drop("logged out", now)
        self._events.append(events.LoggedOut(confirmed))

    def _state(self) -> State:
        if self._leaving:
            return State.LOGGED_OUT if self._left else State.LOGGING_OUT
        if self._enrolment.state is not None and (self._expiry.expired or not self._login.may_poll):
            return self._enrolment.state
        if self._poll.is_connected:
            return State.ONLINE
        return State.CONNECTING if self._poll.netmap is None else State.RECONNECTING
