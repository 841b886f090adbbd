# SPDX-License-Identifier: BSD-3-Clause
"""The files that state is kept in: a private folder, atomic writes, locks that die with their holder.

    StateError        whatever goes wrong with state on disk
    ├─ Unsafe         others can read or change it: wrong owner or mode; we stop rather than trust it
    ├─ Unreadable     a file is torn, empty or not ours; the node can go on with a fresh identity
    └─ InUse          another process works with it

**Folder.** 0700 and ours, or refused: in /tmp anybody may have made it before us. It is opened once, without following
a link there, and from then on everything is relative to that descriptor; so nobody can change what is meant later.

**Writing.** New file, fsync, rename over the old one, fsync of the folder: after a crash, a full disk or a SIGKILL the
name has the old content or the new. Files are 0600 and have the sticky bit, which keeps cleaners of temporary files
off (XDG base directory specification; systemd-tmpfiles).

**Locks.** flock(2) belongs to the open file: it ends with the process, also by SIGKILL, and is never inherited by what
we execute (the descriptors close on exec). A lock file may be removed by its holder. Whoever opened it before that
then has a lock on a file without a name; `try_lock` sees the difference and tries again with the new one.

**Mark.** The holder can put a mark on its lock file, which others can read: the file's length, 0 or 1. A longer file
without data needs no space, so the mark can be set when the disk is full.
"""

import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from ts4nsnet.errors import Ts4nsnetError

FILE_MODE = 0o1600
FOLDER_MODE = 0o700


class StateError(Ts4nsnetError):
    """The state of a node cannot be read, kept or had; the text says what to do and holds no secret."""


class Unsafe(StateError):
    """Someone else may have written, or could read, a file or folder of ours; the owner or the mode is wrong."""


class Unreadable(StateError):
    """A state file is torn, empty or not ours; unlike with `Unsafe`, the node can go on with a fresh identity."""


class InUse(StateError):
    """Another process holds the state folder; its state is fine."""


def runtime_folder(environ: Mapping[str, str]) -> Path:
    """Where journals go: of the user's session, of root, or below /tmp; gone with the next boot in any case.

    $XDG_RUNTIME_DIR counts if it is absolute and ours (`sudo` may leave us another user's), as its specification says.
    """
    uid = os.geteuid()
    runtime = Path(environ.get("XDG_RUNTIME_DIR", ""))
    with suppress(OSError):
        if runtime.is_absolute() and runtime.stat().st_uid == uid:
            return runtime / "ts4nsnet"
    if uid == 0 and os.access("/run", os.W_OK):  # root of a user namespace only mostly has none
        return Path("/run/ts4nsnet")
    return Path(f"/tmp/ts4nsnet-{uid}")  # noqa: S108  # Folder.open checks the owner and the mode


class Lock:
    """A lock that is held, until `release` or the end of the process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def held(self) -> bool:
        """It is not released yet."""
        return self._fd >= 0

    def mark(self, marked: bool) -> None:
        """Set or clear the mark that `Folder.is_marked` reads."""
        with suppress(OSError):  # a limit of file sizes to 0 bytes; then it is as if we were never leaving
            os.ftruncate(self._fd, int(marked))

    def write_pid(self) -> None:
        """Leave our process id in the lock file, for others to read; on a full disk not."""
        with suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Free the lock; idempotent."""
        if self.held:
            os.close(self._fd)
            self._fd = -1


class Folder:
    """A folder that only we can read and write; names are relative to it."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def open(cls, path: Path, *, follow_link: bool = False) -> Self:
        """Open the folder, made with mode 0700 if missing (its parent is not).

        Args:
            path: of the folder.
            follow_link: `path` may be a symbolic link; only where nobody else can put one.

        Raises:
            Unsafe: it is not ours alone.
            StateError: it cannot be made or opened.
        """
        with _reported(path, "used as a folder for state"):
            with suppress(FileExistsError):
                path.mkdir(FOLDER_MODE)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | (0 if follow_link else os.O_NOFOLLOW))
        folder = cls(path, fd)
        try:
            _check_private(os.fstat(fd), path, "chmod 700")
        except Unsafe:
            folder.close()
            raise
        return folder

    def close(self) -> None:
        """Close the folder; locks stay held; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def names(self) -> list[str]:
        """The names in the folder, in no order."""
        with _reported(self.path, "listed"):
            return os.listdir(self._fd)

    def read(self, name: str) -> bytes | None:
        """The content of a file, None if there is none; raises `Unsafe` and `StateError`."""
        path = self.path / name
        with (
            suppress(FileNotFoundError),
            _reported(path, "read", FileNotFoundError),
            open(name, "rb", opener=self._open_for_reading) as file,
        ):
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Unsafe(f"{path}: not a file; remove it")
            _check_private(status, path, "chmod 600")
            return file.read()
        return None

    def write(self, name: str, data: bytes) -> None:
        """Replace or make a file, all or nothing; raises `StateError`, and the old content is still there."""
        temporary = f"{name}.tmp"
        self.remove(temporary)  # of one who died here
        with _reported(self.path / name, "written"):
            try:
                self._write_new(temporary, data)
                os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
                os.fsync(self._fd)
            except OSError:
                self.remove(temporary)
                raise

    def move(self, name: str, to: str) -> None:
        """Rename, over what is there; nothing happens where there is no `name`."""
        with suppress(FileNotFoundError), _reported(self.path / name, "moved aside", FileNotFoundError):
            os.rename(name, to, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError), _reported(self.path / name, "removed", FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def try_lock(self, name: str, *, create: bool = True) -> Lock | None:
        """Lock the file `name`, made if wanted; None if it is held by somebody, or is not there."""
        flags = os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        quiet = (BlockingIOError,) if create else (BlockingIOError, FileNotFoundError)
        with suppress(*quiet), _reported(self.path / name, "locked", *quiet):
            while True:
                lock = Lock(fd := os.open(name, flags, 0o600, dir_fd=self._fd))
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    current = self._status(name)
                    if current is not None and current.st_ino == os.fstat(fd).st_ino:
                        os.fchmod(fd, FILE_MODE)
                        return lock
                except (OSError, StateError):
                    lock.release()
                    raise
                lock.release()  # its holder has removed it meanwhile
        return None

    def is_marked(self, name: str) -> bool:
        """The holder of the lock file `name` has set its mark."""
        status = self._status(name)
        return status is not None and status.st_size > 0

    def _open_for_reading(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._fd)

    def _write_new(self, name: str, data: bytes) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._fd)
        with open(fd, "wb", buffering=0) as file:
            os.fchmod(fd, FILE_MODE)
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(fd)

    def _status(self, name: str) -> os.stat_result | None:
        with suppress(FileNotFoundError), _reported(self.path / name, "examined", FileNotFoundError):
            return os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        return None


@contextmanager
def _reported(path: Path, done: str, *quiet: type[OSError]) -> Iterator[None]:
    try:
        yield
    except quiet:
        raise
    except OSError as error:
        raise StateError(f"{path}: cannot be {done}: {error.strerror}") from None


def _check_private(status: os.stat_result, path: Path, cure: str) -> None:
    if status.st_uid != (uid := os.geteuid()):
        raise Unsafe(f"{path}: belongs to user {status.st_uid}, want {uid}; remove it or use another folder")
    if status.st_mode & 0o077:
        raise Unsafe(f"{path}: others have access (mode {status.st_mode & 0o777:o}); {cure} {path}")
