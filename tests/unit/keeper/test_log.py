# SPDX-License-Identifier: BSD-3-Clause
"""A node's log: its lines, its bound, two writers, and those who follow it."""

import errno
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ts4nsnet.keeper.log import MAX_FILE_BYTES, MAX_TEXT_CHARACTERS, Log, follow, read

WALL = 1.8e9
AT = "2027-01-15T08:00:00.000Z"


def wall() -> float:
    return WALL


def content(folder: Path) -> str:
    return b"".join(read(folder)).decode()


def fill(folder: Path, letter: str) -> None:
    """Fill the file there is."""
    text = letter * MAX_TEXT_CHARACTERS
    log = Log(folder, wall)
    while (folder / "log").stat().st_size < MAX_FILE_BYTES:
        log.write(text)
    log.close()


def test_a_line_has_its_time(tmp_path: Path) -> None:
    log = Log(tmp_path, wall)
    log.write("one")
    log.close()
    log.close()
    log.write("two")
    assert content(tmp_path) == f"{AT} one\n{AT} two\n"
    assert (tmp_path / "log").stat().st_mode & 0o7777 == 0o1600


def test_there_is_nothing_to_read_where_there_is_no_log(tmp_path: Path) -> None:
    assert content(tmp_path) == ""
    assert content(tmp_path / "missing") == ""


@example(MAX_TEXT_CHARACTERS * "xy")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=3 * MAX_TEXT_CHARACTERS))
def test_whatever_is_said_is_one_line_of_bounded_length(tmp_path: Path, text: str) -> None:
    log = Log(tmp_path, wall)
    log.write(text)
    log.close()
    lines = list(read(tmp_path))[-1].decode().split("\n")
    (tmp_path / "log").unlink()
    assert len(lines) == 2
    assert lines[1] == ""
    assert lines[0].startswith(f"{AT} ")
    assert lines[0].isprintable()
    assert len(lines[0]) <= len(AT) + 1 + MAX_TEXT_CHARACTERS


def test_a_line_that_breaks_is_mended(tmp_path: Path) -> None:
    Log(tmp_path, wall).write("a\nb\x1b[31m\r\udcff")
    assert content(tmp_path) == f"{AT} a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}[31m" + "�" * 2 + "\n"


def test_two_files_keep_the_newest_half_at_least(tmp_path: Path) -> None:
    log = Log(tmp_path, wall)
    for letter in "abc":
        log.write(letter)
        fill(tmp_path, letter)
    log.write("new")
    shown = content(tmp_path)
    assert shown.splitlines()[-1] == f"{AT} new"
    assert "c" * MAX_TEXT_CHARACTERS in shown
    assert "a" * MAX_TEXT_CHARACTERS not in shown
    assert MAX_FILE_BYTES < len(shown) < 2 * (MAX_FILE_BYTES + 2 * MAX_TEXT_CHARACTERS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.old"]


def test_two_writers_go_on_in_the_same_file(tmp_path: Path) -> None:
    one, two = Log(tmp_path, wall), Log(tmp_path, wall)
    one.write("1")
    two.write("2")
    fill(tmp_path, "x")
    one.write("3")
    two.write("4")
    one.write("5")
    assert (tmp_path / "log").read_text() == f"{AT} 3\n{AT} 4\n{AT} 5\n"


def test_what_cannot_be_written_is_counted_and_told_later(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    log = Log(folder, wall)
    log.write("one")
    log.write("two")
    folder.mkdir()
    log.write("three")
    log.write("four")
    assert content(folder) == f"{AT} [2 lines before this are lost] three\n{AT} four\n"


def test_a_full_disk_ends_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    log = Log(tmp_path, wall)
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        log.write("one")
    log.write("two")
    assert content(tmp_path) == f"{AT} [1 lines before this are lost] two\n"


def test_streams_lead_to_the_log_as_well(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    log = Log(tmp_path, wall, streams=[writing])
    log.write("one")
    os.write(writing, b"Traceback\n")
    fill(tmp_path, "x")
    log.write("two")
    os.write(writing, b"Traceback\n")
    os.close(writing)
    assert os.read(reading, 1) == b""
    os.close(reading)
    assert content(tmp_path).startswith(f"{AT} one\nTraceback\n")
    assert (tmp_path / "log").read_text() == f"{AT} two\nTraceback\n"


# --- following ------------------------------------------------------------------------------------------------------


def until_caught_up(following: Iterator[bytes]) -> str:
    pieces = []
    while piece := next(following):
        pieces.append(piece)
    return b"".join(pieces).decode()


def test_who_follows_sees_every_line_once(tmp_path: Path) -> None:
    log = Log(tmp_path, wall)
    following = follow(tmp_path)
    assert until_caught_up(following) == ""
    log.write("one")
    assert until_caught_up(following) == f"{AT} one\n"
    assert list(islice(following, 2)) == [b"", b""]
    fill(tmp_path, "x")
    log.write("two")
    shown = until_caught_up(following)
    assert shown.endswith(f"x\n{AT} two\n")
    assert "one" not in shown


def test_who_comes_later_sees_both_files(tmp_path: Path) -> None:
    log = Log(tmp_path, wall)
    log.write("one")
    fill(tmp_path, "x")
    log.write("two")
    shown = until_caught_up(follow(tmp_path))
    assert shown.startswith(f"{AT} one\n")
    assert shown.endswith(f"x\n{AT} two\n")


def test_following_ends_with_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    folder.mkdir()
    log = Log(folder, wall)
    log.write("one")
    following = follow(folder)
    assert until_caught_up(following) == f"{AT} one\n"
    log.write("bye")
    (folder / "log").unlink()
    folder.rmdir()
    assert list(following) == [f"{AT} bye\n".encode()]
