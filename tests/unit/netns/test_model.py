# SPDX-License-Identifier: BSD-3-Clause
"""What can be asked of the netns child: checked when it is made, equal however it was written, the same after JSON."""

import json
import os
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from ts4nsnet.errors import Ts4nsnetError
from ts4nsnet.netns import Link, NetnsError, Route, Target, Tun
from ts4nsnet.netns.model import check_name, check_queues


@pytest.mark.parametrize("name", ["t", "tap0", "tailscale0", "a" * 15, "ö" * 7, "x.y-z_1", "..."])
def test_names_that_the_kernel_takes(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "0 bytes long; give a name of 1 to 15 bytes"),
        ("a" * 16, "16 bytes long"),
        ("ö" * 8, "16 bytes long"),
        ("a/b", "leave out '/'"),
        ("a b", "white space"),
        ("a\t", "white space"),
        ("eth0:1", "':'"),
        ("tun%d", "'%'"),
        (".", "refuses"),
        ("..", "refuses"),
        ("a\0b", "refuses"),
        ("\ud800", "not a text"),
        (None, "not a text"),
    ],
)
def test_names_that_the_kernel_refuses(name: str, words: str) -> None:
    with pytest.raises(NetnsError) as caught:
        check_name(name)
    assert words in str(caught.value)
    assert str(caught.value).startswith("checking the interface name")


@pytest.mark.parametrize("queues", [0, -1, 254, 1.5, True, "2"])
def test_queues_out_of_range(queues: int) -> None:
    with pytest.raises(NetnsError, match="give one from 1 to 253"):
        check_queues(queues)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"netns": 0}, "give one from 1 to"),
        ({"netns": -7}, "give one from 1 to"),
        ({"netns": True}, "give one from 1 to"),
        ({"netns": 2**40}, "give one from 1 to"),
        ({"netns": ""}, "give a process id or a path"),
        ({"netns": "/run\0/x"}, "give a process id or a path"),
        ({"netns": 1, "userns": ""}, "give a process id or a path"),
    ],
)
def test_targets_that_cannot_be(values: dict[str, Any], words: str) -> None:
    with pytest.raises(NetnsError, match=words):
        Target(**values)


def test_a_target_says_what_it_is() -> None:
    assert str(Target(12)) == "process 12"
    assert Target(12).netns_path == "/proc/12/ns/net"
    assert str(Target("/run/netns/x")) == Target("/run/netns/x").netns_path == "/run/netns/x"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"destination": "100.64.0.1/10"}, "has host bits set"),
        ({"destination": "default"}, "write it as 100.64.0.0/10"),
        ({"destination": "10.0.0.0/8", "mtu": 67}, "from 68 to 65535"),
        ({"destination": "fd7a::/48", "mtu": 1279}, "from 1280 to 65535"),
        ({"destination": "10.0.0.0/8", "mtu": 65536}, "from 68 to 65535"),
        ({"destination": "10.0.0.0/8", "priority": -1}, "from 0 to 4294967295"),
        ({"destination": "10.0.0.0/8", "priority": 2**32}, "from 0 to 4294967295"),
        ({"destination": "10.0.0.0/8", "source": "fd7a::1"}, "other family than"),
        ({"destination": "10.0.0.0/8", "source": "10.0.0.1/8"}, "not an IP address"),
        ({"destination": "10.0.0.0/8", "unreachable": True, "mtu": 1280}, "leave those out"),
    ],
)
def test_routes_that_cannot_be(values: dict[str, Any], words: str) -> None:
    with pytest.raises(NetnsError, match=words):
        Route(**values)


HALF = Route("10.0.0.0/8")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "a b"}, "white space"),
        ({"mtu": 67}, "from 68 to 65535"),
        ({"mtu": 65536}, "from 68 to 65535"),
        ({"mtu": "1280"}, "from 68 to 65535"),
        ({"txqueuelen": 0}, "from 1 to"),
        ({"addresses": ("100.64.0.7/32",)}, "without a prefix"),
        ({"addresses": ("fe80::1%eth0",)}, "leave out the '%…'"),
        ({"routes": (HALF, Route("10.0.0.0/8", priority=0))}, "given twice"),
        ({"routes": (Route("::/0"), Route("::/0", priority=1024))}, "given twice"),
        ({"routes": (Route("10.0.0.0/8", source="10.0.0.1"),)}, "no address of the link; add it to addresses"),
        ({"routes": (HALF,), "up": False}, "which is down"),
    ],
)
def test_links_that_cannot_be(values: dict[str, Any], words: str) -> None:
    with pytest.raises(NetnsError, match=words):
        Link(**{"name": "tap0", **values})


def test_text_and_objects_are_the_same() -> None:
    objects = Link("t", (ip_address("fd7a::7"),), (Route(ip_network("fd7a::/48"), source=ip_address("fd7a::7")),))
    text = Link("t", ("FD7A:0::7", "fd7a::7"), (Route("fd7a:0::/48", source="fd7a::0007"),))
    assert objects == text
    assert text.addresses == ("fd7a::7",)
    assert Route("100.64.0.7") == Route("100.64.0.7/32")


def test_a_link_is_the_same_after_json() -> None:
    link = Link(
        "tap0",
        ("100.64.0.7", "fd7a::7"),
        (Route("100.64.0.0/10", mtu=1280, source="100.64.0.7"), Route("::/0", priority=2**32 - 1, unreachable=True)),
        mtu=1420,
        txqueuelen=300,
    )
    assert Link.from_message(json.loads(json.dumps(link.to_message()))) == link


def test_keys_are_what_the_kernel_goes_by() -> None:
    assert Route("10.0.0.0/8").key == ("10.0.0.0/8", 0)
    assert Route("::/0").key == Route("::/0", priority=0).key == ("::/0", 1024)


def test_an_error_says_step_namespace_reason_and_advice() -> None:
    error = NetnsError("entering the network namespace", "process 7", "Operation not permitted", "run as its owner")
    assert str(error) == "entering the network namespace (process 7): Operation not permitted; run as its owner"
    assert isinstance(error, Ts4nsnetError)


def test_a_tun_closes_its_fds_once() -> None:
    one, two = os.pipe()
    tun = Tun("tap0", (one, two), True, 0x67)
    tun.close()
    again = os.pipe()  # most likely the same numbers
    tun.close()
    for fd in again:
        os.fstat(fd)
        os.close(fd)
    assert tun == Tun("tap0", (one, two), True, 0x67)
