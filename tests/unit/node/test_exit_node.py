# SPDX-License-Identifier: BSD-3-Clause
"""The exit node that was asked for, through changes of the netmap."""

from dataclasses import replace
from ipaddress import ip_network

from ts4nsnet.control import NetMap, NetMapDelta, Node
from ts4nsnet.control.persistent import PersistentMap
from ts4nsnet.node.exit_node import ExitNode

BOB = Node(2, name="bob.tail.ts.net.")
GATE = Node(3, name="gate.tail.ts.net.", allowed_ips=(ip_network("0.0.0.0/0"),))


class Followed:
    """An exit node, and the netmap that it has seen last."""

    def __init__(self, name: str) -> None:
        self.exit_node = ExitNode(name)
        self._netmap: NetMap | None = None

    def see(self, *peers: Node) -> bool:
        after = NetMap(Node(1), peers=PersistentMap[Node]().updated({node.id: node for node in peers}))
        delta = NetMapDelta.between(self._netmap, after)
        self._netmap = after
        return self.exit_node.look(after, delta)


def test_one_that_offers_itself_is_used() -> None:
    followed = Followed("gate")
    assert not followed.see(BOB, GATE)
    assert (followed.exit_node.node, followed.exit_node.problem) == (GATE, "")


def test_one_that_does_not_is_told_with_those_that_do() -> None:
    followed = Followed("bob")
    assert followed.see(BOB, GATE)
    assert followed.exit_node.node is None
    assert followed.exit_node.problem == ("TS_EXIT_NODE: got 'bob', but bob does not offer to be one; choose from gate")


def test_one_that_is_not_there_is_told() -> None:
    followed = Followed("nobody")
    followed.see(BOB)
    assert "no such node is in the tailnet; no node of this tailnet offers" in followed.exit_node.problem
    assert not followed.see(BOB, replace(BOB, id=4, name="carol."))  # said once


def test_one_that_stops_and_begins_again_is_told_each_time() -> None:
    followed = Followed("gate")
    followed.see(BOB, GATE)
    assert not followed.see(GATE)  # another's leaving is nothing
    assert followed.see(replace(GATE, allowed_ips=()))
    assert "gate does not offer" in followed.exit_node.problem
    assert followed.see(GATE)
    assert followed.exit_node.problem == ""
    assert followed.see(BOB)
    assert "no such node" in followed.exit_node.problem


def test_without_one_there_is_no_problem() -> None:
    followed = Followed("")
    assert not followed.see(BOB, GATE)
    assert (followed.exit_node.node, followed.exit_node.problem) == (None, "")
