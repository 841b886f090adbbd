# SPDX-License-Identifier: BSD-3-Clause
"""What a container tool has started, a moment before it becomes a keeper.

python -m tests.programs.launching PLAN   with the document in $TS_DOCUMENT, and perhaps $LEAK: fds to be left open
"""

import os
import sys

from ts4nsnet.keeper import KeeperError, Plan, launch


def main() -> None:
    """Become the keeper."""
    try:
        launch(Plan.from_json(sys.argv[1]), os.environb[b"TS_DOCUMENT"])
    except KeeperError as error:
        print(f"refused: {error}", flush=True)


if __name__ == "__main__":
    main()
