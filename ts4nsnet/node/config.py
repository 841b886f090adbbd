# SPDX-License-Identifier: BSD-3-Clause
"""What one node is told at its start: one frozen value.

Who reads command lines and environments builds it; nothing here reads either.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ts4nsnet.control import Credential
from ts4nsnet.netns import Target
from ts4nsnet.node.identity import Binding


@dataclass(frozen=True, slots=True)
class Config:
    """One container's node.

    Attributes:
        control_url: the coordination server's, http or https.
        hostname: the name that is asked for in the tailnet; the server may add a number.
        target: the container's namespaces.
        runtime_folder: where the identity journal lies; see `statefile.runtime_folder`.
        credential: what lets the node in; None where an identity is there already, or somebody will visit a URL.
        credential_hash: 64 hex digits that are the same for the same credential; "" for none.
        interface: the name of the TUN.
        tags: that are asked for.
        ephemeral: whether the node is to be gone when it is offline.
        state_dir: of a node that outlives its process; None: an ephemeral one's identity is in the journal.
        container: what tells this container from others that are configured alike.
        port: of UDP; 0 for any.
    """

    control_url: str
    hostname: str
    target: Target
    runtime_folder: Path
    credential: Credential | None = None
    credential_hash: str = ""
    interface: str = "tap0"
    tags: tuple[str, ...] = ()
    ephemeral: bool = True
    state_dir: Path | None = None
    container: str = ""
    port: int = 0

    @property
    def binding(self) -> Binding:
        """What an identity of this node is bound to."""
        return Binding(self.control_url, self.credential_hash, self.hostname, self.tags, self.container)


def hash_credential(text: str) -> str:
    """What stands for a credential on disk: the SHA-256 of its text, 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()
