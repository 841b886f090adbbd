# SPDX-License-Identifier: BSD-3-Clause
"""A poll that runs: what tests of the poll, of updates and of pings do with one."""

from ipaddress import ip_address

from tests.unit.control.fake_server import Json, World
from ts4nsnet.control.node import Endpoint

EMPTY = {"KeepAlive": True}


def endpoint(text: str) -> Endpoint:
    """Text such as "192.0.2.1:41641" or "[2001:db8::1]:41641" as a value."""
    address, _, port = text.rpartition(":")
    return ip_address(address.strip("[]")), int(port)


def send(world: World, message: Json) -> None:
    """Have the server send a message on the poll."""
    world.server.poll.send(message)
    world.run()


def live(world: World, seconds: float, messages: float = 50.0) -> None:
    """Let time pass on a poll that gets its keep-alives."""
    while seconds > 0:
        step = min(seconds, messages)
        world.later(step)
        send(world, EMPTY)
        seconds -= step
