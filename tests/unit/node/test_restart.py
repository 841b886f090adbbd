# SPDX-License-Identifier: BSD-3-Clause
"""Whether a container tool is at work on a container."""

import os
from pathlib import Path

import pytest

from ts4nsnet.node.restart import is_at_work

ID = "0123456789abcdef" * 4


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Three processes, us, and one that has just ended."""
    arguments = {"2": b"sleep\0100", "7": b"podman\0container\0cleanup\0" + ID.encode(), str(os.getpid()): ID.encode()}
    for number, words in arguments.items():
        (tmp_path / number).mkdir()
        (tmp_path / number / "cmdline").write_bytes(words)
    (tmp_path / "9").mkdir()
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "cmdline").write_bytes(ID.encode())
    return tmp_path


def test_a_process_that_is_told_of_the_container_is_at_work(proc: Path) -> None:
    assert is_at_work(ID, proc)
    (proc / "7" / "cmdline").write_bytes(b"podman\0ps")
    assert not is_at_work(ID, proc)


@pytest.mark.parametrize("container", ["", "/run/netns/x", "sleep", ID[:12]])
def test_what_is_no_container_id_is_looked_for_nowhere(proc: Path, container: str) -> None:
    assert not is_at_work(container, proc)


def test_the_machines_own_processes_can_be_looked_at() -> None:
    assert not is_at_work("f" * 64)
