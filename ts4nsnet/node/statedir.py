# SPDX-License-Identifier: BSD-3-Clause
"""TS_STATE_DIR: an identity that outlives the node, in a folder of the user's.

    identity.json   as in the journal; written before the node is registered, kept at logout
    netmap.json     the last full MapResponse as the server sent it, so that a start works while the server is away
    lock            locked by the one node that works with the folder; its process id as text

The folder may be a link, must be ours alone (0700) and is made if missing; the lock ends with its holder. There is one
identity in a folder, so a second node is refused. It stays the same node when hostname, tags or credential change: the
server is told. For another control server it would be another node, so that is refused as well.
"""

from pathlib import Path
from typing import Self

from ts4nsnet.node.identity import Binding, Identity, decode, encode
from ts4nsnet.node.state import Claim
from ts4nsnet.node.statefile import Folder, InUse, Lock, StateError, Unreadable

IDENTITY = "identity.json"
NETMAP = "netmap.json"
LOCK = "lock"


class StateDir(Claim):
    """The identity in one folder, and its last netmap; made by `open`."""

    def __init__(self, folder: Folder, lock: Lock, binding: Binding) -> None:
        self._folder = folder
        self._lock = lock
        self._binding = binding
        self.identity = self._read()

    @classmethod
    def open(cls, path: Path, binding: Binding) -> Self:
        """Lock the folder and read it.

        Args:
            path: the folder; made if missing, its parent is not.
            binding: of this start; its control URL must be that of the identity there.

        Raises:
            Unsafe: others have access to the folder or the files, or own them.
            InUse: another node works with it; the text has its process id.
            StateError: it cannot be used, or is of another control server.
        """
        folder = Folder.open(path, follow_link=True)
        lock = None
        try:
            lock = folder.try_lock(LOCK)
            if lock is None:
                raise InUse(f"{path}: in use by {_holder(folder)}; each node needs a folder of its own")
            lock.write_pid()
            return cls(folder, lock, binding)
        except StateError:
            if lock:
                lock.release()
            folder.close()
            raise

    def save(self, identity: Identity) -> None:
        """See `Claim`."""
        self._folder.write(IDENTITY, encode(self._binding, identity))
        self.identity = identity

    def may_logout(self) -> bool:
        """Never by itself: the node is to come back. When the user asks for a logout, `forget` after it."""
        return False

    def forget(self) -> None:
        """See `Claim`; the netmap goes as well."""
        self._folder.remove(IDENTITY)
        self._folder.remove(NETMAP)
        self.identity = None

    def release(self) -> None:
        """See `Claim`."""
        self._lock.release()
        self._folder.close()

    def save_netmap(self, response: bytes) -> None:
        """See `Claim`."""
        self._folder.write(NETMAP, response)

    def load_netmap(self) -> bytes | None:
        """See `Claim`; raises `Unsafe` and `StateError`."""
        return self._folder.read(NETMAP)

    def drop_netmap(self) -> None:
        """See `Claim`."""
        self._folder.remove(NETMAP)

    def _read(self) -> Identity | None:
        data = self._folder.read(IDENTITY)
        if data is None:
            return None
        try:
            binding, identity = decode(data)
        except Unreadable as error:
            aside = f"{IDENTITY}.bad"
            self._folder.move(IDENTITY, aside)
            self.warning = f"{self._folder.path / IDENTITY}: {error}; not used, kept as {aside}"
            return None
        if binding.control_url != self._binding.control_url:
            raise StateError(
                f"{self._folder.path}: a node of {binding.control_url}, not of {self._binding.control_url}; "
                "use another folder, or remove this one"
            )
        return identity


def _holder(folder: Folder) -> str:
    pid = (folder.read(LOCK) or b"").decode(errors="replace").strip()
    return f"process {pid}" if pid.isdecimal() else "another process"
