# SPDX-License-Identifier: BSD-3-Clause
"""What one node is told at its start: one frozen value.

Who reads command lines and environments builds it; nothing here reads either.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Self

from ts4nsnet.control import Credential, credential
from ts4nsnet.node.identity import Binding
from ts4nsnet.node.settings import Secrets, Settings
from ts4nsnet.uring.offloads import Offload

# slirp4netns': what the container is believed to have, and where its names are answered (cidr+100, cidr+3)
DEFAULT_CIDR = IPv4Network("10.0.2.0/24")
_OWN_HOST, _DNS_HOST = 100, 3


@dataclass(frozen=True, slots=True)
class Config:
    """One container's node.

    Attributes:
        control_url: the coordination server's, http or https.
        hostname: the name that is asked for in the tailnet; the server may add a number.
        runtime_folder: where the identity journal lies; see `statefile.runtime_folder`.
        credential: what lets the node in; None where an identity is there already, or somebody will visit a URL.
        credential_hash: 64 hex digits that are the same for the same credential; "" for none.
        interface: the name of the TUN.
        tags: that are asked for.
        ephemeral: whether the node is to be gone when it is offline.
        state_dir: of a node that outlives its process; None: an ephemeral one's identity is in the journal.
        container: what tells this container from others that are configured alike.
        exit_node: name, address or stable id of the peer that takes what is not the tailnet's; "" for none.
        max_mtu: bytes, that no route's MTU exceeds; None: as the paths allow.
        cidr: the network that container tools believe the container to be in.
        names: whether the node answers DNS at other addresses than Tailscale's own service addresses.
        engine: "auto", or the one that shall carry the packets: "uring", "epoll" or "python".
        start_now: it is ready with what it remembers, before a server is reached.
        offloads_off: what of the kernel's is not to be used.
    """

    control_url: str
    hostname: str
    runtime_folder: Path
    credential: Credential | None = None
    credential_hash: str = ""
    interface: str = "tap0"
    tags: tuple[str, ...] = ()
    ephemeral: bool = True
    state_dir: Path | None = None
    container: str = ""
    exit_node: str = ""
    max_mtu: int | None = None
    cidr: IPv4Network = DEFAULT_CIDR
    names: bool = True
    engine: str = "auto"
    start_now: bool = False
    offloads_off: frozenset[Offload] = frozenset()

    @classmethod
    def of(cls, settings: Settings, secrets: Secrets) -> Self:
        """What a command line and an environment said; raises `CredentialError`."""
        given = {name: getattr(secrets, name) for name in Secrets.CREDENTIALS}
        return cls(
            control_url=settings.control_url,
            hostname=settings.hostname,
            runtime_folder=Path(settings.runtime_folder),
            credential=credential(
                **given, tags=settings.tags, control_url=settings.control_url, environ=dict(secrets.environ)
            ),
            credential_hash=settings.credential_hash,
            interface=settings.interface,
            tags=settings.tags,
            ephemeral=settings.ephemeral,
            state_dir=Path(settings.state_dir) if settings.state_dir else None,
            container=settings.container,
            exit_node=settings.exit_node,
            max_mtu=settings.mtu,
            cidr=IPv4Network(settings.cidr),
            names=not settings.disable_dns,
            engine=settings.engine,
            start_now=settings.start_now,
            offloads_off=frozenset(map(Offload, settings.offloads_off)),
        )

    @property
    def binding(self) -> Binding:
        """What an identity of this node is bound to."""
        return Binding(self.control_url, self.credential_hash, self.hostname, self.tags, self.container)

    @property
    def own_address(self) -> IPv4Address:
        """What container tools believe the container's address to be."""
        return self.cidr[_OWN_HOST]

    @property
    def dns_address(self) -> IPv4Address:
        """What container tools write into the container's resolv.conf."""
        return self.cidr[_DNS_HOST]
