# SPDX-License-Identifier: BSD-3-Clause
"""What the server shall know of us, and when to tell it.

An update is due when something has changed, after registering, and every few minutes: some servers delete a node
without a word, keep its poll open, and only a request is answered by 404.
"""

from collections.abc import Mapping, Sequence
from math import inf

from ts4nsnet.control.backoff import Backoff, Random, fraction, retry_after
from ts4nsnet.control.hostinfo import OwnEndpoint, OwnHostinfo, endpoints_to_json
from ts4nsnet.control.mapstream import MapRequest, Resume
from ts4nsnet.keys import PublicKey

# seconds between two updates that nothing but time asks for, times 0.75 to 1.25; ours
CHECK_TIME = 240.0


class Updates:
    """See the module.

    Attributes:
        taken: how many updates the server has taken.
    """

    def __init__(self, version: int, disco: PublicKey, host: OwnHostinfo, random: Random, now: float) -> None:
        self.taken = 0
        self._version = version
        self._disco = disco
        self._host = host
        self._endpoints: dict[str, object] = {}
        self._random = random
        self._backoff = Backoff(random, now)
        self._wanted_at = now

    @property
    def hostinfo(self) -> dict[str, object]:
        """What the server reads of this host."""
        return self._host.to_json()

    @property
    def due_at(self) -> float:
        """When the next update is due; infinite while one is under way and nothing has changed since."""
        return max(self._wanted_at, self._backoff.retry_at)

    def set_host(self, host: OwnHostinfo, now: float) -> None:
        """Something of the host or its network may have changed."""
        if host != self._host:
            self._host = host
            self._wanted_at = now

    def set_endpoints(self, endpoints: Sequence[OwnEndpoint], now: float) -> None:
        """Where peers may reach us may have changed."""
        lists = endpoints_to_json(endpoints)
        if lists != self._endpoints:
            self._endpoints = lists
            self._wanted_at = now

    def want(self, now: float) -> None:
        """Send an update though nothing has changed, or because the last one was lost."""
        self._wanted_at = now

    def sent(self) -> None:
        """An update is out; who wants another one meanwhile says so."""
        self._wanted_at = inf

    def answered(self, status: int, headers: Mapping[str, str], now: float, wall: float) -> None:
        """The server has taken the update, or has not."""
        if status == 200:
            self.taken += 1
            self._backoff.succeeded(now)
            self._wanted_at = min(self._wanted_at, now + CHECK_TIME * (0.75 + 0.5 * fraction(self._random)))
            return
        self._wanted_at = now
        if status == 429:
            self._backoff.postponed(retry_after(headers, self._random, wall), now)
        else:
            self._backoff.failed(now)

    def request(self, node: PublicKey, *, stream: bool, resume: Resume | None = None) -> bytes:
        """The body of an update, or of a poll, which says the same."""
        return MapRequest(
            self._version, node, self._disco, self.hostinfo, self._endpoints, stream=stream, resume=resume
        ).emit()
