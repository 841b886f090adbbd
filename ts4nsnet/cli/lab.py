# SPDX-License-Identifier: BSD-3-Clause
"""`ts4nsnet lab serve`: the embedded tailnet as a command.

When it is up it prints one line of JSON, and nothing else on standard output:

    {"control_url": "https://10.0.0.1:8443", "ca": "/…/ca.pem", "auth_key": "tskey-auth-…"}

The key is reusable, its nodes are ephemeral; it is kept in the state directory (`auth-key`, 0600), so a restart prints
the same one. SIGTERM and SIGINT end the server; the state is saved.

The servers are imported only when they are to run.
"""

import argparse
import json
import signal
import sys
from pathlib import Path

# ours: a file descriptor per connection, and every node has three
WANTED_FILES = 65536


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands of `lab` to its parser."""
    commands = parser.add_subparsers(title="commands", dest="lab_command", required=True)
    serve = commands.add_parser("serve", help="coordination server, relay and STUN server on one address")
    serve.add_argument(
        "--listen", required=True, metavar="ADDR:PORT", type=_address, help="IP address that nodes can reach, and port"
    )
    serve.add_argument("--state", required=True, metavar="DIR", type=Path, help="directory for all that is kept")


def run(options: argparse.Namespace) -> int:
    """Run a sub-command of `lab`; the exit code is returned."""
    # only now: `--help` must not need them
    import trio

    from ts4nsnet.drive import BoottimeClock
    from ts4nsnet.errors import Ts4nsnetError
    from ts4nsnet.sandbox import allow_files

    allow_files(WANTED_FILES)
    exit_code = 0
    try:
        trio.run(_serve, options.listen, options.state.absolute(), clock=BoottimeClock())
    except* Ts4nsnetError as errors:
        for error in errors.exceptions:
            print(f"ts4nsnet lab serve: {error}", file=sys.stderr)  # noqa: T201  (a command's standard error)
        exit_code = 1
    return exit_code


async def _serve(listen: tuple[str, int], directory: Path) -> None:
    import trio

    from ts4nsnet.lab import Tailnet

    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with Tailnet(directory, listen) as tailnet:
            line = {"control_url": tailnet.control_url, "ca": str(tailnet.ca), "auth_key": tailnet.kept_auth_key}
            print(json.dumps(line), flush=True)  # noqa: T201  (what the caller waits for)
            async for _ in signals:
                return


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise argparse.ArgumentTypeError(f"got {text!r}, want address and port: 10.0.0.1:8443 or [fd00::1]:8443")
    return host.removeprefix("[").removesuffix("]"), int(port)
