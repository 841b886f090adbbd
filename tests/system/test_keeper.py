# SPDX-License-Identifier: BSD-3-Clause
"""Keepers against the real kernel, with a program of the test's in the node's place, and with a node.

Each test has a target of its own. After each test nothing may be left: no fd, no child, no mount.
"""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.keepers import SECRET, TIME_LIMIT, Holder, Kept, ended
from ts4nsnet.netns import Target

STOP_TIME = 2.0  # seconds that any end may take
CARRIED = "ready; worker auto"  # what a node does that has its packets carried
UNMOUNT = ["umount", "--lazy"]
LAST = 2**32 - 1


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    before = _left()
    yield
    assert _left() == before


def _left() -> list[object]:
    return [
        sorted(os.listdir("/proc/self/fd")),
        Path(f"/proc/self/task/{os.getpid()}/children").read_text().split(),
        Path("/proc/self/mountinfo").read_text(),
    ]


@pytest.fixture
def holder() -> Iterator[Holder]:
    with Holder() as process:
        yield process


# --- the start ----------------------------------------------------------------------------------------------------


def test_the_node_gets_what_it_needs(holder: Holder, tmp_path: Path) -> None:
    asks = ({"do": "netns"}, {"do": "memory", "size": 4096}, {"do": "udp"}, {"do": "tun"})
    with Kept(tmp_path, Target(holder.pid), asks=asks).until_ready() as kept:
        netns, memory, udp, tun = kept.seen()
        assert netns[0] == {"id": 0}
        assert netns[1][0].startswith("socket:")
        assert "stderr" in netns[1][1]
        assert memory[:2] == [{"id": 1}, ["/memfd:ts4nsnet-sessions (deleted)"]]
        assert udp[1][0].startswith("socket:")
        assert tun[0] == {"id": 3, "name": "tap0", "vnet_hdr": True, "offload": tun[0]["offload"]}
        assert tun[1] == ["/dev/net/tun"]
        assert "tap0" in holder.links()


def test_the_session_memory_stays_the_same_until_another_size_is_asked_for(holder: Holder, tmp_path: Path) -> None:
    asks = tuple({"do": "memory", "size": size} for size in (4096, 4096, 8192))
    with Kept(tmp_path, Target(holder.pid), asks=asks).until_ready() as kept:
        first, second, third = (inodes for _, _, inodes in kept.seen())
        assert first == second != third


def test_nothing_can_leak_from_the_first_moment_on_and_after_the_end(holder: Holder, tmp_path: Path) -> None:
    def defaults() -> list[tuple[str, str, int]]:
        routes = [json.loads(holder.run("ip", "-j", family, "route"))[0] for family in ("-4", "-6")]
        return [(route["type"], route["dst"], route["metric"]) for route in routes]

    with Kept(tmp_path, Target(holder.pid)).until_ready() as kept:
        assert defaults() == [("unreachable", "default", LAST)] * 2
        kept.exit_fd.close()
        assert kept.wait() == 0
        assert holder.links() == ["lo"]
        assert defaults() == [("unreachable", "default", LAST)] * 2


def test_the_keeper_is_the_process_that_the_tool_has_started(holder: Holder, tmp_path: Path) -> None:
    with Kept(tmp_path, Target(holder.pid)).until_ready() as kept:
        about = json.loads((kept.node_folder / "about.json").read_text())
        assert about["keeper_pid"] == kept.process.pid
        assert about["node_pid"] == kept.child("kept_node")
        assert Path(f"/proc/{kept.process.pid}/comm").read_text() == "ts4nsnet\n"


def test_nothing_of_the_tools_is_kept(holder: Holder, tmp_path: Path) -> None:
    with Kept(tmp_path, Target(holder.pid)).until_ready() as kept:
        for pid in (kept.process.pid, *kept.children()):
            assert Path(f"/proc/{pid}/environ").read_bytes() == b"LC_ALL=C.UTF-8\0"
            fds = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
            assert "/memfd:leak (deleted)" not in fds
        assert os.readlink(f"/proc/{kept.process.pid}/cwd") == "/"


def test_no_process_shows_the_secret(holder: Holder, tmp_path: Path) -> None:
    with Kept(tmp_path, Target(holder.pid)).until_ready() as kept:
        pids = (kept.process.pid, *kept.children())
        assert len(pids) >= 2
        for pid in pids:
            for name in ("environ", "cmdline", "comm", "maps"):
                assert SECRET.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
        for pid in (kept.process.pid, kept.child("kept_node")):
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert limits.split("Max core file size")[1].split()[:2] == ["0", "0"]
        for path in kept.runtime.rglob("*"):
            assert not path.is_file() or SECRET not in path.read_text()
        kept.exit_fd.close()
        assert SECRET not in kept.output()


def test_the_document_cannot_be_changed(holder: Holder, tmp_path: Path) -> None:
    with Kept(tmp_path, Target(holder.pid)).until_ready() as kept:
        (document,) = (
            fd for fd in Path(f"/proc/{kept.process.pid}/fd").iterdir() if "/memfd:ts4nsnet (" in os.readlink(fd)
        )
        with open(document, "rb+", buffering=0) as file:
            assert SECRET.encode() in file.read()
            with pytest.raises(PermissionError):
                file.write(b"more")


def test_a_keeper_sleeps_without_a_timer(holder: Holder, tmp_path: Path) -> None:
    with Kept(tmp_path, Target(holder.pid), then=CARRIED).until_ready() as kept:
        kept.news()
        until = time.monotonic() + TIME_LIMIT
        waits_for_ever = False
        while not waits_for_ever and time.monotonic() < until:
            number, *arguments = Path(f"/proc/{kept.process.pid}/syscall").read_text().split()
            # poll of x86-64: its timeout is -1, an int; ppoll of others: it is a null pointer
            waits_for_ever = (number, arguments[2:3]) in [("7", ["0xffffffff"]), ("73", ["0x0"])]
        assert waits_for_ever


def test_a_relative_path_is_of_the_tools_folder(holder: Holder, tmp_path: Path) -> None:
    path = holder.bind(tmp_path / "netns")
    with Kept(tmp_path, Target("./netns"), prefix=("env", "-C", str(tmp_path))).until_ready() as kept:
        assert "tap0" in holder.links()
        subprocess.run([*UNMOUNT, path], check=True)
        path.unlink()
        assert kept.wait() == 0


@pytest.mark.parametrize("name", ["ready-fd", "exit-fd"])
def test_an_fd_that_is_not_open(holder: Holder, tmp_path: Path, name: str) -> None:
    plan: dict[str, Any] = {name.replace("-", "_"): 77}
    with Kept(tmp_path, Target(holder.pid), **plan) as kept:
        want = "no open file descriptor; want one that the caller has opened"
        assert kept.output() == f"refused: --{name}: got 77, which is {want}\n"


def test_standard_fds_that_are_closed(holder: Holder, tmp_path: Path) -> None:
    close = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")
    with Kept(tmp_path, Target(holder.pid), prefix=close).until_ready() as kept:
        for fd in range(3):
            assert os.readlink(f"/proc/{kept.process.pid}/fd/{fd}") == "/dev/null"


# --- the end ------------------------------------------------------------------------------------------------------


def eof(kept: Kept, _: Holder) -> None:
    kept.exit_fd.close()


def byte(kept: Kept, _: Holder) -> None:
    kept.exit_fd.write(b"x")


def sigterm(kept: Kept, _: Holder) -> None:
    kept.process.send_signal(signal.SIGTERM)


def sigint(kept: Kept, _: Holder) -> None:
    kept.process.send_signal(signal.SIGINT)


def sighup(kept: Kept, _: Holder) -> None:
    kept.process.send_signal(signal.SIGHUP)


def targets_end(_: Kept, holder: Holder) -> None:
    holder.kill()


@pytest.mark.parametrize("end", [eof, byte, sigterm, sigint, sighup, targets_end])
@pytest.mark.parametrize("form", ["pid", "path"])
def test_an_end_that_is_asked_for(
    holder: Holder, tmp_path: Path, end: Callable[[Kept, Holder], None], form: str
) -> None:
    target = Target(holder.pid if form == "pid" else holder.net)
    with Kept(tmp_path, target).until_ready() as kept:
        began = time.monotonic()
        end(kept, holder)
        assert kept.wait() == 0
        assert time.monotonic() - began < STOP_TIME
        assert kept.stopped() == '{"do": "stop"}'
        assert kept.output() == ""
        assert holder.links() == ["lo"]
        assert list((kept.runtime / "nodes").iterdir()) == []


@pytest.mark.parametrize("prefix", [(), ("unshare", "--mount", "--propagation", "private")])
def test_the_end_of_a_bound_namespace(holder: Holder, tmp_path: Path, prefix: tuple[str, ...]) -> None:
    """As podman has it; in a mount namespace of our own its unmounting is not seen, only the removal of the file."""
    path = holder.bind(tmp_path / "netns")
    (tmp_path / "another").touch()
    with Kept(tmp_path, Target(str(path)), prefix=prefix).until_ready() as kept:
        (tmp_path / "another").unlink()  # another container's end is not ours
        began = time.monotonic()
        subprocess.run([*UNMOUNT, path], check=True)
        path.unlink()
        assert kept.wait() == 0
        assert time.monotonic() - began < STOP_TIME
        assert kept.stopped() == '{"do": "stop"}'


def test_the_end_before_the_beginning_is_over(holder: Holder, tmp_path: Path) -> None:
    with Kept(tmp_path, Target(holder.pid), then="stop") as kept:
        kept.exit_fd.close()
        assert kept.wait() == 0
        assert kept.ready_fd.read(1) == b""
        assert kept.output() == ""


def test_an_exit_fd_that_is_at_its_end_already(holder: Holder, tmp_path: Path) -> None:
    at_its_end = ("sh", "-c", 'exec "$@" 7</dev/null', "sh")
    with Kept(tmp_path, Target(holder.pid), exit_fd=7, prefix=at_its_end) as kept:
        was_never_started(kept)


def test_a_process_that_has_ended_already(holder: Holder, tmp_path: Path) -> None:
    os.kill(holder.pid, signal.SIGKILL)  # and nobody has waited for it
    assert ended(holder.pid)
    with Kept(tmp_path, Target(holder.pid)) as kept:
        was_never_started(kept)


def was_never_started(kept: Kept) -> None:
    assert kept.wait() == 0
    assert kept.ready_fd.read(1) == b""
    assert kept.output() == ""
    assert [path.name for path in kept.runtime.iterdir() if path.name != "news"] == ["nodes"]
    assert list((kept.runtime / "nodes").iterdir()) == []


@pytest.mark.parametrize("has_successor", [False, True])
def test_a_killed_nodes_api_socket_goes_unless_another_listens_there(
    holder: Holder, tmp_path: Path, has_successor: bool
) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        if has_successor:
            sock.listen()
        with Kept(tmp_path, Target(holder.pid), then="ready; hang", api_socket=str(path)).until_ready() as kept:
            kept.exit_fd.close()
            assert kept.wait() == 0
    assert path.exists() is has_successor


def test_a_node_that_does_not_leave_is_killed(holder: Holder, tmp_path: Path) -> None:
    with Kept(tmp_path, Target(holder.pid), then="ready; hang").until_ready() as kept:
        node = kept.child("kept_node")
        began = time.monotonic()
        kept.exit_fd.close()
        assert kept.wait() == 0
        assert time.monotonic() - began < STOP_TIME + 0.5  # for a busy machine
        assert ended(node)
        assert holder.links() == ["lo"]


def test_a_netns_child_that_hangs_holds_nobody_up(holder: Holder, tmp_path: Path) -> None:
    with Kept(tmp_path, Target(holder.pid)).until_ready() as kept:
        child = kept.child("netns.enter")
        os.kill(child, signal.SIGSTOP)
        began = time.monotonic()
        kept.exit_fd.close()
        assert kept.wait() == 0
        assert time.monotonic() - began < STOP_TIME
        assert ended(child)


def test_a_keeper_that_is_killed(holder: Holder, tmp_path: Path) -> None:
    with Kept(tmp_path, Target(holder.pid), then=CARRIED).until_ready() as kept:
        kept.news()
        children = kept.children()
        assert len(children) == 3
        kept.process.kill()
        assert all(ended(child) for child in children)
        assert kept.stopped() == "end of file"
        assert holder.links() == ["lo"]


# --- what goes wrong ----------------------------------------------------------------------------------------------

MORE = "more in `ts4nsnet logs web`"


@pytest.mark.parametrize(
    ("then", "line"),
    [
        ("failed the key is spent; stop", "the key is spent"),
        ("failed two\nlines\x1b; exit", "two lines"),
        ("crash not for everyone", "the node process ended with status 1, saying: ValueError: not for everyone"),
        ("exit", "the node process ended with status 0, saying: nothing"),
        ("garbage {; hang", "message of the node process: want JSON"),
        ("ready; exit", "the node process ended with status 0, saying: nothing"),
        ("ready; failed the key is spent; exit", "the key is spent"),
    ],
)
def test_a_node_that_fails(holder: Holder, tmp_path: Path, then: str, line: str) -> None:
    with Kept(tmp_path, Target(holder.pid), then=then) as kept:
        assert kept.wait() == 1
        assert kept.output() == f"ts4nsnet: {line}; {MORE}\n"
        assert line in kept.log
        assert "another is started" not in kept.log
        assert holder.links() == ["lo"]


def test_a_node_that_is_not_ready_in_time(holder: Holder, tmp_path: Path) -> None:
    with Kept(tmp_path, Target(holder.pid), then="stop; failed no answer from anybody", ready_time=0.5) as kept:
        began = time.monotonic()
        assert kept.wait() == 1
        assert 0.5 < time.monotonic() - began < 0.5 + STOP_TIME
        assert kept.output() == f"ts4nsnet: not ready within 0.5 s: no answer from anybody; {MORE}\n"
        assert kept.ready_fd.read(1) == b""


def test_a_target_that_is_not_there(tmp_path: Path) -> None:
    with Kept(tmp_path, Target(str(tmp_path / "gone")), asks=()) as kept:
        assert kept.wait() == 1
        advice = "give the path of a namespace that exists"
        said = f"opening the network namespace ({tmp_path}/gone): No such file or directory; {advice}"
        assert kept.output() == f"ts4nsnet: {said}; {MORE}\n"


def test_a_port_that_is_taken(holder: Holder, tmp_path: Path) -> None:
    with (
        Kept(tmp_path, Target(holder.pid), port=41641).until_ready(),
        Kept(tmp_path, Target(holder.pid), port=41641) as two,
    ):
        assert two.wait() == 1
        assert two.output() == "ts4nsnet: opening UDP port 41641: Address already in use; give another port\n"


def test_a_runtime_folder_that_is_open_to_others(holder: Holder, tmp_path: Path) -> None:
    (tmp_path / "runtime").mkdir(0o755)
    with Kept(tmp_path, Target(holder.pid)) as kept:
        assert kept.wait() == 1
        assert "want a folder of user 0 that nobody else has access to" in kept.output()


def test_a_start_in_the_same_namespace_while_the_last_one_leaves(holder: Holder, tmp_path: Path) -> None:
    """podman --restart: 75 ms after the end of the last; the TUN's name must be free, the node's may not be yet."""
    with Kept(tmp_path, Target(holder.pid), then="ready; stop; sleep 1").until_ready() as first:
        first.exit_fd.close()
        with Kept(tmp_path, Target(holder.pid), then="ready; hang").until_ready() as second:
            assert first.process.poll() is None
            assert sorted(path.name for path in (second.runtime / "nodes").iterdir()) == ["web", "web-2"]
            assert first.wait() == 0
            assert "tap0" in holder.links()
            second.process.kill()


# --- a node that dies, and one that takes over ----------------------------------------------------------------------


def test_a_node_that_is_killed_is_followed_by_another(holder: Holder, tmp_path: Path) -> None:
    with Kept(tmp_path, Target(holder.pid), then=CARRIED).until_ready() as kept:
        before, seen, killed = kept.news()["greeting"], kept.seen(), kept.child("kept_node")
        os.kill(killed, signal.SIGKILL)
        after = kept.news()["greeting"]  # of the worker that has carried packets on
        assert (after["pid"], after["starts"]) == (before["pid"], 1)
        assert kept.child("kept_node") != killed
        assert json.loads((kept.node_folder / "about.json").read_text())["node_pid"] == kept.child("kept_node")
        for (answer, names, _), (answer_then, names_then, _) in zip(kept.seen()[:3], seen[:3], strict=True):
            assert (answer, names) == (answer_then, names_then)
        assert kept.seen()[2][2] == seen[2][2]  # the session memory is the same
        assert "the node process was killed by SIGKILL; another is started" in kept.log
        kept.exit_fd.close()
        assert kept.wait() == 0
        assert kept.output() == ""


def test_node_and_worker_that_are_killed_together(holder: Holder, tmp_path: Path) -> None:
    with Kept(tmp_path, Target(holder.pid), then=CARRIED).until_ready() as kept:
        worker, node = kept.news()["greeting"]["pid"], kept.child("kept_node")
        os.kill(node, signal.SIGKILL)
        os.kill(worker, signal.SIGKILL)
        greeting = kept.news()["greeting"] or kept.news()["greeting"]  # the first may be of the dead one
        assert greeting["pid"] == kept.child("kept_worker") != worker
        assert kept.child("kept_node") != node


def test_a_node_that_dies_again_and_again(holder: Holder, tmp_path: Path) -> None:
    with Kept(tmp_path, Target(holder.pid), then="ready; crash later").until_ready() as kept:
        assert kept.wait() == 1
        often = "that was the 6th end within 60 s"
        how = "the node process ended with status 1, saying: ValueError: later"
        assert kept.output() == f"ts4nsnet: {how}; {often}; {MORE}\n"
        assert kept.log.count(f"{how}; another is started") == 5
        assert holder.links() == ["lo"]


# --- workers ----------------------------------------------------------------------------------------------------------


def test_a_worker_gets_what_it_needs(holder: Holder, tmp_path: Path) -> None:
    with Kept(tmp_path, Target(holder.pid), asks=({"do": "memory", "size": 4096},), then=CARRIED).until_ready() as kept:
        greeting = kept.news()["greeting"]
        assert greeting["arguments"] == ["1", "auto"]
        assert greeting["files"].pop("udp").startswith("socket:")
        memory, counters = "/memfd:ts4nsnet-sessions (deleted)", "/memfd:ts4nsnet-counters (deleted)"
        assert greeting["files"] == {"tun": "/dev/net/tun", "memory": memory, "counters": counters}
        assert greeting["memory"] == kept.seen()[0][2][0]
        worker = kept.child("kept_worker")
        assert worker == greeting["pid"]
        assert Path(f"/proc/{worker}/environ").read_bytes() == b"LC_ALL=C.UTF-8\0"
        assert SECRET.encode() not in Path(f"/proc/{worker}/cmdline").read_bytes()
        fds = [os.readlink(fd) for fd in Path(f"/proc/{worker}/fd").iterdir()]
        assert "/memfd:ts4nsnet (deleted)" not in fds  # settings and secrets


def test_a_worker_that_is_killed_is_followed_by_another(holder: Holder, tmp_path: Path) -> None:
    asks = ({"do": "memory", "size": 4096}, {"do": "counters"}, {"do": "counters"})
    with Kept(tmp_path, Target(holder.pid), asks=asks, then=CARRIED).until_ready() as kept:
        _, first, second = kept.seen()
        assert first[1:] == second[1:]
        before = kept.news()["greeting"]
        os.kill(before["pid"], signal.SIGKILL)
        after = kept.news()["greeting"]
        assert after["pid"] == kept.child("kept_worker") != before["pid"]
        assert (before["starts"], after["starts"]) == (1, 2)  # counted in the same memory
        assert after["memory"] == before["memory"]
        assert "the worker was killed by SIGKILL; there is another at once" in kept.log


def test_after_a_few_ends_of_workers_there_is_a_pause(holder: Holder, tmp_path: Path) -> None:
    with Kept(tmp_path, Target(holder.pid), then="ready; worker uring").until_ready() as kept:
        assert [kept.news() for _ in range(5)] == [{"do": "worker", "greeting": None}] * 5
        began = time.monotonic()
        how = "the worker ended with status 1, saying: ValueError: no good"
        assert kept.news() == {"do": "worker", "trouble": how}
        assert kept.news() == {"do": "worker", "greeting": None}
        assert time.monotonic() - began > 0.9
        assert f"{how}; there is another in 1 s" in kept.log
        kept.exit_fd.close()
        assert kept.wait() == 0


@pytest.mark.parametrize(
    ("then", "worker", "why"),
    [
        ("ready; worker epoll", "tests.programs.kept_worker", "no engine works here"),
        (CARRIED, "tests.programs.missing", "ModuleNotFoundError: No module named 'tests.programs.missing'"),
    ],
)
def test_a_worker_of_no_use_is_not_started_again(
    holder: Holder, tmp_path: Path, then: str, worker: str, why: str
) -> None:
    with Kept(tmp_path, Target(holder.pid), then=then, worker=worker).until_ready() as kept:
        assert kept.news() == {"do": "worker", "greeting": None}
        how = f"the worker ended with status 2, saying: {why}"
        assert kept.news() == {"do": "worker", "error": how}
        assert not any(worker in command for command in kept.children().values())
        kept.exit_fd.close()
        assert kept.wait() == 0


@pytest.mark.parametrize("signals", [(), (signal.SIGSTOP,)], ids=["", "frozen"])
def test_a_worker_ends_before_the_node_is_told_to(
    holder: Holder, tmp_path: Path, signals: tuple[signal.Signals, ...]
) -> None:
    with Kept(tmp_path, Target(holder.pid), then=CARRIED).until_ready() as kept:
        worker = kept.news()["greeting"]["pid"]
        for number in signals:
            os.kill(worker, number)
        began = time.monotonic()
        kept.exit_fd.close()
        assert kept.news() == {"do": "stop", "worker_has_ended": True}
        assert kept.wait() == 0
        assert time.monotonic() - began < STOP_TIME
        assert ended(worker)
        assert holder.links() == ["lo"]
