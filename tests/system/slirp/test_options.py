# SPDX-License-Identifier: BSD-3-Clause
"""Each option of slirp4netns, with a node behind it: the container sees what the option says."""

import json
import signal
import time
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import pytest

from tests.system.machine import Machine, Started
from tests.topology import Container
from ts4nsnet.uring import backends

TAILNET = {"100.64.0.0/10", "fd7a:115c:a1e0::/48"}


@pytest.fixture
def box(machine: Machine, request: pytest.FixtureRequest) -> Container:
    """A container of the test's own."""
    name: str = request.node.name.removeprefix("test_").replace("_", "-").partition("[")[0]
    return machine.container(name)


def start(machine: Machine, box: Container, *words: str) -> Started:
    """A node that is ready, in `box`."""
    started = machine.start(box, *words, str(box.pid), "tap0")
    started.wait_until_ready()
    return started


def interfaces(box: Container) -> set[str]:
    return {link["ifname"] for link in json.loads(box.run("ip", "-json", "link").stdout)}


def test_ready_fd(machine: Machine, box: Container) -> None:
    started = machine.start(box, str(box.pid), "tap0")
    started.wait_until_ready()
    assert any(address.startswith("100.64.") for address in started.addresses())
    assert any(address.startswith("fd7a:115c:a1e0:") for address in started.addresses())
    assert json.loads(box.run("ip", "-json", "route", "get", "100.64.0.99").stdout)[0]["dev"] == "tap0"


def test_exit_fd(machine: Machine, box: Container) -> None:
    started = start(machine, box)
    assert started.leave() == 0
    assert interfaces(box) == {"lo"}
    assert not started.folder.exists()


def test_exit_fd_with_any_event(machine: Machine, box: Container) -> None:
    started = start(machine, box)
    started.speak()
    assert started.process.wait() == 0
    assert interfaces(box) == {"lo"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_in_good_order(machine: Machine, number: signal.Signals) -> None:
    box = machine.container(f"signal-{number}")
    started = start(machine, box)
    started.process.send_signal(number)
    assert started.process.wait() == 0
    assert interfaces(box) == {"lo"}
    assert not started.folder.exists()


def test_exit_fd_that_is_closed_already(machine: Machine, box: Container) -> None:
    started = machine.start(box, "-e", "999", str(box.pid), "tap0")
    assert started.process.wait() == 0
    assert interfaces(box) == {"lo"}


def test_mtu_caps_routes(machine: Machine, box: Container) -> None:
    started = start(machine, box, "--mtu=1300")
    routes = started.routes() | started.routes(6)
    assert routes
    assert {mtu for mtu in routes.values() if mtu > 1300} == set()


def test_podmans_mtu_caps_nothing(machine: Machine, box: Container) -> None:
    started = start(machine, box, "--mtu=65520")
    assert {mtu for mtu in started.routes().values() if mtu} >= {1280}


def ask(box: Container, server: str, name: str) -> tuple[int, set[str]]:
    """What a name server says of a name, asked from inside the container."""
    query = dns.message.make_query(name, "A")
    with box.entered():
        answer = dns.query.udp(query, server, timeout=10)
    return answer.rcode(), {item.address for rrset in answer.answer for item in rrset}


def test_cidr(machine: Machine, box: Container) -> None:
    started = start(machine, box, "--cidr=10.50.0.0/24")
    assert "10.50.0.100/32" in started.addresses()
    assert ask(box, "10.50.0.3", f"{box.name}.lab.internal")[0] == dns.rcode.NOERROR


def test_cidr_by_default(machine: Machine, box: Container) -> None:
    started = start(machine, box)
    assert "10.0.2.100/32" in started.addresses()
    own = {address.partition("/")[0] for address in started.addresses()}
    code, addresses = ask(box, "10.0.2.3", box.name)
    assert code == dns.rcode.NOERROR
    assert addresses
    assert addresses <= own


def test_disable_dns(machine: Machine, box: Container) -> None:
    start(machine, box, "--disable-dns")
    sock = box.socket()
    sock.connect(("10.0.2.3", 53))
    sock.send(dns.message.make_query(box.name, "A").to_wire())
    with pytest.raises(OSError, match=r"No route to host|Connection refused"):  # sooner than it gives up waiting
        sock.recv(512)


@pytest.mark.parametrize("word", ["path", "anything"])
def test_netns_type(machine: Machine, word: str) -> None:
    box = machine.container(f"netns-{word}")
    started = machine.start(box, f"--netns-type={word}", box.netns, "tap0")
    started.wait_until_ready()
    assert "tap0" in interfaces(box)


def test_userns_path(machine: Machine, box: Container) -> None:
    words = [f"--userns-path=/proc/{box.pid}/ns/user", "--netns-type=path", box.netns, "tap0"]
    started = machine.start(box, *words)
    started.wait_until_ready()
    assert "tap0" in interfaces(box)


def test_name_of_the_interface(machine: Machine, box: Container) -> None:
    started = machine.start(box, str(box.pid), "a-name-of-20-letters")
    started.wait_until_ready()
    assert "a-name-of-20-le" in interfaces(box)


@pytest.mark.skipif(not backends.compiled(), reason="the engine is not compiled")
@pytest.mark.parametrize(("engine", "has_worker"), [("epoll", True), ("python", False)])
def test_the_engine_that_was_asked_for(machine: Machine, engine: str, has_worker: bool) -> None:
    box = machine.container(f"engine-{engine}")
    started = machine.start(box, str(box.pid), "tap0", TS4NSNET_ENGINE=engine)
    started.wait_until_ready()
    keeper = started.process.pid
    children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    commands = [Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0") for pid in children]
    assert any(words[-1] == engine.encode() for words in commands) == has_worker


def test_options_without_meaning(machine: Machine, box: Container) -> None:
    words = [
        "--configure", "--disable-host-loopback", "--enable-ipv6", "--enable-sandbox", "--enable-seccomp",
        "--outbound-addr=192.0.2.1", "--outbound-addr6=eth0", "--macaddress=02:00:00:00:00:01",
    ]  # fmt: skip
    started = start(machine, box, *words, "--target-type=netns")
    for word in words:
        assert started.log.count(f"{word.partition('=')[0]}: means nothing here") == 1


@pytest.mark.parametrize(
    ("words", "variables", "reason"),
    [
        (["--cidr=10.0.2.1/24"], {}, "CIDR needs to be a network address"),
        (["--mtu=67"], {}, "MTU must be at least 68"),
        ([], {"HTTPS_PROXY": "foo://bar"}, "ts4nsnet: HTTPS_PROXY: got a proxy of kind 'foo', want http or https"),
        (
            [],
            {"TS_CONTROL_URL": "https://tskey-k"},
            "ts4nsnet: TS_CONTROL_URL: got a key in place of a host, want ",
        ),
        ([], {"TS_HOSTNAME": "a_b"}, "ts4nsnet: TS_HOSTNAME: got 'a_b', want "),
        ([], {"TS_AUTHKEY": ""}, "ts4nsnet: TS_AUTHKEY: got nothing, want "),
        ([], {"TS_AUTHKEY": "tskey-api-x"}, "ts4nsnet: TS_AUTHKEY: got a key of kind tskey-api-…"),
        ([], {"TS_CLIENT_ID": "x"}, "ts4nsnet: TS_AUTHKEY excludes TS_CLIENT_ID"),
        ([], {"TS_STATE_DIR": "/no/such/folder"}, "ts4nsnet: TS_STATE_DIR: got '/no/such/folder', want "),
        (
            [],
            {"SSL_CERT_FILE": "/no/such"},
            "ts4nsnet: SSL_CERT_FILE: got '/no/such' (No such file or directory), want ",
        ),
        ([], {"SSL_CERT_DIR": "/no/such"}, "ts4nsnet: SSL_CERT_DIR: got '/no/such' (No such file or directory), want "),
    ],
)
def test_wrong_values_end_it_within_a_second(
    machine: Machine, words: list[str], variables: dict[str, str], reason: str
) -> None:
    box = machine.container("wrong")
    started_at = time.monotonic()
    started = machine.start(box, *words, str(box.pid), "tap0", **variables)
    assert started.process.wait() == 1
    assert time.monotonic() - started_at < 1.0
    assert started.process.output.startswith(reason)
    assert started.process.output.count("\n") == 1
    assert started.was_never_ready()
    assert interfaces(box) == {"lo"}
