# SPDX-License-Identifier: BSD-3-Clause
"""The embedded tailnet as a process, for tests that do to it what an administrator may do, and more.

    python -m tests.programs.tailnet_lab FD

Requests come over FD (see channel.py), the configuration first: where to listen, the state directory, and a DERPMap if
nodes shall use other relays than our own. SIGTERM ends it; the state is kept.
"""

import signal
import sys
from pathlib import Path

import trio

from tests.programs.channel import Channel, Json, wait_for
from ts4nsnet.drive import BoottimeClock
from ts4nsnet.lab import Tailnet


def describe(tailnet: Tailnet) -> Json:
    """What the server knows."""
    nodes = {
        node.name: {
            "id": node.node_id,
            "addresses": list(map(str, node.addresses)),
            "online": node.online,
            "key": node.key.raw.hex(),
        }
        for node in tailnet.nodes()
    }
    counters = tailnet.coordinator.counters
    return {"nodes": nodes, "names": list(nodes), "registrations": counters["register"], "polls": counters["poll"]}


async def serve(fd: int) -> None:
    """Run a tailnet until SIGTERM."""
    channel = Channel(fd)
    config = await channel.configuration()
    if config is None:
        return
    address, port = config["listen"]

    async def do(request: Json) -> Json:
        match request["do"]:
            case "auth_key":
                return {"key": tailnet.auth_key(**request["options"])}
            case "policy":
                tailnet.set_policy(request["policy"])
            case "delete":
                tailnet.delete(request["node"])
            case "expire":
                tailnet.expire(request["node"], request["in_time"])
            case "send":  # a MapResponse to one node
                tailnet.coordinator.send(request["node"], request["message"], trio.current_time())
                tailnet.changed()
            case "wait":
                return await wait_for(request["for"], lambda: describe(tailnet))
        return describe(tailnet)

    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with Tailnet(Path(config["directory"]), (address, port)) as tailnet, trio.open_nursery() as nursery:
            if config["derp_map"]:
                tailnet.coordinator.set_derp_map(config["derp_map"], trio.current_time())
                tailnet.changed()
            nursery.start_soon(channel.serve, do)
            async for _ in signals:
                nursery.cancel_scope.cancel()
                break


if __name__ == "__main__":
    trio.run(serve, int(sys.argv[1]), clock=BoottimeClock())
