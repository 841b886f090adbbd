# SPDX-License-Identifier: BSD-3-Clause
"""Who else carries packets: the bare network, wireguard-go, tailscaled, and what containers use today."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from perf.bench.ours import PODMANS_MTU, START_TIME, own_address, serve_lab
from perf.bench.processes import End
from perf.bench.sites import ADDRESSES, Pair, Site
from tests.interop import wireguard_peers
from tests.interop.wireguard_peers import ALICE, BOB, WireGuardGo
from tests.processes import Namespace, Process
from tests.system.tailnet import ping
from tests.topology import Host

TAILNET_MTU = 1280
TAILSCALE_PORT = 41641
GUEST, GATEWAY = "10.0.2.100", "10.0.2.2"  # pasta's; slirp4netns has them by itself


def bare(site: Site) -> Pair:
    """The hosts themselves; on one host, what containers on it would have without a tunnel: two veth and a router."""
    a, b = site.hosts
    mtu = min(site.mtu or site.way.mtu, site.way.mtu)
    if not site.way.one_host:
        for end, other in ((a, b), (b, a)):
            end.ip(f"link set dev {other.name} mtu {mtu}")
        return Pair(a, b, ADDRESSES[1])
    ends = [site.topology.host(f"{end}{site.number}") for end in ("c", "d")]
    router = site.topology.router(f"m{site.number}")
    for number, end in enumerate(ends, 1):
        site.topology.link(end, f"198.51.{number}.2/24", router, f"198.51.{number}.1/24", mtu=mtu)
    return Pair(ends[0], ends[1], "198.51.2.2")


def _end(process: Process) -> End:
    return End(process.pid, lambda: process.pid)


# --- WireGuard --------------------------------------------------------------------------------------------------------


class _Unhindered(WireGuardGo):
    """With as many threads as it likes."""

    threads = ""


def wireguard_go(site: Site) -> Pair:
    """Debian's, configured by `wg`; the hosts are inside of the tunnel, too."""
    wireguard_peers.MTU = site.mtu or TAILNET_MTU
    alice, bob = (replace(each, name=f"{each.name}{site.number}") for each in (ALICE, BOB))
    ours, theirs = (
        _Unhindered(site.topology, host, own, other)
        for host, own, other in zip(site.hosts, (alice, bob), (bob, alice), strict=True)
    )
    for peer in (ours, theirs):
        peer.start()
    theirs.know(None)
    ours.know(ADDRESSES[1])
    ping(ours.inside, BOB.v4, START_TIME)
    return Pair(ours.inside, theirs.inside, BOB.v4, (_end(ours.process), _end(theirs.process)))


# --- tailscaled -------------------------------------------------------------------------------------------------------


def tailscaled(site: Site) -> Pair:
    """On the embedded tailnet, with a TUN device of the host's."""
    told = serve_lab(site)
    daemons = [_daemon(site, host, name, told) for host, name in zip(site.hosts, "ab", strict=True)]
    for host, name in zip(site.hosts, "ab", strict=True):
        words = ("up", f"--login-server={told['control_url']}", f"--auth-key={told['auth_key']}")
        _tailscale(site, host, name, *words, f"--hostname={name}{site.number}", "--accept-dns=false", "--timeout=30s")
    address = own_address(site.hosts[1], "tailscale0")
    if site.way.udp:  # it fails if no answer comes directly
        _tailscale(site, site.hosts[0], "a", "ping", "--c=100", "--until-direct", address)
    ping(site.hosts[0], address, START_TIME)
    return Pair(site.hosts[0], site.hosts[1], address, tuple(map(_end, daemons)))


def _daemon(site: Site, host: Host, name: str, told: dict[str, str]) -> Process:
    folder = site.folder / name
    folder.mkdir()
    env = {
        "SSL_CERT_FILE": told["ca"],
        "TS_NO_LOGS_NO_SUPPORT": "true",
        "TS_LOGS_DIR": str(folder),
        "TS_DEBUG_FIREWALL_MODE": "nftables",
    }
    if site.mtu:
        env["TS_DEBUG_MTU"] = str(site.mtu)
    process = host.start(
        *("tailscaled", "--tun=tailscale0", f"--statedir={folder}", f"--socket={folder}/sock"),
        f"--port={TAILSCALE_PORT}",
        env=env,
    )
    _wait((folder / "sock").exists, f"{host.name}: tailscaled has no socket", process)
    return process


def _tailscale(site: Site, host: Host, name: str, *words: str) -> None:
    host.run("tailscale", f"--socket={site.folder / name}/sock", *words, timeout=2 * START_TIME)


# --- what containers use today ----------------------------------------------------------------------------------------


def slirp4netns(site: Site) -> Pair:
    """A container; what it connects to is the other host."""
    box = site.topology.container(f"box{site.number}")
    _allow_pings(site.hosts[0])
    words = ("-c", f"--mtu={site.mtu or PODMANS_MTU}", "--netns-type=path", box.netns, "tap0")
    process = site.hosts[0].start("slirp4netns", *words)
    return _one_sided(site, box, process)


def pasta(site: Site) -> Pair:
    """The same, by passt's pasta."""
    box = site.topology.container(f"box{site.number}")
    _allow_pings(site.hosts[0])
    process = site.hosts[0].start(
        *("pasta", "--foreground", "--config-net", "--ipv4-only", "--runas=0:0"),
        *(f"--mtu={site.mtu}",) * bool(site.mtu),
        *("--address", GUEST, "--netmask", "24", "--gateway", GATEWAY, "--interface", site.hosts[1].name),
        *("--tcp-ports=none", "--udp-ports=none", str(box.pid)),
    )
    return _one_sided(site, box, process)


def _allow_pings(host: Host) -> None:
    with host.entered():
        Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0")


def _one_sided(site: Site, box: Namespace, process: Process) -> Pair:
    _wait(lambda: "default" in box.run("ip", "route").stdout, f"{box.name}: no way out", process)
    return Pair(box, site.hosts[1], ADDRESSES[1], (_end(process),))


def _wait(is_so: Callable[[], bool], what: str, process: Process) -> None:
    until = time.monotonic() + START_TIME
    while not is_so():
        if time.monotonic() > until:
            raise RuntimeError(f"{what} within {START_TIME:g} s:\n{process.output}")
        time.sleep(0.05)
