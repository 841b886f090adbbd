# SPDX-License-Identifier: BSD-3-Clause
"""The engine: a packet's way between the TUN and UDP.

    reference   the pipeline in plain code, and the oracle of compiled ones    trains     datagrams of one call
    segment     superpackets of the TUN become packets                         udp        the socket under the tunnel
    coalesce    packets become superpackets for the TUN                        counters   what passed, what was dropped
    local       what of the container's is for the node itself                 events     what is told to the node
    judge       what may pass, for all pipelines                               worker     the process that carries
    commands, encoding, link   what node and worker say to each other          backends   which engine works here

Compiled, where there was a compiler; each is the twin of the module after the slash, and tests compare them:

    offload     segment / coalesce                            port       what the two backends have in common
    sessions    wireguard.sessions                            epoll      plain system calls
    classify    whose an address is, which flows may pass     ring       io_uring
    pipeline    reference                                     rings      its queues and buffers
    arena       trains

The pipeline is pure: frames and trains in, frames and trains out; it owns the session table. Whoever runs it has the
file descriptors: `node.engine` for the `python` engine.

Source: architecture of Linux's tun and UDP offloads; see the modules.
"""

from ts4nsnet.uring.counters import Counters, Drop
from ts4nsnet.uring.events import Local, Message, Slow, Unsealed
from ts4nsnet.uring.local import LocalTraffic
from ts4nsnet.uring.reference import Reference
from ts4nsnet.uring.segment import VnetHeader, segment
from ts4nsnet.uring.trains import Train
from ts4nsnet.uring.udp import UdpPort

__all__ = [
    "Counters",
    "Drop",
    "Local",
    "LocalTraffic",
    "Message",
    "Reference",
    "Slow",
    "Train",
    "UdpPort",
    "Unsealed",
    "VnetHeader",
    "segment",
]
