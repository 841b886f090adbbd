# SPDX-License-Identifier: BSD-3-Clause
"""The relay map: which regions there are, and which servers each has.

    Map ── region 1 ── node 1a, node 1b            region = a place; its nodes are equals, in the order to try them
        └─ region 2 ── node 2a                     node   = one host with a relay, a STUN server, or both

The coordination server hands it out and may later change parts of it (`Map.updated`). It is a value: what is absent on
the wire has its default here, so nobody who dials needs to know the wire's zeros.

Source: tailcfg.DERPMap, DERPRegion, DERPNode of tailscale; notes derp.md 1.5, control.md 6.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from types import MappingProxyType

DEFAULT_DERP_PORT = 443
DEFAULT_STUN_PORT = 3478


@dataclass(frozen=True, slots=True)
class Node:
    """One host of a region.

    Attributes:
        name: unique in the map, such as `900a`; not a host name.
        region_id: of the region it is in.
        host_name: for DNS, TLS (SNI, the name the certificate must have) and HTTP.
        cert_name: the name the certificate must have instead; or `sha256-raw:` and the hexadecimal SHA-256 of the one
            certificate (DER) it must be.
        ipv4, ipv6: a literal to dial instead of asking DNS; empty: ask DNS; any other text (`none`): not this family.
        stun_port: UDP; None: no STUN.
        stun_only: never dialled as a relay.
        derp_port: TCP with TLS.
        insecure_for_tests: the certificate is not verified; a `sha256-raw:` pin is, still.
        can_port_80: port 80 answers `/generate_204`, for the detection of captive portals.
    """

    name: str
    region_id: int
    host_name: str
    cert_name: str = ""
    ipv4: str = ""
    ipv6: str = ""
    stun_port: int | None = DEFAULT_STUN_PORT
    stun_only: bool = False
    derp_port: int = DEFAULT_DERP_PORT
    insecure_for_tests: bool = False
    can_port_80: bool = False

    def dial_host(self, version: int) -> str | None:
        """What to connect to over IPv4 (`version` 4) or IPv6 (6).

        Returns:
            An address of that family; or the host name, to be resolved; None: there is no way in that family.
        """
        given = self.ipv4 if version == 4 else self.ipv6
        literal = _version(given or self.host_name)
        if literal is not None:
            return (given or self.host_name) if literal == version else None
        return None if given else self.host_name or None


@dataclass(frozen=True, slots=True)
class Region:
    """One place with relays.

    Attributes:
        region_id: 1 or greater; 900 to 999 are for private use.
        code, name: for people: `lab`, `The lab`.
        nodes: in the order to try them.
        no_measure_no_home: latency to it is not measured and it is nobody's home, unless a peer says it is its.
    """

    region_id: int
    code: str = ""
    name: str = ""
    nodes: tuple[Node, ...] = ()
    no_measure_no_home: bool = False


@dataclass(frozen=True, slots=True)
class Map:
    """All regions.

    Attributes:
        regions: by id, ascending; read only.
        region_scores: by region id, what its latency is multiplied by when a home is chosen (below 1 is preferred);
            greater than 0; a region without one has 1.0.
    """

    regions: Mapping[int, Region] = field(default_factory=lambda: MappingProxyType({}))
    region_scores: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def of(cls, *regions: Region, scores: Mapping[int, float] | None = None) -> "Map":
        """A map of these regions."""
        return cls().updated({region.region_id: region for region in regions}, scores)

    def updated(
        self, regions: Mapping[int, Region] | None = None, region_scores: Mapping[int, float] | None = None
    ) -> "Map":
        """The map after a partial update: what is None stays, what is given replaces all there was of its kind."""
        new = self
        if regions is not None:
            new = replace(new, regions=MappingProxyType(dict(sorted(regions.items()))))
        if region_scores is not None:
            kept = {region: score for region, score in sorted(region_scores.items()) if score > 0}
            new = replace(new, region_scores=MappingProxyType(kept))
        return new


def _version(text: str) -> int | None:
    """4 or 6 for an address, None for any other text."""
    try:
        return ip_address(text).version
    except ValueError:
        return None
