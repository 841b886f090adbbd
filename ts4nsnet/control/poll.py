# SPDX-License-Identifier: BSD-3-Clause
"""The map poll, opened again and again; what is told of it; and what outlives one poll.

    open ─► read ─► NetMapChanged … ─► failed ─► (back-off) ─► open

The netmap stays good between two polls, and so do the addresses under which the server wants to be dialled, and the
session that the next poll may take up. The back-off starts anew with each poll that brings a map.
"""

from collections import deque
from collections.abc import Callable, Iterator
from math import inf

from ts4nsnet.control import events
from ts4nsnet.control.backoff import Backoff, Random, retry_after
from ts4nsnet.control.errors import Malformed
from ts4nsnet.control.http import HttpResponse
from ts4nsnet.control.mapstream import MapMessage, MapStream, Resume
from ts4nsnet.control.messages import MapResponse
from ts4nsnet.control.netmap import NetMap, NetMapDelta
from ts4nsnet.control.wire import read_map_response


class MapPoll:
    """See the module. `told` is where events go.

    Attributes:
        netmap: the last one there was.
        addresses: of the server, the best first; empty: by its name.
        polls, messages: how many there were.
    """

    def __init__(
        self, told: deque[events.Event], random: Random, wall: Callable[[], float], snapshot: bytes, now: float
    ) -> None:
        self.netmap = self._restore(snapshot, wall(), told) if snapshot else None
        self.addresses: tuple[str, ...] = ()
        self.polls = self.messages = 0
        self._told = told
        self._random, self._wall = random, wall
        self._backoff = Backoff(random, now)
        self._stream: MapStream | None = None
        self._resume: Resume | None = None
        self._connected: bool | None = None  # None: neither was told yet
        self._browser_url = ""

    @property
    def is_connected(self) -> bool:
        """Whether a poll runs that has brought a map."""
        return bool(self._connected)

    @property
    def due_at(self) -> float:
        """When the next poll is due."""
        return self._backoff.retry_at

    def next_timer(self) -> float:
        """When to `read` again, or to see whether it `is_silent`."""
        return self._stream.next_timer() if self._stream else inf

    def is_silent(self, now: float) -> bool:
        """Whether the poll has brought nothing for so long that the connection must be dead."""
        return self._stream is not None and now >= self._stream.watchdog_at

    def open(self, now: float) -> Resume | None:
        """A poll begins; what it asks to be taken up."""
        self._stream = MapStream(self.netmap, self._resume, now)
        self.polls += 1
        return self._resume

    def read(self, now: float, data: bytes = b"") -> Iterator[MapMessage]:
        """Take a part of the body, and read the messages that are complete, each after it was told.

        Raises:
            ControlError: the poll is of no use.
        """
        if self._stream is not None and data:
            self._stream.receive(data, now)
        while self._stream is not None and (message := self._stream.next_message(now, self._wall())) is not None:
            self.messages += 1
            self._take(message, now)
            yield message

    def close(self, *, forget: bool = False) -> None:
        """This poll is over; with `forget` the next one starts from nothing."""
        if self._stream is not None:
            self._resume = self._stream.resume or self._resume
        if forget:
            self._resume = None
        self._stream = None

    def at_once(self, now: float) -> None:
        """The next poll need not wait."""
        self._backoff.succeeded(now)

    def failed(self, reason: str, now: float, *, retry_time: float | None = None) -> None:
        """This poll is over and the next one waits; as long as the server asks for, if it does."""
        self.close()
        if retry_time is None:
            self._backoff.failed(now)
        else:
            self._backoff.postponed(retry_time, now)
        self.lost(reason)

    def ended(self, response: HttpResponse, now: float) -> str:
        """The server has ended this poll; in whose words."""
        retry_time = None
        match response.status:
            case 200:
                reason = "the server has ended the map poll"
            case 404:
                reason = f"the server does not know this node: {response.text}"
            case 429:
                reason = f"the server is too busy: {response.text}"
                retry_time = retry_after(response.headers, self._random, self._wall())
            case status:
                reason = f"map poll: got status {status}, want 200: {response.text}"
        self.failed(reason, now, retry_time=retry_time)
        return reason

    def lost(self, reason: str) -> None:
        """Tell that there is no poll, once."""
        if self._connected is not False:
            self._connected = False
            self._told.append(events.Disconnected(reason))

    def _take(self, message: MapMessage, now: float) -> None:
        self._take_hints(message.response)
        if message.netmap is None:
            return
        if not self._connected:
            self._connected = True
            self._backoff.succeeded(now)
            self._told.append(events.Connected())
        self.netmap = message.netmap
        if message.delta is not None and (message.delta or message.snapshot):
            self._told.append(events.NetMapChanged(message.netmap, message.delta, message.snapshot))

    @staticmethod
    def _restore(snapshot: bytes, wall: float, told: deque[events.Event]) -> NetMap | None:
        """The netmap of an earlier run."""
        try:
            netmap = NetMap.first(read_map_response(snapshot), wall)
        except Malformed:
            return None
        told.append(events.NetMapChanged(netmap, NetMapDelta.between(None, netmap)))
        return netmap

    def _take_hints(self, response: MapResponse) -> None:
        """What counts in keep-alives too."""
        if response.dial_plan is not None:
            best_first = sorted(response.dial_plan, key=lambda candidate: -candidate.priority)
            self.addresses = tuple(str(candidate.address) for candidate in best_first)
        if response.pop_browser_url and response.pop_browser_url != self._browser_url:
            self._browser_url = response.pop_browser_url
            self._told.append(events.BrowserUrlReceived(self._browser_url))
