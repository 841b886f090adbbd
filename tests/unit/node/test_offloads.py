# SPDX-License-Identifier: BSD-3-Clause
"""What a user and a tailnet want of the offloads, and how it is put into words."""

import errno

import pytest

from ts4nsnet.node.offloads import Switches
from ts4nsnet.node.settings import OFFLOADS
from ts4nsnet.uring.offloads import (
    IN_USE,
    REFUSED,
    SWITCHED_OFF,
    UNEVEN_ONLY,
    UNKNOWN,
    Offload,
    OffloadRefused,
    OffloadsSet,
)

GSO, GRO = Offload.UDP_GSO, Offload.UDP_GRO


def test_settings_know_all_of_them() -> None:
    assert tuple(Offload) == OFFLOADS


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [
        ((), OffloadsSet(frozenset({GSO}))),
        (("disable-udp-gro", "funnel"), OffloadsSet(frozenset({GSO, GRO}))),
        (("disable-tun-udp-gro", "disable-tun-tcp-gro", "disable-udp-gso"), OffloadsSet(frozenset(Offload) - {GRO})),
        (("never-gso-equal-tail",), OffloadsSet(frozenset({GSO}), equal_tails=False)),
    ],
)
def test_attributes_come_beside_what_the_user_wants_and_go_again(
    attributes: tuple[str, ...], wanted: OffloadsSet
) -> None:
    switches = Switches({GSO}, print)
    assert switches.look(attributes) == switches.wanted == wanted
    assert switches.look(()) == OffloadsSet(frozenset({GSO}))


def test_each_state_says_who_is_against_it() -> None:
    switches = Switches({GSO}, print)
    switches.look(("disable-udp-gro",))
    states = {GSO: SWITCHED_OFF, GRO: SWITCHED_OFF, Offload.TUN_TCP_GRO: REFUSED + errno.EINVAL}
    assert switches.lines(states | {Offload.TUN_UDP_GRO: IN_USE}) == {
        "udp-gso": "off: TS4NSNET_OFFLOADS_OFF",
        "udp-gro": "off: attribute disable-udp-gro of the tailnet",
        "tun-tcp-gro": "off: refused by the kernel (Invalid argument)",
        "tun-udp-gro": "in use",
    }
    lines = switches.lines({GSO: UNEVEN_ONLY, GRO: UNKNOWN})
    assert lines["udp-gso"] == "in use, but not for equal datagrams: attribute never-gso-equal-tail of the tailnet"
    assert lines["udp-gro"] == "not known yet"


@pytest.mark.parametrize(
    ("off", "attribute", "refused", "merges"),
    [
        (GSO, "disable-tun-udp-gro", GRO, True),
        (Offload.TUN_TCP_GRO, "", GRO, False),
        (GSO, "disable-tun-tcp-gro", GRO, False),
        (GSO, "", Offload.TUN_TCP_GRO, False),
    ],
)
def test_tcp_is_merged_unless_somebody_is_against_it(
    off: Offload, attribute: str, refused: Offload, merges: bool
) -> None:
    switches = Switches({off}, print)
    switches.look((attribute,))
    switches.refused(OffloadRefused(refused, errno.EINVAL))
    assert switches.merges_tcp == merges


def test_a_refusal_is_said_once() -> None:
    said: list[str] = []
    switches = Switches((), said.append)
    for offload in (GSO, GSO, GRO):
        switches.refused(OffloadRefused(offload, errno.EIO))
    assert [text.partition(" is off from now on")[0] for text in said] == ["udp-gso", "udp-gro"]
    assert "Input/output error" in said[0]
    assert "\n" not in said[0]
