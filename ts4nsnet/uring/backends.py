# SPDX-License-Identifier: BSD-3-Clause
"""Which engine carries the packets: chosen by what works here, or by whoever knows better.

    uring    io_uring; Linux 6.1, and allowed (sysctl kernel.io_uring_disabled, seccomp)
    epoll    the same compiled pipeline on plain system calls
    python   no compiled code: `node.engine` runs `reference`

`auto` takes the first that works, and says why it is not the one before.
"""

from collections.abc import Callable
from importlib.util import find_spec
from socket import socket
from typing import TYPE_CHECKING

from ts4nsnet.errors import Ts4nsnetError

if TYPE_CHECKING:
    from ts4nsnet.uring.pipeline import Pipeline
    from ts4nsnet.uring.port import Port

ENGINES = ("auto", "uring", "epoll", "python")


class EngineUnavailable(Ts4nsnetError):
    """The engine that was asked for does not work here."""


def compiled() -> bool:
    """Whether the compiled engine is installed."""
    return find_spec("ts4nsnet.uring.ring") is not None


def open_port(
    engine: str, pipeline: "Pipeline", tun: int, sock: socket, say: Callable[[str], None], control: int = -1
) -> "Port":
    """The port for `engine` ("auto", "uring" or "epoll"); see `Port` for the other arguments.

    Raises:
        EngineUnavailable: "uring" was asked for and does not work here.
    """
    from ts4nsnet.uring.epoll import EpollPort
    from ts4nsnet.uring.ring import RingPort

    if engine != "epoll":
        try:
            return RingPort(pipeline, tun, sock, control)
        except OSError as error:
            if engine == "uring":
                raise EngineUnavailable(f"engine uring: {error.strerror}; ask for epoll or auto") from None
            say(f"engine: epoll, as io_uring does not work here: {error.strerror}")
    return EpollPort(pipeline, tun, sock, control)
