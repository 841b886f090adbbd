# SPDX-License-Identifier: BSD-3-Clause
"""`ts4nsnet run [OPTION]... -- COMMAND...`: a command as a node of its own, without a container tool.

    ts4nsnet run                     reads TS_*, and executes itself anew, so that no environment shows them:
      └ the same process             waits: for the node, for signals, for the command
          ├─ COMMAND                 namespaces of its own (namespaces.py); starts when the node is ready
          └─ keeper                  as under a container tool: ready-fd, exit-fd, the command's process as target

* The command has our terminal, standard files, current folder and environment, but no variable of ours. What the
  terminal sends (Ctrl-C) reaches it without us; other signals are passed on.
* Exit codes as of env(1): the command's own, 128 + n when signal n has killed it, 127 when it is not there, 126 when
  it cannot be executed, 125 when we have failed ourselves.
* The end of the command, or ours in whatever way, is the end of the node. What the command leaves running stays, and
  has no network.
"""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ts4nsnet.cli.longopts import Option, UsageError, getopt_long
from ts4nsnet.errors import Ts4nsnetError

if TYPE_CHECKING:
    from ts4nsnet.node.settings import Secrets, Settings

FAILED = 125
OPTIONS = (
    Option("hostname", "", "NAME", "name in the tailnet; instead of TS_HOSTNAME"),
    Option("help", "h", "", "show this help and exit"),
)
_PROGRAM = "ts4nsnet run"
_SUPERVISOR = "import sys; from ts4nsnet.cli.supervise import main; main()"
_WITH_PATH = "import sys; n = 2 + int(sys.argv[1]); sys.path[:] = sys.argv[2:n]; del sys.argv[1:n]; "


def main(words: Sequence[str]) -> int:
    """Replace this process by the one that runs the command; returns only if that cannot be, with the exit code."""
    try:
        given, command = _parse(words)
        if "help" in given:
            print(usage(), end="")  # noqa: T201
            return 0
        return _start(given, command)
    except UsageError as error:
        print(f"{error}; see {_PROGRAM} --help", file=sys.stderr)  # noqa: T201
    except Ts4nsnetError as error:
        print(f"{_PROGRAM}: {error}", file=sys.stderr)  # noqa: T201
    return FAILED


def usage() -> str:
    """The text of `--help`."""
    lines = [f"Usage: {_PROGRAM} [OPTION]... -- COMMAND...", "Runs a command as a node of its own on a tailnet.", ""]
    for option in OPTIONS:
        letter = f"-{option.letter}, " if option.letter else ""
        text = f"{letter}--{option.name}" + (f"={option.value}" if option.value else "")
        lines.append(f"{text:18}{option.help}")
    lines += ["", "Needs TS_AUTHKEY, or another credential, in the environment; docs/settings.md has all variables."]
    return "\n".join(lines) + "\n"


def _parse(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    given, command = {}, []
    for option, text in getopt_long(_PROGRAM, words, OPTIONS, permute=False):
        if option is None:
            command.append(text)
        else:
            given[option.name] = text
    if not command and "help" not in given:
        raise UsageError(f"{_PROGRAM}: no command; want {_PROGRAM} [OPTION]... -- COMMAND...")
    return given, command


def _read(given: dict[str, str]) -> tuple["Settings", "Secrets"]:
    from ts4nsnet.cli import environment
    from ts4nsnet.node.settings import SettingsError

    environ = {**os.environ, **({"TS_HOSTNAME": given["hostname"]} if "hostname" in given else {})}
    try:
        return environment.read(environ, container="")
    except SettingsError as error:
        if error.name == "TS_HOSTNAME" and "hostname" in given:
            raise SettingsError("--hostname", error.got, error.want) from None
        raise


def _start(given: dict[str, str], command: Sequence[str]) -> int:
    from ts4nsnet.cli import environment

    _open_standard_files()
    document = environment.document(*_read(given))
    memory = os.memfd_create("ts4nsnet-run")
    os.set_inheritable(memory, True)
    with open(memory, "wb", closefd=False) as file:
        file.write(document)
    path = [os.path.abspath(folder) for folder in sys.path if folder]
    arguments = ["-I", "-c", _WITH_PATH + _SUPERVISOR, str(len(path)), *path, str(memory), *command]
    try:
        os.execve(sys.executable, [sys.executable, *arguments], environment.without_ours(os.environ))  # noqa: S606
    except OSError as error:
        raise UsageError(f"{_PROGRAM}: Python cannot be executed anew: {error.strerror}") from None


def _open_standard_files() -> None:
    """Give the command /dev/null where a caller has closed a standard file; else one of ours took its place."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
