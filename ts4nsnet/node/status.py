# SPDX-License-Identifier: BSD-3-Clause
"""What a node says of itself in one word, and in some more."""

from dataclasses import dataclass
from enum import Enum, auto

from ts4nsnet.errors import Ts4nsnetError


class StartFailed(Ts4nsnetError):
    """The container will not get this network, and waiting does not help; the text says why and what to do."""


class Phase(Enum):
    """Where a node is in its life."""

    JOINING = auto()  # there is no netmap yet
    RUNNING = auto()
    LEAVING = auto()


@dataclass(frozen=True, slots=True)
class Status:
    """A node at this moment.

    Attributes:
        name: in the tailnet, without the final dot; empty before it is known.
        peers: names, likewise.
        relayed: whether peers can reach us through our home relay.
        direct: whether there is a direct path to some peer.
        linked: whether the container's link has what the netmap asks for.
        is_ready: whether the container can use the network.
        login_url: that somebody has to visit; empty for none.
        refusal: the server's last word why it does not let us in; empty if it does.
        problem: what went wrong last with the control server; empty for nothing.
    """

    phase: Phase
    name: str
    addresses: tuple[str, ...]
    peers: tuple[str, ...]
    home_region: int
    relayed: bool
    direct: bool
    linked: bool
    is_ready: bool
    login_url: str
    refusal: str
    problem: str

    @property
    def hindrance(self) -> str:
        """Why it is not ready, for a user; empty if it is."""
        if self.is_ready:
            return ""
        if self.refusal:
            return f"the control server refuses this node: {self.refusal}"
        if self.login_url:
            return f"somebody has to let this node in: visit {self.login_url}, or give an auth key (TS_AUTHKEY)"
        if self.phase is Phase.JOINING:
            return f"no netmap from the control server yet: {self.problem or 'it has not answered'}"
        if not self.linked:
            return "the container's addresses and routes are not set"
        return f"no relay can be reached, and no peer directly{f': {self.problem}' if self.problem else ''}"
