# SPDX-License-Identifier: BSD-3-Clause
"""The demo's containers of rootless podman.

All of podman's files are in the demo's folder, and at the end podman is asked to end everything that it has there. It
is usable when a container of it runs; `Unusable` says why not. Root has no rootless podman, so it takes the user that
.ci/prepare makes, where there is one. crun refuses a /sys/fs/cgroup of both versions, so root shows it one of version 2
alone, and its own checkout wherever it lies.

The image has nothing but folders to mount things on: the host's /usr, and the guest program.
"""

import os
import pwd
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ts4nsnet.lab.demo_boxes import COMMAND, GUEST, PYTHON, Unusable, need
from ts4nsnet.lab.demo_processes import run, spawn
from ts4nsnet.lab.errors import LabError

IMAGE = "localhost/ts4nsnet-demo"
PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
FOLDERS = {"root": "storage", "runroot": "run", "tmpdir": "temporary"}  # podman's options for its own
SYSTEM_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
LEAVE_TIME = 5.0  # seconds; a node has 2
PREPARED_USER = "ts4nsnet-test"  # of .ci/prepare

# what crun and podman expect to see; the mounts are this process's alone. Arguments: the checkout, the topmost folder
# above it that others may not enter ("": there is none), the command
OWN_MOUNTS = """
set -e
checkout=$1 closed=$2
shift 2
if [ "$(stat -fc %T /sys/fs/cgroup)" != cgroup2fs ]; then
    umount -R /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
if [ -n "$closed" ]; then
    mount --bind "$checkout" /mnt
    mount -t tmpfs -o mode=0755 tmpfs "$closed"
    mkdir -p "$checkout"
    mount --move /mnt "$checkout"
fi
mount --make-rshared /
exec "$@"
"""


class Podman:
    """Containers of rootless podman, all of whose files are in `folder`.

    Raises:
        Unusable: podman or what it needs is not installed.
    """

    def __init__(self, folder: Path) -> None:
        need({"podman": "podman", "newuidmap": "uidmap", "crun": "crun"}, PATH)
        self._user = _podman_user()
        self._folder = folder / "podman"
        self._environ = {
            "HOME": self._user.pw_dir,
            "PATH": PATH,
            "XDG_RUNTIME_DIR": str(self._folder / "run"),
            "XDG_CONFIG_HOME": str(self._folder / "config"),
        }
        self.kind = "containers of rootless podman"

    def prepare(self) -> None:
        """Make the image and try it; Unusable when a container does not run. What was begun, `close` ends."""
        try:
            self._make_archive()
            run(self._as_user(str(COMMAND), "--help"))
            self._podman("import", "--quiet", str(self._folder / "image.tar"), IMAGE)
            self._podman("run", "--rm", "--network=none", *_volumes(), IMAGE, str(PYTHON), "--version")
            self.kind += f" {self._podman('--version').split()[-1]}"
        except (LabError, OSError) as error:
            raise Unusable(str(error)) from None

    def start(self, name: str, variables: Mapping[str, str]) -> float:
        """See `Boxes`."""
        began = time.monotonic()
        tool = f"--network-cmd-path={COMMAND}"
        container = ("run", "--detach", "--interactive", f"--name={name}", "--network=slirp4netns", *_volumes(), IMAGE)
        self._podman(tool, *container, *_guest("hold"), variables=variables)
        return time.monotonic() - began

    def spawn(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        """See `Boxes`."""
        return spawn(self._command("exec", name, *_guest(*arguments)), variables=self._environ, inherit=False)

    def stop(self) -> None:
        """See `Boxes`."""
        self._end("rm", "--all", "--force", "--time=0")
        give_up_at = time.monotonic() + LEAVE_TIME
        while _has_processes(self._folder) and time.monotonic() < give_up_at:
            time.sleep(0.02)

    def close(self) -> None:
        """See `Boxes`. The last call ends podman's own process, which holds its mounts."""
        self.stop()
        self._end("rmi", "--all", "--force")
        self._end("system", "migrate")

    def _end(self, *arguments: str) -> None:
        run(self._command(*arguments), variables=self._environ, inherit=False, check=False)

    def _podman(self, *arguments: str, variables: Mapping[str, str] | None = None) -> str:
        return run(self._command(*arguments), variables=self._environ | dict(variables or {}), inherit=False)

    def _command(self, *arguments: str) -> list[str]:
        own = [f"--{name}={self._folder}/{folder}" for name, folder in FOLDERS.items()]
        own += ["--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=file"]
        return self._as_user("podman", *own, *arguments)

    def _as_user(self, *command: str) -> list[str]:
        if os.geteuid():
            return list(command)
        ids = [f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}", "--init-groups", "--inh-caps=-all"]
        checkout = Path(os.path.commonpath([sys.prefix, GUEST]))
        mounts = ["unshare", "--mount", "--propagation=private", "sh", "-c", OWN_MOUNTS, "sh"]
        return [*mounts, str(checkout), _closed_folder(checkout), "setpriv", *ids, *command]

    def _make_archive(self) -> None:
        # an image of folders to mount things on, and the links to /usr that Debian has
        (self._folder / "run").mkdir(parents=True, mode=0o700)
        with tarfile.open(self._folder / "image.tar", "w") as archive:
            for name in ("usr", "etc", "dev", "proc", "sys", "tmp", "run", "root"):
                entry = tarfile.TarInfo(name)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            for name in SYSTEM_FOLDERS:
                if Path("/", name).is_symlink():
                    archive.add(Path("/", name), name)
        if os.geteuid() == 0:
            for path in (self._folder, *self._folder.iterdir()):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)


def _podman_user() -> pwd.struct_passwd:
    uid = os.geteuid()
    try:
        user = pwd.getpwuid(uid) if uid else pwd.getpwnam(PREPARED_USER)
    except KeyError:
        raise Unusable("root has none, and there is no user of .ci/prepare") from None
    if not any(line.startswith((f"{user.pw_name}:", f"{user.pw_uid}:")) for line in _lines("/etc/subuid")):
        raise Unusable(
            f"/etc/subuid has no line for {user.pw_name}: usermod --add-subuids 100000-165535 {user.pw_name}"
        )
    return user


def _volumes() -> list[str]:
    # the system, Python if it is elsewhere, and us; all to read only
    paths = ["/usr", *(f"/{name}" for name in SYSTEM_FOLDERS if _is_folder(name))]
    if not PYTHON.is_relative_to("/usr"):
        paths.append(sys.base_prefix)
    return [f"--volume={path}:{path}:ro" for path in paths] + [f"--volume={GUEST}:/guest.py:ro"]


def _has_processes(folder: Path) -> bool:
    # keepers, nodes and podman's supervisors have it in their command lines
    name = bytes(folder)
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # it has ended, or is another user's
                if name in (entry / "cmdline").read_bytes():
                    return True
    return False


def _closed_folder(path: Path) -> str:
    for folder in (*reversed(path.parents), path):
        if not folder.stat().st_mode & 0o001:
            return str(folder)
    return ""


def _is_folder(name: str) -> bool:
    path = Path("/", name)
    return path.is_dir() and not path.is_symlink()


def _guest(*arguments: str) -> list[str]:
    return [str(PYTHON), "-I", "/guest.py", *arguments]


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
