# SPDX-License-Identifier: BSD-3-Clause
"""How long packets between containers become, by what lies between them, and that transfers outlive a change.

box-near ──┐                                               near and far: jumbo frames between them
box-beside ┼ host ══════ internet ══════ host ─ box-far    beside: on near's machine
box-capped ┘                │                              capped: likewise, with --mtu
                            └─────────── host ─ box-plain  plain: Ethernet's usual 1500 bytes
box-single: on plain's machine, its TUN takes no superpackets of TCP

The last test leaves the network as it has made it.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from socket import SOCK_STREAM

import pytest

from tests.captured import Captured
from tests.system.product import Member, connection, send
from tests.system.tailnet import World, serving
from tests.waiting import until
from ts4nsnet.tailnet import TAILNET_MTU

TIME_LIMIT = 60.0  # seconds; a path that has become narrower is noticed after 11
JUMBO, ETHERNET, LOOPBACK, CAP = 8920, 1420, 65456, 4000
PORT = 7777
MESSAGE_BYTES = 32  # of a WireGuard message, beside the packet
NO_UDP = (
    "add table inet no-udp",
    "add chain inet no-udp out { type filter hook output priority filter; }",
    "add rule inet no-udp out meta l4proto udp drop",
)
PAYLOAD = os.urandom(8_000_000)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A tailnet."""
    with serving(tmp_path_factory.mktemp("mtu")) as made:
        yield made


@pytest.fixture(scope="module")
def members(world: World) -> Iterator[dict[str, Member]]:
    """All of them, ready."""
    found = {name: Member(world, name, udp=True, mtu=9000) for name in ("near", "far")}
    found["beside"] = Member(world, "beside", udp=True, host=found["near"].host)
    found["plain"] = Member(world, "plain", udp=True)
    found["capped"] = Member(world, "capped", udp=True, host=found["near"].host, options=(f"--mtu={CAP}",))
    found["single"] = Member(world, "single", udp=True, host=found["plain"].host, TS4NSNET_OFFLOADS_OFF="tun-tcp-gro")
    for member in found.values():
        member.start()
    for member in found.values():
        member.started.wait_until_ready()
    yield found
    for member in found.values():
        assert member.started.leave() == 0


def mtu(member: Member, address: str) -> int:
    """Of the container's route to an address."""
    (route,) = json.loads(member.box.run("ip", "-json", "route", "get", address).stdout)
    return int({key: value for part in route["metrics"] for key, value in part.items()}["mtu"])


def until_mtu_is(one: Member, other: Member, wanted: int) -> None:
    """Ping as long as that takes."""
    addresses = [address.partition("/")[0] for address in other.started.addresses() if "10.0.2" not in address]
    assert len(addresses) == 2

    def is_so() -> bool:
        one.ping(other.address)
        return {mtu(one, address) for address in addresses} == {wanted}

    until(is_so, TIME_LIMIT)


def whole_steps(mtu: int) -> int:
    """Bytes of a message into which superpackets are cut, in whole steps of the cipher."""
    return mtu // 128 * 128 + MESSAGE_BYTES


def both_ways(one: Member, other: Member) -> None:
    """A transfer there, and one back."""
    with connection(one, other) as (ours, theirs):
        send(ours, theirs, PAYLOAD)
        send(theirs, ours, PAYLOAD)


def test_containers_of_one_machine_carry_superpackets_as_one_message(members: dict[str, Member]) -> None:
    near, beside = members["near"], members["beside"]
    with connection(near, beside) as (ours, theirs):  # begun with the segments of a path of which nothing is known
        for one, other in ((near, beside), (beside, near)):
            until_mtu_is(one, other, LOOPBACK)
        with Captured(near.host, "lo") as captured:
            send(ours, theirs, PAYLOAD)
            send(theirs, ours, PAYLOAD)
        assert captured.number(30_000) > 10
    both_ways(near, beside)


def test_what_a_container_passes_on_is_cut_again(world: World, members: dict[str, Member]) -> None:
    near, beside, inner = members["near"], members["beside"], world.container("inner")
    until_mtu_is(near, beside, LOOPBACK)
    commands = {
        beside.box: (
            "ip address add 10.9.0.1/24 dev in",
            "ip link set in up",
            "sysctl -w net.ipv4.ip_forward=1",
            "nft add table ip passing",
            "nft add chain ip passing in { type nat hook prerouting priority dstnat; }",
            f"nft add rule ip passing in tcp dport {PORT} dnat to 10.9.0.2",
        ),
        inner: ("ip address add 10.9.0.2/24 dev out", "ip link set out up", "ip route add default via 10.9.0.1"),
    }
    join = f"ip link add in netns {beside.box.pid} type veth peer name out netns {inner.pid}"
    subprocess.run(join.split(), check=True)
    for box, lines in commands.items():
        for line in lines:
            box.run(*line.split())
    with inner.socket(kind=SOCK_STREAM) as listener, near.box.socket(kind=SOCK_STREAM) as ours:
        listener.bind(("10.9.0.2", PORT))
        listener.listen()
        ours.settimeout(TIME_LIMIT)
        ours.connect((beside.address, PORT))
        theirs, _ = listener.accept()
        with theirs, Captured(near.host, "lo") as captured:
            theirs.settimeout(TIME_LIMIT)
            send(ours, theirs, PAYLOAD)
    assert captured.number(30_000) > 10


def test_who_wants_shorter_packets_sends_none_that_are_longer(members: dict[str, Member]) -> None:
    near, capped = members["near"], members["capped"]
    until_mtu_is(capped, near, CAP)
    until_mtu_is(near, capped, LOOPBACK)
    with connection(near, capped) as (ours, theirs):
        with Captured(near.host, "lo") as captured:
            send(theirs, ours, PAYLOAD)
        assert captured.number(whole_steps(CAP)) > 10
        assert captured.number(CAP + MESSAGE_BYTES + 1) == 0
        send(ours, theirs, PAYLOAD)


def test_who_could_not_pass_on_long_packets_gets_none(members: dict[str, Member]) -> None:
    plain, single = members["plain"], members["single"]
    until_mtu_is(single, plain, LOOPBACK)
    plain.ping(single.address)
    assert plain.peer("single")["CurAddr"]
    assert mtu(plain, single.address) == TAILNET_MTU
    both_ways(plain, single)


def test_a_path_of_ethernets_usual_length(members: dict[str, Member]) -> None:
    near, plain = members["near"], members["plain"]
    for one, other in ((near, plain), (plain, near)):  # near's own link is wider: its kernel is told by the router
        until_mtu_is(one, other, ETHERNET)
    with Captured(plain.host, "internet") as captured:
        both_ways(near, plain)
    assert captured.number(whole_steps(ETHERNET)) > 100
    assert captured.number(ETHERNET + MESSAGE_BYTES + 1) == 0


def test_a_path_that_becomes_narrower_and_then_none_under_a_transfer(world: World, members: dict[str, Member]) -> None:
    near, far, beside = (members[name] for name in ("near", "far", "beside"))
    until_mtu_is(near, beside, LOOPBACK)
    until_mtu_is(near, far, JUMBO)
    with Captured(far.host, "internet") as captured, connection(near, far) as (ours, theirs):
        send(ours, theirs, PAYLOAD)
        assert captured.number(whole_steps(JUMBO)) > 10
        world.narrow(far.host, 1500)
        send(ours, theirs, PAYLOAD)
        until_mtu_is(near, far, ETHERNET)
        send(ours, theirs, PAYLOAD)
        near.host.nft(*NO_UDP)
        with connection(near, beside) as (mine, its):
            send(mine, its, PAYLOAD)  # by the relay, which takes superpackets, too
        send(ours, theirs, PAYLOAD)
    assert [near.peer(name)["CurAddr"] for name in ("far", "beside")] == ["", ""]
    assert mtu(near, beside.address) == LOOPBACK
