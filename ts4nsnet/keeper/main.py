# SPDX-License-Identifier: BSD-3-Clause
"""The keeper's first moments after `launch`: hidden again, out of the caller's folder, then at work.

Arguments: the fd of the document, the plan.
"""

import os
import sys

from ts4nsnet.errors import Ts4nsnetError
from ts4nsnet.keeper.keeper import Keeper, complain
from ts4nsnet.keeper.plan import Plan
from ts4nsnet.sandbox import hide


def main() -> None:
    """Be the keeper; ends the process."""
    try:
        hide("ts4nsnet")
        document, plan = int(sys.argv[1]), Plan.from_json(sys.argv[2])
        for fd in (document, plan.ready_fd, plan.exit_fd):
            if fd is not None:
                os.set_inheritable(fd, False)
        os.chdir("/")
        sys.exit(Keeper(plan, document).run())
    except (Ts4nsnetError, OSError) as error:
        complain(str(error))
        sys.exit(1)
