# SPDX-License-Identifier: BSD-3-Clause
"""What a container of ours reaches, by which way, and how it is told that there is none."""

import errno
import os
import socket
import time
from socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_STREAM

import dns.rcode
import dns.reversename
import pytest

from tests.system.probes import SOON, ask, refusal
from tests.system.tailnet import SUFFIX, TailnetNode, World, exchange_datagrams, send_stream

RELAY_PORT = 444
PAYLOAD = os.urandom(3_000_000)


# --- direct paths ---------------------------------------------------------------------------------------------------


def become_direct(*nodes: TailnetNode) -> None:
    """Send, until all say that they have a direct path."""
    for node, other in zip(nodes, nodes[1:] + nodes[:1], strict=True):
        node.ping(other.addresses[0])
    for node in nodes:
        node.wait(direct=True)


def test_nodes_that_can_reach_each_other_by_udp_do_so_directly(world: World) -> None:
    world.serve()
    alice, bob = world.join("alice", "bob", udp=True)
    become_direct(alice, bob)
    for address in bob.addresses:
        alice.ping(address)
        exchange_datagrams(alice, bob, address, b"directly")
        send_stream(alice, bob, address, PAYLOAD)
        send_stream(bob, alice, alice.addresses[0], PAYLOAD)


def test_direct_path_needs_neither_relay_nor_control(world: World) -> None:
    world.serve(relays=(RELAY_PORT,))
    alice, bob = world.join("alice", "bob", udp=True)
    become_direct(alice, bob)
    pings = alice.start_pinging(bob.addresses[0])
    world.lab.kill()
    time.sleep(3.0)  # what is to be shown is that nothing happens
    sent, received, _ = pings.stop()
    assert received >= sent - 1


def test_traffic_goes_by_the_relay_when_the_direct_path_is_lost_and_comes_back_to_it(world: World) -> None:
    world.serve()
    alice, bob = world.join("alice", "bob", udp=True)
    become_direct(alice, bob)
    pings = alice.start_pinging(bob.addresses[0])
    world.forbid_udp(alice.host)
    alice.wait(direct=False)
    alice.ping(bob.addresses[0], within=20.0)
    world.allow_udp(alice.host)
    alice.wait(direct=True)
    _, _, longest = pings.stop()
    assert longest < 10.0  # trust in a path lasts 6.5 s


def test_one_who_cannot_send_udp_stays_with_the_relay(world: World) -> None:
    world.serve()
    alice, bob = world.node("alice", udp=True), world.node("bob")
    alice.start()
    bob.start()
    alice.wait_until_ready("bob")
    bob.wait_until_ready("alice")
    alice.ping(bob.addresses[0])
    send_stream(bob, alice, alice.addresses[1], PAYLOAD)
    assert not bob.status()["direct"]


# --- what has no way ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [AF_INET, AF_INET6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("kind", [SOCK_STREAM, SOCK_DGRAM], ids=["tcp", "udp"])
def test_what_has_no_way_fails_at_once(world: World, family: int, kind: int) -> None:
    world.serve()
    (alice,) = world.join("alice")
    number, after = refusal(alice.box, family, kind)
    assert number in (errno.EHOSTUNREACH, errno.EACCES), errno.errorcode.get(number, number)
    assert after < SOON
    alice.process.wait_for("TS_EXIT_NODE")  # once, which setting changes it


def test_nothing_hangs_before_the_node_is_ready_nor_after_its_end(world: World) -> None:
    world.serve(relays=(RELAY_PORT,))
    world.lab.kill()
    alice = world.node("alice").start()
    alice.wait(linked=True)
    for family in (AF_INET, AF_INET6):
        for kind in (SOCK_STREAM, SOCK_DGRAM):
            assert refusal(alice.box, family, kind)[1] < SOON
    alice.kill()
    for family in (AF_INET, AF_INET6):
        assert refusal(alice.box, family, SOCK_STREAM)[1] < SOON


# --- names ----------------------------------------------------------------------------------------------------------


def test_peers_are_found_by_name_at_every_address_a_container_may_ask(world: World) -> None:
    world.serve()
    alice, bob = world.join("alice", "bob")
    v4, v6 = bob.addresses
    for server in ("100.100.100.100", "fd7a:115c:a1e0::53", "10.0.2.3", "fd00::3", "9.9.9.9"):
        for name in ("bob", f"bob.{SUFFIX}", f"BOB.{SUFFIX}."):
            answer = ask(alice.box, server, name)
            assert [str(record) for record in answer.answer[0]] == [v4], (server, name)
    reverse = ask(alice.box, "10.0.2.3", dns.reversename.from_address(v4).to_text(), "PTR")
    assert [str(record) for record in reverse.answer[0]] == [f"bob.{SUFFIX}."]
    assert ask(alice.box, "10.0.2.3", f"nobody.{SUFFIX}").rcode() is dns.rcode.NXDOMAIN
    alice.ping("100.100.100.100")
    alice.ping("fd7a:115c:a1e0::53")
    assert v6


# --- the packet filter ----------------------------------------------------------------------------------------------


def test_what_no_rule_allows_does_not_come_in_until_one_does(world: World) -> None:
    world.serve()
    alice, bob = world.join("alice", "bob")
    number = world.lab.node("bob")["id"]
    world.lab.ask(do="send", node=number, message={"PacketFilter": []})
    alice.hears_nothing_from(bob.addresses[0], 2.0)
    bob.ping(alice.addresses[0])  # answers to what the container began come in
    everything = [{"SrcIPs": ["*"], "DstPorts": [{"IP": "*", "Ports": {"First": 0, "Last": 65535}}]}]
    world.lab.ask(do="send", node=number, message={"PacketFilter": everything})
    alice.ping(bob.addresses[0])
    send_stream(alice, bob, bob.addresses[0], PAYLOAD)


# --- exit nodes -----------------------------------------------------------------------------------------------------


def test_exit_node_that_is_none_is_told(world: World) -> None:
    world.serve()
    world.join("bob")
    alice = world.node("alice", exit_node="bob").start()
    line = alice.process.wait_for("TS_EXIT_NODE: got 'bob'")
    assert "does not offer" in line


def test_container_address_of_slirp4netns_is_there(world: World) -> None:
    world.serve()
    (alice,) = world.join("alice")
    listener = alice.box.socket(AF_INET, SOCK_STREAM)
    listener.bind(("10.0.2.100", 0))
    listener.listen()
    with alice.box.socket(AF_INET, SOCK_STREAM) as client:
        client.settimeout(5.0)
        client.connect(listener.getsockname())
    assert isinstance(listener, socket.socket)
