# SPDX-License-Identifier: BSD-3-Clause
"""Whether the container tool is still at work on a container that has ended: it may be about to start it anew.

A start without the environment that it had (podman up to 4.7, `--restart`) has no auth key, so it depends on taking
over the old node, which must not have logged out by then. podman's supervisor, which we see end, leaves the rest to
`podman … container cleanup ID`; that either starts our successor, 75 ms later on an idle machine and 400 on a busy one,
or ends. So as long as some process is told about the container by its id, the end of the node can wait.
"""

import os
import re
from contextlib import suppress
from pathlib import Path

_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")


def is_at_work(container: str, proc: Path = Path("/proc")) -> bool:
    """Whether another program has the container's id among its arguments; False for what is no such id."""
    if not _CONTAINER_ID.fullmatch(container):
        return False
    ours = {str(os.getpid()), str(os.getppid())}
    return any(_mentions(process, container) for process in proc.glob("[1-9]*") if process.name not in ours)


def _mentions(process: Path, container: str) -> bool:
    with suppress(OSError):  # it has ended, or is somebody else's
        return container.encode() in (process / "cmdline").read_bytes()
    return False
