# SPDX-License-Identifier: BSD-3-Clause
"""How long the UDP datagrams are that come in by an interface, also those that pass the kernel as one train.

    with Captured(host, "internet") as captured:
        …
    assert max(captured.sizes) <= 1312

A packet socket with a virtio_net_hdr before each packet says of a train how long its datagrams are.

Source: packet(7); include/uapi/linux/virtio_net.h.
"""

import socket
import struct
from collections import Counter
from threading import Thread
from typing import Self

from tests.topology import Host

ETH_P_IP = 0x0800
SOL_PACKET, PACKET_VNET_HDR = 263, 15
UDP_L4 = 5  # a gso_type
LINK_BYTES = 14  # of Ethernet's header; the loopback has one, too
LOOK_TIME = 0.05  # seconds
_VNET = struct.Struct("=BBHHHH")


class Captured:
    """What comes in over IPv4 while it is entered; a busy socket may miss some.

    Attributes:
        sizes: how many datagrams there were with so many bytes of UDP payload.
    """

    def __init__(self, host: Host, device: str) -> None:
        self.sizes: Counter[int] = Counter()
        self._sock = host.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        self._sock.settimeout(LOOK_TIME)
        self._sock.bind((device, ETH_P_IP))
        self._thread = Thread(target=self._capture)
        self._ends = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends = True
        self._thread.join()
        self._sock.close()

    def _capture(self) -> None:
        head = bytearray(_VNET.size + LINK_BYTES + 28)
        while True:
            try:
                self._sock.recv_into(head, 0, socket.MSG_TRUNC)
            except TimeoutError:
                if self._ends:
                    return
            else:
                self._note(head)

    def _note(self, head: bytearray) -> None:
        _, gso_type, _, gso_size, _, _ = _VNET.unpack_from(head)
        ip = head[_VNET.size + LINK_BYTES :]
        if ip[0] != 0x45 or ip[9] != socket.IPPROTO_UDP:
            return
        payload = int.from_bytes(ip[24:26], "big") - 8
        if gso_type != UDP_L4:
            self.sizes[payload] += 1
            return
        self.sizes[gso_size] += payload // gso_size
        self.sizes[payload % gso_size] += bool(payload % gso_size)

    def number(self, least: int) -> int:
        """How many datagrams had so many bytes of payload at least."""
        return sum(number for size, number in self.sizes.items() if size >= least)
