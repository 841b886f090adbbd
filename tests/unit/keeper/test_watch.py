# SPDX-License-Identifier: BSD-3-Clause
"""The end of a target is seen, and nothing else; any file does for a bound namespace."""

import os
import select
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ts4nsnet.keeper.watch import Watch
from ts4nsnet.netns import Target

TIME_LIMIT = 10.0


@pytest.fixture
def process() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as running:
        yield running
        running.kill()


def has_news(watch: Watch, time: float = TIME_LIMIT) -> bool:
    return bool(select.select([watch.fd], [], [], time)[0])


@pytest.mark.parametrize("form", [lambda pid: pid, lambda pid: f"/proc/{pid}/ns/net"], ids=["process", "its file"])
def test_the_end_of_a_process(process: "subprocess.Popen[bytes]", form: Callable[[int], int | str]) -> None:
    with Watch(Target(form(process.pid))) as watch:
        assert not has_news(watch, 0)
        process.kill()
        assert has_news(watch)
        assert watch.has_ended()


def removed(path: Path) -> None:
    path.unlink()


def moved(path: Path) -> None:
    path.rename(path.with_suffix(".old"))


def replaced(path: Path) -> None:
    removed(path)
    path.touch()


def folder_removed(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()


@pytest.mark.parametrize("end", [removed, moved, replaced, folder_removed])
def test_the_end_of_a_file(tmp_path: Path, end: Callable[[Path], None]) -> None:
    path = tmp_path / "netns" / "cni-1"
    path.parent.mkdir()
    path.touch()
    with open(path), Watch(Target(str(path))) as watch:  # as long as it is open its inode's number is not used again
        assert not has_news(watch, 0)
        end(path)
        assert has_news(watch)
        assert watch.has_ended()


def test_the_end_of_another_file_is_not_ours(tmp_path: Path) -> None:
    path, other = tmp_path / "cni-1", tmp_path / "cni-2"
    path.touch()
    other.touch()
    with Watch(Target(str(path))) as watch:
        other.unlink()
        assert has_news(watch)
        assert not watch.has_ended()
        assert not has_news(watch, 0)  # and nobody is woken up again
        path.unlink()
        assert has_news(watch)
        assert watch.has_ended()


@pytest.mark.parametrize("target", [Target(2**22), Target("/proc/4194304/ns/net"), Target("/gone/netns")], ids=str)
def test_what_cannot_be_watched(target: Target) -> None:
    with Watch(target) as watch:
        assert watch.fd == -1


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("netns").touch()
    with Watch(Target("netns")) as watch:
        os.unlink("netns")
        assert has_news(watch)
        assert watch.has_ended()
