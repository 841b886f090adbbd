# SPDX-License-Identifier: BSD-3-Clause
"""The keeper: the parent process of one container's node, which owns what must outlive its children.

A container tool starts us where it would start slirp4netns, and signals that process later. What it started becomes
the keeper (`launch`), a small process of plain Python:

    container tool ─argv, TS_*─► ts4nsnet ──execve──► keeper ──┬─ seqpacket ─► node process ◄──┐ trio; all protocols
                     ready-fd ◄──────────────────────────┤     ├─ seqpacket ─► worker ◄────────┘ packets of sessions
                     exit-fd ───────────────────────────►│     └─ stream ────► netns child        in the container
                                                         TUN, UDP socket, session memory, document, node's folder

* No process of ours shows a secret: not in its environment, command line, core file or log. Settings and secrets go to
  the node in a sealed memory file, which the user's other processes can read in the first moments of a start, and in
  a user namespace of the user's own, as podman's, at any time (launch.py, sandbox.py).
* The keeper never reads what comes from a network. It hands the node file descriptors (messages.py) and netns children
  (inside.py), for it keeps the rights that it was started with.
* A node process or a worker (process.py, worker.py) that dies is followed by another, which finds all that its
  predecessor had; between them is a fresh socket then. Packets of established sessions go on.
* It ends for exit-fd, SIGTERM, SIGINT, SIGHUP and the container's end (watch.py): worker and TUN first, then the node
  logs out, all within 2 s, exit code 0. Whatever else ends it: exit code 1, after one line on standard error.
* Whoever is killed leaves nothing behind: each child ends by the end of file of its socket to the keeper, the node
  after logging out.
* People find a running node by its folder (folder.py), and read its log there (log.py).

Standard library and netns only, for the keeper stays for as long as the container does.
"""

from ts4nsnet.keeper.launch import launch
from ts4nsnet.keeper.plan import KeeperError, Plan

__all__ = ["KeeperError", "Plan", "launch"]
