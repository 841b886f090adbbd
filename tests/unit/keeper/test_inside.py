# SPDX-License-Identifier: BSD-3-Clause
"""Netns children that do not even get inside; what they do there is in tests/system/test_keeper.py."""

import sys
from pathlib import Path

import pytest

from tests.unit.keeper.loop import Loop
from ts4nsnet.keeper.inside import Inside
from ts4nsnet.netns import NetnsError, Target


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
