# SPDX-License-Identifier: BSD-3-Clause
"""The requests that are under way on the session: what each is for, and what has come of its reply."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from math import inf

from ts4nsnet.control.http import MAX_BODY_BYTES, HttpResponse

REPLY_TIME = 60.0  # seconds; ours: a server takes 1 s, and a login that waits for a visit hours


class Purpose(Enum):
    """What a request is for; of the first four one at a time is under way."""

    REGISTER = auto()
    POLL = auto()
    UPDATE = auto()
    LOGOUT = auto()
    ANSWER = auto()  # to a ping


@dataclass(slots=True)
class Reply:
    """A request and what has come of its reply."""

    stream: int
    purpose: Purpose
    give_up_at: float
    status: int = 0  # 0: no head yet
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)

    def add(self, data: bytes) -> None:
        """Keep a part of the body; what is more than 1 MiB is not looked at."""
        if len(self.body) < MAX_BODY_BYTES:
            self.body += data

    @property
    def response(self) -> HttpResponse:
        """The reply, when it has ended."""
        return HttpResponse(self.status, self.headers, bytes(self.body))


class Replies:
    """All of them, by stream."""

    def __init__(self) -> None:
        self._by_stream: dict[int, Reply] = {}

    def __contains__(self, purpose: Purpose) -> bool:
        return self.of(purpose) is not None

    def add(self, stream: int, purpose: Purpose, give_up_at: float) -> None:
        """A request is out."""
        self._by_stream[stream] = Reply(stream, purpose, give_up_at)

    def get(self, stream: int) -> Reply | None:
        """What is under way on this stream."""
        return self._by_stream.get(stream)

    def of(self, purpose: Purpose) -> Reply | None:
        """What is under way for this purpose."""
        return next((reply for reply in self._by_stream.values() if reply.purpose is purpose), None)

    def remove(self, reply: Reply) -> None:
        """It is over."""
        self._by_stream.pop(reply.stream, None)

    def clear(self) -> None:
        """The session is gone."""
        self._by_stream.clear()

    def overdue(self, now: float) -> list[Reply]:
        """Those that should have been answered by now."""
        return [reply for reply in self._by_stream.values() if now >= reply.give_up_at]

    def next_timer(self) -> float:
        """When the first one should have been answered."""
        return min((reply.give_up_at for reply in self._by_stream.values()), default=inf)
