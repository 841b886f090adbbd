# SPDX-License-Identifier: BSD-3-Clause
"""The test networks themselves: what tests/topology.py promises, and examples of its use."""

import fcntl
import os
import signal
import socket
from pathlib import Path

import pytest

from tests.topology import CommandFailed, Host, Link, Router, Topology

NS_GET_USERNS = 0xB701  # <linux/nsfs.h>: the user namespace that owns a namespace


def home_and_world(topology: Topology, home: Router) -> tuple[Host, Host]:
    """alice – home – internet – bob, with addresses of both IP versions."""
    internet = topology.router("internet")
    alice, bob = topology.host("alice"), topology.host("bob")
    topology.link(alice, "10.1.0.2/24 fd01::2/64", home, "10.1.0.1/24 fd01::1/64")
    topology.link(home, "192.0.2.2/24 fd02::2/64", internet, "192.0.2.1/24 fd02::1/64")
    topology.link(bob, "198.51.100.2/24 fd03::2/64", internet, "198.51.100.1/24 fd03::1/64")
    return alice, bob


def source_seen(sender: socket.socket, receiver: Host, address: str, port: int) -> tuple[str, int]:
    """Where a datagram from `sender` seems to come from, asked at a new socket of `receiver`."""
    listener = receiver.socket()
    listener.bind((address, port))
    sender.sendto(b"who am I?", (address, port))
    _, (host, source_port) = listener.recvfrom(100)
    return host, source_port


@pytest.mark.parametrize("address", ["10.0.0.2", "fd00::2"])
def test_two_hosts_reach_each_other(topology: Topology, address: str) -> None:
    alice, bob = topology.host("alice"), topology.host("bob")
    topology.link(alice, "10.0.0.1/24 fd00::1/64", bob, "10.0.0.2/24 fd00::2/64")
    assert "1 received" in alice.run("ping", "-c1", "-W5", address).stdout


@pytest.mark.parametrize(("there", "back"), [("198.51.100.2", "10.1.0.2"), ("fd03::2", "fd01::2")])
def test_routers_lead_there_and_back(topology: Topology, there: str, back: str) -> None:
    alice, bob = home_and_world(topology, topology.router("home"))
    alice.run("ping", "-c1", "-W5", there)
    bob.run("ping", "-c1", "-W5", back)


def test_links_may_be_made_in_any_order(topology: Topology) -> None:
    alice, home, internet = topology.host("alice"), topology.router("home"), topology.router("internet")
    topology.link(home, "192.0.2.2/24", internet, "192.0.2.1/24")
    topology.link(alice, "10.1.0.2/24", home, "10.1.0.1/24")
    internet.run("ping", "-c1", "-W5", "10.1.0.2")


def test_nat_shows_its_own_address(topology: Topology) -> None:
    alice, bob = home_and_world(topology, topology.router("home", nat="easy"))
    host, _ = source_seen(alice.socket(), bob, "198.51.100.2", 5000)
    assert host == "192.0.2.2"


def test_nat_routes_ipv6_untranslated(topology: Topology) -> None:
    alice, bob = home_and_world(topology, topology.router("home", nat="easy"))
    bob.run("ping", "-c1", "-W5", "fd01::2")
    assert "1 received" in alice.run("ping", "-c1", "-W5", "fd03::2").stdout


def test_easy_nat_keeps_the_port_for_every_destination(topology: Topology) -> None:
    alice, bob = home_and_world(topology, topology.router("home", nat="easy"))
    sender = alice.socket()
    sender.bind(("10.1.0.2", 41641))
    assert {source_seen(sender, bob, "198.51.100.2", port)[1] for port in range(5000, 5005)} == {41641}


def test_hard_nat_has_a_port_per_destination(topology: Topology) -> None:
    alice, bob = home_and_world(topology, topology.router("home", nat="hard"))
    sender = alice.socket()
    ports = [source_seen(sender, bob, "198.51.100.2", port)[1] for port in range(5000, 5005)]
    assert len(set(ports)) > 1


def test_nat_drops_in_silence_what_nobody_asked_for(topology: Topology) -> None:
    _, bob = home_and_world(topology, topology.router("home", nat="easy"))
    stranger = bob.socket()
    stranger.connect(("192.0.2.2", 41641))
    stranger.send(b"let me in")
    bob.run("ping", "-c1", "-W5", "192.0.2.2")  # an error would have arrived before this answer
    stranger.setblocking(False)
    with pytest.raises(BlockingIOError):  # and not ConnectionRefusedError
        stranger.recv(100)


def arrived(link: Link, count: int) -> int:
    """How many of `count` datagrams arrive at the upper end; the loss ends with them."""
    address = str(link.upper.addresses[0].ip), 5000
    listener, sender = link.upper.host.socket(), link.lower.host.socket()
    listener.bind(address)
    for _ in range(count):
        sender.sendto(b"data", address)
    link.set_loss(up=0.0, down=0.0)
    sender.sendto(b"end", address)
    received = list(iter(lambda: listener.recv(100), b"end"))
    listener.close()
    return len(received)


def test_loss_takes_some_and_leaves_some(topology: Topology) -> None:
    link = topology.link(topology.host("alice"), "10.0.0.1/24", topology.host("bob"), "10.0.0.2/24", loss=0.5)
    assert 0 < arrived(link, 100) < 100


def test_loss_of_one_direction_spares_the_other(topology: Topology) -> None:
    link = topology.link(topology.host("alice"), "10.0.0.1/24", topology.host("bob"), "10.0.0.2/24")
    link.set_loss(up=0.0, down=1.0)
    assert arrived(link, 100) == 100
    link.set_loss(up=1.0, down=0.0)
    assert arrived(link, 100) == 0


def test_loss_spares_neighbour_discovery_and_segments(topology: Topology) -> None:
    alice, bob = topology.host("alice"), topology.host("bob")
    link = topology.link(alice, "fd00::1/64", bob, "fd00::2/64", loss=1.0)
    assert alice.run("ping", "-c1", "-W0.1", "fd00::2", check=False).returncode != 0
    assert "lladdr" in alice.run("ip", "neighbour", "show", "fd00::2").stdout
    assert "gso_max_segs 1 " in alice.run("ip", "-d", "link", "show", "dev", "bob").stdout
    link.set_loss(up=0.0, down=0.0)
    assert "gso_max_segs 65535 " in alice.run("ip", "-d", "link", "show", "dev", "bob").stdout


def test_mtu_is_that_of_the_link(topology: Topology) -> None:
    alice, bob = topology.host("alice"), topology.host("bob")
    topology.link(alice, "10.0.0.1/24", bob, "10.0.0.2/24", mtu=1400)
    fits, too_long = str(1400 - 28), str(1400 - 27)  # without the IP and ICMP headers
    alice.run("ping", "-c1", "-W5", "-Mdo", "-s", fits, "10.0.0.2")
    with pytest.raises(CommandFailed, match="mtu=1400"):
        alice.run("ping", "-c1", "-W0.1", "-Mdo", "-s", too_long, "10.0.0.2")


def test_address_changes_while_running(topology: Topology) -> None:
    home = topology.router("home")
    alice, bob = home_and_world(topology, home)
    alice.set_address("10.1.0.2/24", "10.1.0.77/24")
    assert source_seen(alice.socket(), bob, "198.51.100.2", 5000)[0] == "10.1.0.77"
    home.set_address("10.1.0.1/24", "10.1.0.254/24")
    assert source_seen(alice.socket(), bob, "198.51.100.2", 5001)[0] == "10.1.0.77"
    assert "10.1.0.2/" not in alice.run("ip", "addr").stdout
    with pytest.raises(ValueError, match=r"no address 10\.1\.0\.2/24"):
        alice.set_address("10.1.0.2/24", "10.1.0.3/24")


def test_nat_changes_its_address(topology: Topology) -> None:
    home = topology.router("home", nat="easy")
    alice, bob = home_and_world(topology, home)
    sender = alice.socket()
    assert source_seen(sender, bob, "198.51.100.2", 5000)[0] == "192.0.2.2"
    home.set_address("192.0.2.2/24", "192.0.2.99/24")
    assert source_seen(sender, bob, "198.51.100.2", 5001)[0] == "192.0.2.99"


@pytest.mark.parametrize("address", ["198.51.100.2", "fd03::2"])
def test_link_unplugged_and_plugged_in(topology: Topology, address: str) -> None:
    internet, alice, bob = topology.router("internet"), topology.host("alice"), topology.host("bob")
    link = topology.link(alice, "10.1.0.2/24 fd01::2/64", internet, "10.1.0.1/24 fd01::1/64")
    topology.link(bob, "198.51.100.2/24 fd03::2/64", internet, "198.51.100.1/24 fd03::1/64")
    link.down()
    assert alice.run("ping", "-c1", "-W1", address, check=False).returncode != 0
    link.up()
    alice.run("ping", "-c1", "-W5", address)


def test_second_link_carries_while_it_is_up(topology: Topology) -> None:
    internet, cable, phone = (topology.router(name) for name in ("internet", "cable", "phone"))
    alice = topology.host("alice")
    topology.link(cable, "192.0.2.2/24", internet, "192.0.2.1/24")
    topology.link(phone, "198.51.100.2/24", internet, "198.51.100.1/24")
    topology.link(alice, "10.1.0.2/24", cable, "10.1.0.1/24")
    roaming = topology.link(alice, "10.2.0.2/24", phone, "10.2.0.1/24")
    assert source_seen(alice.socket(), internet, "198.51.100.1", 5000)[0] == "10.2.0.2"
    roaming.down()
    assert source_seen(alice.socket(), internet, "198.51.100.1", 5001)[0] == "10.1.0.2"


def test_container_has_its_own_user_and_network_namespace(topology: Topology) -> None:
    box = topology.container("box")
    for kind in ("user", "net"):
        assert os.readlink(f"/proc/{box.pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    with open(box.netns) as netns:
        owner = fcntl.ioctl(netns, NS_GET_USERNS)
    assert os.fstat(owner).st_ino == os.stat(f"/proc/{box.pid}/ns/user").st_ino
    os.close(owner)
    assert "state DOWN" in box.run("ip", "link", "show", "dev", "lo").stdout


def test_container_stops_before_the_topology_ends(topology: Topology) -> None:
    box = topology.container("box")
    box.stop()
    assert not Path("/proc", str(box.pid)).exists()


def test_code_enters_a_host(topology: Topology) -> None:
    alice = topology.host("alice")
    outside = os.readlink("/proc/thread-self/ns/net")
    with alice.entered():
        assert os.stat("/proc/thread-self/ns/net").st_ino == os.stat(alice.netns).st_ino
        assert socket.if_nameindex() == [(1, "lo")]
    assert os.readlink("/proc/thread-self/ns/net") == outside


def test_process_output_is_waited_for(topology: Topology) -> None:
    process = topology.host("alice").start("sh", "-c", "echo one; echo two >&2; exec sleep 100")
    assert process.wait_for("two") == "two\n"
    assert process.wait_for("one") == "one\n"
    assert process.stop() == -signal.SIGTERM
    assert process.output == "one\ntwo\n"


def test_process_that_does_not_say_it(topology: Topology) -> None:
    alice = topology.host("alice")
    with pytest.raises(CommandFailed, match=r"alice: sh -c 'echo no': ended without saying 'yes'\nno"):
        alice.start("sh", "-c", "echo no").wait_for("yes")
    with pytest.raises(CommandFailed, match=r"ran 0\.05 s without saying"):
        alice.start("sleep", "100").wait_for("yes", timeout=0.05)
    with pytest.raises(CommandFailed, match=r"still running after 0\.05 s"):
        alice.start("sleep", "100").wait(timeout=0.05)


def test_all_that_a_process_says(topology: Topology) -> None:
    alice = topology.host("alice")
    lines = "".join(f"{number}\n" for number in range(1, 20001))
    assert alice.start("seq", "20000").said() == lines
    started = alice.start("sh", "-c", "echo working; exec sleep 100")
    started.wait_for("working")
    with pytest.raises(CommandFailed, match=r"still there after 0\.05 s\nworking"):
        started.said(timeout=0.05)


def test_process_gets_file_descriptors(topology: Topology) -> None:
    reader, writer = os.pipe()
    process = topology.host("alice").start("sh", "-c", f"echo hello >/dev/fd/{writer}", pass_fds=[writer])
    assert process.wait() == 0
    assert os.read(reader, 100) == b"hello\n"
    os.close(reader)
    os.close(writer)


def test_failing_command_shows_what_it_said(topology: Topology) -> None:
    alice = topology.host("alice")
    with pytest.raises(CommandFailed, match=r"alice: sh -c 'echo out; .*': exit code 3\nout\nerr"):
        alice.run("sh", "-c", "echo out; echo err >&2; exit 3")
    with pytest.raises(CommandFailed, match=r"still running after 0\.2 s\nout"):
        alice.run("sh", "-c", "echo out; exec sleep 100", timeout=0.2)
    with pytest.raises(CommandFailed, match=r'link set dev eth7 up\nCannot find device "eth7"'):
        alice.ip("link set dev eth7 up")


@pytest.mark.parametrize("name", ["alice", "Alice", "a host", "", "sixteen-letters-", "../../etc"])
def test_names_are_those_of_interfaces(topology: Topology, name: str) -> None:
    topology.host("alice")
    with pytest.raises(ValueError, match="no name for a host"):
        topology.host(name)


def test_nothing_remains(capsys: pytest.CaptureFixture[str]) -> None:
    before = processes()
    topology = Topology()
    alice, box = topology.host("alice"), topology.container("box")
    topology.link(alice, "10.0.0.1/24", topology.router("home", nat="easy"), "10.0.0.2/24")
    for node in (alice, box):
        node.start("sh", "-c", "echo working; exec sleep 100").wait_for("working")
        node.run("sh", "-c", "setsid --fork sleep 100 >/dev/null 2>&1")  # a daemon
    sock = alice.socket()
    assert len(processes() - before) == 5
    topology.close()
    assert processes() == before
    assert os.listdir("/run/netns") == []
    assert [name for _, name in socket.if_nameindex()] == ["lo"]
    assert sock.fileno() == -1
    said = capsys.readouterr().out
    assert "--- alice: sh -c 'echo working; exec sleep 100'\nworking\n" in said
    assert "--- box: " in said


def processes() -> set[int]:
    """The processes of the test's pid namespace, also ended ones that nobody has waited for."""
    return {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()}
