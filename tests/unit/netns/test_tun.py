# SPDX-License-Identifier: BSD-3-Clause
"""What a TUN is opened with on kernels that lack a feature; what it does on this one is tested in tests/system."""

import errno

import pytest

from ts4nsnet.netns.tun import IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TUN, IFF_VNET_HDR, choose_flags, choose_offloads

LINUX_6_18 = 0x7173
PLAIN = IFF_TUN | IFF_NO_PI


@pytest.mark.parametrize(
    ("features", "queues", "flags"),
    [
        (LINUX_6_18, 1, PLAIN | IFF_VNET_HDR),
        (LINUX_6_18, 3, PLAIN | IFF_VNET_HDR | IFF_MULTI_QUEUE),
        (LINUX_6_18 & ~IFF_VNET_HDR, 1, PLAIN),
        (LINUX_6_18 & ~IFF_VNET_HDR, 2, PLAIN | IFF_MULTI_QUEUE),
        (PLAIN, 1, PLAIN),
    ],
)
def test_flags_follow_the_kernels_features(features: int, queues: int, flags: int) -> None:
    assert choose_flags(features, queues) == flags


def test_several_queues_need_a_kernel_that_has_them() -> None:
    with pytest.raises(OSError, match="one queue only") as caught:
        choose_flags(PLAIN | IFF_VNET_HDR, 2)
    assert caught.value.errno == errno.ENOTSUP


@pytest.mark.parametrize("known", [0x7F, 0x67, 0x1F, 0x0F, 0x07, 0x01, 0x00])
def test_a_kernel_that_refuses_a_bit_gets_what_it_knows(known: int) -> None:
    """USO (0x60) came with Linux 6.2."""
    want = {0x7F: 0x67, 0x67: 0x67, 0x01: 0x01, 0x00: 0x00}.get(known, 0x07)
    assert choose_offloads(lambda bits: not bits & ~known) == want
