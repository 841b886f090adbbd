# SPDX-License-Identifier: BSD-3-Clause
"""A machine with rootless podman and a tailnet on it, for tests that start containers as a user does.

    def test_two_containers(machine: Machine) -> None:
        web, db = machine.container("web"), machine.container("db")
        web.run("ping", "-c1", "db")

**The machine** is a network, mounts and processes of its own: one `unshare` by real root, since a rootless user's
subordinate ids and setuid helpers do not work below another user namespace. In it the user of .ci/prepare has an empty
home, an empty runtime folder, and podman with one image, made of busybox. When the tests end, in whatever way, the
kernel ends every process on the machine, and with them go mounts, interfaces and files.

**The tailnet** is `ts4nsnet lab serve` on the machine's own address, run by the same user: control server and relay.
`stop_lab` and `start_lab` take it away and bring it back; `block_direct_paths` leaves nodes the relay alone.

**What remains** is told by `traces()`: processes, sockets, mounts, namespaces, runtime files, nodes on the server. A
test takes it before, and `wait_for_traces` waits until it is the same again.

Source: what rootless podman 4.3 asks of a machine without systemd. crun wants cgroup2 alone on /sys/fs/cgroup; "/" has
to be shared; both must be so at the first call, as later ones join that one's mount namespace.
"""

import http.client
import json
import os
import pwd
import shutil
import signal
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from tempfile import gettempdir
from typing import Any, NoReturn

import pytest

from tests.processes import Namespace, Process
from tests.waiting import until

USER = os.environ.get("TS4NSNET_TEST_USER", "ts4nsnet-test")
BINARIES = Path(sys.executable).parent
COMMAND = BINARIES / "ts4nsnet"
ADDRESS = "192.0.2.1"
LAB_PORT = 8443
SUFFIX = "lab.internal"
IMAGE = "localhost/tiny"
TIME_LIMIT = 60.0  # seconds, of one command; podman's first takes a few

# arguments: uid, gid, home, the checkout, the topmost folder above it that others may not enter ("": there is none)
SETUP = """
set -e
uid=$1 gid=$2 home=$3 checkout=$4 closed=$5
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
mount -t tmpfs -o mode=0700,uid="$uid",gid="$gid" tmpfs "$home"
mount -t tmpfs -o mode=0755 tmpfs /run/user
install -d -m 0700 -o "$uid" -g "$gid" "/run/user/$uid"
mount --make-rshared /
ip link set lo up
ip link add up0 type veth peer name up1
ip address add ADDRESS/24 dev up0
ip link set up0 up
ip link set up1 up
echo ready
exec env --ignore-signal=CHLD cat  # whoever loses its parent becomes a child of this process, and no zombie
""".replace("ADDRESS", ADDRESS)


class Container:
    """A running container; `run` executes commands in it."""

    def __init__(self, machine: "Machine", name: str) -> None:
        self.machine = machine
        self.name = name

    def run(self, *command: str, check: bool = True, timeout: float = TIME_LIMIT) -> str:
        """Execute a command to its end; what it has said."""
        return self.machine.podman("exec", self.name, *command, check=check, timeout=timeout).stdout

    def start(self, *command: str) -> Process:
        """Execute a command in the background."""
        return self.machine.start(*self.machine.as_user("podman", "exec", self.name, *command))

    def ip(self, *arguments: str) -> str:
        """Run the host's `ip` in the container's network; busybox has not all of it."""
        pid = self.inspect("{{.State.Pid}}")
        machine = ["nsenter", f"--target={self.machine.init}", "--mount", "--pid"]
        return self.machine.run(*machine, "nsenter", f"--target={pid}", "--net", "ip", *arguments).stdout

    def inspect(self, template: str) -> str:
        """A value of `podman inspect`: "{{.State.Status}}"."""
        return self.machine.podman("inspect", "--format", template, self.name).stdout.strip()

    def remove(self) -> None:
        """End it at once."""
        self.machine.podman("rm", "--force", "--time", "0", self.name)


class Machine(Namespace):
    """The machine; see the top of this file."""

    def __init__(self, user: pwd.struct_passwd) -> None:
        self.user = user
        self.home = Path(user.pw_dir)
        self.runtime = Path(f"/run/user/{user.pw_uid}")
        checkout = BINARIES.parents[1]
        arguments = [str(user.pw_uid), str(user.pw_gid), user.pw_dir, str(checkout), _closed_folder(checkout)]
        self._unshare = subprocess.Popen(
            ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
             "sh", "-c", SETUP, "sh", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._unshare.stdout is not None
        if self._unshare.stdout.readline() != "ready\n":
            missing(f"no machine for containers can be made: {self._unshare.communicate()[1]}")
        self.init = int(Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text())
        super().__init__("machine", f"/proc/{self.init}/ns/net")
        self._lab: Process | None = None
        self.lab: dict[str, str] = {}

    # --- commands -----------------------------------------------------------------------------------------------------

    def as_user(self, *command: str, env: Mapping[str, str] | None = None) -> list[str]:
        """The command line that runs `command` as the user, on the machine, with an environment of its own."""
        variables = {
            "HOME": self.user.pw_dir,
            "USER": self.user.pw_name,
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(self.runtime),
            **(env or {}),
        }
        enter = ["nsenter", f"--target={self.init}", "--mount", "--net", "--pid", "--"]
        enter += ["setpriv", f"--reuid={self.user.pw_uid}", f"--regid={self.user.pw_gid}", "--init-groups"]
        enter += ["--inh-caps=-all", "env", "-i", "-C", self.user.pw_dir]
        return [*enter, *(f"{name}={value}" for name, value in variables.items()), *command]

    def podman(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = TIME_LIMIT,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run rootless podman to its end; CommandFailed shows what it has said."""
        return self.run(*self.as_user("podman", *arguments, env=env), check=check, timeout=timeout, stdin=stdin)

    def path(self, path: Path) -> Path:
        """Where the tests see a file of the machine."""
        return Path(f"/proc/{self.init}/root", *path.parts[1:])

    # --- containers ---------------------------------------------------------------------------------------------------

    def container(
        self,
        name: str,
        *options: str,
        network: str = "slirp4netns",
        tool: Path | None = COMMAND,
        command: tuple[str, ...] = ("sleep", "100000"),
        variables: Mapping[str, str] | None = None,
    ) -> Container:
        """Start a container that is a node; `tool` None: on podman's own slirp4netns."""
        self.podman(*self.podman_run(name, *options, network=network, tool=tool, command=command),
                    env=self.variables(name) if variables is None else variables)  # fmt: skip
        return Container(self, name)

    def podman_run(
        self, name: str, *options: str, network: str = "slirp4netns", tool: Path | None = COMMAND,
        command: tuple[str, ...] = ("sleep", "100000"),
    ) -> list[str]:  # fmt: skip
        """podman's arguments that start such a container."""
        chosen = ["--network-cmd-path", str(tool)] if tool else []
        common = ["--detach", "--cap-add=NET_RAW", "--name", name]  # for busybox's ping, which knows no other way
        return [*chosen, "run", *common, "--network", network, *options, IMAGE, *command]

    def variables(self, hostname: str, **more: str) -> dict[str, str]:
        """What joins the tailnet: the environment of the container tool."""
        return {
            "TS_AUTHKEY": self.lab["auth_key"],
            "TS_CONTROL_URL": self.lab["control_url"],
            "SSL_CERT_FILE": self.lab["ca"],
            "TS_HOSTNAME": hostname,
            **more,
        }

    def make_image(self) -> None:
        """An image of nothing but busybox."""
        busybox = shutil.which("busybox") or missing("there is no busybox")
        folder = self.path(self.home / "image")
        for name in ("bin", "etc", "dev", "proc", "sys", "tmp", "root", "run", "www"):
            (folder / name).mkdir(parents=True)
        shutil.copy(busybox, folder / "bin/busybox")
        for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
            if applet != "busybox":
                (folder / "bin" / applet).symlink_to("busybox")
        (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
        (folder / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
        (folder / "www/index.html").write_text("hello\n")
        archive = self.home / "image.tar"
        subprocess.run(["tar", "-C", folder, "-cf", self.path(archive), "."], check=True)
        shutil.rmtree(folder)
        change = ["--change", 'CMD ["/bin/sh"]', "--change", "ENV PATH=/bin"]
        self.podman("import", "--quiet", *change, str(archive), IMAGE)

    # --- the tailnet --------------------------------------------------------------------------------------------------

    def start_lab(self) -> None:
        """The embedded tailnet, with the state of the last time if there was one."""
        listen = f"{ADDRESS}:{LAB_PORT}"
        serve = (str(COMMAND), "lab", "serve", "--listen", listen, "--state", str(self.home / "lab"))
        self._lab = self.start(*self.as_user(*serve, env={"PYTHONUNBUFFERED": "1"}))
        self.lab = json.loads(self._lab.wait_for("control_url"))

    def stop_lab(self) -> None:
        """Kill control server and relay."""
        assert self._lab is not None
        self.kill(self.processes("lab serve"))
        self._lab.wait()

    def api(self, path: str, method: str = "GET") -> Any:
        """Ask the control server as its administrator."""
        token = self.path(self.home / "lab/api-token").read_text().strip()
        context = ssl.create_default_context(cafile=self.path(Path(self.lab["ca"])))
        with self.entered():
            connection = http.client.HTTPSConnection(ADDRESS, LAB_PORT, timeout=10, context=context)
            connection.connect()
        with closing(connection):
            connection.request(method, f"/api/v2/{path}", headers={"Authorization": f"Bearer {token}"})
            return json.loads(connection.getresponse().read())

    def get(self, port: int) -> str:
        """The page that a web server on the machine's own address has at "/"; "" when none answers."""
        with self.entered(), closing(http.client.HTTPConnection(ADDRESS, port, timeout=5)) as connection:
            try:
                connection.request("GET", "/")
                return connection.getresponse().read().decode()
            except OSError:
                return ""

    def nodes(self) -> dict[str, dict[str, Any]]:
        """The nodes that the control server knows, by their first label."""
        devices = self.api("tailnet/-/devices")["devices"]
        return {device["name"].partition(".")[0]: device for device in devices}

    def block_direct_paths(self) -> None:
        """From now on UDP only to and from the server; `open_direct_paths` takes it back."""
        rule = f"udp dport != {LAB_PORT} udp sport != {LAB_PORT} ip daddr != 127.0.0.0/8 drop"
        chain = "chain direct { type filter hook output priority filter; }"
        rules = ["add table inet paths", f"add {chain.replace('direct', 'inet paths direct')}"]
        self.run("nft", "-f", "-", stdin="\n".join([*rules, f"add rule inet paths direct {rule}"]))

    def open_direct_paths(self) -> None:
        """Undo `block_direct_paths`."""
        self.run("nft", "delete", "table", "inet", "paths", check=False)

    # --- what remains -------------------------------------------------------------------------------------------------

    def processes(self, text: str = "") -> dict[int, str]:
        """What runs on the machine and in its containers, by the machine's pid: command lines that contain `text`."""
        found = {}
        for folder in self.path(Path("/proc")).iterdir():
            if folder.name.isdecimal():
                with suppress(OSError):  # it has ended
                    words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    found[int(folder.name)] = words or (folder / "comm").read_text().strip()
        return {pid: words for pid, words in found.items() if text in words}

    def ours(self) -> dict[int, str]:
        """Keepers, their nodes and netns children."""
        modules = ("ts4nsnet.keeper", "ts4nsnet.node", "ts4nsnet.netns")
        return {pid: words for pid, words in self.processes("ts4nsnet.").items() if any(m in words for m in modules)}

    def parent(self, pid: int) -> int:
        """The parent of a process on the machine."""
        return int(self.path(Path(f"/proc/{pid}/stat")).read_text().rpartition(")")[2].split()[1])

    def kill(self, pids: Iterable[int], number: signal.Signals = signal.SIGKILL) -> None:
        """A signal for processes on the machine; there has to be one."""
        enter = ["nsenter", f"--target={self.init}", "--mount", "--pid"]
        self.run(*enter, "kill", f"-{number.value}", *map(str, pids))

    def traces(self) -> dict[str, list[str]]:
        """What containers and nodes may leave behind, kind by kind; two are compared."""
        processes = self.processes()
        pause = [pid for pid, words in processes.items() if words.startswith("catatonit")]
        mounts = self.path(Path(f"/proc/{pause[0]}/mountinfo")).read_text().splitlines() if pause else []
        with self.entered():
            sockets = _sockets_here()
        runtime = self.path(self.runtime)
        files = [Path(folder, name).relative_to(runtime) for folder, _, names in os.walk(runtime) for name in names]
        return {
            "processes": sorted(words for words in processes.values()),
            "sockets": sorted(sockets),
            "mounts": sorted(line.split()[4] for line in mounts),
            "files": sorted(str(path) for path in files if path.parts[0] != "crun"),  # it forgets some itself
            "temporary files": sorted(
                path.name for path in Path(gettempdir()).iterdir() if _owner(path) == self.user.pw_uid
            ),
            "nodes": sorted(self.nodes()) if self.lab else [],
        }

    def wait_for_traces(self, before: Mapping[str, list[str]], timeout: float = 5.0) -> None:
        """Wait until there is what there was before; AssertionError tells what is more and what is less."""

        def difference() -> str:
            now = self.traces()
            lines = []
            for kind, old in before.items():
                more, less = Counter(now[kind]) - Counter(old), Counter(old) - Counter(now[kind])
                if more or less:
                    lines.append(f"{kind}: more: {list(more.elements())} less: {list(less.elements())}")
            return "\n".join(lines)

        try:
            until(lambda: not difference(), timeout)
        except AssertionError:
            if said := difference():
                raise AssertionError(f"after {timeout} s: {said}") from None

    def logs(self) -> str:
        """What the running nodes, and those that have failed, have said."""
        files = self.path(self.runtime / "ts4nsnet/nodes").glob("*/log")
        return "".join(f"--- node {path.parent.name}\n{path.read_text()}" for path in files)

    def clean(self) -> None:
        """End what runs outside of podman, and take away what a failed test has left: the next one shall not fail."""
        if found := self.processes("rootlesskit --net"):
            self.kill(found)
        with suppress(AssertionError):
            until(lambda: not self.nodes() and not self.ours(), 5)
        for device in self.nodes().values():
            self.api(f"device/{device['id']}", method="DELETE")

    def close(self) -> str:
        """End the machine."""
        said = super().close()
        self._unshare.kill()
        self._unshare.communicate()
        return said


def missing(reason: str) -> NoReturn:
    """What this needs is not here: in CI an error, for nobody reads what CI skips."""
    reason = f"{reason}; run .ci/prepare as root, see docs/testing.md"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _closed_folder(path: Path) -> str:
    # the topmost folder on the way to `path` that others may not enter
    for folder in (*reversed(path.parents), path):
        if not folder.stat().st_mode & 0o001:
            return str(folder)
    return ""


def _owner(path: Path) -> int:
    try:
        return path.lstat().st_uid
    except OSError:
        return -1


def _sockets_here() -> list[str]:
    # UDP sockets and listeners of the thread's namespace; connections come and go
    found = []
    for name in ("udp", "udp6", "tcp", "tcp6"):
        for line in Path(f"/proc/thread-self/net/{name}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if name.startswith("udp") or state == "0A":
                found.append(f"{name} {local}")
    return found
