# SPDX-License-Identifier: BSD-3-Clause
"""A running node's folder: where the node is found by people and their tools, and what it leaves to be read.

    RUNTIME/nodes/web/       0700, named as the container's host; web-2 while web is in use
        lock                 locked by the keeper as long as it lives
        about.json           process ids, container, when it started
        log, log.old         what the node says (log.py)
        localapi.sock        what the node answers (node/localapi.py)
        ports.json           what is published (node/hostfwd.py)

**Alive** is who holds the lock. It belongs to the keeper's open file (fcntl(2), open file description locks): it ends
with the keeper in whatever way, and can be asked for without being taken, so that one who only looks is never in the
way of one who starts.

**Stale** is a folder without a holder. After an orderly end there is none: the keeper removes it, or the node whose
keeper was killed. After an error it stays, so that the log tells why, until the next start of that name; a start also
removes others' beyond the newest few. Only who holds the lock changes or removes anything; and one who got a lock looks
whether the file still has its name, for the holder before may have removed it.

The runtime folder is `node.statefile.runtime_folder`'s choice. It must be ours alone: in /tmp anybody can have made it
before us. Files have the sticky bit, which keeps cleaners of temporary files off.
"""

import fcntl
import json
import os
import re
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from itertools import count
from pathlib import Path
from typing import Self

from ts4nsnet.errors import Ts4nsnetError

NODES = "nodes"
ABOUT = "about.json"
LOCALAPI = "localapi.sock"
LOCK = "lock"
FILE_MODE = 0o1600
FOLDER_MODE = 0o700
MAX_SOCKET_ADDRESS_BYTES = 107
# ours: folders that ended with an error and are kept for whoever looks; each may have 1 MiB of log
KEPT_STALE_FOLDERS = 8
# as Linux has it on 64 bits: l_type, l_whence, l_start, l_len, l_pid
_FLOCK = struct.Struct("hhqqi4x")
_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class FolderError(Ts4nsnetError):
    """A node's folder cannot be made, used or read; the text says what to do."""


@dataclass(frozen=True, slots=True)
class About:
    """What a folder says of its node.

    Attributes:
        hostname: that the node asks its tailnet for.
        container: what tells its container from others; empty: unknown.
        keeper_pid, node_pid: processes, as seen by the keeper; 0: not started.
        started_at: unix seconds; 0: unknown.
    """

    hostname: str = ""
    container: str = ""
    keeper_pid: int = 0
    node_pid: int = 0
    started_at: float = 0.0

    def to_json(self) -> bytes:
        """For `from_json`, one object."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` wrote; what is missing, torn or of another type has its default."""
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            found = None
        given = found if isinstance(found, dict) else {}
        kinds = {field.name: type(field.default) for field in fields(cls)}
        return cls(**{name: given[name] for name, kind in kinds.items() if type(given.get(name)) is kind})


@dataclass(frozen=True, slots=True)
class Entry:
    """A node's folder as others see it."""

    name: str
    path: Path
    alive: bool
    about: About


class NodeFolder:
    """The folder of a node that is running or about to; made by `create`, which locks it for this process."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def create(cls, runtime: Path, hostname: str) -> Self:
        """Make the folder of a node and lock it; stale ones make room.

        Args:
            runtime: made if missing, its parent is not.
            hostname: a DNS label, in lower case.

        Raises:
            FolderError: the runtime folder is not ours alone, or something cannot be made.
        """
        if not _HOSTNAME.fullmatch(hostname):
            raise FolderError(f"folder of a node: got {hostname!r}, want a DNS label in lower case")
        nodes = runtime.absolute() / NODES
        with _reported(nodes):
            _make_private(nodes.parent)
            _make_private(nodes)
            names = (hostname if number == 1 else f"{hostname}-{number}" for number in count(1))
            folder = cls(*next(filter(None, (_take(nodes / name) for name in names))))
            try:
                _empty(folder.path)
                _remove_stale(nodes)
            except OSError:
                folder.close()
                raise
        return folder

    @property
    def name(self) -> str:
        """The hostname, or that and a number."""
        return self.path.name

    def write_about(self, about: About) -> None:
        """Say who we are; whoever reads sees this or what was there before. Raises `FolderError`."""
        temporary = self.path / f"{ABOUT}.tmp"
        with _reported(self.path / ABOUT):
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                os.fchmod(fd, FILE_MODE)
                file.write(about.to_json())
            temporary.rename(self.path / ABOUT)

    def remove(self) -> None:
        """Remove the folder and let go of it: a keeper's last act. Idempotent, raises nothing."""
        if self._lock >= 0:  # else it may be another's by now
            with suppress(OSError):
                _remove(self.path)
            self.close()

    def close(self) -> None:
        """Let go of the folder, which stays and is stale then; idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def remove_orphan(path: Path) -> None:
    """Remove a node's folder whose keeper is gone, unless another has it already: a node's last act. Raises nothing."""
    with suppress(OSError):
        if taken := _take(path, create=False):
            NodeFolder(*taken).remove()


def all_nodes(runtime: Path) -> list[Entry]:
    """The nodes that have a folder, by name; none where there is no runtime folder.

    Raises:
        FolderError: the runtime folder is not ours alone, or cannot be read.
    """
    nodes = runtime.absolute() / NODES
    with _reported(nodes):
        try:
            _check_private(nodes.parent)
            names = sorted(os.listdir(nodes))
        except FileNotFoundError:
            return []
        return [entry for name in names if (entry := _entry(nodes / name))]


@contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """An address to bind or connect a Unix socket by: the path, or a way around one that is too long (unix(7))."""
    if len(os.fsencode(path)) <= MAX_SOCKET_ADDRESS_BYTES:
        yield str(path)
        return
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


def remove_dead_socket(path: Path) -> None:
    """Remove the file of a Unix socket that nobody listens at any more; what is no socket stays. Raises nothing."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, socket_address(path) as address:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):  # the kernel refuses these, too
            return
        sock.setblocking(False)  # one that listens may have no room
        try:
            sock.connect(address)
        except ConnectionRefusedError:
            path.unlink()


def _entry(path: Path) -> Entry | None:
    """The folder as it is; None when it is none, or is going away."""
    try:
        alive = _is_locked(path / LOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    about = b""
    with suppress(FileNotFoundError):
        about = (path / ABOUT).read_bytes()
    return Entry(path.name, path, alive, About.from_json(about))


def _take(path: Path, *, create: bool = True) -> tuple[Path, int] | None:
    """Lock the folder, made if wanted; None when somebody has it, or when there is none."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    while True:
        if create:
            with suppress(FileExistsError):
                path.mkdir(FOLDER_MODE)
        try:
            fd = os.open(path / LOCK, flags, 0o600)
        except FileNotFoundError:
            if create:
                continue  # its holder has just removed it
            return None
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.stat(path / LOCK)):
                    os.fchmod(fd, FILE_MODE)
                    return path, fd
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # its holder has removed it meanwhile


def _is_locked(lock: Path) -> bool:
    fd = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)
    finally:
        os.close(fd)


def _remove_stale(nodes: Path) -> None:
    """Remove the folders nobody holds, but for the newest."""
    stale = []
    for name in os.listdir(nodes):
        with suppress(FileNotFoundError, NotADirectoryError):
            if not _is_locked(nodes / name / LOCK):
                stale.append((os.stat(nodes / name).st_mtime_ns, nodes / name))
    for _, path in sorted(stale, reverse=True)[KEPT_STALE_FOLDERS:]:
        remove_orphan(path)


def _remove(path: Path) -> None:
    """Remove a folder whose lock we hold; a starter that comes at the same moment may have it."""
    _empty(path)
    (path / LOCK).unlink()
    path.rmdir()


def _empty(path: Path) -> None:
    for name in os.listdir(path):
        if name != LOCK:
            (path / name).unlink()


def _make_private(path: Path) -> None:
    with suppress(FileExistsError):
        path.mkdir(FOLDER_MODE)
    _check_private(path)


def _check_private(path: Path) -> None:
    status = os.stat(path, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise FolderError(
            f"{path}: want a folder of user {os.geteuid()} that nobody else has access to, "
            f"got mode {status.st_mode:o} of user {status.st_uid}; remove it, or chmod 700 {path}"
        )


@contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FolderError(f"{error.filename or path}: cannot be used: {error.strerror}") from None
