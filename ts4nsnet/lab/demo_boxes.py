# SPDX-License-Identifier: BSD-3-Clause
"""Containers for the demo, of one kind or the other: demo_podman or demo_namespaces.

Both run ts4nsnet by slirp4netns' command line and have the host's /usr, so nothing is downloaded. What runs in them is
demo_guest.
"""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ts4nsnet.lab import demo_guest
from ts4nsnet.lab.demo_processes import last_answer
from ts4nsnet.lab.errors import LabError

COMMAND = Path(sys.executable).parent / "ts4nsnet"
GUEST = Path(demo_guest.__file__)
PYTHON = Path(getattr(sys, "_base_executable", sys.executable)).resolve()


class Unusable(LabError):
    """Containers of this kind cannot be had here; the text says why."""


class Boxes(Protocol):
    """Containers by name."""

    kind: str

    def start(self, name: str, variables: Mapping[str, str]) -> float:
        """Start a container that is a node; seconds until it is ready."""

    def spawn(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        """Start the guest program in a container; its output is a pipe."""

    def stop(self) -> None:
        """End all containers, and wait until their nodes have left."""

    def close(self) -> None:
        """`stop`, and all else."""


def need(packages: Mapping[str, str], path: str | None = None) -> None:
    """Raise `Unusable` when one of these programs is missing; it names the Debian packages."""
    if missing := sorted({package for program, package in packages.items() if not shutil.which(program, path=path)}):
        raise Unusable(f"missing: apt-get install -y {' '.join(missing)}")


def ask(box: Boxes, name: str, *arguments: str) -> Any:
    """Run the guest program in a container to its end; what it says. LabError when it fails."""
    return last_answer(box.spawn(name, *arguments))
