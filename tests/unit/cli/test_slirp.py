# SPDX-License-Identifier: BSD-3-Clause
"""The face of slirp4netns: what it reads from a command line, and what it hands to the keeper.

tests/system/slirp compares its errors with those of the real one, and starts nodes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import ts4nsnet
from ts4nsnet import keeper
from ts4nsnet.cli import slirp
from ts4nsnet.cli.longopts import UsageError
from ts4nsnet.cli.slirp import CommandLine
from ts4nsnet.cli.values import WrongValue
from ts4nsnet.keeper import Plan
from ts4nsnet.netns import Target
from ts4nsnet.node import remember
from ts4nsnet.node.settings import Settings

NETNS = "/proc/self/ns/net"
# as seen (container-tools.md 3.2, 6); the target is ours
PODMAN = (
    "--disable-host-loopback --mtu=65520 --enable-sandbox --enable-seccomp --enable-ipv6 -c -e 3 -r 4 --netns-type=path"
)
PODMAN_5 = PODMAN.replace("-e 3 -r 4", "-r 3 -e 4")
BRIDGE = PODMAN.replace("-e 3 -r 4", "-r 3")
OUTBOUND = f"{PODMAN.replace(' -c ', ' --outbound-addr=lo --outbound-addr6=lo -c ')} --api-socket /run/x.net"


def parse(text: str) -> CommandLine:
    return slirp.parse("prog", text.split())


@pytest.mark.parametrize(
    ("text", "mtu", "exit_fd", "ready_fd"),
    [
        (f"{PODMAN} {NETNS} tap0", 65520, 3, 4),
        (f"{PODMAN_5} {NETNS} tap0", 65520, 4, 3),
        (f"{BRIDGE} {NETNS} tap0", 65520, None, 3),
        (f"{OUTBOUND} {NETNS} tap0", 65520, 3, 4),
        (f"--mtu 65520 -r 3 --userns-path=/proc/self/ns/user --netns-type=path {NETNS} tap0", 65520, None, 3),
    ],
)
def test_command_lines_of_container_tools(text: str, mtu: int, exit_fd: int | None, ready_fd: int | None) -> None:
    line = parse(text)
    assert (line.target, line.interface) == (NETNS, "tap0")
    assert [line.number(name) for name in ("mtu", "exit-fd", "ready-fd")] == [mtu, exit_fd, ready_fd]
    assert line.warnings == ()


@pytest.mark.parametrize(
    "text",
    [
        "--mtu 65520 -r 3 -c 12 tap0",
        "12 -c tap0 -r3 -m65520",
        "--conf --read=3 -m 65520 -- 12 tap0",
        "-cm65520 -r3 12 tap0",
    ],
)
def test_ways_to_write_the_same(text: str) -> None:
    line = parse(text)
    assert (line.target, line.interface) == (12, "tap0")
    assert line.given == {"configure": "", "ready-fd": 3, "mtu": 65520}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("-e x", "exit-fd must be a non-negative integer"),
        ("-r -1", "ready-fd must be a non-negative integer"),
        ("--mtu=0", "MTU must be a positive integer (< 65522)"),
        ("--mtu=65522", "MTU must be a positive integer (< 65522)"),
        ("x tap0", "PID must be a positive integer"),
        ("0 tap0", "PID must be a positive integer"),
        ("--netns-type=path /no/such tap0", "existing path expected when --netns-type=path: No such file or directory"),
        (
            "--netns-type=other /no/such tap0",
            "existing path expected when --netns-type=path: No such file or directory",
        ),
        ("--userns-path=/no/such", "userns path doesn't exist: /no/such"),
        ("--macaddress=aa 12 tap0", "--macaddr cannot be specified when --configure or -c is not specified"),
        ("--target-type=x 12 tap0", '--target-type must be either "netns" or "bess"'),
        ("", "no target: want a PID or PATH, and a TAPNAME"),
        ("12", "no name for the interface: want a PID or PATH, and a TAPNAME"),
    ],
)
def test_mistakes_in_the_command_line(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    "text",
    [
        "--cidr=10.0.2.0/26 12 tap0",
        "-c --macaddress=x 12 tap0",
        "--outbound-addr=x 12 tap0",
        "--outbound-addr6=x 12 tap0",
        "--netns-type=tapfd 5",
        "--target-type=bess /sock",
    ],
)
def test_wrong_values_are_found_later(text: str) -> None:
    with pytest.raises(WrongValue):
        parse(text)


def test_warnings_are_the_originals() -> None:
    line = parse("--no-host-loopback --create-sandbox 12 tap0 more")
    assert line.given == {"disable-host-loopback": "", "enable-sandbox": ""}
    assert [warning.split()[0] for warning in line.warnings] == ["--no-host-loopback", "--create-sandbox", "too"]


def test_a_long_name_is_cut() -> None:
    assert parse("12 a-very-long-name-of-an-interface").interface == "a-very-long-nam"


@pytest.mark.parametrize("text", ["--help --nope", "-c -h", "--mtu=1400 --help"])
def test_help_counts_before_what_follows(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert slirp.main("/bin/prog", text.split()) == 0
    assert capsys.readouterr().out.startswith("Usage: /bin/prog [OPTION]... PID|PATH TAPNAME\n")


@pytest.mark.parametrize(
    "name",
    ["--disable-host-loopback", "--mtu", "--enable-sandbox", "--enable-seccomp", "--cidr", "--outbound-addr",
     "--enable-ipv6", "--netns-type", "--api-socket", "--configure", "--userns-path", "--disable-dns", "--exit-fd",
     "--ready-fd", "--outbound-addr6", "--macaddress", "--target-type"],
)  # fmt: skip
def test_help_has_what_container_tools_look_for(name: str) -> None:
    assert name in slirp.usage("x")
    assert f" {name}" in slirp.usage("x").replace("\n", " ")  # grep -w


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert slirp.main("x", ["-v"]) == 0
    assert capsys.readouterr().out == f"slirp4netns version 1.3.1\nts4nsnet: {ts4nsnet.__version__}\n"


def test_a_mistake_is_followed_by_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert slirp.main("prog", ["--nope"]) == 1
    assert capsys.readouterr() == (slirp.usage("prog"), "prog: unrecognized option '--nope'\n")


def test_a_wrong_value_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert slirp.main("prog", ["--cidr=x", "12", "tap0"]) == 1
    assert capsys.readouterr() == ("", "invalid CIDR: x\n")


def test_a_wrong_variable_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TS_HOSTNAME", "a_b")
    assert slirp.main("prog", [str(os.getpid()), "tap0"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ts4nsnet: TS_HOSTNAME: got 'a_b', want ")
    assert err.count("\n") == 1


Start = Callable[..., tuple[Plan, Settings]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Start:
    """Starts a command line as far as the keeper; what that is given is returned."""
    tmp_path.chmod(0o700)
    variables = {"TS_AUTHKEY": "tskey-auth-k-x", "TS_HOSTNAME": "web", "XDG_RUNTIME_DIR": str(tmp_path)}
    launched: list[tuple[Plan, Settings]] = []

    def launch(plan: Plan, document: bytes) -> int:
        launched.append((plan, Settings.from_json(json.loads(document)["settings"])))
        return 0

    def run(text: str, **more: str) -> tuple[Plan, Settings]:
        slirp.start(parse(text), {**variables, **more})
        return launched.pop()

    monkeypatch.setattr(keeper, "launch", launch)
    return run


def test_what_the_keeper_is_given(start: Start) -> None:
    ready, leave = os.pipe()
    text = f"{PODMAN_5.replace('-r 3 -e 4', f'-r {ready} -e {leave}')} --cidr=10.9.0.0/24 --disable-dns {NETNS} tap1"
    plan, settings = start(text, TS4NSNET_LOG_LEVEL="debug")
    os.close(ready)
    os.close(leave)
    assert plan == Plan(
        Target(NETNS), "web", settings.runtime_folder, settings.container, "tap1", 0, ready_fd=ready, exit_fd=leave
    )
    assert (settings.interface, settings.mtu, settings.cidr) == ("tap1", 65520, "10.9.0.0/24")
    assert settings.enable_ipv6
    assert settings.disable_dns
    assert settings.hostname == "web"


def test_what_is_given_without_any_option(start: Start) -> None:
    plan, settings = start(f"{os.getpid()} tap0")
    assert plan.target == Target(os.getpid())
    assert (plan.ready_fd, plan.exit_fd) == (None, None)
    assert (settings.mtu, settings.cidr) == (None, "10.0.2.0/24")
    assert not settings.enable_ipv6
    assert not settings.disable_dns
    assert settings.notes == ()


def test_user_namespace(start: Start) -> None:
    plan, _ = start(f"--userns-path=/proc/self/ns/user --netns-type=path {NETNS} tap0")
    assert plan.target == Target(NETNS, "/proc/self/ns/user")


@pytest.mark.parametrize(("keeps_state", "announced"), [(False, True), (True, False)])
def test_a_start_is_announced_to_the_node_before_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keeps_state: bool, announced: bool
) -> None:
    seen = []
    netns = tmp_path / "netns"
    netns.symlink_to(NETNS)

    def launch(plan: Plan, _document: bytes) -> int:
        seen.append(remember.is_announced(Path(plan.runtime_folder), plan.container))
        return 1

    tmp_path.chmod(0o700)
    monkeypatch.setattr(keeper, "launch", launch)
    words = f"--netns-type=path {netns} tap0".split()
    variables = {"TS_AUTHKEY": "0123", "TS_HOSTNAME": "web", "XDG_RUNTIME_DIR": str(tmp_path)}
    state = {"TS_STATE_DIR": str(tmp_path / "state")} if keeps_state else {}
    slirp.start(slirp.parse("prog", words), {**variables, **state})
    assert seen == [announced]
    assert not remember.is_announced(tmp_path / "ts4nsnet", str(netns))  # it could not be started


def test_relative_paths(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/proc/self")
    plan, _ = start("--userns-path=ns/user --netns-type=path ns/net tap0")
    assert plan.target == Target(f"{os.getcwd()}/ns/net", f"{os.getcwd()}/ns/user")


def test_options_without_meaning_are_noted_once_at_debug_level(start: Start) -> None:
    _, settings = start(f"{OUTBOUND.replace('-e 3 -r 4', '--macaddress=aa:bb:cc:dd:ee:ff')} {NETNS} tap0")
    debug = [line.partition(":")[0] for level, line in settings.notes if level == "debug"]
    assert sorted(debug) == [
        "--configure", "--disable-host-loopback", "--enable-ipv6", "--enable-sandbox", "--enable-seccomp",
        "--macaddress", "--outbound-addr", "--outbound-addr6",
    ]  # fmt: skip
    assert not [line for level, line in settings.notes if level == "info"]


@pytest.mark.parametrize(
    ("name", "cut"), [("a-name-of-20-letters", "a-name-of-20-le"), ("é" * 8, "é" * 7 + "\udcc3"), ("lo0", "lo0")]
)
def test_a_name_of_an_interface_is_cut(name: str, cut: str) -> None:
    assert slirp.parse("prog", ["12", name]).interface == cut


@pytest.mark.parametrize("name", ["a/b", "", ".", "..", "a b", "a\nb", "a:b", "lo"])
def test_a_name_that_no_interface_can_have(name: str) -> None:
    with pytest.raises(WrongValue) as caught:
        slirp.parse("prog", ["12", name])
    assert str(caught.value).startswith(f"invalid interface name: {name!r}: ")
    assert "\n" not in str(caught.value)


def test_api_socket(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/proc/self")
    assert start(f"--api-socket fd/x.sock {os.getpid()} tap0")[1].api_socket == f"{os.getcwd()}/fd/x.sock"
    assert start(f"-a /run/x.sock {os.getpid()} tap0")[1].api_socket == "/run/x.sock"
    assert start(f"{os.getpid()} tap0")[1].api_socket == ""


def test_api_socket_with_a_path_too_long() -> None:
    slirp.parse("prog", ["-a", "/" + "x" * 106, "1", "tap0"])
    with pytest.raises(WrongValue, match=r"the specified API socket path is too long \(>= 108\)"):
        slirp.parse("prog", ["-a", "/" + "x" * 107, "1", "tap0"])


def test_file_descriptors_that_are_not_open(start: Start) -> None:
    plan, _ = start(f"-r 999 {os.getpid()} tap0")
    assert plan.ready_fd is None
    with pytest.raises(IndexError):  # nothing was launched: the end is there already
        start(f"-e 999 {os.getpid()} tap0")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("4194304 tap0", "/proc/4194304/ns/net: No such file or directory"),
        (f"--mtu=67 {os.getpid()} tap0", "MTU must be at least 68"),
    ],
)
def test_what_cannot_be_started(start: Start, text: str, reason: str) -> None:
    with pytest.raises(WrongValue) as caught:
        start(text)
    assert str(caught.value) == reason


def container(text: str, stdout: Path, remove: bool = True) -> str:
    """What tells the container from others, in a process whose standard output is that file."""
    program = (
        "import os, sys; from ts4nsnet import keeper; from ts4nsnet.cli import slirp\n"
        f"if {remove}: os.unlink({str(stdout)!r})\n"
        "keeper.launch = lambda plan, document: sys.stderr.write(plan.container)\n"
        f"slirp.start(slirp.parse('x', {text!r}.split()), "
        f"dict(TS_AUTHKEY='k', TS_HOSTNAME='web', XDG_RUNTIME_DIR={str(stdout.parent)!r}))"
    )
    with stdout.open("w") as file:
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, text=True, timeout=30, check=True)
    return done.stderr


def test_what_tells_a_container_from_others(tmp_path: Path) -> None:
    netns = tmp_path / "netns"
    netns.symlink_to(NETNS)
    by_path = f"--netns-type=path {netns} tap0"
    assert container(by_path, tmp_path / "slirp4netns-0123abcd.log") == "0123abcd"
    assert container(f"{os.getpid()} tap0", tmp_path / "slirp4netns-0123abcd.log", remove=False) == "0123abcd"
    assert container(by_path, tmp_path / "other.log") == str(netns)
    # a process's id says nothing after a restart
    assert container(f"{os.getpid()} tap0", tmp_path / "other.log") == ""
    assert container(f"--netns-type=path {NETNS} tap0", tmp_path / "other.log") == ""
