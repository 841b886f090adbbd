# SPDX-License-Identifier: BSD-3-Clause
"""Many timers, each with a name; setting one again replaces it.

A heap of (time, name), where what was replaced or cancelled stays until its time comes and is then ignored.
"""

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

Name = TypeVar("Name", bound=Hashable)


class Timers(Generic[Name]):
    """Named points in time; names must be comparable with each other."""

    def __init__(self) -> None:
        self._at: dict[Name, float] = {}
        self._heap: list[tuple[float, Name]] = []

    def set(self, name: Name, at: float) -> None:
        """Let `name` be due at `at`."""
        self._at[name] = at
        heapq.heappush(self._heap, (at, name))

    def cancel(self, name: Name) -> None:
        """Let `name` not be due; nothing happens if it was not set."""
        self._at.pop(name, None)

    def __contains__(self, name: Name) -> bool:
        return name in self._at

    def next(self) -> float | None:
        """When the first one is due."""
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> Name | None:
        """The first one that is due, which is then no longer set."""
        at = self.next()
        if at is None or at > now:
            return None
        _, name = heapq.heappop(self._heap)
        del self._at[name]
        return name
