# SPDX-License-Identifier: BSD-3-Clause
"""The folders of nodes: names, who is alive, what remains and for how long."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ts4nsnet.keeper.folder import (
    KEPT_STALE_FOLDERS,
    About,
    FolderError,
    NodeFolder,
    all_nodes,
    remove_dead_socket,
    remove_orphan,
    socket_address,
)

ROOT = Path(__file__).parents[3]
ABOUT = About("web", "0123456789ab", keeper_pid=11, node_pid=12, started_at=1.8e9)


def names(runtime: Path, *, alive: bool) -> list[str]:
    return [entry.name for entry in all_nodes(runtime) if entry.alive is alive]


def fail(runtime: Path, name: str) -> Path:
    """A node that ended with an error; its folder."""
    folder = NodeFolder.create(runtime, name)
    (folder.path / "log").write_text("why")
    folder.close()
    return folder.path


# --- making one -----------------------------------------------------------------------------------------------------


def test_a_folder_is_named_as_the_host_and_only_we_can_look_into_it(tmp_path: Path) -> None:
    runtime = tmp_path / "ts4nsnet"
    folder = NodeFolder.create(runtime, "web")
    assert (folder.name, folder.path) == ("web", runtime / "nodes/web")
    for path in (runtime, folder.path.parent, folder.path):
        assert path.stat().st_mode & 0o7777 == 0o700
    assert (folder.path / "lock").stat().st_mode & 0o7777 == 0o1600


def test_a_name_in_use_gets_a_number(tmp_path: Path) -> None:
    folders = [NodeFolder.create(tmp_path, "web") for _ in range(3)]
    assert [folder.name for folder in folders] == ["web", "web-2", "web-3"]
    folders[1].remove()
    assert NodeFolder.create(tmp_path, "web").name == "web-2"


def test_a_relative_runtime_folder_is_meant_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert NodeFolder.create(Path("run"), "web").path == tmp_path / "run/nodes/web"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "a-", "A", "a.b", "a" * 64, "a\n", "ä"])
def test_what_is_no_label_is_no_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(FolderError, match="want a DNS label in lower case"):
        NodeFolder.create(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o701, 0o750, 0o1777])
def test_a_runtime_folder_with_access_for_others_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(FolderError, match=f"that nobody else has access to.*chmod 700 {tmp_path}"):
        NodeFolder.create(tmp_path, "web")
    with pytest.raises(FolderError, match="that nobody else has access to"):
        all_nodes(tmp_path)


def test_a_link_is_no_runtime_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(0o700)
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(FolderError, match="want a folder of user"):
        NodeFolder.create(tmp_path / "link", "web")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_runtime_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(FolderError, match="of user 12345; remove it"):
        NodeFolder.create(tmp_path, "web")


def test_what_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"missing/run.*: cannot be used: No such file or directory"):
        NodeFolder.create(tmp_path / "missing/run", "web")


def test_a_folder_that_cannot_be_emptied_is_let_go_again(tmp_path: Path) -> None:
    inside = tmp_path / "nodes/web/folder"
    inside.mkdir(parents=True, mode=0o700)
    inside.parent.parent.chmod(0o700)
    with pytest.raises(FolderError, match="folder: cannot be used: Is a directory"):
        NodeFolder.create(tmp_path, "web")
    inside.rmdir()
    assert NodeFolder.create(tmp_path, "web").name == "web"


# --- about ----------------------------------------------------------------------------------------------------------


def test_what_a_folder_says_of_its_node_is_read_by_others(tmp_path: Path) -> None:
    folder = NodeFolder.create(tmp_path, "web")
    assert [entry.about for entry in all_nodes(tmp_path)] == [About()]
    for about in (About("web"), ABOUT):
        folder.write_about(about)
        assert [entry.about for entry in all_nodes(tmp_path)] == [about]
    assert (folder.path / "about.json").stat().st_mode & 0o7777 == 0o1600


def test_about_of_a_folder_that_is_gone_cannot_be_written(tmp_path: Path) -> None:
    folder = NodeFolder.create(tmp_path, "web")
    folder.remove()
    with pytest.raises(FolderError, match="No such file"):
        folder.write_about(ABOUT)


@given(st.builds(About, st.text(), st.text(), st.integers(), st.integers(), st.floats(allow_nan=False)))
def test_about_is_read_as_it_was_written(about: About) -> None:
    assert About.from_json(about.to_json()) == about


@pytest.mark.parametrize(
    ("data", "about"),
    [
        (b"", About()),
        (b"[1]", About()),
        (b"\xff", About()),
        (b"[" * 100_000, About()),
        (ABOUT.to_json()[:-5], About()),
        (b'{"hostname": "web", "keeper_pid": "x", "node_pid": true, "started_at": null, "more": 1}', About("web")),
    ],
)
def test_about_stands_whatever_it_finds(data: bytes, about: About) -> None:
    assert About.from_json(data) == about


# --- alive and stale ------------------------------------------------------------------------------------------------


def test_without_a_runtime_folder_there_are_no_nodes(tmp_path: Path) -> None:
    assert all_nodes(tmp_path / "ts4nsnet") == []
    assert all_nodes(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


HOLDER = """
import subprocess, sys
from pathlib import Path
from ts4nsnet.keeper.folder import NodeFolder
folder = NodeFolder.create(Path(sys.argv[1]), "web")
child = subprocess.Popen(["cat"])  # it ends with our end of the pipe, after the holder
print(folder.name, flush=True)
child.wait()
"""


def test_a_node_is_alive_until_its_keeper_ends_in_whatever_way(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"web\n"
        assert names(tmp_path, alive=True) == ["web"]
        holder.kill()
        assert holder.wait() == -signal.SIGKILL
        assert names(tmp_path, alive=False) == ["web"]
        assert NodeFolder.create(tmp_path, "web").name == "web"


def test_an_orderly_end_leaves_nothing(tmp_path: Path) -> None:
    folder = NodeFolder.create(tmp_path, "web")
    folder.write_about(ABOUT)
    (folder.path / "log").write_text("bye")
    folder.remove()
    assert list((tmp_path / "nodes").iterdir()) == []
    NodeFolder.create(tmp_path, "web").write_about(ABOUT)
    folder.remove()
    assert names(tmp_path, alive=True) == ["web"]


def test_after_an_error_the_log_stays_until_the_next_start_of_that_name(tmp_path: Path) -> None:
    path = fail(tmp_path, "web")
    NodeFolder.create(tmp_path, "db")
    assert (path / "log").read_text() == "why"
    folder = NodeFolder.create(tmp_path, "web")
    assert sorted(path.iterdir()) == [folder.path / "lock"]


def test_of_what_ended_with_an_error_the_newest_are_kept(tmp_path: Path) -> None:
    alive = NodeFolder.create(tmp_path, "alive")
    os.utime(alive.path, (0, 0))
    for number in range(KEPT_STALE_FOLDERS + 2):
        os.utime(fail(tmp_path, f"n{number}"), (number + 1, number + 1))
    NodeFolder.create(tmp_path, "web")
    assert names(tmp_path, alive=True) == ["alive", "web"]
    assert names(tmp_path, alive=False) == [f"n{number + 2}" for number in range(KEPT_STALE_FOLDERS)]


def test_an_orphan_is_removed_by_its_node_unless_somebody_has_it(tmp_path: Path) -> None:
    path = fail(tmp_path, "web")
    folder = NodeFolder.create(tmp_path, "web")
    remove_orphan(path)
    assert names(tmp_path, alive=True) == ["web"]
    folder.close()
    remove_orphan(path)
    remove_orphan(path)
    assert not path.exists()


def test_what_is_no_nodes_folder_is_passed_by(tmp_path: Path) -> None:
    NodeFolder.create(tmp_path, "web")
    (tmp_path / "nodes/file").touch()
    (tmp_path / "nodes/empty").mkdir()
    assert names(tmp_path, alive=True) == ["web"]
    assert names(tmp_path, alive=False) == []
    assert NodeFolder.create(tmp_path, "db").name == "db"


LIFE = """
import sys
from pathlib import Path
from ts4nsnet.keeper.folder import About, NodeFolder
for _ in range(200):
    folder = NodeFolder.create(Path(sys.argv[1]), "web")
    marker = folder.path / "mine"
    marker.touch(exist_ok=False)  # nobody else is in it
    folder.write_about(About(folder.name))
    marker.unlink()
    folder.remove()
"""


def test_starts_and_ends_at_the_same_time_do_not_meet(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIFE, str(tmp_path)]
    lives = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for life in lives:
        _, said = life.communicate(timeout=60)
        assert said == ""
    assert all_nodes(tmp_path) == []
    assert list((tmp_path / "nodes").iterdir()) == []


def test_who_looks_is_in_nobodys_way(tmp_path: Path) -> None:
    program = LIFE.replace("marker = ", 'assert folder.name == "web"; marker = ')
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT) as life:
        while life.poll() is None:
            assert {entry.name for entry in all_nodes(tmp_path)} <= {"web"}
        assert life.returncode == 0


# --- the socket's address -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 107, 108, 200])
def test_a_socket_may_have_any_path(tmp_path: Path, length: int) -> None:
    folder = tmp_path / ("x" * max(1, length - len(str(tmp_path)) - 3))
    folder.mkdir()
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        with socket_address(path) as address:
            assert (address == str(path)) is (len(str(path)) <= 107)
            server.bind(address)
        server.listen()
        assert path.is_socket()
        with socket_address(path) as address:
            client.connect(address)


@pytest.mark.parametrize("length", [1, 200])
def test_a_socket_without_a_listener_is_removed(tmp_path: Path, length: int) -> None:
    folder = tmp_path / ("x" * length)
    folder.mkdir()
    path = folder / "s"
    with socket.socket(socket.AF_UNIX) as server:
        with socket_address(path) as address:
            server.bind(address)
        server.listen(0)
        remove_dead_socket(path)
        remove_dead_socket(path)  # there is no room for a second connection
        assert path.is_socket()
    remove_dead_socket(path)
    assert not path.exists()
    remove_dead_socket(path)


def test_what_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        remove_dead_socket(tmp_path / name)
        assert (tmp_path / name).is_file()
