# SPDX-License-Identifier: BSD-3-Clause
"""The identity journal, step by step: slots, foreign files, full disks; the races are in test_state_orders.py.

Times are arguments; where a test says "at", it is seconds after the start of the starter.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.unit.node.journal import BINDING, IDENTITY, LIMITS, at_once, node_key, running, starter
from ts4nsnet.keys import PrivateKey
from ts4nsnet.node.identity import Binding, encode
from ts4nsnet.node.state import claim, remembered
from ts4nsnet.node.statefile import StateError, Unsafe

# --- one after the other --------------------------------------------------------------------------------------------


def test_the_first_start_is_fresh(tmp_path: Path) -> None:
    found = at_once(tmp_path / "run")
    assert found.identity is None
    assert found.warning == ""
    found.release()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_start_after_a_crash_resumes_the_identity(tmp_path: Path) -> None:
    running(tmp_path).release()  # without forget, as if killed
    found = at_once(tmp_path)
    assert found.identity
    assert encode(BINDING, found.identity) == encode(BINDING, IDENTITY)


def test_what_was_saved_last_is_resumed(tmp_path: Path) -> None:
    first = running(tmp_path)
    first.save(replace(IDENTITY, node_key=PrivateKey(b"2" * 32), old_node_key=IDENTITY.node_key))
    first.release()
    assert node_key(at_once(tmp_path)) == PrivateKey(b"2" * 32).private_bytes()


def test_nothing_remains_of_a_node_that_the_server_has_removed(tmp_path: Path) -> None:
    owner = running(tmp_path)
    owner.leaving()
    assert owner.may_logout()
    owner.forget()
    owner.release()
    owner.release()
    assert list(tmp_path.iterdir()) == []


def test_files_are_private_and_not_for_cleaners(tmp_path: Path) -> None:
    running(tmp_path / "run")
    assert (tmp_path / "run").stat().st_mode & 0o7777 == 0o700
    modes = {path.suffix: path.stat().st_mode & 0o7777 for path in (tmp_path / "run").iterdir()}
    assert modes[".json"] == modes[".owner"] == 0o1600
    assert {mode & 0o777 for mode in modes.values()} == {0o600}


@pytest.mark.parametrize(
    "other",
    [
        replace(BINDING, control_url="https://other.example"),
        replace(BINDING, credential_hash="cd" * 32),
        replace(BINDING, hostname="db"),
        replace(BINDING, tags=()),
        replace(BINDING, container=""),
    ],
)
def test_another_binding_is_another_node(tmp_path: Path, other: Binding) -> None:
    running(tmp_path).release()
    assert node_key(at_once(tmp_path, other)) is None
    assert node_key(at_once(tmp_path)) is not None


# --- the owner lives ------------------------------------------------------------------------------------------------


def test_a_starter_takes_over_from_a_leaving_owner(tmp_path: Path) -> None:
    owner, new = running(tmp_path), starter(tmp_path)
    owner.leaving()
    assert new.step(0.0) is None
    assert not owner.may_logout()
    assert new.step(0.01) is None
    owner.release()
    found = new.step(0.02)
    assert node_key(found) == IDENTITY.node_key.private_bytes()
    assert found
    assert found.may_logout()


def test_an_owner_that_leaves_while_it_is_watched_is_taken_over(tmp_path: Path) -> None:
    owner, new = running(tmp_path), starter(tmp_path)
    assert new.step(0.0) is None
    owner.leaving()
    assert new.step(0.29) is None
    assert not owner.may_logout()
    owner.release()
    assert node_key(new.step(2.29)) == IDENTITY.node_key.private_bytes()


def test_a_logout_that_has_begun_is_waited_for(tmp_path: Path) -> None:
    owner, new = running(tmp_path), starter(tmp_path)
    assert owner.may_logout()  # says leaving() by itself
    for now in (0.0, 0.31, 2.29):
        assert new.step(now) is None
    owner.forget()
    assert new.step(2.29) is None
    owner.release()
    assert node_key(new.step(2.29)) is None
    assert [path.name.rpartition("-")[2] for path in tmp_path.glob("*.owner")] == ["0.owner"]


def test_a_logout_that_the_server_has_not_confirmed_leaves_the_identity(tmp_path: Path) -> None:
    owner, new = running(tmp_path), starter(tmp_path)
    assert owner.may_logout()
    assert new.step(0.0) is None
    owner.release()
    assert node_key(new.step(0.01)) == IDENTITY.node_key.private_bytes()


@pytest.mark.parametrize("logging_out", [False, True])
def test_an_owner_that_hangs_is_not_waited_for_longer(tmp_path: Path, logging_out: bool) -> None:
    owner, new = running(tmp_path), starter(tmp_path)
    owner.leaving()
    assert not logging_out or owner.may_logout()
    assert new.step(0.0) is None
    assert new.step(2.29) is None
    found = new.step(2.3)
    assert node_key(found) is None
    assert owner.may_logout()  # again, when the claim is given up


def test_two_containers_started_alike_have_a_slot_each(tmp_path: Path) -> None:
    owner, new = running(tmp_path), starter(tmp_path)
    assert new.step(0.0) is None
    assert new.step(0.299) is None
    found = new.step(0.3)
    assert node_key(found) is None
    assert found
    found.release()
    assert len(list(tmp_path.glob("*.owner"))) == 1
    owner.release()


def test_each_of_many_slots_is_resumed_once(tmp_path: Path) -> None:
    owners = []
    for number in range(30):
        found = starter(tmp_path).step(0.3)
        assert node_key(found) is None
        assert found
        found.save(replace(IDENTITY, node_id=number))
        owners.append(found)
    for number in (21, 4, 13):
        owners[number].release()
    resumed = [at_once(tmp_path).identity for _ in range(3)]
    assert [identity.node_id for identity in resumed if identity] == [4, 13, 21]
    assert starter(tmp_path).step(0.0) is None


def test_a_freed_slot_is_taken_again(tmp_path: Path) -> None:
    first, second = running(tmp_path), starter(tmp_path).step(0.3)
    assert second
    second.save(IDENTITY)
    first.forget()
    first.release()
    third = starter(tmp_path)
    assert third.step(0.0) is None  # the second may be leaving, and this its restart
    assert third.step(0.3)
    assert sorted(path.name[-7:] for path in tmp_path.glob("*.owner")) == ["0.owner", "1.owner"]


def test_an_owner_in_any_slot_may_be_the_one_that_leaves(tmp_path: Path) -> None:
    running(tmp_path)
    second, new = starter(tmp_path).step(0.3), starter(tmp_path)
    assert second
    second.save(replace(IDENTITY, node_id=2))
    second.leaving()
    assert new.step(0.0) is None
    assert not second.may_logout()
    second.release()
    found = new.step(0.01)
    assert found
    assert found.identity
    assert found.identity.node_id == 2


def test_one_of_two_starters_takes_over_and_the_other_goes_on(tmp_path: Path) -> None:
    owner, one, other = running(tmp_path), starter(tmp_path), starter(tmp_path)
    owner.leaving()
    assert one.step(0.0) is None
    assert other.step(0.0) is None
    owner.release()
    assert node_key(one.step(0.01)) is not None
    assert other.step(0.02) is None
    assert node_key(other.step(0.31)) is None


def test_a_claim_that_another_start_was_faster_than_is_given_back(tmp_path: Path) -> None:
    owner, new = running(tmp_path), starter(tmp_path)
    owner.leaving()
    assert new.step(0.0) is None
    owner.release()
    faster = at_once(tmp_path)
    assert faster.identity
    assert new.step(0.31)  # a slot of its own
    assert faster.may_logout()


def test_a_claim_hits_the_faster_start_if_that_one_is_leaving_as_well(tmp_path: Path) -> None:
    owner, new = running(tmp_path), starter(tmp_path)
    owner.leaving()
    assert new.step(0.0) is None
    owner.release()
    faster = at_once(tmp_path)
    faster.leaving()
    assert not faster.may_logout()
    assert new.step(0.31) is None
    faster.release()
    assert node_key(new.step(0.32)) is not None


def test_a_starter_that_gives_up_gives_its_claim_back(tmp_path: Path) -> None:
    owner, new = running(tmp_path), starter(tmp_path)
    owner.leaving()
    assert new.step(0.0) is None
    assert not owner.may_logout()
    new.close()
    assert owner.may_logout()


def test_an_owner_without_an_identity_leaves_an_empty_slot(tmp_path: Path) -> None:
    owner, new = at_once(tmp_path), starter(tmp_path)
    owner.leaving()
    assert new.step(0.0) is None
    owner.release()
    found = new.step(0.01)
    assert node_key(found) is None
    assert found
    found.release()
    assert list(tmp_path.iterdir()) == []


# --- files that are not ours ----------------------------------------------------------------------------------------


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _torn(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(4096))


def _of_another_binding(path: Path) -> None:
    path.write_bytes(encode(replace(BINDING, hostname="other"), IDENTITY))


def _newer(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"version": 1', b'"version": 2'))


def _readable(path: Path) -> None:
    path.chmod(0o644)


def _link(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def _of_another_user(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, 12345, -1)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_empty, "not a JSON object"),
        (_torn, "not a JSON object"),
        (_garbage, "not a JSON object"),
        (_of_another_binding, "of another start"),
        (_newer, "got 2, want 1"),
        (_readable, "others have access"),
        (_link, "symbolic links"),
        (_fifo, "not a file"),
        (_of_another_user, "belongs to user 12345"),
    ],
)
def test_a_file_that_is_not_ours_is_moved_aside_with_a_warning(
    tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    owner = running(tmp_path)
    (path,) = tmp_path.glob("*.json")
    owner.release()
    spoil(path)
    found = at_once(tmp_path)
    assert found.identity is None
    assert reason in found.warning
    assert str(path) in found.warning
    assert not path.exists()
    assert os.path.lexists(path.with_suffix(".bad"))
    found.save(IDENTITY)
    found.release()
    assert at_once(tmp_path).identity


def test_names_of_others_do_not_matter(tmp_path: Path) -> None:
    for name in (f"{BINDING.name}-x.json", f"{BINDING.name}-1.json.tmp", "0.owner", f"{BINDING.name}-9999999.owner"):
        (tmp_path / name).touch(0o600)
    owner = running(tmp_path)
    owner.release()
    assert at_once(tmp_path).identity


def test_an_error_of_the_disk_frees_what_was_locked(tmp_path: Path) -> None:
    owner = running(tmp_path)
    (path,) = tmp_path.glob("*.json")
    owner.release()
    path.with_suffix(".bad").mkdir()  # nothing can be moved there
    _torn(path)
    new = starter(tmp_path)
    with pytest.raises(StateError, match="cannot be moved aside"):
        new.step(0.0)
    path.with_suffix(".bad").rmdir()
    assert at_once(tmp_path).warning


FULL = """
import resource, sys
from pathlib import Path
from tests.unit.node.journal import BINDING, IDENTITY, at_once
from ts4nsnet.node.identity import encode
from ts4nsnet.node.statefile import StateError
owner = at_once(Path(sys.argv[1]))
owner.save(IDENTITY)
for size in range(len(encode(BINDING, IDENTITY))):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        owner.save(IDENTITY)
    except StateError as error:
        assert "cannot be written: File too large" in str(error), error
    else:
        raise AssertionError(size)
    owner.leaving()
"""


def test_a_full_disk_leaves_what_was_saved_before(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], cwd=Path(__file__).parents[3], check=True, timeout=60)
    assert list(tmp_path.glob("*.tmp")) == []
    assert node_key(at_once(tmp_path)) == IDENTITY.node_key.private_bytes()


def test_a_journal_that_is_gone_is_an_error_of_the_state(tmp_path: Path) -> None:
    owner = at_once(tmp_path / "run")
    for path in (tmp_path / "run").iterdir():
        path.unlink()
    (tmp_path / "run").rmdir()
    with pytest.raises(StateError, match="cannot be written: No such file"):
        owner.save(IDENTITY)
    assert owner.may_logout()
    owner.release()


def test_nothing_ever_shows_a_key(tmp_path: Path) -> None:
    owner = running(tmp_path)
    shown = repr((IDENTITY, owner, owner.warning))
    for key in (IDENTITY.machine_key, IDENTITY.node_key):
        assert repr(key.private_bytes()) not in shown
        assert key.private_bytes().hex() not in shown


# --- claim, on trio -------------------------------------------------------------------------------------------------


async def test_claim_is_at_once_where_nobody_is(tmp_path: Path) -> None:
    found = await claim(tmp_path, BINDING, limits=LIMITS)
    assert found.identity is None
    assert found.load_netmap() is None
    found.save_netmap(b"{}")
    found.drop_netmap()
    found.release()
    assert os.listdir(tmp_path) == []


async def test_claim_takes_the_next_slot_after_the_watch_time(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    running(tmp_path)
    began_at = trio.current_time()
    found = await claim(tmp_path, BINDING, limits=LIMITS)
    assert found.identity is None
    assert trio.current_time() - began_at == pytest.approx(LIMITS.watch_time, abs=2 * LIMITS.poll_time)
    assert autojump_clock.autojump_threshold == 0


async def test_claim_takes_over_within_a_look(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    owner = running(tmp_path)

    async def end() -> None:
        owner.leaving()
        await trio.sleep(0.2)
        assert not owner.may_logout()
        owner.release()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end)
        found = await claim(tmp_path, BINDING, limits=LIMITS)
        assert found.identity
        assert trio.current_time() < 0.2 + 2 * LIMITS.poll_time


async def test_a_cancelled_claim_holds_nothing(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    owner = running(tmp_path)
    owner.leaving()
    with trio.move_on_after(0.1) as scope:
        await claim(tmp_path, BINDING, limits=LIMITS)
    assert scope.cancelled_caught
    assert owner.may_logout()


async def test_claim_refuses_a_folder_that_others_can_read(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o711)  # noqa: S103
    with pytest.raises(Unsafe, match="chmod 700"):
        await claim(tmp_path, BINDING)


# --- without an environment -----------------------------------------------------------------------------------------


def test_a_container_that_lost_its_environment_is_remembered(tmp_path: Path) -> None:
    nodes = [running(tmp_path), running(tmp_path, replace(BINDING, container="other"))]
    assert remembered(tmp_path, BINDING.container) == (BINDING,)
    nodes[0].release()
    assert remembered(tmp_path, BINDING.container) == (BINDING,)
    assert remembered(tmp_path, "unknown") == ()
    (tmp_path / "torn.json").touch(0o600)
    assert remembered(tmp_path, BINDING.container) == (BINDING,)
