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
    switches = Switches({GSO})
    assert switches.look(attributes) == switches.wanted == wanted
    assert switches.look(()) == OffloadsSet(frozenset({GSO}))


def test_each_state_says_who_is_against_it() -> None:
    switches = Switches({GSO})
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


def test_a_refusal_is_said_once() -> None:
    switches = Switches(())
    text = switches.refused(OffloadRefused(GSO, errno.EIO))
    assert text.startswith("udp-gso is off from now on")
    assert "Input/output error" in text
    assert "\n" not in text
    assert switches.refused(OffloadRefused(GSO, errno.EIO)) == ""
    assert switches.refused(OffloadRefused(GRO, errno.EIO))
