# SPDX-License-Identifier: BSD-3-Clause
"""`ts4nsnet status`, `list` and `logs`, with nodes that answer, that do not, and that have ended."""

import argparse
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.unit.control.netmaps import WALL, first
from tests.unit.node.views import ALICE, ALICE_KEY, BOB, MEMBERS, SELF, view
from ts4nsnet.cli.tools import ToolError, add_commands, ask, run, status_lines
from ts4nsnet.keeper.folder import About, Entry, NodeFolder
from ts4nsnet.keeper.log import Log
from ts4nsnet.node.ipnstate import status_json
from ts4nsnet.node.localapi import serve
from ts4nsnet.node.view import PeerState, View
from ts4nsnet.uring.counters import Counters

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-c", "import sys; from ts4nsnet.cli.main import main; sys.exit(main())"]
CONTAINER = "0123456789abcdef" * 4
ABOUT = About("web", CONTAINER, keeper_pid=4711, node_pid=4712, started_at=WALL)


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runtime folder that the tools find."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "ts4nsnet"


def tool(*words: str) -> int:
    """A command line's exit code."""
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(dest="command"))
    return run(parser.parse_args(words))


@contextmanager
def node(runtime: Path, name: str, shown: View, about: About = ABOUT) -> Iterator[NodeFolder]:
    """A node that runs and answers."""
    folder = NodeFolder.create(runtime, name)
    folder.write_about(about)
    listening = threading.Event()
    stops: list[Any] = []

    async def answer() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, folder.path / "localapi.sock", lambda: shown)
            token = trio.lowlevel.current_trio_token()
            stops.append(lambda: token.run_sync_soon(nursery.cancel_scope.cancel))
            listening.set()

    thread = threading.Thread(target=trio.run, args=[answer])
    thread.start()
    try:
        assert listening.wait(10)
        yield folder
    finally:
        for stop in stops:
            stop()
        thread.join()
        folder.remove()


def failed(runtime: Path, name: str, why: str) -> None:
    """A node that ended with an error."""
    folder = NodeFolder.create(runtime, name)
    folder.write_about(replace(ABOUT, container="/run/netns/x", keeper_pid=0, started_at=0.0))
    Log(folder.path, lambda: WALL).write(why)
    folder.close()


def test_the_tools_need_the_standard_library_alone() -> None:
    program = "import sys, ts4nsnet.cli.tools; sys.exit(bool({'trio', 'h11', 'cryptography'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=30, check=False).returncode == 0


# --- list -----------------------------------------------------------------------------------------------------------


def test_list_shows_what_runs_and_what_has_ended(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed(runtime, "db", "no key")
    silent = NodeFolder.create(runtime, "silent")
    with node(runtime, "web", view()), node(runtime, "web", view(ready=False)):
        assert tool("list") == 0
    silent.remove()
    assert capsys.readouterr().out.splitlines() == [
        "NAME    ADDRESSES                     CONTAINER     PID   STATE      SINCE",
        "db                                    /run/netns/x        dead",
        "silent                                                    no answer",
        "web     100.64.0.9,fd7a:115c:a1e0::9  0123456789ab  4711  Running    2027-01-15T08:00:00Z",
        "web-2   100.64.0.9,fd7a:115c:a1e0::9  0123456789ab  4711  Starting   2027-01-15T08:00:00Z",
    ]


def test_list_of_nothing_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool("list") == 0
    assert capsys.readouterr() == ("", "")


def test_a_runtime_folder_of_others_is_an_error(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runtime.mkdir(0o755)
    assert tool("list") == 1
    assert capsys.readouterr().err.startswith("ts4nsnet list: ")


# --- status ---------------------------------------------------------------------------------------------------------


def test_status_shows_the_peers_and_what_does_not_work(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alice = PeerState("192.0.2.1:1", 1000, 2000, WALL - 30, WALL - 1, active=True)
    with node(runtime, "web", view(peers={ALICE_KEY: alice})):
        assert tool("status") == 0
        assert tool("status", "web") == 0
    lines = [
        "100.64.0.9  web    ann@            linux  -",
        "100.64.0.1  alice  sue@            linux  active; offers exit node; direct 192.0.2.1:1, tx 2000 rx 1000",
    ]
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == lines
    assert out[2].startswith("100.64.0.2  bob    tagged-devices         offline, last seen ")
    assert out[3:5] == ["# health: the server is tired", "# health: Key: expires soon"]
    assert out[5:7] == lines


def test_status_as_json_is_what_the_node_answers(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with node(runtime, "web", view()):
        assert tool("status", "--json", "web") == 0
    assert json.loads(capsys.readouterr().out) == status_json(view())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"netmap": None, "login_url": "https://example.com/a/1"}, "Logged out; log in at: https://example.com/a/1"),
        (
            {"netmap": first(Node=SELF | {"MachineAuthorized": False})},
            "An administrator of the tailnet has still to approve this node.",
        ),
        ({"netmap": None, "ready": False}, "# Starting: the container cannot use the network"),
        ({"leaving": True}, "# Stopped: the container cannot use the network"),
    ],
)
def test_a_node_that_cannot_be_used_is_an_exit_code(
    runtime: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], line: str
) -> None:
    with node(runtime, "web", view(**changes)):
        assert tool("status") == 1
    assert capsys.readouterr().out.splitlines()[0] == line


def row(exit_node: int, state: PeerState | None = None, **members: Any) -> str:
    """The line of a peer, from its activity on."""
    netmap = first(**MEMBERS | {"Peers": [ALICE | members], "Health": None, "DisplayMessages": None})
    status = status_json(view(netmap=netmap, peers={ALICE_KEY: state} if state else {}, exit_node=exit_node))
    return status_lines(status, WALL)[1].partition("linux  ")[2]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (row(0), "offers exit node"),
        (row(1), "exit node"),
        (row(0, AllowedIPs=[]), "-"),
        (row(0, PeerState(active=True), AllowedIPs=[]), 'active; relay "lab"'),
        (row(0, PeerState(active=True), AllowedIPs=[], HomeDERP=0), "active"),
        (row(1, PeerState("192.0.2.1:1", active=True)), "active; exit node; direct 192.0.2.1:1"),
        (row(0, PeerState(tx_bytes=1), AllowedIPs=[]), "idle, tx 1 rx 0"),
        (row(0, PeerState(rx_bytes=1), AllowedIPs=[], Online=False), "idle; offline, tx 0 rx 1"),
        (row(0, AllowedIPs=[], Online=False, LastSeen="2027-01-15T07:59:30Z"), "offline, last seen 30s ago"),
        (row(0, AllowedIPs=[], Online=False, LastSeen="2027-01-15T07:58:30Z"), "offline, last seen 1m ago"),
        (row(0, AllowedIPs=[], Online=False, LastSeen="2027-01-15T05:59:59.5Z"), "offline, last seen 2h ago"),
        (row(0, AllowedIPs=[], Online=False, LastSeen="2027-01-12T00:00:00Z"), "offline, last seen 3d ago"),
        (row(0, AllowedIPs=[], Online=False, LastSeen="2027-01-15T08:00:09Z"), "offline, last seen 0s ago"),
    ],
)
def test_what_a_peer_is_doing(line: str, found: str) -> None:
    assert line == found


def test_offloads_that_are_not_in_use_are_shown() -> None:
    states = {"udp-gso": "in use", "udp-gro": "off: attribute disable-udp-gro of the tailnet"}
    lines = status_lines(status_json(view(engine="uring", offloads=states, counted=Counters().statistics())), WALL)
    assert lines[-1] == "# udp-gro: off: attribute disable-udp-gro of the tailnet"
    assert not [line for line in lines if "udp-gso" in line]


def test_a_node_without_a_name_and_an_owner_is_shown_by_what_it_calls_itself() -> None:
    peer = BOB | {"Name": "", "User": 7, "Hostinfo": {"Hostname": "evil\x1b[2J"}, "Addresses": []}
    netmap = first(**MEMBERS | {"Peers": [peer]})
    line = status_lines(status_json(view(netmap=netmap)), WALL)[1]
    assert line.split() == ["(evil\N{REPLACEMENT CHARACTER}[2J)", "-", "offline,", "last", "seen", "2h", "ago"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["status", "x"], "no node is called 'x', want one of web, web-2"),
        (["status"], "2 nodes are running; say which: web, web-2"),
        (["status", "db"], "db has ended; `ts4nsnet logs db` tells why"),
        (["logs", "x"], "no node is called 'x', want one of db, web, web-2"),
    ],
)
def test_which_node_is_meant(runtime: Path, capsys: pytest.CaptureFixture[str], words: list[str], error: str) -> None:
    failed(runtime, "db", "no key")
    folders = [NodeFolder.create(runtime, "web") for _ in range(2)]
    assert tool(*words) == 1
    assert capsys.readouterr() == ("", f"ts4nsnet {words[0]}: {error}\n")
    for folder in folders:
        folder.remove()


@pytest.mark.parametrize(
    ("words", "error"),
    [(["status"], "no node is running for this user"), (["logs", "x"], "no node is called 'x', there is none")],
)
def test_where_nothing_runs(capsys: pytest.CaptureFixture[str], words: list[str], error: str) -> None:
    assert tool(*words) == 1
    assert capsys.readouterr() == ("", f"ts4nsnet {words[0]}: {error}\n")


# --- nodes that do not answer ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (None, "web does not answer: no answer in 0.05 s; see `ts4nsnet logs web`"),
        (b"", "web does not answer: Remote end closed connection without response; see `ts4nsnet logs web`"),
        (b"nonsense\r\n\r\n", "web does not answer: nonsense\r\n; see `ts4nsnet logs web`"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{", "web does not answer: Expecting property name"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "web answers strangely; is it of another version?"),
    ],
)
def test_a_node_that_does_not_answer_is_not_waited_for(tmp_path: Path, answer: bytes | None, error: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "localapi.sock"))
        server.listen()

        def serve_one() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                if answer is None:
                    connection.recv(1)  # until the client has had enough
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve_one)
        thread.start()
        with pytest.raises(ToolError) as raised:
            ask(Entry("web", tmp_path, True, ABOUT), "/", 0.05 if answer is None else 10.0)
        thread.join()
    assert str(raised.value).startswith(error)


def test_a_node_without_a_socket_does_not_answer(runtime: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = NodeFolder.create(runtime, "web")
    assert tool("status") == 1
    reason = "[Errno 2] No such file or directory"
    assert capsys.readouterr().err == f"ts4nsnet status: web does not answer: {reason}; see `ts4nsnet logs web`\n"
    folder.remove()


# --- logs -----------------------------------------------------------------------------------------------------------


def test_logs_tell_why_a_node_has_ended(runtime: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    failed(runtime, "db", "no key")
    for words in (["logs", "db"], ["logs", "-f", "db"]):
        assert tool(*words) == 0
        assert capfdbinary.readouterr().out == b"2027-01-15T08:00:00.000Z no key\n"


def test_logs_are_followed_until_the_node_ends(runtime: Path) -> None:
    folder = NodeFolder.create(runtime, "web")
    log = Log(folder.path, lambda: WALL)
    log.write("one")
    with subprocess.Popen([*COMMAND, "logs", "--follow", "web"], cwd=ROOT, stdout=subprocess.PIPE) as following:
        assert following.stdout
        for text in ("one", "two", "three"):
            assert following.stdout.readline() == f"2027-01-15T08:00:00.000Z {text}\n".encode()
            log.write({"one": "two", "two": "three"}.get(text, "bye"))
        folder.remove()
        assert following.stdout.read() in (b"", b"2027-01-15T08:00:00.000Z bye\n")
        assert following.wait(10) == 0


def test_following_ends_with_an_interrupt_and_with_its_reader(runtime: Path) -> None:
    folder = NodeFolder.create(runtime, "web")
    log = Log(folder.path, lambda: WALL)
    log.write("one")
    for end in ("signal", "pipe"):
        with subprocess.Popen(
            [*COMMAND, "logs", "-f", "web"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as following:
            assert following.stdout
            assert following.stderr
            assert following.stdout.readline()
            if end == "signal":
                following.send_signal(signal.SIGINT)
            else:
                following.stdout.close()
                log.write("two")
            assert following.wait(10) == (130 if end == "signal" else 0)
            assert following.stderr.read() == b""
    folder.remove()
