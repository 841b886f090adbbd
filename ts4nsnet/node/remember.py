# SPDX-License-Identifier: BSD-3-Clause
"""What containers were started with, and which of them are being started: for restarts.

podman up to 4.7 restarts a container (`--restart=always`) without the variables that it was started with. The network
command then has nothing but the container's id, from the name of its log file; so the settings of each node lie under
that id in the runtime folder, as long as its identity does: until it has logged out, or until the next boot. They are
no secrets. Together with the identity in the journal they are enough: an identity needs no credential.

A restart comes 75-90 ms after the end, while the node before is still leaving, and takes half a second until it can
claim that one's identity. So the first thing that a start does is to announce itself, and a node that is leaving waits
for who is announced before it logs out.

    CONTAINER.settings   one JSON object, 0600, in the folder of the journal (state.py); CONTAINER is a hash of the id
    CONTAINER.starting   process id of a start that has not come to its identity yet

Standard library only: read before every start.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ts4nsnet.node.settings import Settings, SettingsError
from ts4nsnet.node.statefile import Folder

VERSION = 1
_MAX_PID_DIGITS = 12


def keep(settings: Settings) -> None:
    """Keep the settings of a node that has its identity; nothing where its container has no id. Raises `StateError`."""
    if settings.container:
        data = json.dumps({"version": VERSION, "settings": settings.to_json()}).encode()
        with _opened(Path(settings.runtime_folder)) as folder:
            folder.write(_name(settings.container, "settings"), data)


def recall(runtime_folder: Path, container: str) -> Settings | None:
    """The settings that `container` was last started with; None if they are unknown. Raises `StateError`."""
    if not container or not runtime_folder.exists():
        return None
    with _opened(runtime_folder) as folder:
        data = folder.read(_name(container, "settings"))
    return None if data is None else _decode(data, container)


def forget(settings: Settings) -> None:
    """Remove the settings of a node whose identity is gone; another start's, made since then, stay."""
    path = Path(settings.runtime_folder)
    if recall(path, settings.container) == settings:
        with _opened(path) as folder:
            folder.remove(_name(settings.container, "settings"))


def announce(runtime_folder: Path, container: str) -> None:
    """Say that this process starts a node for `container`; nothing where it has no id. Raises `StateError`."""
    if container:
        with _opened(runtime_folder) as folder:
            for name in folder.names():  # of those that were killed on the way
                if name.endswith(".starting") and not _is_alive(folder, name):
                    folder.remove(name)
            folder.write(_name(container, "starting"), str(os.getpid()).encode())


def is_announced(runtime_folder: Path, container: str) -> bool:
    """Whether a start for `container`, whose process lives, is on its way to an identity. Raises `StateError`."""
    if not container:
        return False
    with _opened(runtime_folder) as folder:
        return _is_alive(folder, _name(container, "starting"))


def arrive(runtime_folder: Path, container: str) -> None:
    """Take the announcement back: the node has its identity, or will have none. Raises `StateError`."""
    if container:
        with _opened(runtime_folder) as folder:
            folder.remove(_name(container, "starting"))


@contextmanager
def _opened(path: Path) -> Iterator[Folder]:
    folder = Folder.open(path)
    try:
        yield folder
    finally:
        folder.close()


def _is_alive(folder: Folder, name: str) -> bool:
    pid = folder.read(name) or b""
    return pid.isdigit() and len(pid) < _MAX_PID_DIGITS and Path(f"/proc/{pid.decode()}").exists()


def _name(container: str, kind: str) -> str:
    return f"{hashlib.sha256(container.encode(errors='surrogateescape')).hexdigest()[:32]}.{kind}"


def _decode(data: bytes, container: str) -> Settings | None:
    try:
        top = json.loads(data)
        settings = Settings.from_json(top["settings"]) if top["version"] == VERSION else None
    except (ValueError, RecursionError, TypeError, KeyError, SettingsError):
        return None  # torn, or of another version: as good as none
    return settings if settings is not None and settings.container == container else None
