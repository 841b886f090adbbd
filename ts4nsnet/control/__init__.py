# SPDX-License-Identifier: BSD-3-Clause
"""The control plane: registering with a coordination server, and the netmap that it sends.

    client    the verbs              link       key, dial, handshake       mapstream   messages of one poll
    enrolment when to register       ts2021     Noise channel              wire, wire_node, wire_config   JSON to model
    register  what to ask            session    HTTP/2                     netmap      the model and its deltas
    poll      again and again        http       one plain request          persistent  its maps
    credentials, lock                c2n        pings and calls            hostinfo    what we say of ourselves
    backoff, expiry, replies         adapter    trio                       events      what is told

`Client` is sans-I/O; `adapter.run` drives it. `events` has what it tells, `hostinfo` what it is told of us. The server
side of ts2021 and of the session is here too, for the lab.

We announce **capability version 130**. A server may then assume, of what concerns this package, that we

* 6-18     take what is absent in a message for unchanged                               netmap
* 7, 81    understand filters by prefix and range, named and incremental                wire_config, netmap
* 10-36    take patches of peers in every form; `PeerSeenChange`, `OnlineChange`        wire_node, netmap
* 12-38    answer pings (HEAD, over the channel or not), pings of peers                 c2n, client
* 28, 49   speak ts2021, and stand an early payload                                     ts2021
* 29       show `PopBrowserURL`                                                         poll
* 40, 47   sign our node key where the tailnet is locked and we were given the means    lock, register
* 44       follow a `ControlDialPlan`                                                   poll, dial
* 54-112   read `Cap`, masquerade addresses, partial DERP maps, `HomeDERP`, `AllowedIPs` absent     wire_node, netmap
* 68       do not expect a poll to change what the server knows: updates do             client
* 84, 126  keep the data plane up while a key is renewed                                register, expiry
* 108      answer `GET /vip-services`                                                   c2n
* 117      take `DisplayMessages`                                                       netmap

and not: that we honour a 429 (137; we do), refuse remote access knowingly (142; we refuse it like any unknown call), or
send our disco key by TSMP (144).

Source: control.md; new-features.md 1.
"""

from ts4nsnet.control import events, hostinfo
from ts4nsnet.control.client import Client
from ts4nsnet.control.config import Config, Identity, State
from ts4nsnet.control.credentials import Credential, credential
from ts4nsnet.control.errors import ControlError
from ts4nsnet.control.netmap import NetMap, NetMapDelta
from ts4nsnet.control.node import Node

__all__ = [
    "Client",
    "Config",
    "ControlError",
    "Credential",
    "Identity",
    "NetMap",
    "NetMapDelta",
    "Node",
    "State",
    "credential",
    "events",
    "hostinfo",
]
