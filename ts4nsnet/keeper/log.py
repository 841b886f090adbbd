# SPDX-License-Identifier: BSD-3-Clause
"""A node's log: podman deletes what we print, so what we say is kept in the node's folder.

    log       2026-11-24T11:05:30.123Z joined the tailnet as web.example.ts.net
    log.old   what came before; replaced when `log` is full: 1 MiB in all, and the newest half of that is always there

One line each, UTC. Keeper and node write to the same file: each line is one write(2) at its end, and before it each
looks whether the other has begun a new file. (If both found it full at the same moment, the older file would be lost;
but keepers say little.) It is a write to the page cache, mostly of a tmpfs; what cannot be written (a full disk) is
counted, and said by the next line that can. So nobody is ever held up or ended by his log.

`follow` reads both files in order, and goes on into the next when there is one.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

LOG = "log"
OLD_LOG = "log.old"
# ours: of each of the two files
MAX_FILE_BYTES = 512 * 1024
# ours: of a line; its end is cut off
MAX_TEXT_CHARACTERS = 2000
FILE_MODE = 0o1600
_READ_BYTES = 65536


class Log:
    """Appends lines; at most 1 MiB of them are kept, the oldest go first.

    Args:
        folder: the node's.
        wall: unix seconds.
        streams: file descriptors that are made to lead to the log as well: 1 and 2, for what Python says as it dies.
    """

    def __init__(self, folder: Path, wall: Callable[[], float] = time.time, streams: Sequence[int] = ()) -> None:
        self._path = folder / LOG
        self._old_path = folder / OLD_LOG
        self._wall = wall
        self._streams = streams
        self._fd = -1
        self._lost_lines = 0

    def write(self, text: str) -> None:
        """Append a line with the time; what is not printable in it is replaced. It raises nothing."""
        if self._lost_lines:
            text = f"[{self._lost_lines} lines before this are lost] {text}"
        try:
            self._open()
            if os.fstat(self._fd).st_size >= MAX_FILE_BYTES:
                self._path.rename(self._old_path)
                self._open()
            os.write(self._fd, self._line(text))
            self._lost_lines = 0
        except OSError:
            self._lost_lines += 1

    def close(self) -> None:
        """Close the file; idempotent, and `write` opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _line(self, text: str) -> bytes:
        at = datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
        return f"{at} {shown[:MAX_TEXT_CHARACTERS]}\n".encode(errors="replace")

    def _open(self) -> None:
        """Have the file open that has the name now."""
        if self._fd >= 0 and not _is_at(self._fd, self._path):
            self.close()
        if self._fd < 0:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o600)
            os.fchmod(self._fd, FILE_MODE)
            for stream in self._streams:
                os.dup2(self._fd, stream)


def follow(folder: Path) -> Iterator[bytes]:
    """The log, oldest first, in pieces; an empty one whenever that is all for now. Ends with the folder."""
    current = _open(folder / OLD_LOG) or Path(os.devnull).open("rb")  # noqa: SIM115  (closed below)
    try:
        while True:
            new = None if _is_at(current.fileno(), folder / LOG) else _open(folder / LOG)
            yield from _rest(current)  # all there ever will be in it, where there is a new one
            if new:
                current.close()
                current = new
            elif folder.exists():
                yield b""
            else:
                return
    finally:
        current.close()


def read(folder: Path) -> Iterator[bytes]:
    """What the log holds now, oldest first, in pieces; nothing where there is none."""
    return takewhile(bool, follow(folder))


def _open(path: Path) -> BinaryIO | None:
    with suppress(FileNotFoundError):
        return path.open("rb")
    return None


def _rest(file: BinaryIO) -> Iterator[bytes]:
    while data := file.read(_READ_BYTES):
        yield data


def _is_at(fd: int, path: Path) -> bool:
    """Whether an open file still has its name."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    return False
