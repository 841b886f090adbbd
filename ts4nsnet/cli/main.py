# SPDX-License-Identifier: BSD-3-Clause
"""The `ts4nsnet` command: picks the face by argv.

A container tool asks for `--help` and `--version` before every start, so neither imports anything but the
standard library.
"""

import argparse
from collections.abc import Sequence

import ts4nsnet
from ts4nsnet.cli import lab


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); the exit code is returned."""
    parser = argparse.ArgumentParser(prog="ts4nsnet", description="A container as a node of its own on a tailnet.")
    parser.add_argument("--version", action="version", version=f"ts4nsnet {ts4nsnet.__version__}")
    commands = parser.add_subparsers(title="commands", dest="command")
    lab.add_commands(commands.add_parser("lab", help="a tailnet of its own on this machine, without an account"))
    options = parser.parse_args(argv)
    if options.command == "lab":
        return lab.run(options)
    parser.print_help()
    return 0
