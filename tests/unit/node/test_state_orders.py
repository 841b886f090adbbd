# SPDX-License-Identifier: BSD-3-Clause
"""The identity journal in every order of events: SIGKILL before every system call, owners and starters interleaved."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.node.journal import IDENTITY, LIMITS, at_once, node_key, running, starter
from tests.unit.node.stepping import Actors, killed_before
from ts4nsnet.keys import PrivateKey
from ts4nsnet.node.identity import Identity
from ts4nsnet.node.state import Claim

# --- killed ---------------------------------------------------------------------------------------------------------

OWNER = """
import sys
from pathlib import Path
from tests.unit.node.journal import IDENTITY, at_once
def reached(step):
    if step == sys.argv[2]:
        print("reached", flush=True)
        sys.stdin.read()
owner = at_once(Path(sys.argv[1]))
reached("claimed")
owner.save(IDENTITY)
reached("running")
owner.leaving()
reached("leaving")
assert owner.may_logout()
reached("logging out")
owner.forget()
reached("forgotten")
"""


@pytest.mark.parametrize(
    ("step", "resumed"),
    [("claimed", False), ("running", True), ("leaving", True), ("logging out", True), ("forgotten", False)],
)
def test_sigkill_and_a_new_start(tmp_path: Path, step: str, resumed: bool) -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", OWNER, str(tmp_path), step]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout
        assert owner.stdout.readline() == b"reached\n"
        early = starter(tmp_path)
        assert early.step(0.0) is None  # it lives
        early.close()
        owner.kill()
        assert owner.wait() == -signal.SIGKILL
    found = at_once(tmp_path)
    assert (node_key(found) is not None) is resumed
    assert found.warning == ""


def test_an_owner_killed_before_any_of_its_system_calls_leaves_all_or_nothing(tmp_path: Path) -> None:
    def live(report: int) -> None:
        owner = at_once(path)
        owner.save(IDENTITY)
        os.write(report, b"s")
        owner.leaving()
        assert owner.may_logout()
        owner.forget()
        os.write(report, b"f")
        owner.release()

    ended, call = False, 0
    while not ended:
        path = tmp_path / str(call)
        said, ended = killed_before(call, live)
        found = at_once(path)
        if said == b"s":
            assert found.identity or not list(path.glob("*.json"))  # killed within forget, after the removal
        if said == b"sf":
            assert found.identity is None
        assert found.warning == ""
        if found.identity:
            assert node_key(found) == IDENTITY.node_key.private_bytes()
            found.forget()
        found.release()
        assert list(path.iterdir()) == []
        call += 1
    assert call > 40  # the whole life


def test_a_starter_killed_before_any_of_its_system_calls_lets_the_owner_log_out(tmp_path: Path) -> None:
    def start(report: int) -> None:
        assert starter(path).step(0.0) is None
        os.write(report, b"claimed")

    ended, call = False, 0
    while not ended:
        path = tmp_path / str(call)
        owner = running(path)
        owner.leaving()
        said, ended = killed_before(call, start)
        assert owner.may_logout()
        owner.forget()
        owner.release()
        assert list(path.iterdir()) == []
        call += 1
    assert said == b"claimed"


# --- in every order -------------------------------------------------------------------------------------------------


class World:
    """Who is alive, as the control server sees it: keys of nodes, each of which may be there once."""

    def __init__(self) -> None:
        self.alive: list[bytes] = []
        self.most_alive = 0
        self.removed: set[bytes] = set()
        self.taken_over = 0

    def live(self, found: Claim, resumed: bool) -> None:
        """A node's life after its claim: `save`, and the end."""
        if found.identity is None:
            found.save(Identity(PrivateKey(os.urandom(32)), PrivateKey(os.urandom(32))))
        elif resumed:
            self.taken_over += 1
        key = node_key(found)
        assert key
        assert key not in self.alive, "an identity lives twice"
        assert key not in self.removed, "an identity lives after its removal"
        self.alive.append(key)
        self.most_alive = max(self.most_alive, len(self.alive))
        if resumed:  # may_logout says it as well
            found.leaving()
        may = found.may_logout()
        self.alive.remove(key)
        if may:
            self.removed.add(key)
            found.forget()
        found.release()


def start(world: World, path: Path, step_time: float) -> Callable[[], None]:
    """An actor that starts, lives and ends; its clock goes on by `step_time` with each look."""

    def play() -> None:
        new, now = starter(path, limits=replace(LIMITS, logout_time=inf)), 0.0
        while (found := new.step(now)) is None:
            now += step_time
        world.live(found, resumed=True)

    return play


@pytest.mark.parametrize("step_time", [0.0, 0.2], ids=["with patience", "in a hurry"])
@given(schedule=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 30)), min_size=5, max_size=60))
def test_nobody_is_lost_or_lives_twice_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, schedule: list[tuple[int, int]], step_time: float
) -> None:
    world, path = World(), tmp_path_factory.mktemp("journal")
    owner = running(path)
    lives = [lambda: world.live(owner, resumed=False), *(start(world, path, step_time) for _ in range(3))]
    actors = Actors(*lives)
    try:
        for actor, calls in schedule:
            if actor in actors.running:
                actors.run(actor, calls)
        actors.finish()
    finally:
        actors.end()
    assert world.alive == []
    assert world.most_alive == 1 or step_time
    # each of the four has logged out, or was taken over by one that was started later
    assert len(world.removed) + world.taken_over == len(lives)
    assert list(path.iterdir()) == []
