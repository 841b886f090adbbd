# SPDX-License-Identifier: BSD-3-Clause
"""What a node tells the server about itself: host, network, endpoints.

Values of ours that become JSON; nothing here is read from the network. The server learns our home relay from
`NetInfo.preferred_derp`, our routes from `routable_ips`, our tags from `tags`, and peers' names from `host_name`. The
version text matters: rules of a tailnet may match it.

Absent is not empty: without a NetInfo, or without endpoints, the server keeps what it knows.

Source: control.md 5.1, 5.8.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from ts4nsnet.control.node import Endpoint, Prefix


class EndpointKind(IntEnum):
    """How we know of an endpoint of ours."""

    UNKNOWN = 0
    LOCAL = 1
    STUN = 2
    PORT_MAPPED = 3
    STUN4_LOCAL_PORT = 4  # the address that STUN saw, with our local port
    EXPLICIT = 5


@dataclass(frozen=True, slots=True)
class OwnEndpoint:
    """Where peers may reach us by UDP."""

    endpoint: Endpoint
    kind: EndpointKind


@dataclass(frozen=True, slots=True)
class Service:
    """What listens here, and is told to peers."""

    protocol: str  # "tcp", "udp", "peerapi4", "peerapi6", "peerapi-dns-proxy"
    port: int
    description: str = ""


@dataclass(frozen=True, slots=True)
class NetInfo:
    """What netcheck has found; None is unknown."""

    preferred_derp: int = 0  # home region; 0: none
    derp_latency: Mapping[str, float] = field(default_factory=dict)  # "<region>-v4" or "-v6": seconds
    working_udp: bool | None = None
    working_ipv6: bool | None = None
    os_has_ipv6: bool | None = None
    working_icmp_v4: bool | None = None
    mapping_varies_by_destination: bool | None = None
    upnp: bool | None = None
    pmp: bool | None = None
    pcp: bool | None = None
    have_port_map: bool = False
    link_type: str = ""
    firewall_mode: str = ""

    def to_json(self) -> dict[str, object]:
        """The object that the server reads."""
        return _present(
            PreferredDERP=self.preferred_derp,
            DERPLatency=dict(self.derp_latency),
            WorkingUDP=self.working_udp,
            WorkingIPv6=self.working_ipv6,
            OSHasIPv6=self.os_has_ipv6,
            WorkingICMPv4=self.working_icmp_v4,
            MappingVariesByDestIP=self.mapping_varies_by_destination,
            UPnP=self.upnp,
            PMP=self.pmp,
            PCP=self.pcp,
            HavePortMap=self.have_port_map or None,
            LinkType=self.link_type,
            FirewallMode=self.firewall_mode,
        )


@dataclass(frozen=True, slots=True)
class OwnHostinfo:
    """This host, as the tailnet shall see it."""

    host_name: str
    client_version: str  # in the usual form, "1.80.0-…": rules match it
    os: str = "linux"
    os_version: str = ""
    machine: str = ""  # "x86_64"
    app: str = ""
    backend_log_id: str = ""  # 64 hex digits, any; some servers want one
    container: bool | None = None
    userspace: bool | None = None
    userspace_router: bool | None = None
    routable_ips: tuple[Prefix, ...] = ()
    tags: tuple[str, ...] = ()
    services: tuple[Service, ...] = ()
    shields_up: bool = False
    exit_node_id: str = ""
    net_info: NetInfo | None = None

    def to_json(self) -> dict[str, object]:
        """The object that the server reads."""
        routes = sorted(set(self.routable_ips), key=lambda prefix: (prefix.version, prefix))
        services = [_present(Proto=s.protocol, Port=s.port, Description=s.description) for s in self.services]
        return _present(
            Hostname=self.host_name,
            IPNVersion=self.client_version,
            OS=self.os,
            OSVersion=self.os_version,
            Machine=self.machine,
            App=self.app,
            BackendLogID=self.backend_log_id,
            Container=self.container,
            Userspace=self.userspace,
            UserspaceRouter=self.userspace_router,
            RoutableIPs=[str(prefix) for prefix in routes],
            RequestTags=sorted(set(self.tags)),
            Services=services,
            ShieldsUp=self.shields_up or None,
            ExitNodeID=self.exit_node_id,
            NetInfo=self.net_info.to_json() if self.net_info else None,
        )


def endpoints_to_json(endpoints: Iterable[OwnEndpoint]) -> dict[str, object]:
    """The two parallel lists of a map request; an address is named once, by the first that has it."""
    kinds: dict[str, int] = {}
    for own in endpoints:
        address, port = own.endpoint
        text = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
        kinds.setdefault(text, own.kind)
    return {"Endpoints": list(kinds), "EndpointTypes": list(kinds.values())}


def _present(**members: object) -> dict[str, object]:
    """Without what is unknown or empty; false stays, it is a fact."""
    return {name: value for name, value in members.items() if value is False or value}
