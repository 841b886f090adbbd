# SPDX-License-Identifier: BSD-3-Clause
"""The face of slirp4netns: its options, its errors, its exit codes; what is started is a node.

    ts4nsnet [OPTION]... PID|PATH TAPNAME       called by podman, rootlesskit, buildah; by hand

Container tools ask for `--help` before every start and look for the names of options in it, so this file imports
next to nothing until there is a node to start. As in the original,

* a mistake in the command line: the reason on standard error, the usage on standard output, exit code 1;
* a wrong value, or a namespace that is not there: the reason alone, exit code 1;
* the end by exit-fd or a signal: exit code 0, of the keeper that has replaced us by then.

Options that mean nothing here are checked, accepted and noted in the node's log: a node has no TAP and hence no MAC
address, speaks to the tailnet and not for the host, and guards itself as it thinks best. What would need a TAP of
somebody else's (`--netns-type=tapfd`, `--target-type=bess`) is refused.

Source: slirp4netns(1) of 1.3; messages seen with 1.2.0; container-tools.md 3, 6, 8. docs/slirp4netns.md has the table.
"""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import ts4nsnet
from ts4nsnet.cli import values
from ts4nsnet.cli.longopts import Option, UsageError, getopt_long
from ts4nsnet.errors import Ts4nsnetError

if TYPE_CHECKING:
    from ts4nsnet.node.settings import Settings

COMPATIBLE_WITH = "1.3.1"  # of slirp4netns
DEFAULT_CIDR = "10.0.2.0/24"
MAX_MTU = 65521  # bytes; the original's
MIN_MTU = 68  # bytes; RFC 791: less is no network
_OPTION_COLUMN = 25
# what podman calls the file that is our standard output, removed by then; in the middle is the container's id
_LOG_FILE = re.compile(r".*/slirp4netns-(.+)\.log(?: \(deleted\))?", re.DOTALL)

OPTIONS = (
    Option("configure", "c", "", "accepted: the interface always gets its addresses and routes"),
    Option("exit-fd", "e", "FD", "leave when this file descriptor is closed at its other end"),
    Option("ready-fd", "r", "FD", "write to this file descriptor when the container can use the network"),
    Option("mtu", "m", "MTU", f"cap the MTU of every route (max={MAX_MTU})"),
    Option("cidr", "", "CIDR", f"network of the container's .100 and the name server .3 (default={DEFAULT_CIDR})"),
    Option("disable-host-loopback", "", "", "accepted: the host's loopback can never be reached"),
    Option("no-host-loopback"),
    Option("netns-type", "", "TYPE", "what the target is ([path|pid], default=pid)"),
    Option("userns-path", "", "PATH", "user namespace to enter before the network namespace"),
    Option("api-socket", "a", "PATH", "publish ports of the host as asked at this socket"),
    Option("enable-ipv6", "6", "", "accepted: the tailnet's IPv6 is always there"),
    Option("enable-sandbox", "", "", "accepted"),
    Option("create-sandbox"),
    Option("enable-seccomp", "", "", "accepted"),
    Option("help", "h", "", "show this help and exit"),
    Option("version", "v", "", "show the version and exit"),
    Option("outbound-addr", "", "IPv4", "accepted"),
    Option("outbound-addr6", "", "IPv6", "accepted"),
    Option("disable-dns", "", "", "no name server at .3 of the network"),
    Option("macaddress", "", "MAC", "accepted together with -c"),
    Option("target-type", "", "TYPE", "what to speak to ([netns], default=netns)"),
)
_DEPRECATED = {"no-host-loopback": "disable-host-loopback", "create-sandbox": "enable-sandbox"}
_WITHOUT_MEANING = (
    "configure", "disable-host-loopback", "enable-ipv6", "enable-sandbox", "enable-seccomp", "outbound-addr",
    "outbound-addr6", "macaddress",
)  # fmt: skip
_Value = int | str
# where the option stands, before what follows is looked at
_CHECKS: dict[str, Callable[[str], _Value]] = {
    "exit-fd": lambda text: values.whole(text, 0, "exit-fd must be a non-negative integer"),
    "ready-fd": lambda text: values.whole(text, 0, "ready-fd must be a non-negative integer"),
    "mtu": lambda text: values.whole(text, 1, f"MTU must be a positive integer (< {MAX_MTU + 1})", MAX_MTU),
    "userns-path": values.userns_path,
}
# when all else is right; no usage then
_LATE_CHECKS: dict[str, Callable[[str], _Value]] = {
    "cidr": values.cidr,
    "outbound-addr": values.outbound_address,
    "outbound-addr6": values.outbound_address6,
    "macaddress": values.mac_address,
    "api-socket": values.socket_path,
}


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What was asked for.

    Attributes:
        given: values of the options, by their names; "" for those without one. Numbers are numbers.
        target: process id, or path of a network namespace; 0 where help or version is asked for.
        interface: name of the TUN.
        warnings: that the original has on standard output.
    """

    given: Mapping[str, _Value]
    target: _Value = 0
    interface: str = ""
    warnings: tuple[str, ...] = ()

    def number(self, name: str) -> int | None:
        """The value of an option that takes a number; None where it was not given."""
        value = self.given.get(name)
        return value if isinstance(value, int) else None


def main(program: str, words: Sequence[str]) -> int:
    """Start a node as command line and environment say; returns only if none is to run, with the exit code."""
    try:
        line = parse(program, words)
        if "help" in line.given:
            _print(usage(program))
            return 0
        if "version" in line.given:
            _print(f"slirp4netns version {COMPATIBLE_WITH}\nts4nsnet: {ts4nsnet.__version__}\n")
            return 0
        _print("".join(f"WARNING: {warning}\n" for warning in line.warnings))
        return start(line, os.environ)
    except UsageError as error:
        print(error, file=sys.stderr)  # noqa: T201  (the reason)
        _print(usage(program))
    except values.WrongValue as error:
        print(error, file=sys.stderr)  # noqa: T201
    except Ts4nsnetError as error:
        print(f"ts4nsnet: {error}", file=sys.stderr)  # noqa: T201
    return 1


def usage(program: str) -> str:
    """The text of `--help`: every name that a container tool looks for is in it."""
    lines = [f"Usage: {program} [OPTION]... PID|PATH TAPNAME", "Makes a container a node of its own on a tailnet.", ""]
    for option in OPTIONS:
        if option.help:
            letter = f"-{option.letter}, " if option.letter else ""
            text = f"{letter}--{option.name}" + (f"={option.value}" if option.value else "")
            lines.append(f"{text:{_OPTION_COLUMN}}{option.help}")
    return "\n".join(lines) + "\n"


def parse(program: str, words: Sequence[str]) -> CommandLine:
    """Read a command line; raises `UsageError`, and `WrongValue` for what is found later."""
    given: dict[str, _Value] = {}
    warnings, positional = [], []
    for option, text in getopt_long(program, words, OPTIONS):
        if option is None:
            positional.append(text)
            continue
        name = _DEPRECATED.get(option.name, option.name)
        if name != option.name:
            use = f"please use --{name} instead."
            warnings.append(f"--{option.name} is deprecated and will be removed in future releases, {use}")
        given[name] = _CHECKS[name](text) if name in _CHECKS else text
        if name in ("help", "version"):
            return CommandLine(given)
    if "macaddress" in given and "configure" not in given:
        raise UsageError("--macaddr cannot be specified when --configure or -c is not specified")
    target = _target(given, positional)
    if len(positional) > 2:
        warnings.append("too many arguments")
    for name, check in _LATE_CHECKS.items():
        if name in given:
            check(str(given[name]))
    return CommandLine(given, target, values.interface(positional[1]), tuple(warnings))


def start(line: CommandLine, environ: Mapping[str, str]) -> int:
    """Replace this process by the node's keeper; returns only if there is nobody to run for, with the exit code.

    Raises:
        Ts4nsnetError: a variable or value is wrong, or the keeper cannot be started; the text is for the user.
    """
    # only now: a container tool waits for `--help`
    from ts4nsnet.node import remember
    from ts4nsnet.node.statefile import StateError, runtime_folder

    _open(f"/proc/{line.target}/ns/net" if isinstance(line.target, int) else line.target)
    container, folder = _container(line.target), runtime_folder(environ)
    with suppress(StateError):  # a full disk; then the node before us may log out
        remember.announce(folder, container)
    try:
        return _launch(line, environ, container)
    finally:
        with suppress(StateError):
            remember.arrive(folder, container)


def _launch(line: CommandLine, environ: Mapping[str, str], container: str) -> int:
    from ts4nsnet.keeper import Plan, launch
    from ts4nsnet.netns import Target
    from ts4nsnet.node import remember

    settings, document = _settings(line, environ, container)
    if settings.state_dir:  # its identity is there, and no other node's is waited for
        remember.arrive(Path(settings.runtime_folder), container)
    ready_fd, exit_fd = line.number("ready-fd"), line.number("exit-fd")
    if exit_fd is not None and not _is_open(exit_fd):
        return 0  # as in the original: as if it had been closed at once
    # absolute: the keeper is in another folder
    netns = os.path.abspath(line.target) if isinstance(line.target, str) else line.target
    userns = os.path.abspath(str(line.given["userns-path"])) if "userns-path" in line.given else None
    plan = Plan(
        target=Target(netns, userns),
        hostname=settings.hostname,
        runtime_folder=settings.runtime_folder,
        container=settings.container,
        interface=settings.interface,
        port=settings.port,
        ready_fd=ready_fd if ready_fd is not None and _is_open(ready_fd) else None,
        exit_fd=exit_fd,
        api_socket=settings.api_socket,
    )
    return launch(plan, document)


def _settings(line: CommandLine, environ: Mapping[str, str], container: str) -> tuple["Settings", bytes]:
    """The settings, and with the secrets as the document that the node's process reads."""
    from ts4nsnet.cli import environment

    mtu = line.number("mtu")
    if mtu is not None and mtu < MIN_MTU:
        raise values.WrongValue(f"MTU must be at least {MIN_MTU}")
    settings, secrets = environment.read(environ, container)
    settings = replace(
        settings,
        interface=line.interface,
        mtu=mtu,
        cidr=str(line.given.get("cidr", DEFAULT_CIDR)),
        enable_ipv6="enable-ipv6" in line.given,
        disable_dns="disable-dns" in line.given,
        api_socket=os.path.abspath(str(line.given["api-socket"])) if "api-socket" in line.given else "",
        notes=(*settings.notes, *_notes(line)),
    )
    return settings, environment.document(settings, secrets)


def _target(given: Mapping[str, _Value], positional: Sequence[str]) -> _Value:
    kind, target_type = given.get("netns-type", "pid"), given.get("target-type", "netns")
    if target_type not in ("netns", "bess"):
        raise UsageError('--target-type must be either "netns" or "bess"')
    if target_type == "bess" or kind == "tapfd":
        option = "--target-type=bess" if target_type == "bess" else "--netns-type=tapfd"
        raise values.WrongValue(f"{option}: there is no Ethernet here; give the PID or PATH of a network namespace")
    if not positional:
        raise UsageError("no target: want a PID or PATH, and a TAPNAME")
    if kind == "pid":
        target: _Value = values.whole(positional[0], 1, "PID must be a positive integer")
    else:
        target = values.netns_path(positional[0])
    if len(positional) < 2:
        raise UsageError("no name for the interface: want a PID or PATH, and a TAPNAME")
    return target


def _open(path: str) -> None:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise values.WrongValue(f"{path}: {error.strerror}") from None


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _container(target: _Value) -> str:
    """What tells this container from others, and is the same when it is started anew; "" if there is nothing."""
    try:
        log = _LOG_FILE.fullmatch(os.readlink("/proc/self/fd/1"))
    except OSError:  # closed
        log = None
    if log:
        return log[1]
    return target if isinstance(target, str) and not target.startswith("/proc/") else ""


def _notes(line: CommandLine) -> list[tuple[str, str]]:
    return [("debug", f"--{name}: means nothing here") for name in _WITHOUT_MEANING if name in line.given]


def _print(text: str) -> None:
    print(text, end="", flush=True)  # noqa: T201  (a container tool reads it)
