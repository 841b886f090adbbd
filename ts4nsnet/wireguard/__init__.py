# SPDX-License-Identifier: BSD-3-Clause
"""The WireGuard protocol, sans-I/O.

Two classes, because two processes run it. `Device` shakes hands, watches the timers and knows which peer an address
belongs to; it may be slow. `SessionTable` seals and opens transport data; it is the fast path, and a compiled twin of
it works on the same flat records. Neither touches a socket, a clock or a source of chance it was not given.

    messages    layouts; why something is dropped     sessions   seal, open, the three keypairs of a peer
    handshake   Noise_IKpsk2, timestamps              records    session memory, field by field
    cookies     mac1, mac2, load                      replay     RFC 6479
    timers      when to call, retry, keep alive       routing    allowed IPs, longest prefix first
    device      the verbs                             peer       what is known of a peer
    indices     receiver indices                      roster     which record is whose

Source: J. A. Donenfeld, "WireGuard: Next Generation Kernel Network Tunnel" (2017), as of 2020-06.
"""

from ts4nsnet.wireguard.device import Command, Device, Seal
from ts4nsnet.wireguard.messages import WireGuardError
from ts4nsnet.wireguard.peer import PeerConfig
from ts4nsnet.wireguard.records import RECORD, SessionMemory
from ts4nsnet.wireguard.routing import AllowedIPs
from ts4nsnet.wireguard.sessions import Fact, Keypair, RekeyWanted, SessionTable

__all__ = [
    "RECORD",
    "AllowedIPs",
    "Command",
    "Device",
    "Fact",
    "Keypair",
    "PeerConfig",
    "RekeyWanted",
    "Seal",
    "SessionMemory",
    "SessionTable",
    "WireGuardError",
]
