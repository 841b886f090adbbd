# SPDX-License-Identifier: BSD-3-Clause
"""The netns child where the container tools start it: from the host's namespaces.

As real root; as a plain user without a capability (rootlesskit: the target is in a user namespace of that user, with a
persistent TAP made before); inside podman's rootless user namespace (podman's target; `keep-id` nests another). The
user is TS4NSNET_TEST_USER, by default ts4nsnet-test; .ci/prepare makes it.
"""

import json
import os
import pwd
import select
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

USER = os.environ.get("TS4NSNET_TEST_USER", "ts4nsnet-test")

# prints what was made and what the target sees of it; arguments: form of the target, command of the holder
SCRIPT = """
import json, os, signal, subprocess, sys
from ts4nsnet.netns import *
form, *command = sys.argv[1:]
first = "echo; read x; ip -j -d address; ip -j route; exec cat"
if form == "tap":
    first = "ip tuntap add name tap0 mode tap; ip link set tap0 up; " + first
holder = subprocess.Popen([*command, "sh", "-c", first], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
with holder:
    try:
        holder.stdout.readline()
        net, user = (f"/proc/{holder.pid}/ns/{kind}" for kind in ("net", "user"))
        target = {"path": Target(net), "userns": Target(net, userns=user)}.get(form, Target(holder.pid))
        tun = open_tun(target, "tap0", 2)
        done = configure(target, Link(
            "tap0", ("100.64.0.7", "fd7a::7"), (Route("0.0.0.0/0", mtu=1280, priority=1000),
            Route("0.0.0.0/0", priority=2**32 - 1, unreachable=True))))
        holder.stdin.write(b"\\n")
        holder.stdin.flush()
        links, routes = (json.loads(holder.stdout.readline()) for _ in range(2))
        status = dict(line.split(":", 1) for line in open("/proc/self/status"))
        print(json.dumps({
            "uid": os.getuid(), "capabilities": int(status["CapEff"], 16), "skipped": done.skipped,
            "fds": len(tun.fds), "offload": tun.offload, "links": {l["ifname"]: l for l in links}, "routes": routes,
            "children": [p for p in open(f"/proc/self/task/{os.getpid()}/children").read().split()
                         if int(p) != holder.pid]}))
    except NetnsError as error:
        print(json.dumps(str(error)))
    finally:
        holder.kill()
"""


def missing(reason: str) -> NoReturn:
    """What this needs is not here: in CI an error, for nobody reads what CI skips."""
    reason = f"{reason}; run .ci/prepare as root, see docs/testing.md"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def _root() -> None:
    if os.geteuid() != 0 or "4294967295" not in Path("/proc/self/uid_map").read_text():
        missing("not real root")


@pytest.fixture(scope="module")
def as_user(_root: None) -> list[str]:
    """The start of a command that runs as the test user: no capability, an environment of its own."""
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        missing(f"there is no user {USER}")
    prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups", "--inh-caps=-all"]
    prefix += ["env", "-i", "-C", user.pw_dir, f"HOME={user.pw_dir}", f"USER={USER}", f"PATH={os.environ['PATH']}"]
    prefix += [f"XDG_RUNTIME_DIR=/run/user/{user.pw_uid}"]
    done = subprocess.run(
        [*prefix, sys.executable, "-I", "-c", "import ts4nsnet.netns, pyroute2"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        missing(f"{USER} cannot run {sys.executable} with ts4nsnet, is the checkout in a private folder? {done.stderr}")
    return prefix


@pytest.fixture(scope="module")
def _device() -> None:
    try:
        mode = os.stat("/dev/net/tun").st_mode
    except FileNotFoundError:
        missing("there is no /dev/net/tun")
    if stat.S_IMODE(mode) & 0o006 != 0o006:
        missing("/dev/net/tun is not open to users")


@pytest.fixture(scope="module")
def in_podman(as_user: list[str]) -> list[str]:
    """The start of a command that runs in podman's rootless user namespace."""
    if shutil.which("podman") is None:
        missing("there is no podman")
    prefix = [*as_user, "podman", "unshare"]
    done = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        missing(f"podman unshare does not work for {USER}: {done.stderr}")
    return prefix


def run(prefix: list[str], form: str, *command: str) -> Any:
    """Run SCRIPT by the command that `prefix` starts; what it has printed."""
    done = subprocess.run(
        [*prefix, sys.executable, "-I", "-c", SCRIPT, form, *command],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check(seen: Any) -> None:
    assert isinstance(seen, dict), seen
    tap = seen["links"]["tap0"]
    assert (seen["fds"], seen["offload"] & 7, seen["skipped"], seen["children"]) == (2, 7, [], [])
    assert "UP" in seen["links"]["lo"]["flags"]
    assert tap["linkinfo"]["info_data"]["type"] == "tun"
    addresses = [f"{a['local']}/{a['prefixlen']}" for a in tap["addr_info"] if a["scope"] == "global"]
    assert addresses == ["100.64.0.7/32", "fd7a::7/128"]
    assert [route.get("metrics") for route in seen["routes"]] == [[{"mtu": 1280}], None]
    assert [route.get("type") for route in seen["routes"]] == [None, "unreachable"]


@pytest.mark.usefixtures("_root")
@pytest.mark.parametrize("form", ["pid", "path", "tap"])
def test_as_root(form: str) -> None:
    check(run([], form, "unshare", "--net"))


@pytest.mark.parametrize("form", ["pid", "path", "userns", "tap"])
def test_as_root_into_a_users_namespaces(as_user: list[str], form: str) -> None:
    check(run([], form, *as_user, "unshare", "--user", "--map-root-user", "--net"))


@pytest.mark.usefixtures("_device")
@pytest.mark.parametrize("form", ["pid", "path", "userns", "tap"])
def test_as_rootlesskit_does(as_user: list[str], form: str) -> None:
    seen = run(as_user, form, "unshare", "--user", "--map-root-user", "--net")
    check(seen)
    assert (seen["uid"] != 0, seen["capabilities"]) == (True, 0)


@pytest.mark.usefixtures("_device")
@pytest.mark.parametrize("form", ["pid", "path", "tap"])
def test_in_podmans_user_namespace(in_podman: list[str], form: str) -> None:
    seen = run(in_podman, form, "unshare", "--net")
    check(seen)
    assert seen["uid"] == 0


KEEP_ID = ("unshare", "--user", "--map-user=1000", "--map-group=1000")


@pytest.mark.usefixtures("_device")
@pytest.mark.parametrize("form", ["pid", "path"])
def test_in_podmans_user_namespace_with_keep_id(in_podman: list[str], form: str) -> None:
    """The target's user namespace is one below podman's, the network namespace is podman's."""
    check(run(in_podman, form, "unshare", "--net", *KEEP_ID))


@pytest.mark.usefixtures("_device")
@pytest.mark.parametrize("form", ["pid", "path", "userns"])
def test_in_podmans_user_namespace_into_one_below(in_podman: list[str], form: str) -> None:
    """Both are one below podman's; who joins is not root there, and still has all capabilities."""
    check(run(in_podman, form, *KEEP_ID, "--net"))


def test_a_device_that_users_may_not_open(as_user: list[str], tmp_path: Path) -> None:
    private = 'mknod -m 600 $0 c 10 200 && mount --bind $0 /dev/net/tun && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", private, str(tmp_path / "tun"), *as_user]
    said = run(prefix, "pid", "unshare", "--user", "--map-root-user", "--net")
    assert said.startswith("opening /dev/net/tun (process ")
    assert said.endswith("Permission denied; let users open it: chmod 0666 /dev/net/tun")


def test_a_namespace_of_another_user(as_user: list[str]) -> None:
    code = """
import sys
from ts4nsnet.netns import *
for target in (Target(1), Target("/proc/self/ns/net"), Target("/proc/self/ns/net", userns="/proc/1/ns/user")):
    try:
        open_tun(target, "tap0")
    except NetnsError as error:
        print(error)
"""
    done = subprocess.run([*as_user, sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    uid = pwd.getpwnam(USER).pw_uid
    process, ours, userns = done.stdout.splitlines()
    look = f"this process is uid {uid} and may not look into it, which belongs to uid 0: run as its owner or as root"
    assert process == f"opening the network namespace (process 1: /proc/1/ns/net): Permission denied; {look}"
    assert ours.startswith("entering the network namespace (/proc/self/ns/net): Operation not permitted; CAP_SYS_ADMIN")
    assert f"it belongs to uid 0, this process is uid {uid}: run as its owner or as root" in ours
    assert userns == f"opening the user namespace (/proc/1/ns/user): Permission denied; {look}"


def test_the_child_dies_with_its_parent_also_in_a_users_namespace(as_user: list[str]) -> None:
    """Joining a user namespace of another takes PR_SET_PDEATHSIG away; the child asks for it again."""
    code = """
import os, signal, subprocess, sys
from ts4nsnet.netns import *
holder = subprocess.Popen([*sys.argv[1:], "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
holder.stdout.readline()
child = NetnsChild(Target(f"/proc/{holder.pid}/ns/net", userns=f"/proc/{holder.pid}/ns/user"))
child.open_tun("tap0")
os.kill(child.pid, signal.SIGSTOP)  # it can notice nothing itself
print(child.pid, flush=True)
sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [sys.executable, "-I", "-c", code, *as_user, "unshare", "--user", "--map-root-user", "--net"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.stdin.close()
        try:
            assert select.select([child], [], [], 10)[0]
        finally:
            os.close(child)
