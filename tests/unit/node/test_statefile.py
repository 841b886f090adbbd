# SPDX-License-Identifier: BSD-3-Clause
"""Private folders, atomic writes, locks that end with their holder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ts4nsnet.node.statefile import Folder, StateError, Unsafe, runtime_folder

# --- the folder -----------------------------------------------------------------------------------------------------


def test_a_missing_folder_is_made_and_an_own_one_is_taken(tmp_path: Path) -> None:
    for _ in range(2):
        Folder.open(tmp_path / "run").close()
        assert (tmp_path / "run").stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o755, 0o1777])
def test_a_folder_with_access_for_others_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(Unsafe, match=rf"others have access \(mode {mode & 0o777:o}\); chmod 700 {tmp_path}"):
        Folder.open(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(Unsafe, match="belongs to user 12345, want 0"):
        Folder.open(tmp_path)


def test_a_link_is_followed_only_where_nobody_else_can_put_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(0o700)
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(StateError, match="cannot be used as a folder for state"):
        Folder.open(tmp_path / "link")
    Folder.open(tmp_path / "link", follow_link=True).close()


@pytest.mark.parametrize("name", ["file", "missing/run"])
def test_what_cannot_be_a_folder_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="cannot be used as a folder for state"):
        Folder.open(tmp_path / name)


def test_a_folder_that_is_exchanged_later_is_still_the_old_one(tmp_path: Path) -> None:
    folder = Folder.open(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "run").mkdir(0o777)
    folder.write("x", b"secret")
    assert (tmp_path / "moved/x").read_bytes() == b"secret"
    assert list((tmp_path / "run").iterdir()) == []


def test_the_runtime_folder_is_of_the_session(tmp_path: Path) -> None:
    assert runtime_folder({"XDG_RUNTIME_DIR": str(tmp_path)}) == tmp_path / "ts4nsnet"


@pytest.mark.parametrize("value", [None, "", "relative", "/does/not/exist", "of another user"])
def test_a_useless_session_folder_is_passed_over(tmp_path: Path, value: str | None) -> None:
    if value == "of another user":
        value = str(tmp_path) if os.geteuid() == 0 else "/"
        if os.geteuid() == 0:
            os.chown(tmp_path, 12345, -1)
    uid = os.geteuid()
    found = runtime_folder({} if value is None else {"XDG_RUNTIME_DIR": value})
    assert (
        found == Path("/run/ts4nsnet") if uid == 0 and os.access("/run", os.W_OK) else found.name == f"ts4nsnet-{uid}"
    )


ROOT_WITHOUT_RUN = """
import os
from ts4nsnet.node.statefile import runtime_folder
if os.geteuid() == 0:
    os.seteuid(12345)
print(runtime_folder({}))
"""


def test_who_has_neither_goes_below_tmp() -> None:
    root = Path(__file__).parents[3]
    said = subprocess.run(
        [sys.executable, "-c", ROOT_WITHOUT_RUN], cwd=root, check=True, capture_output=True, text=True
    )
    uid = os.geteuid() or 12345
    assert said.stdout == f"/tmp/ts4nsnet-{uid}\n"  # noqa: S108


# --- files ----------------------------------------------------------------------------------------------------------


def test_what_was_written_is_read(tmp_path: Path) -> None:
    folder = Folder.open(tmp_path)
    assert folder.read("x") is None
    for content in (b"one", b"", b"2" * 300_000):
        folder.write("x", content)
        assert folder.read("x") == content
    assert folder.names() == ["x"]
    assert (tmp_path / "x").stat().st_mode & 0o7777 == 0o1600


def test_what_somebody_left_who_died_while_writing_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "x.tmp").write_bytes(b"hal")
    folder = Folder.open(tmp_path)
    folder.write("x", b"all")
    assert folder.names() == ["x"]


def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    folder = Folder.open(tmp_path)
    (tmp_path / "x").mkdir()  # nothing can be renamed over it
    with pytest.raises(StateError, match="x: cannot be written: Is a directory"):
        folder.write("x", b"new")
    assert folder.names() == ["x"]


def test_a_closed_folder_is_an_error(tmp_path: Path) -> None:
    folder = Folder.open(tmp_path)
    folder.close()
    folder.close()
    with pytest.raises(StateError, match="cannot be read: Bad file descriptor"):
        folder.read("x")


# --- locks ----------------------------------------------------------------------------------------------------------


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    folder, other = Folder.open(tmp_path), Folder.open(tmp_path)
    lock = folder.try_lock("x")
    assert lock
    assert other.try_lock("x") is None
    assert folder.try_lock("x") is None
    lock.release()
    lock.release()
    assert other.try_lock("x")


def test_a_lock_file_is_made_only_if_wanted(tmp_path: Path) -> None:
    folder = Folder.open(tmp_path)
    assert folder.try_lock("x", create=False) is None
    assert folder.names() == []


def test_a_lock_outlives_neither_its_holder_nor_goes_to_its_children(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys; from pathlib import Path; from ts4nsnet.node.statefile import Folder\n"
        "lock = Folder.open(Path(sys.argv[1])).try_lock('x')\n"
        "child = subprocess.Popen(['cat'])\n"  # it ends with our end of the pipe, after the holder
        "print(lock is not None, flush=True); child.wait()"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"True\n"
        folder = Folder.open(tmp_path)
        assert folder.try_lock("x") is None
        holder.kill()
        assert holder.wait() == -signal.SIGKILL
        assert folder.try_lock("x")


def test_a_mark_is_seen_until_it_is_cleared(tmp_path: Path) -> None:
    folder = Folder.open(tmp_path)
    assert not folder.is_marked("x")
    lock = folder.try_lock("x")
    assert lock
    assert not folder.is_marked("x")
    lock.mark(True)
    assert Folder.open(tmp_path).is_marked("x")
    lock.mark(False)
    assert not folder.is_marked("x")


def test_a_lock_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(StateError, match="x: cannot be locked: Is a directory"):
        Folder.open(tmp_path).try_lock("x")
