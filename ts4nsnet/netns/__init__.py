# SPDX-License-Identifier: BSD-3-Clause
"""The netns child: a TUN device inside another process's namespaces.

A container's network namespace can be entered by a whole process only (a user namespace by one with a single
thread), and rootless code can never come back from there. So a short-lived child does it. It is a fresh interpreter
(a fork of a process with threads is not safe) that enters before it imports anything but the standard library,
makes the TUN, hands its file descriptors back, sets links, addresses and routes, and is gone:

    open_tun, configure… ──JSON──►  python -I, netns.enter.main           inside the target's namespaces
         (client)        ◄─JSON─┐       enter: setns(user), setns(net)
                          + fds └────── tun: /dev/net/tun, queues, offloads
                                        link: lo, MTU, addresses, routes  (pyroute2; imported only here)

* A TUN is made in the network namespace in which /dev/net/tun was *opened*, and its fd works from anywhere. So does a
  socket's (`open_socket`).
* The rule for entering that served all container tools: setns(net) at once; where that is refused (rootlesskit starts
  us without a capability), first the user namespace that owns the network namespace, then again. `Target.userns`
  fixes the user namespace instead.
* The mount namespace stays ours: paths, /dev/net/tun and Python's files are the host's.
* The child ends at the end-of-file of its socket, with its parent, and after one second without a request. The parent
  kills it when a request takes longer than `REQUEST_TIME`, always reaps it and closes every fd of a failed request.
* The child sees none of our environment, so no secret is ever inside the container's namespaces.
* What we made is marked (route protocol and address protocol 84), so that `configure` can take back what is not asked
  any more and leaves alone what a container tool added (rootlesskit: 10.0.2.100/24 and a default route).
  An `unreachable` route has no device; it outlives the TUN and is never taken back: nothing may leak later.

Every failure is a `NetnsError` which says the step, the namespace, the kernel's reason and what to do.

Sources: namespaces(7), setns(2), ioctl_ns(2), rtnetlink(7), Documentation/networking/tuntap.rst. What the container
tools do was seen live: slirp4netns' `--netns-type`, `--userns-path`; rootlesskit's persistent TAP.
"""

from ts4nsnet.netns.client import NetnsChild, configure, open_socket, open_tun
from ts4nsnet.netns.model import Configured, Link, NetnsError, Route, Target, Tun

__all__ = [
    "Configured",
    "Link",
    "NetnsChild",
    "NetnsError",
    "Route",
    "Target",
    "Tun",
    "configure",
    "open_socket",
    "open_tun",
]
