# SPDX-License-Identifier: BSD-3-Clause
"""Who is measured: their names, what they need, on which paths they stand.

`uring` is the product as it is; `uring@1280` with the MTU of what is inside capped, as others have it always.
"""

import shutil
from dataclasses import dataclass

from perf.bench import others, ours
from perf.bench.sites import DIRECT, ONE_HOST, RELAYED, WIDE, Stand, Way


@dataclass(frozen=True)
class Kind:
    """A program that carries packets.

    Attributes:
        stand: makes a pair of it.
        ways: on which it can.
        programs: that must be in PATH.
        is_one_sided: only the client is behind it; the server cannot begin anything.
        is_bare: no process carries the packets.
    """

    stand: Stand
    ways: tuple[Way, ...]
    programs: tuple[str, ...] = ()
    is_one_sided: bool = False
    is_bare: bool = False


KINDS = {
    **{engine: Kind(ours.stand(engine), (DIRECT, WIDE, RELAYED, ONE_HOST)) for engine in ("uring", "epoll", "python")},
    "wireguard-go": Kind(others.wireguard_go, (DIRECT, WIDE), ("wireguard-go", "wg")),
    "tailscaled": Kind(others.tailscaled, (DIRECT, WIDE, RELAYED), ("tailscaled", "tailscale")),
    "slirp4netns": Kind(others.slirp4netns, (DIRECT,), ("slirp4netns",), is_one_sided=True),
    "pasta": Kind(others.pasta, (DIRECT,), ("pasta",), is_one_sided=True),
    "veth": Kind(others.bare, (DIRECT, WIDE, ONE_HOST), is_bare=True),
}
REFERENCE = "wireguard-go"  # what the others are compared with
MIN_MTU, MAX_MTU = 1280, 65520


class Unknown(Exception):
    """There is no such contender; the text says which there are."""


@dataclass(frozen=True)
class Contender:
    """A kind, and the most that packets inside may have."""

    name: str
    kind: Kind
    mtu: int | None = None

    @property
    def missing(self) -> list[str]:
        """The programs that this machine lacks."""
        return [program for program in self.kind.programs if not shutil.which(program)]


def parse(name: str) -> Contender:
    """The contender called "KIND" or "KIND@MTU"; raises Unknown."""
    kind, _, mtu = name.partition("@")
    if kind not in KINDS:
        raise Unknown(f"no contender {kind!r}; there are {', '.join(KINDS)}")
    if "@" not in name:
        return Contender(name, KINDS[kind])
    if not (mtu.isascii() and mtu.isdecimal() and MIN_MTU <= int(mtu) <= MAX_MTU):
        raise Unknown(f"{name}: {mtu!r} is no MTU; expected {MIN_MTU} to {MAX_MTU}")
    return Contender(name, KINDS[kind], int(mtu))
