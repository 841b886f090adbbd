# SPDX-License-Identifier: BSD-3-Clause
"""The exit node that was asked for: which peer it is, and why it cannot be used."""

from ts4nsnet.control import NetMap, NetMapDelta, Node
from ts4nsnet.node.wiring import find_node, is_exit_node


class ExitNode:
    """Follows the netmap.

    Args:
        name: of a peer, as `wiring.is_named` takes it; empty: none was asked for.

    Attributes:
        node: the peer that takes what is not the tailnet's; None while there is none.
        problem: why there is none although one was asked for, for a user; empty otherwise.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.node: Node | None = None
        self.problem = ""

    def look(self, netmap: NetMap, delta: NetMapDelta) -> bool:
        """Look again after a change of the netmap; whether `problem` is another now."""
        touched = (*delta.added, *delta.removed, *(new for _, new in delta.changed))
        if not self._name or (self.node is not None and all(node.id != self.node.id for node in touched)):
            return False
        before, found = self.problem, find_node(netmap, self._name)
        self.node = found if found is not None and is_exit_node(found) else None
        self.problem = "" if self.node is not None else self._explain(netmap, found)
        return self.problem != before

    def _explain(self, netmap: NetMap, found: Node | None) -> str:
        problem = "no such node is in the tailnet" if found is None else f"{found.host_name} does not offer to be one"
        offers = sorted(node.host_name for node in netmap.peers.values() if is_exit_node(node))
        choice = f"choose from {', '.join(offers)}" if offers else "no node of this tailnet offers to be an exit node"
        return f"TS_EXIT_NODE: got {self._name!r}, but {problem}; {choice}"
