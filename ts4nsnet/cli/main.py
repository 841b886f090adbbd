# SPDX-License-Identifier: BSD-3-Clause
"""The `ts4nsnet` command: picks the face by argv.

A container tool asks for `--help` and `--version` before every start, so neither imports anything but the
standard library.
"""

import argparse
from collections.abc import Sequence

import ts4nsnet


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); the exit code is returned."""
    parser = argparse.ArgumentParser(prog="ts4nsnet", description="A container as a node of its own on a tailnet.")
    parser.add_argument("--version", action="version", version=f"ts4nsnet {ts4nsnet.__version__}")
    parser.parse_args(argv)
    parser.print_help()
    return 0
