# SPDX-License-Identifier: BSD-3-Clause
"""`ts4nsnet status`, `list`, `logs`: what a user asks about the nodes that run for him.

    list            the nodes of this user: one line each, those too that ended with an error and left their log
    status [NAME]   what one of them sees of its tailnet, as `tailscale status` prints it; or all of it as JSON
    logs NAME       what it said, and with -f what it says

They look into the folders that the nodes have (keeper/folder.py), ask at the sockets there (node/localapi.py), and wait
for no node longer than `ANSWER_TIME`. Names without a folder, nodes that do not answer: one line on standard error, and
exit code 1. `status` also ends with 1 when the node cannot be used yet, like `tailscale status`.

What came from a server (names, health texts) is printed so that a terminal shows it and does nothing else.
"""

import argparse
import json
import os
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from ts4nsnet.errors import Ts4nsnetError
from ts4nsnet.keeper import log
from ts4nsnet.keeper.folder import LOCALAPI, Entry, all_nodes, socket_address
from ts4nsnet.node.statefile import runtime_folder

Json = dict[str, Any]

# ours: seconds for a node's answer; the JSON of ten thousand peers takes a tenth of one
ANSWER_TIME = 5.0
MAX_ANSWER_BYTES = 256 << 20  # ours
MAX_ASKED_AT_ONCE = 16  # ours
FOLLOW_TIME = 0.25  # ours: seconds between two looks at a log
SHORT_CONTAINER = 12  # characters of a container's id, as podman shows it


UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))  # seconds
NONE_RUNNING = "no node is running for this user"


class ToolError(Ts4nsnetError):
    """What was asked for cannot be had; the text says what to do."""


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `status`, `list` and `logs` to the sub-commands of `ts4nsnet`."""
    status = commands.add_parser("status", help="what a running node sees of its tailnet")
    status.add_argument("name", nargs="?", metavar="NAME", help="as in `ts4nsnet list`; not needed if only one runs")
    status.add_argument("--json", action="store_true", help="everything, in the form of `tailscale status --json`")
    commands.add_parser("list", help="the nodes of this user")
    logs = commands.add_parser("logs", help="what a node said")
    logs.add_argument("name", metavar="NAME", help="as in `ts4nsnet list`")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until the node ends")


def run(options: argparse.Namespace) -> int:
    """Run one of them, `options.command`; the exit code is returned."""
    runtime = runtime_folder(os.environ)
    try:
        match options.command:
            case "status":
                return _status(runtime, options.name, as_json=options.json)
            case "list":
                _print(_table(list_rows(all_nodes(runtime))))
            case "logs":
                _logs(runtime, options.name, follow=options.follow)
    except Ts4nsnetError as error:
        print(f"ts4nsnet {options.command}: {_shown(error)}", file=sys.stderr)  # noqa: T201  (a command's error)
        return 1
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
    except KeyboardInterrupt:
        return 130
    return 0


def ask(entry: Entry, path: str, answer_time: float = ANSWER_TIME) -> Json:
    """What a node answers at a path of its LocalAPI.

    Raises:
        ToolError: nothing, in `answer_time` seconds, or no JSON object.
    """
    try:
        with closing(_UnixConnection(entry.path / LOCALAPI, answer_time)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            found = json.loads(response.read(MAX_ANSWER_BYTES))
    except (OSError, HTTPException, ValueError) as error:
        reason = f"no answer in {answer_time:g} s" if isinstance(error, TimeoutError) else error
        raise ToolError(f"{entry.name} does not answer: {reason}; see `ts4nsnet logs {entry.name}`") from None
    if not isinstance(found, dict):
        raise ToolError(f"{entry.name} answers strangely; is it of another version?")
    return found


def list_rows(entries: Sequence[Entry]) -> list[Sequence[str]]:
    """The table of `list`, with its head; all nodes are asked at the same time."""
    with ThreadPoolExecutor(MAX_ASKED_AT_ONCE) as pool:
        rows = list(pool.map(_row, entries))
    return [("NAME", "ADDRESSES", "CONTAINER", "PID", "STATE", "SINCE"), *rows] if rows else []


def status_lines(status: Json, now: float) -> list[str]:
    """An ipnstate.Status for people: us, the peers, what does not work, which offloads are not in use.

    Args:
        status: as the LocalAPI gives it.
        now: unix seconds.
    """
    state, url = status["BackendState"], status["AuthURL"]
    lines = _table(_peer_row(status, peer, now) for peer in [status["Self"], *_sorted(status["Peer"].values())])
    if state == "NeedsLogin":
        lines = [f"Logged out; log in at: {url}"]
    elif state == "NeedsMachineAuth":
        lines = ["An administrator of the tailnet has still to approve this node."]
    elif state != "Running":
        lines.insert(0, f"# {state}: the container cannot use the network")
    lines += [f"# health: {_shown(text)}" for text in status["Health"]]
    offloads = status.get("Engine", {}).get("Offloads", {})
    return lines + [f"# {_shown(name)}: {_shown(state)}" for name, state in offloads.items() if state != "in use"]


def _status(runtime: Path, name: str | None, *, as_json: bool) -> int:
    status = ask(_entry(all_nodes(runtime), name), "/localapi/v0/status")
    _print([json.dumps(status, indent=2)] if as_json else status_lines(status, time.time()))
    return 0 if status.get("BackendState") == "Running" else 1


def _logs(runtime: Path, name: str, *, follow: bool) -> None:
    known = {entry.name: entry for entry in all_nodes(runtime)}
    if name not in known:
        raise ToolError(_unknown(name, known))
    for data in log.follow(known[name].path):
        sys.stdout.buffer.write(data)
        if data:
            continue
        sys.stdout.buffer.flush()
        if not follow or not any(entry.alive for entry in all_nodes(runtime) if entry.name == name):
            break
        time.sleep(FOLLOW_TIME)


def _entry(entries: Sequence[Entry], name: str | None) -> Entry:
    """The running node that is meant."""
    alive = {entry.name: entry for entry in entries if entry.alive}
    if name is None:
        if len(alive) == 1:
            return next(iter(alive.values()))
        raise ToolError(f"{len(alive)} nodes are running; say which: {', '.join(alive)}" if alive else NONE_RUNNING)
    if name in alive:
        return alive[name]
    if any(entry.name == name for entry in entries):
        raise ToolError(f"{name} has ended; `ts4nsnet logs {name}` tells why")
    raise ToolError(_unknown(name, alive))


def _unknown(name: str, known: Iterable[str]) -> str:
    names = ", ".join(known)
    return f"no node is called {name!r}, {f'want one of {names}' if names else 'there is none'}"


def _row(entry: Entry) -> Sequence[str]:
    about, addresses, state = entry.about, "", "dead"
    if entry.alive:
        try:
            status = ask(entry, "/localapi/v0/status?peers=false")
            addresses, state = ",".join(map(str, status["TailscaleIPs"])), str(status["BackendState"])
        except ToolError:
            state = "no answer"
    since = datetime.fromtimestamp(about.started_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if about.started_at else ""
    container = about.container[:SHORT_CONTAINER] if about.container.isalnum() else about.container
    return entry.name, addresses, container, str(about.keeper_pid or ""), state, since


def _peer_row(status: Json, peer: Json, now: float) -> Sequence[str]:
    suffix = f".{status['MagicDNSSuffix']}"
    name = peer["DNSName"].removesuffix(".").removesuffix(suffix) or f"({peer['HostName']})"
    user = status["User"].get(str(peer.get("AltSharerUserID") or peer["UserID"]), {})
    login, at, _ = user.get("LoginName", "-").partition("@")
    return next(iter(peer["TailscaleIPs"]), ""), name, login + at, peer["OS"], _activity(peer, now)


def _activity(peer: Json, now: float) -> str:
    """What a peer is doing, and how we reach it."""
    words = ["active" if peer["Active"] else "idle"] if peer["Active"] or peer["TxBytes"] or peer["RxBytes"] else []
    if peer["ExitNode"]:
        words.append("exit node")
    elif peer["ExitNodeOption"]:
        words.append("offers exit node")
    if peer["Active"] and (peer["CurAddr"] or peer["Relay"]):
        words.append(f"direct {peer['CurAddr']}" if peer["CurAddr"] else f"relay {json.dumps(peer['Relay'])}")
    if not peer["Online"]:
        words.append(f"offline{_last_seen(peer['LastSeen'], now)}")
    traffic = f", tx {peer['TxBytes']} rx {peer['RxBytes']}" if peer["TxBytes"] or peer["RxBytes"] else ""
    return ("; ".join(words) or "-") + traffic


def _last_seen(text: str, now: float) -> str:
    at = datetime.fromisoformat(text)
    if at.year == 1:
        return ""
    age = max(0, int(now - at.timestamp()))
    size, unit = next((each for each in UNITS if age >= each[0]), UNITS[-1])
    return f", last seen {age // size}{unit} ago"


def _sorted(peers: Iterable[Json]) -> list[Json]:
    return sorted(peers, key=lambda peer: (peer["DNSName"] or peer["HostName"], peer["PublicKey"]))


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows of cells with their columns under each other."""
    shown = [[_shown(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _shown(text: object) -> str:
    """A text that may be a server's, so that a terminal shows it and does nothing else."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in str(text))


class _UnixConnection(HTTPConnection):
    """HTTP at a Unix socket."""

    def __init__(self, path: Path, answer_time: float) -> None:
        super().__init__("local-tailscaled.sock", timeout=answer_time)  # the name that Tailscale's clients say
        self._path = path
        self._answer_time = answer_time

    def connect(self) -> None:
        """Connect the socket instead of a TCP port."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._answer_time)
        with socket_address(self._path) as address:
            self.sock.connect(address)
