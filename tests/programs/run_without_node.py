# SPDX-License-Identifier: BSD-3-Clause
"""The process of `ts4nsnet run` with a keeper that has no node.

    python -m tests.programs.run_without_node KEEPER COMMAND...

KEEPER says what the keeper does: it is "ready" and waits for exit-fd, is "never" ready and waits, "fails" with a line
on standard error, "dies" after it was ready, "hangs" and does not leave when it is told to.
"""

import json
import os
import select
import signal
import sys
from typing import NoReturn

from ts4nsnet.cli.supervise import Supervisor
from ts4nsnet.keeper import Plan


def keeper(plan: Plan, _document: bytes) -> NoReturn:
    """What `launch` would become."""
    what = plan.hostname
    assert plan.ready_fd is not None
    assert plan.exit_fd is not None
    print("keeper comes", file=sys.stderr, flush=True)
    if what == "fails":
        print("no node today", file=sys.stderr, flush=True)
        os._exit(1)
    if what != "never":
        os.write(plan.ready_fd, b"1")
    os.close(plan.ready_fd)
    if what == "dies":
        os._exit(1)
    while what == "hangs":
        signal.pause()
    poll = select.poll()
    poll.register(plan.exit_fd, select.POLLIN)
    poll.poll()
    print("keeper leaves", file=sys.stderr, flush=True)
    os._exit(0)


def main() -> None:
    """Run the command."""
    document = os.memfd_create("document")
    os.write(document, json.dumps({"settings": {"hostname": sys.argv[1]}, "secrets": {}}).encode())
    os._exit(Supervisor(sys.argv[2:], keeper, leave_time=1.0).run(document))


if __name__ == "__main__":
    main()
