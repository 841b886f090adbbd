# SPDX-License-Identifier: BSD-3-Clause
"""The node's own services, as the container sees them: names at port 53, pings to the service addresses.

    packet for the node ─► names? ─► MagicDNS ─► the host's resolvers, by a socket of the host
                                          └────► the exit node's or the tailnet's, by one of the container
                        ─► ping of a service address? ─► answered;  else refused, at once and with a reason

A question that leaves by the container's way comes back to us out of the TUN; it is MagicDNS's own, and goes on.
"""

import os
import socket
from collections.abc import Callable, Sequence

from ts4nsnet.control import NetMap
from ts4nsnet.dns import Config as DnsConfig
from ts4nsnet.dns import MagicDns, Upstream
from ts4nsnet.dns.adapter import Adapter
from ts4nsnet.filter import answers
from ts4nsnet.node.config import Config
from ts4nsnet.node.surroundings import Surroundings
from ts4nsnet.packet import Buffer, Inner
from ts4nsnet.uring import LocalTraffic
from ts4nsnet.wireguard import AllowedIPs

# slirp4netns' DNS address of its IPv6 network, fd00::3
_SLIRP_DNS_V6 = bytes.fromhex("fd00") + bytes(13) + b"\3"
_SERVICES = frozenset((answers.SERVICE_IPV4, answers.SERVICE_IPV6))
# the attribute of a node that wants AAAA records of peers that have IPv4, too; tailscale, tailcfg
_AAAA = "magicdns-aaaa"


class Names:
    """MagicDNS and the service addresses of one node.

    Args:
        config: the node's.
        surroundings: give sockets in the container's namespace.
        routes: tell what the tailnet has a way to.
        write: gives packets to the container.
    """

    def __init__(
        self,
        config: Config,
        surroundings: Surroundings,
        routes: AllowedIPs,
        write: Callable[[Sequence[bytes]], None],
    ) -> None:
        self._config = config
        self._addresses = _SERVICES | ({config.dns_address.packed, _SLIRP_DNS_V6} if config.names else set())
        self._surroundings = surroundings
        self._routes = routes
        self._write = write
        self._magic = MagicDns(os.urandom)
        self._adapter = Adapter(self._magic, write, self.upstream_socket)
        self.run = self._adapter.run

    def set_netmap(self, netmap: NetMap, *, expired: bool = False) -> None:
        """Know the names of a netmap; none while our own key is `expired`."""
        own = netmap.self_node
        hosts = {} if expired else {node.name: node.addresses for node in (own, *netmap.peers.values()) if node.name}
        self._magic.set_config(
            DnsConfig() if expired else netmap.dns,
            hosts,
            netmap.magic_dns_suffix,
            aaaa=_AAAA in own.capabilities,
            ipv6_only=not any(address.version == 4 for address in own.addresses),
            exit_node=bool(self._config.exit_node),
        )

    def traffic(self, exit_peers: frozenset[int]) -> LocalTraffic:
        """Which packets `take` wants to see."""
        return LocalTraffic(self._addresses, self._config.names, exit_peers)

    def take(self, packet: Buffer) -> bool:
        """Answer a packet of the container; False: it is not for the node."""
        destination = Inner.parse(packet).destination
        if (self._config.names or destination in _SERVICES) and self._adapter.handle(packet):
            return True
        if destination not in self._addresses:
            return False
        answer = answers.echo_reply(packet) or answers.refusal(packet)
        if answer is not None:
            self._write([answer])
        return True

    async def upstream_socket(self, upstream: Upstream, kind: int) -> socket.socket:
        """A socket by which a resolver can be asked; raises OSError or `NetnsError`."""
        family = socket.AF_INET if upstream.address.version == 4 else socket.AF_INET6
        through = self._config.exit_node or (
            upstream.tailnet and self._routes.lookup(upstream.address.packed) is not None
        )
        if through:
            return await self._surroundings.container_socket(family, kind)
        sock = socket.socket(family, kind)
        sock.setblocking(False)
        return sock
