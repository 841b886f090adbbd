# SPDX-License-Identifier: BSD-3-Clause
"""Starts and nodes for the tests of the identity journal. Times are seconds after the start of a starter."""

from pathlib import Path

from ts4nsnet.keys import PrivateKey
from ts4nsnet.node.identity import Binding, Identity
from ts4nsnet.node.state import Claim, JournalClaim, Limits, Starter
from ts4nsnet.node.statefile import Folder

BINDING = Binding("https://control.example", "ab" * 32, "web", ("tag:web",), "0123456789ab")
LIMITS = Limits(watch_time=0.3, logout_time=2.0, poll_time=0.01)
IDENTITY = Identity(PrivateKey(b"m" * 32), PrivateKey(b"n" * 32), node_id=7, stable_id="n7", registered=True)


def starter(path: Path, binding: Binding = BINDING, limits: Limits = LIMITS) -> Starter:
    """One that starts at 0."""
    return Starter(Folder.open(path), binding, 0.0, limits)


def at_once(path: Path, binding: Binding = BINDING) -> JournalClaim:
    """The claim of a start that has nothing to wait for."""
    found = starter(path, binding).step(0.0)
    assert found
    return found


def running(path: Path, binding: Binding = BINDING) -> JournalClaim:
    """The claim of a node that runs."""
    found = at_once(path, binding)
    found.save(IDENTITY)
    return found


def node_key(found: Claim | None) -> bytes | None:
    """What tells identities apart; None: a fresh one."""
    assert found
    return found.identity.node_key.private_bytes() if found.identity else None
