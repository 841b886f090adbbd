# SPDX-License-Identifier: BSD-3-Clause
"""The metacert: a relay's DERP key among its TLS certificates, which saves a round trip.

    subject CN    derpkey<64 hex digits>: the relay's DERP key       signed by itself with a throw-away key
    serial        the protocol's version, 1 to 255

It proves nothing by itself, but TLS 1.3 covers it with the handshake's signature, so it comes from who owns the real
certificate. Who finds it can say hello at once, without waiting for an HTTP answer: the *fast start*. Wherever
certificates are judged it is passed over.

Source: tailscale's derp/derphttp (parseMetaCert), derp/derpserver (initMetacert); our notes on DERP, section 1.3.
"""

import warnings
from collections.abc import Sequence

from cryptography import x509
from cryptography.x509.oid import NameOID

from ts4nsnet.keys import InvalidKey, PublicKey

PREFIX = "derpkey"
_MAX_VERSION = 255

# what cryptography raises for certificates that are none, or strange ones
_UNREADABLE = (ValueError, TypeError, x509.InvalidVersion)


def server_key(chain: Sequence[bytes]) -> PublicKey | None:
    """The relay's DERP key, if its chain (DER) has a metacert that we understand."""
    for der in chain:
        name, version = _name_and_serial(der)
        if name.startswith(PREFIX) and 0 < version <= _MAX_VERSION:
            try:
                return PublicKey.from_text(name, PREFIX)
            except InvalidKey:
                continue
    return None


def without_metacerts(chain: Sequence[bytes]) -> list[bytes]:
    """The chain (DER) that proves who the relay is."""
    return [der for der in chain if not _name_and_serial(der)[0].startswith(PREFIX)]


def _name_and_serial(der: bytes) -> tuple[str, int]:
    """The common name and the serial number; "" and 0 for what cannot be read."""
    try:
        with warnings.catch_warnings():
            # 71 characters, where RFC 5280 allows 64
            warnings.simplefilter("ignore")
            certificate = x509.load_der_x509_certificate(der)
            names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            return (str(names[-1].value) if names else "", certificate.serial_number)
    except _UNREADABLE:
        return "", 0
