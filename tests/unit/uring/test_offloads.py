# SPDX-License-Identifier: BSD-3-Clause
"""Which offloads are used, when somebody or the kernel is against them."""

import errno

from hypothesis import given
from hypothesis import strategies as st

from ts4nsnet.uring.offloads import (
    IN_USE,
    MAX_REFUSALS,
    REFUSED,
    SWITCHED_OFF,
    UNEVEN_ONLY,
    Offload,
    OffloadRefused,
    Offloads,
    OffloadsSet,
)

GSO, TCP = Offload.UDP_GSO, Offload.TUN_TCP_GRO


def test_all_are_used_until_somebody_is_against_it() -> None:
    offloads = Offloads(print)
    assert offloads.states == dict.fromkeys(Offload, IN_USE)
    assert all(map(offloads.uses, Offload))
    offloads.switch(OffloadsSet(frozenset({GSO})))
    assert offloads.states == dict.fromkeys(Offload, IN_USE) | {GSO: SWITCHED_OFF}
    assert offloads.works(GSO)
    assert [each for each in Offload if not offloads.uses(each)] == [GSO]
    offloads.switch(OffloadsSet())
    assert offloads.uses(GSO)


def test_without_equal_tails_trains_are_used_all_the_same() -> None:
    offloads = Offloads(print)
    offloads.switch(OffloadsSet(equal_tails=False))
    assert offloads.states == dict.fromkeys(Offload, IN_USE) | {GSO: UNEVEN_ONLY}
    assert offloads.uses(GSO)
    assert not offloads.equal_tails


def test_a_tun_without_superpackets() -> None:
    told: list[OffloadRefused] = []
    offloads = Offloads(told.append, vnet_hdr=False)
    lacking = REFUSED + errno.EOPNOTSUPP
    assert [offloads.states[each] for each in Offload] == [IN_USE, IN_USE, lacking, lacking]
    assert [each.offload for each in told] == [Offload.TUN_TCP_GRO, Offload.TUN_UDP_GRO]


def test_what_the_kernel_refuses_is_told_once_and_not_used_again() -> None:
    told: list[OffloadRefused] = []
    offloads = Offloads(told.append)
    offloads.lack(Offload.UDP_GRO, errno.ENOPROTOOPT)
    for _ in range(2):
        offloads.lose(GSO, errno.EIO)
    assert told == [OffloadRefused(GSO, errno.EIO)]
    assert offloads.states[GSO] == REFUSED + errno.EIO
    offloads.switch(OffloadsSet(frozenset({GSO})))
    assert offloads.states[GSO] == SWITCHED_OFF
    offloads.switch(OffloadsSet())
    assert not offloads.uses(GSO)
    assert not offloads.uses(Offload.UDP_GRO)
    assert not offloads.works(GSO)


def test_some_refused_superpackets_are_too_many() -> None:
    told: list[OffloadRefused] = []
    offloads = Offloads(told.append)
    for number in range(1, 2 * MAX_REFUSALS):
        offloads.frame_refused(TCP)
        assert offloads.uses(TCP) == (number < MAX_REFUSALS)
    assert told == [OffloadRefused(TCP, errno.EINVAL)]
    assert offloads.uses(Offload.TUN_UDP_GRO)


@given(
    st.lists(
        st.one_of(
            st.builds(OffloadsSet, st.frozensets(st.sampled_from(Offload)), st.booleans()), st.sampled_from(Offload)
        )
    )
)
def test_what_is_off_by_anybody_is_never_used(steps: list[OffloadsSet | Offload]) -> None:
    offloads, wanted, refused = Offloads(lambda _: None), OffloadsSet(), set()
    for step in steps:
        if isinstance(step, OffloadsSet):
            wanted = step
            offloads.switch(step)
        else:
            refused.add(step)
            offloads.lose(step, errno.EIO)
        assert {each for each in Offload if offloads.uses(each)} == set(Offload) - wanted.off - refused
