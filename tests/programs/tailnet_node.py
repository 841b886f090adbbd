# SPDX-License-Identifier: BSD-3-Clause
"""A node of ours as a process, as a container tool would have one.

    python -m tests.programs.tailnet_node FD

Requests come over FD (see channel.py), the configuration first: members of `node.config.Config`, with the namespace as
`netns` and the auth key as text. The UDP socket is of the namespace in which the program was started. What a user
should read is printed. SIGTERM makes the node leave; the program ends with it.
"""

import os
import resource
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import trio

from tests.programs.channel import Channel, Json, wait_for
from ts4nsnet.control import credential
from ts4nsnet.drive import BoottimeClock
from ts4nsnet.netns import Target
from ts4nsnet.node.config import Config
from ts4nsnet.node.node import Node
from ts4nsnet.node.settings import Secrets
from ts4nsnet.node.surroundings import OwnSurroundings

INTERFACE = "tap0"


def to_config(members: Json) -> Config:
    """The configuration that a JSON object describes."""
    key, state_dir = (members.pop(name) for name in ("auth_key", "state_dir"))
    return Config(
        runtime_folder=Path(members.pop("runtime_folder")),
        credential=credential(auth_key=key) if key else None,
        credential_hash=Secrets(auth_key=key or "").hash(),
        state_dir=Path(state_dir) if state_dir else None,
        **members,
    )


def describe(node: Node) -> Json:
    """The node's status, and what its process has used."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    found: Json = {"memory_bytes": pages * os.sysconf("SC_PAGE_SIZE"), "cpu_time": used.ru_utime + used.ru_stime}
    if (status := node.status()) is not None:
        found |= asdict(status) | {"phase": status.phase.name}
        found |= {"addresses": list(status.addresses), "peers": sorted(status.peers)}
        found["home_region"] = str(status.home_region)
    return found


async def serve(fd: int) -> None:
    """Run a node until SIGTERM."""
    channel = Channel(fd)
    members = await channel.configuration()
    if members is None:
        return
    surroundings = OwnSurroundings(Target(members.pop("netns")), INTERFACE)
    node = Node(to_config(members), lambda line: print(line, flush=True), surroundings)

    async def do(request: Json) -> Json:
        return await wait_for(request["for"], lambda: describe(node)) if request["do"] == "wait" else describe(node)

    async def leave_at_signal() -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                node.stop()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave_at_signal)
        nursery.start_soon(channel.serve, do)
        await node.run()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(serve, int(sys.argv[1]), clock=BoottimeClock())
