# SPDX-License-Identifier: BSD-3-Clause
"""What a keeper is told: one frozen value, as JSON in its command line. It holds no secret; `ps` shows it.

What the keeper need not know (settings and secrets of the node) is in a document that only the node process reads.
"""

import json
from dataclasses import asdict, dataclass
from typing import Self

from ts4nsnet.errors import Ts4nsnetError
from ts4nsnet.netns import Target

# ours: seconds; podman itself waits without end, and holds the container's lock meanwhile
READY_TIME = 30.0


class KeeperError(Ts4nsnetError):
    """A node cannot be started, or not be kept running; one line that says what to do."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One container's node, as its keeper sees it.

    Attributes:
        target: the container's namespaces.
        hostname: a DNS label; what the node's folder is called like.
        runtime_folder: absolute; where the node's folder is made.
        container: what tells this container from others, for `ts4nsnet list`; empty: unknown.
        interface: the name of the TUN.
        port: of UDP; 0 for any.
        ready_fd: gets a "1" when the container can use the network, and is closed then.
        exit_fd: whatever happens on it ends the node, its end of file above all.
        api_socket: absolute path of the node's API socket, whose file is removed if the node could not; "" for none.
        ready_time: seconds after which a node that is not ready is given up.
        program: the module whose `main` is the node process.
        worker: likewise, the worker.
    """

    target: Target
    hostname: str
    runtime_folder: str
    container: str = ""
    interface: str = "tap0"
    port: int = 0
    ready_fd: int | None = None
    exit_fd: int | None = None
    api_socket: str = ""
    ready_time: float = READY_TIME
    program: str = "ts4nsnet.node.process"
    worker: str = "ts4nsnet.uring.worker"

    def to_json(self) -> str:
        """For `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`."""
        members = json.loads(text)
        return cls(**{**members, "target": Target(**members["target"])})
