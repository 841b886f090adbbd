# SPDX-License-Identifier: BSD-3-Clause
"""The machine of tests/host/podman.py, for every test here that asks for it; it is made once."""

import os
import pwd
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.podman import IMAGE, USER, Machine, missing
from tests.processes import CommandFailed


@pytest.fixture(scope="session")
def made_machine() -> Iterator[Machine]:
    if os.geteuid() != 0 or "4294967295" not in Path("/proc/self/uid_map").read_text():
        missing("not real root")
    for program in ("podman", "crun", "slirp4netns", "newuidmap", "busybox", "nft"):
        shutil.which(program) or missing(f"there is no {program}")
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        missing(f"there is no user {USER}")
    made = Machine(user)
    try:
        made.make_image()
        try:  # the pause process comes with the first container, and stays
            made.podman("run", "--rm", "--network", "slirp4netns", IMAGE, "true")
        except CommandFailed as error:
            missing(f"rootless podman does not work for {USER}: {error}")
        made.start_lab()
        yield made
    finally:
        made.close()


@pytest.fixture
def machine(made_machine: Machine) -> Iterator[Machine]:
    """The machine, with its tailnet and without a container."""
    yield made_machine
    print(made_machine.logs())  # for the report of a failure
    made_machine.open_direct_paths()
    made_machine.podman("pod", "rm", "--all", "--force", check=False)
    made_machine.podman("rm", "--all", "--force", "--time", "0", check=False)
    made_machine.clean()
