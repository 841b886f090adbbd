# SPDX-License-Identifier: BSD-3-Clause
"""The netns child against the real kernel: whatever can be shown without the host's root (that is in tests/host).

Each test has a target of its own: a process in a network namespace, at times in a user namespace as well. After each
test nothing may be left: no fd, no child, no thread, no mount.
"""

import json
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from tests.processes import Namespace
from ts4nsnet.netns import (
    Configured,
    Link,
    NetnsChild,
    NetnsError,
    Route,
    Target,
    Tun,
    configure,
    open_socket,
    open_tun,
)

LAST = 2**32 - 1  # the metric that every other route goes before
FOUR, SIX = "100.64.0.7", "fd7a::7"
LINK = Link(
    "tap0",
    (FOUR, SIX),
    (
        Route("100.64.0.0/10", mtu=1280, source=FOUR),
        Route("fd7a::/48", mtu=1280, source=SIX),
        Route("0.0.0.0/0", priority=1000, mtu=65535),
        Route("::/0", priority=1000),
        Route("0.0.0.0/0", priority=LAST, unreachable=True),
        Route("::/0", priority=LAST, unreachable=True),
    ),
    txqueuelen=300,
)


class Holder:
    """A process that keeps namespaces alive until the block ends."""

    def __init__(self, *flags: str) -> None:
        self._process = subprocess.Popen(
            ["unshare", *flags, "--", "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"\n"
        self.pid = self._process.pid
        self.net, self.user = f"/proc/{self.pid}/ns/net", f"/proc/{self.pid}/ns/user"
        self.target = Target(self.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()

    def run(self, *command: str) -> str:
        """Run a command in the network namespace."""
        return Namespace("target", self.net).run(*command).stdout

    def links(self) -> dict[str, Any]:
        return {link["ifname"]: link for link in json.loads(self.run("ip", "-d", "-j", "address"))}

    def addresses(self, name: str = "tap0") -> list[str]:
        """Those of global scope."""
        found = self.links()[name]["addr_info"]
        return sorted(f"{a['local']}/{a['prefixlen']}" for a in found if a["scope"] == "global")

    def routes(self) -> dict[tuple[str, int], dict[str, Any]]:
        """All but the kernel's own, by destination ("default" and /32 as ip prints them) and metric."""
        four, six = (json.loads(self.run("ip", "-j", "-N", family, "route")) for family in ("-4", "-6"))
        table = [(r | {"dst": r["dst"].replace("default", "default4")}) for r in four] + six
        return {(r["dst"], r.get("metric", 0)): r for r in table if r.get("protocol") != "2"}

    def sysctl(self, name: str, value: str) -> None:
        with Namespace("target", self.net).entered():
            Path("/proc/sys/net", name).write_text(value)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    before = _left()
    yield
    assert _left() == before


def _left() -> list[object]:
    return [
        sorted(os.listdir("/proc/self/fd")),
        sorted(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()),
        threading.active_count(),
        Path("/proc/self/mountinfo").read_text(),
        os.readlink("/proc/self/ns/net"),
    ]


@pytest.fixture
def holder() -> Iterator[Holder]:
    with Holder("--net") as process:
        yield process


@pytest.fixture
def nested() -> Iterator[Holder]:
    """A namespace of a user namespace below ours, as rootlesskit's child has it."""
    with Holder("--user", "--map-root-user", "--net") as process:
        yield process


@contextmanager
def tun_in(target: Target, name: str = "tap0", queues: int = 1) -> Iterator[Tun]:
    tun = open_tun(target, name, queues)
    try:
        yield tun
    finally:
        tun.close()


def ended(pid: int) -> bool:
    """Wait for a process's end."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], 10)[0])
    finally:
        os.close(fd)


def refused(call: Callable[[], object]) -> NetnsError:
    with pytest.raises(NetnsError) as caught:
        call()
    return caught.value


# --- targets ----------------------------------------------------------------------------------------------------------


def test_by_process_id(holder: Holder) -> None:
    with tun_in(holder.target, "ts0") as tun:
        link = holder.links()["ts0"]
        assert (tun.name, len(tun.fds), tun.vnet_hdr, tun.offload & 7) == ("ts0", 1, True, 7)
        info = link["linkinfo"]["info_data"]
        assert (info["type"], info["pi"], info["vnet_hdr"], info["persist"]) == ("tun", False, True, False)
        assert link["num_tx_queues"] == 1  # a multi-queue device would cost 6 MB
        assert not os.get_inheritable(tun.fds[0])
        assert not os.get_blocking(tun.fds[0])
        assert "ts0" not in [name for _, name in socket.if_nameindex()]
    assert "ts0" not in holder.links()


def test_by_path(holder: Holder) -> None:
    with tun_in(Target(holder.net)):
        assert "tap0" in holder.links()


def test_by_the_path_of_a_bind_mount(holder: Holder, tmp_path: Path) -> None:
    bound = tmp_path / "netns"
    bound.touch()
    subprocess.run(["mount", "--bind", holder.net, bound], check=True)
    try:
        with tun_in(Target(str(bound))):
            assert "tap0" in holder.links()
    finally:
        subprocess.run(["umount", bound], check=True)
    error = refused(lambda: open_tun(Target(str(bound)), "tap0"))
    assert error.step == "opening the network namespace"
    assert "is its bind mount gone" in error.advice


def test_by_userns_path(nested: Holder) -> None:
    target = Target(nested.net, userns=nested.user)
    with tun_in(target):
        assert configure(target, LINK).skipped == ()
        assert nested.addresses() == [f"{FOUR}/32", f"{SIX}/128"]


def test_ones_own_userns_path(holder: Holder) -> None:
    with tun_in(Target(holder.pid, userns="/proc/self/ns/user")):
        assert "tap0" in holder.links()


def test_a_nested_user_namespace_is_entered_without_joining_it(nested: Holder) -> None:
    with tun_in(nested.target):
        assert configure(nested.target, LINK).skipped == ()


def test_the_namespace_we_are_in() -> None:
    with tun_in(Target(os.getpid())):
        assert "tap0" in [name for _, name in socket.if_nameindex()]


WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
SCRIPT = """
import sys
from ts4nsnet.netns import *
target = Target(int(sys.argv[1]) if sys.argv[1].isdecimal() else sys.argv[1], *sys.argv[2:])
try:
    tun = open_tun(target, "tap0")
    print("made", configure(target, Link("tap0", ("100.64.0.7",))), tun.offload)
except NetnsError as error:
    print(error)
"""


def elsewhere(prefix: tuple[str, ...], *arguments: object) -> str:
    """What a process started by `prefix` prints, that makes a TUN and configures it."""
    command = [*prefix, sys.executable, "-I", "-c", SCRIPT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.rstrip()


def test_the_owner_of_a_user_namespace_needs_no_capability(nested: Holder) -> None:
    """Rootlesskit's case: setns(net) gives EPERM, the owning user namespace has to be joined first."""
    assert elsewhere(WITHOUT_CAPABILITIES, nested.pid).startswith("made Configured(changes=")
    assert elsewhere(WITHOUT_CAPABILITIES, nested.net).startswith("made Configured(changes=")
    assert elsewhere(WITHOUT_CAPABILITIES, nested.net, nested.user).startswith("made Configured(changes=")


# --- what the fds are -------------------------------------------------------------------------------------------------


def udp(source: str, destination: str, ports: tuple[int, int], payload: bytes) -> bytes:
    """An IPv4 packet with its checksum (UDP's may be left out), behind an empty virtio_net_hdr."""
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(payload), 1, 0, 64, 17, 0)
    head += socket.inet_aton(source) + socket.inet_aton(destination)
    total: int = sum(struct.unpack("!10H", head))
    total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    head = head[:10] + total.to_bytes(2, "big") + head[12:]
    return bytes(10) + head + struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload


def read_until(fd: int, wanted: bytes) -> bytes:
    """The first packet that holds `wanted` (the kernel's own, for multicast, come before)."""
    while select.select([fd], [], [], 10)[0]:
        packet: bytes = os.read(fd, 1 << 17)
        if wanted in packet:
            return packet
    raise AssertionError("no such packet in 10 s")


def test_a_datagram_is_read_and_answered(holder: Holder) -> None:
    with tun_in(holder.target) as tun:
        configure(holder.target, LINK)
        with Namespace("target", holder.net).entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.settimeout(10)
            sock.connect(("100.64.0.9", 53))
            sock.send(b"question")
            packet = read_until(tun.fds[0], b"question")
            assert packet[10] == 0x45
            assert packet[22:30] == socket.inet_aton(FOUR) + socket.inet_aton("100.64.0.9")
            os.write(tun.fds[0], udp("100.64.0.9", FOUR, (53, sock.getsockname()[1]), b"answer"))
            assert sock.recv(99) == b"answer"


def test_every_queue_works(holder: Holder) -> None:
    with tun_in(holder.target, queues=3) as tun:
        assert len(set(tun.fds)) == 3
        configure(holder.target, LINK)
        assert holder.links()["tap0"]["linkinfo"]["info_data"]["numqueues"] == 3
        with Namespace("target", holder.net).entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.settimeout(10)
            sock.bind((FOUR, 7777))
            for fd in tun.fds:
                os.write(fd, udp("100.64.0.9", FOUR, (9, 7777), b"by %d" % fd))
                assert sock.recv(99) == b"by %d" % fd
            sock.sendto(b"out", ("100.64.0.9", 9))
            read = set[int]()
            while not read:
                for fd in select.select(tun.fds, [], [], 10)[0]:
                    read |= {fd} if b"out" in os.read(fd, 1 << 17) else set()


# --- a link of that name ----------------------------------------------------------------------------------------------


def test_a_persistent_tap_is_replaced(holder: Holder) -> None:
    holder.run("ip", "tuntap", "add", "tap0", "mode", "tap")
    holder.run("ip", "link", "set", "tap0", "up")
    with tun_in(holder.target):
        assert holder.links()["tap0"]["linkinfo"]["info_data"]["type"] == "tun"
        # what rootlesskit does after ready
        holder.run("ip", "address", "add", "10.0.2.100/24", "dev", "tap0")
        holder.run("ip", "link", "set", "tap0", "mtu", "65520", "up")
        holder.run("ip", "route", "add", "default", "via", "10.0.2.2", "dev", "tap0")
    assert "tap0" not in holder.links()


def test_a_tun_that_is_open_elsewhere_is_replaced(holder: Holder) -> None:
    with tun_in(holder.target, queues=2) as old, tun_in(holder.target) as new:
        with pytest.raises(OSError, match="File descriptor in bad state"):
            os.read(old.fds[0], 100)
        with pytest.raises(BlockingIOError):
            os.read(new.fds[0], 100)


def test_two_that_want_one_name_both_get_it_in_turn(holder: Holder) -> None:
    failures = []

    def make() -> None:
        try:
            for _ in range(4):
                open_tun(holder.target, "tap0").close()
        except NetnsError as error:
            failures.append(error)

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_another_kind_of_link_is_left_alone(holder: Holder) -> None:
    holder.run("ip", "link", "add", "tap0", "type", "veth", "peer", "name", "other")
    error = refused(lambda: open_tun(holder.target, "tap0"))
    assert error.step == "making the TUN tap0"
    assert error.namespace == f"process {holder.pid}"
    assert error.reason == "a link of that name exists, of kind veth"
    assert "another interface name" in error.advice
    assert holder.links()["tap0"]["linkinfo"]["info_kind"] == "veth"


def test_lo_is_no_name_for_a_tun(holder: Holder) -> None:
    assert "hardware or loopback" in str(refused(lambda: open_tun(holder.target, "lo")))


# --- addresses and routes ---------------------------------------------------------------------------------------------


def test_all_is_as_asked(holder: Holder) -> None:
    with tun_in(holder.target):
        assert configure(holder.target, LINK) == Configured(changes=10)
        links, routes = holder.links(), holder.routes()
        assert "UP" in links["lo"]["flags"]
        assert "UP" in links["tap0"]["flags"]
        assert (links["tap0"]["mtu"], links["tap0"]["txqlen"]) == (65535, 300)
        assert holder.addresses() == [f"{FOUR}/32", f"{SIX}/128"]
        assert not any(a.get("tentative") for a in links["tap0"]["addr_info"] if a["local"] == SIX)
        assert set(routes) == {("100.64.0.0/10", 0), ("fd7a::/48", 1024), ("default4", 1000), ("default", 1000),
                               ("default4", LAST), ("default", LAST)}  # fmt: skip
        four, six = routes["100.64.0.0/10", 0], routes["fd7a::/48", 1024]
        assert (four["dev"], four["metrics"], four["prefsrc"]) == ("tap0", [{"mtu": 1280}], FOUR)
        assert (six["dev"], six["metrics"], six["prefsrc"]) == ("tap0", [{"mtu": 1280}], SIX)
        assert routes["default4", 1000]["metrics"] == [{"mtu": 65520}]  # the kernel's most
        assert "metrics" not in routes["default", 1000]
        assert holder.run("ip", "-o", "route", "get", "100.64.1.1").split()[:5] == \
            ["100.64.1.1", "dev", "tap0", "src", FOUR]  # fmt: skip


def test_what_is_unreachable_outlives_the_tun(holder: Holder) -> None:
    with tun_in(holder.target):
        configure(holder.target, LINK)
        configure(holder.target, Link("tap0"))  # nor is it taken back
    assert set(holder.routes()) == {("default4", LAST), ("default", LAST)}
    with Namespace("target", holder.net).entered():
        sockets = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)]
    for sock, address in zip(sockets, ("198.51.100.1", "2001:db8::1"), strict=True):
        with sock, pytest.raises(OSError, match="No route to host"):
            sock.connect((address, 9))


def test_the_same_again_changes_nothing(holder: Holder) -> None:
    with tun_in(holder.target), NetnsChild(holder.target) as child:
        assert child.configure(LINK).changes == 10
        before = holder.run("ip", "-d", "-j", "address"), holder.routes()
        assert child.configure(LINK) == Configured(changes=0)
        assert (holder.run("ip", "-d", "-j", "address"), holder.routes()) == before


def test_only_the_difference_is_made(holder: Holder) -> None:
    with tun_in(holder.target) as tun, NetnsChild(holder.target) as child:
        child.configure(LINK)
        link = Link(
            "tap0", (FOUR, "100.64.0.8"), (*LINK.routes[2:], Route("100.64.0.0/10", mtu=1420, source="100.64.0.8")),
            mtu=9000,
        )  # fmt: skip
        # mtu; 100.64.0.8; one route anew, one away; fd7a::7 away
        assert child.configure(link).changes == 5
        assert holder.addresses() == ["100.64.0.7/32", "100.64.0.8/32"]
        routes = holder.routes()
        assert routes["100.64.0.0/10", 0]["metrics"] == [{"mtu": 1420}]
        assert routes["100.64.0.0/10", 0]["prefsrc"] == "100.64.0.8"
        assert ("fd7a::/48", 1024) not in routes
        assert (holder.links()["tap0"]["mtu"], holder.links()["tap0"]["txqlen"]) == (9000, 300)
        os.write(tun.fds[0], udp("100.64.0.9", FOUR, (9, 7777), b"the fd was not disturbed"))


def test_routes_survive_the_last_address(holder: Holder) -> None:
    """The kernel takes all routes of a device away with its last IPv4 address."""
    with tun_in(holder.target), NetnsChild(holder.target) as child:
        child.configure(Link("tap0", (FOUR,), (Route("100.64.0.0/10"),)))
        child.configure(Link("tap0", (), (Route("100.64.0.0/10"),)))
        assert holder.addresses() == []
        assert ("100.64.0.0/10", 0) in holder.routes()


def test_what_others_added_stays(holder: Holder) -> None:
    with tun_in(holder.target), NetnsChild(holder.target) as child:
        child.configure(LINK)
        for command in (
            "address add 10.0.2.100/24 dev tap0",
            "address add 10.9.9.9/32 dev tap0",
            "address add fd00::9/128 dev tap0",
            "route add default via 10.0.2.2 dev tap0",
            "-6 route add fd99::/64 dev tap0",
        ):
            holder.run("ip", *command.split())
        child.configure(Link("tap0", ("10.0.2.100",)))
        assert holder.addresses() == ["10.0.2.100/24", "10.0.2.100/32", "10.9.9.9/32", "fd00::9/128"]
        assert set(holder.routes()) == {("default4", 0), ("fd99::/64", 1024), ("default4", LAST), ("default", LAST)}


def test_a_route_that_another_has_is_left_out_and_named(holder: Holder) -> None:
    """The container's own subnet, in the range of a peer's: the container's stays, all the rest is as asked."""
    holder.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
    holder.run("ip", "link", "set", "eth0", "up")
    holder.run("ip", "link", "set", "other", "up")
    holder.run("ip", "route", "add", "100.64.0.0/10", "dev", "eth0")
    holder.run("ip", "-6", "route", "add", "fd7a::/48", "dev", "eth0")
    with tun_in(holder.target), NetnsChild(holder.target) as child:
        done = child.configure(LINK)
        assert done.skipped == ("100.64.0.0/10", "fd7a::/48")
        assert holder.routes()["100.64.0.0/10", 0]["dev"] == "eth0"
        assert holder.routes()["fd7a::/48", 1024]["dev"] == "eth0"
        assert {("default4", 1000), ("default", 1000), ("default4", LAST), ("default", LAST)} < set(holder.routes())
        assert child.configure(LINK) == Configured(0, done.skipped)
        holder.run("ip", "route", "del", "100.64.0.0/10", "dev", "eth0")
        assert child.configure(LINK) == Configured(1, ("fd7a::/48",))
        assert holder.routes()["100.64.0.0/10", 0]["dev"] == "tap0"


def test_a_link_can_be_taken_down(holder: Holder) -> None:
    with tun_in(holder.target), NetnsChild(holder.target) as child:
        child.configure(LINK)
        child.configure(Link("tap0", (FOUR,), LINK.routes[4:], up=False))
        assert "UP" not in holder.links()["tap0"]["flags"]
        assert set(holder.routes()) == {("default4", LAST), ("default", LAST)}


def test_a_link_that_is_not_there(holder: Holder) -> None:
    error = refused(lambda: configure(holder.target, LINK))
    assert error.step == "configuring tap0"
    assert "open the TUN before" in error.advice


SKIPPED = ("fd7a::7/128", "fd7a::/48", "::/0")


@pytest.mark.parametrize("conf", ["all", "default"])
def test_without_ipv6_it_is_left_out(holder: Holder, conf: str) -> None:
    holder.sysctl(f"ipv6/conf/{conf}/disable_ipv6", "1")
    with tun_in(holder.target), NetnsChild(holder.target) as child:
        assert child.configure(LINK).skipped == SKIPPED
        assert holder.addresses() == [f"{FOUR}/32"]
        assert set(holder.routes()) == {("100.64.0.0/10", 0), ("default4", 1000), ("default4", LAST), ("default", LAST)}
        assert child.configure(LINK) == Configured(0, SKIPPED)
        holder.sysctl("ipv6/conf/all/disable_ipv6", "0")
        holder.sysctl("ipv6/conf/tap0/disable_ipv6", "0")
        assert child.configure(LINK) == Configured(3)


def test_a_small_mtu_switches_ipv6_off(holder: Holder) -> None:
    with tun_in(holder.target):
        link = Link("tap0", LINK.addresses, LINK.routes, mtu=1279)
        assert configure(holder.target, link).skipped == SKIPPED


def test_thousands_of_routes(holder: Holder) -> None:
    routes = tuple(Route(f"10.{i >> 8}.{i & 255}.0/24", mtu=1280, priority=7) for i in range(4000))
    with tun_in(holder.target):
        assert configure(holder.target, Link("tap0", (FOUR,), routes)).changes == 4003
        assert len(holder.routes()) == 4000


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_process_that_has_ended() -> None:
    with Holder("--net") as gone:
        pass
    error = refused(lambda: open_tun(gone.target, "tap0"))
    assert str(error) == (
        f"opening the network namespace (process {gone.pid}: /proc/{gone.pid}/ns/net): No such file or directory; "
        "the process has ended"
    )


def test_files_that_are_no_network_namespace(tmp_path: Path, nested: Holder) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    cases = [
        (str(tmp_path / "none"), "No such file or directory; give the path of a namespace that exists"),
        (str(tmp_path / "file/none"), "Not a directory; give the path of a namespace that exists"),
        (str(tmp_path / "file"), "the file is not a namespace; is its bind mount gone"),
        (str(tmp_path / "fifo"), "the file is not a namespace"),
        (str(tmp_path), "the file is not a namespace"),
        (nested.user, "a namespace of another kind (0x10000000); give the path of a network namespace"),
    ]
    for path, words in cases:
        error = refused(lambda path=path: open_tun(Target(path), "tap0"))  # type: ignore[misc]
        assert str(error).startswith(f"opening the network namespace ({path}): ")
        assert words in str(error)
    error = refused(lambda: open_tun(Target(nested.net, userns=nested.net), "tap0"))
    assert str(error).startswith(f"opening the user namespace ({nested.net}): ")
    assert error.advice == "give the path of a user namespace"


def test_without_the_right_to_enter(holder: Holder) -> None:
    said = elsewhere(WITHOUT_CAPABILITIES, holder.pid)
    assert said.startswith(("opening the network namespace", "entering the network namespace"))
    said = elsewhere(WITHOUT_CAPABILITIES, "/proc/self/ns/net")
    assert said.startswith("entering the network namespace (/proc/self/ns/net): Operation not permitted; CAP_SYS_ADMIN")
    assert "run as its owner or as root" in said


def test_without_the_device() -> None:
    empty = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh")
    said = elsewhere(empty, "/proc/self/ns/net")
    assert said.startswith("opening /dev/net/tun (/proc/self/ns/net): No such file or directory; load the module")
    other = ("unshare", "--mount", "sh", "-c", 'mount --bind /dev/null /dev/net/tun && exec "$@"', "sh")
    said = elsewhere(other, "/proc/self/ns/net")
    assert said.startswith(
        "making the TUN tap0 (/proc/self/ns/net): Inappropriate ioctl for device; /dev/net/tun is no"
    )


@pytest.mark.parametrize("name", ["a/b", "a" * 16])
def test_a_bad_name_starts_no_child(holder: Holder, name: str) -> None:
    with NetnsChild(holder.target) as child:
        refused(lambda: child.open_tun(name))
        refused(lambda: child.open_tun("tap0", queues=0))
        assert child.pid is None


def test_too_many_open_files(holder: Holder) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with NetnsChild(holder.target) as child:
        child.open_tun("tap0").close()  # the child has our limit of now
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 5, hard))
        try:
            error = refused(lambda: child.open_tun("tap0", queues=60))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert error.step == "receiving file descriptors"
    assert error.advice == "raise ulimit -n"
    assert "tap0" not in holder.links()


def test_no_room_for_a_child(holder: Holder) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd")) - 1
    for room in range(7):
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + room, hard))
        try:
            open_tun(holder.target, "tap0").close()
        except NetnsError as error:
            assert "Too many open files" in str(error) or "too many open files" in str(error)  # noqa: PT017
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(("family", "name"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_a_socket_of_the_targets_network(holder: Holder, family: int, name: str, kind: int) -> None:
    holder.run("ip", "link", "set", "lo", "up")
    with open_socket(holder.target, family, kind) as sock:
        assert (sock.family, sock.type) == (family, kind)
        assert not sock.getblocking()
        assert not sock.get_inheritable()
        sock.bind((name, 0))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        assert f":{sock.getsockname()[1]} " in holder.run("ss", "-Hanut")


def test_a_socket_that_there_is_not(holder: Holder) -> None:
    error = refused(lambda: open_socket(holder.target, socket.AF_INET, 77))
    assert error.step == "making a socket of family 2, kind 77"
    assert error.namespace == f"process {holder.pid}"


# --- the child's life -------------------------------------------------------------------------------------------------


def test_the_child_ends_with_the_block(holder: Holder) -> None:
    with NetnsChild(holder.target) as child:
        child.open_tun("tap0").close()
        pid = child.pid
        assert pid is not None
        began = time.monotonic()
    assert time.monotonic() - began < 1
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_idle_child_leaves_and_another_comes(holder: Holder) -> None:
    with NetnsChild(holder.target) as child, tun_in(holder.target):
        child.configure(LINK)
        first = child.pid
        assert first is not None
        assert ended(first)
        assert child.configure(LINK) == Configured(0)
        assert child.pid not in {first, None}


def test_after_a_failure_to_enter_the_next_request_is_tried_afresh(holder: Holder, tmp_path: Path) -> None:
    bound = tmp_path / "netns"
    with NetnsChild(Target(str(bound))) as child:
        refused(lambda: child.open_tun("tap0"))
        bound.symlink_to(holder.net)
        child.open_tun("tap0").close()


def test_a_child_that_is_killed(holder: Holder) -> None:
    with NetnsChild(holder.target) as child:
        child.open_tun("tap0").close()
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        assert ended(child.pid)
        error = refused(lambda: child.configure(LINK))
        assert str(error).startswith(f"waiting for the netns child (process {holder.pid}): it ended with status -9")
        child.open_tun("tap0").close()  # another


def test_a_child_that_does_not_answer(holder: Holder) -> None:
    with NetnsChild(holder.target, request_time=1) as child:
        child.open_tun("tap0").close()
        pid = child.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        assert refused(lambda: child.configure(LINK)).reason == "no answer in 1 s"
        assert child.pid is None
        assert ended(pid)


def test_a_request_can_be_given_up_at_once(holder: Holder) -> None:
    with NetnsChild(holder.target) as child, ThreadPoolExecutor(1) as other:
        other.submit(child.open_tun, "tap0").result().close()
        pid = child.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)  # whatever the kernel holds it for
        waiting = other.submit(child.configure, LINK)
        began = time.monotonic()
        child.give_up()
        error = waiting.exception(10)
        assert time.monotonic() - began < 1
        assert isinstance(error, NetnsError)
        assert error.reason == "the request was given up"
        assert ended(pid)
        assert refused(lambda: child.open_tun("tap0")).reason == "the request was given up"


def test_a_child_that_cannot_start(holder: Holder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(python))
    assert "No such file" in refused(lambda: open_tun(holder.target, "tap0")).reason
    python.write_text("#!/bin/sh\necho last words >&2; exit 3\n")
    python.chmod(0o755)
    assert "status 3: last words" in refused(lambda: open_tun(holder.target, "tap0")).reason
    monkeypatch.setattr(sys, "executable", "")
    assert "sys.executable" in refused(lambda: open_tun(holder.target, "tap0")).reason


def test_the_child_sees_nothing_of_our_environment(holder: Holder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TS_AUTHKEY", "tskey-secret")
    with NetnsChild(holder.target) as child:
        child.open_tun("tap0").close()
        assert Path(f"/proc/{child.pid}/environ").read_bytes() == b"LC_ALL=C.UTF-8\0"
        assert b"secret" not in Path(f"/proc/{child.pid}/cmdline").read_bytes()


@pytest.mark.parametrize("prefix", [(), WITHOUT_CAPABILITIES])
def test_the_child_dies_with_its_parent(nested: Holder, prefix: tuple[str, ...]) -> None:
    code = """
import os, signal, sys
from ts4nsnet.netns import *
child = NetnsChild(Target(int(sys.argv[1]), *sys.argv[2:]))
child.open_tun("tap0")
os.kill(child.pid, signal.SIGSTOP)  # it can notice nothing itself
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    command = [*prefix, sys.executable, "-I", "-c", code, str(nested.pid), nested.user]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    assert ended(pid)
    os.waitpid(pid, 0)  # process 1 of these namespaces inherits it
