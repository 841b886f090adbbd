# SPDX-License-Identifier: BSD-3-Clause
"""Offloads are switched while packets pass: by the user at the start, by the tailnet at any time, in each engine."""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from signal import SIGKILL
from typing import Any

import pytest

from tests.system.product import Member, connection, send
from tests.system.tailnet import World, serving
from tests.unit.uring.ports import skip_unless_it_works
from tests.waiting import until

TIME_LIMIT = 20.0  # seconds
PAYLOAD = os.urandom(500_000)
USED = "in use"


@pytest.fixture(scope="module")
def tailnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One tailnet for all tests here."""
    with serving(tmp_path_factory.mktemp("offloads")) as made:
        yield made


@dataclass(frozen=True)
class Flow:
    """A connection from one member to another."""

    alice: Member
    bob: Member
    client: socket.socket
    server: socket.socket

    def sent(self) -> tuple[int, int]:
        """Send some more; how many trains and datagrams alice's engine has made of it."""
        before = self.alice.status()["Engine"]["Counters"]
        send(self.client, self.server, PAYLOAD)
        after = self.alice.status()["Engine"]["Counters"]
        return after["sent_trains"] - before["sent_trains"], after["sent_datagrams"] - before["sent_datagrams"]


@pytest.fixture(params=["uring", "epoll", "python"])
def flow(request: pytest.FixtureRequest, tailnet: World) -> Iterator[Flow]:
    """A connection between two members with this engine."""
    if request.param != "python":
        skip_unless_it_works(request.param)
    variables = {"TS4NSNET_ENGINE": request.param, "TS4NSNET_OFFLOADS_OFF": "tun-udp-gro"}
    alice, bob = (Member(tailnet, f"{request.param}-{each}", udp=True, **variables) for each in "ab")
    for member in (alice, bob):
        member.start()
    for member in (alice, bob):
        member.started.wait_until_ready()
    alice.ping(bob.address)
    until(lambda: bool(alice.peer(bob.name).get("CurAddr")), TIME_LIMIT)
    with connection(alice, bob) as (client, server):
        yield Flow(alice, bob, client, server)
    for member in (alice, bob):
        assert member.started.leave() == 0


def offloads(member: Member) -> dict[str, Any]:
    """What `ts4nsnet status` says of them."""
    states: dict[str, Any] = member.status().get("Engine", {}).get("Offloads", {})
    return states


def give(tailnet: World, *attributes: str) -> None:
    """Let the policy give all nodes these attributes, and no others."""
    acls = [{"action": "accept", "src": ["*"], "dst": ["*:*"]}]
    policy = {"acls": acls, "nodeAttrs": [{"target": ["*"], "attr": list(attributes)}]}
    tailnet.lab.ask(do="policy", policy=policy)


def test_attributes_come_and_go_and_a_connection_goes_on(flow: Flow, tailnet: World) -> None:
    alice = flow.alice
    until(lambda: offloads(alice).get("tun-udp-gro") == "off: TS4NSNET_OFFLOADS_OFF", TIME_LIMIT)
    assert [offloads(alice)[each] for each in ("udp-gso", "udp-gro", "tun-tcp-gro")] == [USED] * 3
    trains, datagrams = flow.sent()
    assert trains < datagrams / 2

    give(tailnet, "disable-udp-gso", "disable-udp-gro")
    until(lambda: offloads(alice)["udp-gso"] == "off: attribute disable-udp-gso of the tailnet", TIME_LIMIT)
    trains, datagrams = flow.sent()
    assert trains == datagrams > 0
    if alice.worker:
        worker = alice.worker
        os.kill(worker, SIGKILL)
        until(lambda: alice.worker not in (0, worker), TIME_LIMIT)
        trains, datagrams = flow.sent()
        assert trains == datagrams > 0

    give(tailnet, "never-gso-equal-tail")
    until(lambda: offloads(alice)["udp-gso"].startswith("in use, but"), TIME_LIMIT)
    send(flow.client, flow.server, PAYLOAD)
    give(tailnet)
    until(lambda: offloads(alice)["udp-gso"] == offloads(alice)["udp-gro"] == USED, TIME_LIMIT)
    trains, datagrams = flow.sent()
    assert trains < datagrams / 2
