# SPDX-License-Identifier: BSD-3-Clause
"""A keeper's loop for tests: calls what is watched."""

import select
from collections.abc import Callable

TIME_LIMIT = 10.0


class Loop:
    """Calls what is watched, until nothing is."""

    def __init__(self) -> None:
        self.watched: dict[int, Callable[[], object]] = {}
        self.changes = 0

    def watch(self, fd: int, called: Callable[[], object] | None) -> None:
        if called is None:
            self.watched.pop(fd, None)
        else:
            self.watched[fd] = called

    def changed(self) -> None:
        self.changes += 1

    def run(self) -> None:
        while self.watched:
            ready, _, _ = select.select(list(self.watched), [], [], TIME_LIMIT)
            assert ready, "nothing happens"
            for fd in ready:
                self.watched.get(fd, lambda: None)()
