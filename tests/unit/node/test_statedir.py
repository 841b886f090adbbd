# SPDX-License-Identifier: BSD-3-Clause
"""TS_STATE_DIR: one node, one folder; what stays at the end and what is refused."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ts4nsnet.keys import PrivateKey
from ts4nsnet.node.identity import Binding, Identity, encode
from ts4nsnet.node.statedir import StateDir
from ts4nsnet.node.statefile import InUse, StateError, Unsafe

BINDING = Binding("https://control.example", "ab" * 32, "web")
IDENTITY = Identity(PrivateKey(b"m" * 32), PrivateKey(b"n" * 32), node_id=7, registered=True)
NETMAP = b'{"Node": {}}'


def filled(path: Path) -> None:
    """A folder of a node that has ended."""
    node = StateDir.open(path, BINDING)
    node.save(IDENTITY)
    node.save_netmap(NETMAP)
    node.release()


def test_identity_and_netmap_outlive_the_node(tmp_path: Path) -> None:
    filled(tmp_path)
    node = StateDir.open(tmp_path, BINDING)
    assert node.identity
    assert encode(BINDING, node.identity) == encode(BINDING, IDENTITY)
    assert node.load_netmap() == NETMAP
    assert node.warning == ""


def test_a_first_start_has_nothing(tmp_path: Path) -> None:
    node = StateDir.open(tmp_path / "new", BINDING)
    assert node.identity is None
    assert node.load_netmap() is None
    assert (tmp_path / "new").stat().st_mode & 0o7777 == 0o700


def test_files_are_private(tmp_path: Path) -> None:
    filled(tmp_path)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == dict.fromkeys(
        ["identity.json", "netmap.json", "lock"], 0o600
    )


def test_the_end_is_no_logout(tmp_path: Path) -> None:
    node = StateDir.open(tmp_path, BINDING)
    node.save(IDENTITY)
    node.leaving()
    assert not node.may_logout()
    node.release()
    node.release()
    assert StateDir.open(tmp_path, BINDING).identity


def test_a_logout_that_was_asked_for_removes_identity_and_netmap(tmp_path: Path) -> None:
    filled(tmp_path)
    node = StateDir.open(tmp_path, BINDING)
    node.forget()
    assert node.identity is None
    node.release()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_netmap_that_may_not_be_kept_is_dropped(tmp_path: Path) -> None:
    filled(tmp_path)
    node = StateDir.open(tmp_path, BINDING)
    node.drop_netmap()
    node.drop_netmap()
    assert node.load_netmap() is None
    assert node.identity


def test_what_the_server_is_told_may_change(tmp_path: Path) -> None:
    filled(tmp_path)
    changed = replace(BINDING, credential_hash="", hostname="db", tags=("tag:db",), container="c")
    assert StateDir.open(tmp_path, changed).identity


def test_a_folder_of_another_control_server_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    other = replace(BINDING, control_url="https://other.example")
    with pytest.raises(StateError, match=r"a node of https://control\.example, not of https://other\.example"):
        StateDir.open(tmp_path, other)
    assert StateDir.open(tmp_path, BINDING).identity  # nothing is locked, nothing was changed


def test_a_second_node_is_told_who_holds_the_folder_until_that_one_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from ts4nsnet.node.statedir import StateDir\n"
        "from tests.unit.node.test_statedir import BINDING, IDENTITY\n"
        "node = StateDir.open(Path(sys.argv[1]), BINDING); node.save(IDENTITY)\n"
        "print('up', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"up\n"
        with pytest.raises(InUse, match=rf"{tmp_path}: in use by process {holder.pid}; each node needs a folder"):
            StateDir.open(tmp_path, BINDING)
        holder.kill()
        assert holder.wait() == -signal.SIGKILL
    assert StateDir.open(tmp_path, BINDING).identity


def test_a_holder_without_a_number_is_another_process(tmp_path: Path) -> None:
    node = StateDir.open(tmp_path, BINDING)
    os.truncate(tmp_path / "lock", 0)  # as after its start on a full disk
    with pytest.raises(InUse, match="in use by another process"):
        StateDir.open(tmp_path, BINDING)
    node.release()


@pytest.mark.parametrize("name", ["identity.json", "."])
def test_access_for_others_is_refused_with_the_cure(tmp_path: Path, name: str) -> None:
    filled(tmp_path)
    (tmp_path / name).chmod(0o750)
    with pytest.raises(Unsafe, match=r"others have access \(mode 750\); chmod [67]00"):
        StateDir.open(tmp_path, BINDING)
    assert (tmp_path / "identity.json").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("name", ["identity.json", "."])
def test_what_belongs_to_another_user_is_refused(tmp_path: Path, name: str) -> None:
    filled(tmp_path)
    os.chown(tmp_path / name, 12345, -1)
    with pytest.raises(Unsafe, match="belongs to user 12345, want 0"):
        StateDir.open(tmp_path, BINDING)


def test_a_netmap_with_access_for_others_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "netmap.json").chmod(0o644)
    with pytest.raises(Unsafe):
        StateDir.open(tmp_path, BINDING).load_netmap()


@pytest.mark.parametrize("spoil", [lambda _: b"", lambda data: data[:99], lambda data: b"\xff" + data])
def test_a_torn_identity_is_moved_aside_with_a_warning(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    filled(tmp_path)
    path = tmp_path / "identity.json"
    path.write_bytes(spoil(path.read_bytes()))
    node = StateDir.open(tmp_path, BINDING)
    assert node.identity is None
    assert node.warning == f"{path}: file: not a JSON object; not used, kept as identity.json.bad"
    assert (tmp_path / "identity.json.bad").exists()


def test_the_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(0o700)
    (tmp_path / "link").symlink_to("real")
    filled(tmp_path / "link")
    assert (tmp_path / "real/identity.json").exists()
