# SPDX-License-Identifier: BSD-3-Clause
"""The whole product as a contender: slirp4netns' command line, the embedded tailnet, packet filter, worker."""

import json
import sys
import time
from functools import partial
from pathlib import Path

from perf.bench.processes import End
from perf.bench.sites import ADDRESSES, Pair, Site, Stand
from tests.processes import Namespace
from tests.system.machine import Started, start_command
from tests.system.tailnet import ping
from tests.topology import Container, Host

PROGRAM = str(Path(sys.executable).with_name("ts4nsnet"))
LAB_PORT = 8443
START_TIME = 30.0  # seconds
WORKER, NODE = "ts4nsnet.uring.worker", "ts4nsnet.node.process"
PODMANS_MTU = 65520  # what podman passes


def serve_lab(site: Site) -> dict[str, str]:
    """Start a tailnet with its relay on the first host; what it tells: control_url, auth_key, ca."""
    serve = (PROGRAM, "lab", "serve", "--listen", f"{ADDRESSES[0]}:{LAB_PORT}", "--state", str(site.folder / "lab"))
    told: dict[str, str] = json.loads(site.hosts[0].start(*serve).wait_for("control_url", START_TIME))
    return told


def stand(engine: str) -> Stand:
    """Two containers on a tailnet of their own, with this engine."""
    return partial(_stand, engine)


def _stand(engine: str, site: Site) -> Pair:
    told = serve_lab(site)
    boxes = [site.topology.container(f"box-{end}{site.number}") for end in "ab"]
    nodes = [_start(site, host, box, told, engine) for host, box in zip(site.hosts, boxes, strict=True)]
    for node in nodes:
        node.wait_until_ready()
    address = own_address(boxes[1])
    ping(boxes[0], address, START_TIME)
    for host, here, there in zip(site.hosts, boxes, reversed(boxes), strict=True):
        _wait_for_way(site, host, here, there)
    return Pair(boxes[0], boxes[1], address, tuple(map(_end, nodes)))


def _start(site: Site, host: Host, box: Container, told: dict[str, str], engine: str) -> Started:
    env = {
        "TS_AUTHKEY": told["auth_key"],
        "TS_CONTROL_URL": told["control_url"],
        "TS_HOSTNAME": box.name,
        "SSL_CERT_FILE": told["ca"],
        "XDG_RUNTIME_DIR": str(site.folder),
        "TS4NSNET_ENGINE": engine,
    }
    words = (f"--mtu={site.mtu or PODMANS_MTU}", "--enable-ipv6", "-c", "--netns-type=path", box.netns, "tap0")
    return start_command(host, box, words, env)


def _end(node: Started) -> End:
    # the engine `python` has no worker: the node carries the packets
    return End(node.process.pid, lambda: node.child(WORKER) or node.child(NODE))


def _wait_for_way(site: Site, host: Host, here: Container, there: Container) -> None:
    """Until the node says that the other is reached as it should be here: directly, or by the relay."""
    until = time.monotonic() + START_TIME
    while True:
        env = {"XDG_RUNTIME_DIR": str(site.folder)}
        status = json.loads(host.run(PROGRAM, "status", "--json", here.name, env=env).stdout)
        peers = [peer for peer in (status["Peer"] or {}).values() if peer["HostName"] == there.name]
        if any(bool(peer["CurAddr"]) is site.way.udp for peer in peers):
            return
        if time.monotonic() > until:
            wanted = "directly" if site.way.udp else "by the relay"
            raise RuntimeError(f"{here.name} does not reach {there.name} {wanted} within {START_TIME:g} s: {peers}")
        time.sleep(0.1)


def own_address(namespace: Namespace, interface: str = "tap0") -> str:
    """The tailnet's IPv4 address there."""
    (link,) = json.loads(namespace.run("ip", "-json", "-4", "address", "show", "dev", interface).stdout)
    found: str = next(each["local"] for each in link["addr_info"] if each["local"].startswith("100."))
    return found
