# SPDX-License-Identifier: BSD-3-Clause
"""Netns children that do not even get inside; what they do there is in tests/system/test_keeper.py."""

import select
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ts4nsnet.keeper.inside import Inside
from ts4nsnet.netns import NetnsError, Target

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


def test_a_child_that_ends_at_once_is_told_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho last words >&2; exit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    loop = Loop()
    inside = Inside(Target(7), "tap0", loop.watch, loop.changed)
    inside.start()
    loop.run()  # ends when the child is reaped
    assert loop.changes == 1
    assert inside.tun is None
    assert not inside.is_closed_off
    assert isinstance(inside.error, NetnsError)
    assert str(inside.error).startswith(
        "waiting for the netns child (process 7): it ended with status 3: last words; please report this"
    )
    inside.close()


def test_a_child_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    loop = Loop()
    with pytest.raises(NetnsError, match="starting the netns child"):
        Inside(Target(7), "tap0", loop.watch, loop.changed).start()
    assert loop.watched == {}
