# SPDX-License-Identifier: BSD-3-Clause
# Types of the compiled module `offload`, whose essay is in its source.

from collections.abc import Sequence

from ts4nsnet.packet import Buffer

class Coalescer:
    tcp: bool
    udp: bool
    def __init__(self, *, vnet_hdr: bool = True, tcp: bool = True, udp: bool = True, mtu: int = 65535) -> None: ...

def segment(frame: Buffer, mtu: int = 65535, *, coarse: bool = False) -> list[bytes]: ...
def coalesce(packets: Sequence[Buffer], *, tcp: bool = True, udp: bool = True, mtu: int = 65535) -> list[bytes]: ...
