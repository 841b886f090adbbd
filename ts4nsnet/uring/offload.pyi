# SPDX-License-Identifier: BSD-3-Clause
# Types of the compiled module `offload`, whose essay is in its source.

from collections.abc import Sequence

from ts4nsnet.packet import Buffer

class Coalescer:
    tcp: bool
    udp: bool
    def __init__(self, *, vnet_hdr: bool = True, tcp: bool = True, udp: bool = True) -> None: ...

def segment(frame: Buffer) -> list[bytes]: ...
def coalesce(packets: Sequence[Buffer], *, tcp: bool = True, udp: bool = True) -> list[bytes]: ...
