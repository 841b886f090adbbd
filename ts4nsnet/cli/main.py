# SPDX-License-Identifier: BSD-3-Clause
"""The `ts4nsnet` command: picks the face by argv.

    slirp4netns …            (a link to us of that name) always the face of slirp4netns
    ts4nsnet run|status|…    a command of ours
    ts4nsnet anything else   the face of slirp4netns

A container tool asks for `--help` and `--version` before every start, so neither imports anything but the standard
library, and little of that: each face is imported when it is wanted.
"""

import os
import sys
from collections.abc import Sequence

import ts4nsnet

# name → what it does; in the order of the help
COMMANDS = {
    "run": "run a command as a node of its own, without a container tool",
    "status": "what a node sees of its tailnet",
    "list": "the nodes that run here",
    "logs": "what a node has said",
    "lab": "a tailnet of its own on this machine, without an account",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); the exit code is returned."""
    words = sys.argv[1:] if argv is None else list(argv)
    program = sys.argv[0]
    first = words[0] if words else ""
    if os.path.basename(program) != "slirp4netns":
        if first in COMMANDS:
            return _command(words)
        if first in ("", "-h", "--help"):
            print(_help(program), end="")  # noqa: T201
            return 0
        if first in ("-v", "--version"):
            print(f"ts4nsnet {ts4nsnet.__version__}")  # noqa: T201
            return 0
        if first.isalpha() and not os.path.exists(first):
            commands = ", ".join(COMMANDS)
            print(f"ts4nsnet: no command {first!r}, want one of {commands}; see --help", file=sys.stderr)  # noqa: T201
            return 2
    from ts4nsnet.cli import slirp

    return slirp.main(program, words)


def _help(program: str) -> str:
    from ts4nsnet.cli import slirp

    commands = "".join(f"{name:10}{text}\n" for name, text in COMMANDS.items())
    return f"{slirp.usage(program)}\nor a command (each has --help):\n\n{commands}"


def _command(words: list[str]) -> int:
    if words[0] == "run":
        from ts4nsnet.cli.run import main as run

        return run(words[1:])
    import argparse

    parser = argparse.ArgumentParser(prog="ts4nsnet")
    commands = parser.add_subparsers(dest="command")
    if words[0] == "lab":
        from ts4nsnet.cli import lab

        lab.add_commands(commands.add_parser("lab", description=COMMANDS["lab"]))
        return lab.run(parser.parse_args(words))
    from ts4nsnet.cli import tools

    tools.add_commands(commands)
    return tools.run(parser.parse_args(words))
