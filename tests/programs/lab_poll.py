# SPDX-License-Identifier: BSD-3-Clause
"""A node that only polls: joins a lab and holds its map stream until it is ended.

    python -m tests.programs.lab_poll CONTROL_URL CA_FILE AUTH_KEY

It prints "polling" when it has its first map.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random

import trio

from tests.unit.lab.clients import Node, control


@dataclass(frozen=True)
class Server:
    """Where the lab is."""

    control_url: str
    ca: Path


async def main(*arguments: str) -> None:
    """Poll until the end."""
    control_url, ca, auth_key = arguments
    random = Random(7)
    node = Node("poller", random)
    async with control(Server(control_url, Path(ca)), node.machine, random) as client:
        await client.call("/machine/register", node.register(auth_key))
        poll = await client.start("/machine/map", node.poll())
        await client.next_message(poll)
        print("polling", flush=True)
        while await client.next_message(poll) is not None:
            pass


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
