# SPDX-License-Identifier: BSD-3-Clause
"""Facts about the machine and the programs: what numbers of two runs differ by."""

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

from cryptography.hazmat.backends.openssl import backend

VERSIONS = {
    "iperf3": ("--version",),
    "wireguard-go": ("--version",),
    "tailscaled": ("--version",),
    "slirp4netns": ("--version",),
    "pasta": ("--version",),
}


def facts() -> dict[str, str]:
    """Name and value of each."""
    return {
        "kernel": platform.release(),
        "processors": f"{len(os.sched_getaffinity(0))} × {_processor()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB",
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "python": platform.python_version(),
        "ts4nsnet": f"{version('ts4nsnet')} {_first_line('git', 'describe', '--always', '--dirty')}",
        "cryptography": f"{version('cryptography')}, {backend.openssl_version_text()}",
        **{name: said for name, words in VERSIONS.items() if (said := _first_line(name, *words))},
    }


def processor(cpuinfo: str) -> str:
    """The name of the first processor in /proc/cpuinfo; "?" if it has none."""
    found = re.search(r"^(?:model name|Processor|Hardware)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1] if found else "?"


def _processor() -> str:
    return processor(Path("/proc/cpuinfo").read_text())


def _first_line(*command: str) -> str:
    # of what a program says; nothing if it is not installed
    if not shutil.which(command[0]):
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    return ((done.stdout or done.stderr).strip().splitlines() or ["?"])[0]
