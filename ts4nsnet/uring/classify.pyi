# SPDX-License-Identifier: BSD-3-Clause
# Types of the compiled module `classify`, whose essay is in its source.

from ts4nsnet.wireguard import AllowedIPs

def flat(allowed_ips: AllowedIPs) -> tuple[bytes, bytes]: ...

class Routes:
    def load(self, v4: bytes, v6: bytes) -> None: ...
    def lookup(self, address: bytes) -> int | None: ...
