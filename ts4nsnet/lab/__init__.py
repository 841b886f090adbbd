# SPDX-License-Identifier: BSD-3-Clause
"""The lab: a whole tailnet on one machine, for tests, demos and performance work, without an account anywhere.

`Tailnet` is coordination server, relay and STUN server on one address; `ts4nsnet lab serve` is the same as a command.
Real clients join it: Tailscale's own, tsnet programs, ours.

    server       Tailnet: all parts on one address         policy      the policy file
    serving      sockets, timers, whom to wake             rules       what it means for the nodes
    control_link one ts2021 connection                     directory   the nodes, and what changed
    relay_link   one DERP connection                       fanout      map streams: who is told what
    http, web, api   what is asked over plain HTTPS        registration, credentials   who may join
    control      the coordination server's decisions       relay, stun   the DERP server, the STUN answers
    store, model, certificates, addresses, requests, responses, timers

Protocols are sans-I/O as everywhere: `control`, `relay`, `stun`, `web` and what they are made of take `now` and give
answers; `server`, `serving` and the two links have the sockets.
"""

from ts4nsnet.lab.control import Settings
from ts4nsnet.lab.errors import LabError, PolicyError, Refused, StateError
from ts4nsnet.lab.relay import Rate
from ts4nsnet.lab.server import NodeStatus, Tailnet

__all__ = ["LabError", "NodeStatus", "PolicyError", "Rate", "Refused", "Settings", "StateError", "Tailnet"]
