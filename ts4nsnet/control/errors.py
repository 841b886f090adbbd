# SPDX-License-Identifier: BSD-3-Clause
"""What can go wrong with a control server.

ControlError           whatever this package raises; the connection is of no use any more
├─ HandshakeFailed     no channel came about: wrong key, wrong version, not a control server
├─ CredentialError     no auth key can be had: the settings are wrong, or who should give one does not
└─ Malformed           the server said something that we cannot read (wire.py: with the field's path)
"""

from ts4nsnet.errors import Ts4nsnetError


class ControlError(Ts4nsnetError):
    """The control server, or what stands between it and us, broke the protocol."""


class HandshakeFailed(ControlError):
    """No ts2021 channel: unlike a `Malformed`, the server's key is perhaps not the one we know, so ask for it anew."""


class CredentialError(ControlError):
    """A credential is of no use: contradictory or wrong settings, or its issuer gives no key for it."""


class Malformed(ControlError):
    """A message of the server cannot be read.

    Attributes:
        path: where in the message, such as `Peers[3].Addresses[0]`; empty for the message itself.
        got: the value there.
        want: what it should have been.
    """

    def __init__(self, path: str, got: object, want: str) -> None:
        # keys of the server's may be in it, and may be anything
        self.path = path = path[:200].encode("utf-8", "replace").decode()
        self.got, self.want = got, want
        super().__init__(f"{path or 'the message'}: got {_described(got)}, want {want}")


def _described(value: object) -> str:
    """The value as the reader of a log needs it: not all of it, when it is long."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
