# SPDX-License-Identifier: BSD-3-Clause
"""Certificates for tests: an authority, what it signs, what signs itself, and the metacert of a relay."""

import ssl
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from ts4nsnet.keys import PublicKey

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        """What goes over the wire."""
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        """What goes into a file of authorities."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def pin(self) -> str:
        """As the map writes it."""
        return "sha256-raw:" + sha256(self.der).hexdigest()

    def server_context(self, folder: Path, *more: bytes, tls13: bool = True) -> ssl.SSLContext:
        """A server's side that presents this certificate and then `more` (PEM)."""
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file = folder / f"{self.certificate.serial_number}.pem"
        file.write_bytes(b"".join((key, self.pem, *more)))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        if not tls13:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context


def _name(text: str) -> x509.Name:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a metacert's name is longer than RFC 5280 allows
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text, _validate=False)])


def issue(
    *names: str, by: Issued | None = None, authority: bool = False, days: tuple[int, int] = (-1, 30), subject: str = ""
) -> Issued:
    """A certificate for DNS names and addresses, valid between two days from now, signed by `by` or by itself."""
    now = datetime.now(UTC)
    key = generate_private_key(SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject or "test"))
        .issuer_name(by.certificate.subject if by else _name(subject or "test"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * DAY)
        .not_valid_after(now + days[1] * DAY)
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
    )
    if names:
        alternatives = [_alternative(name) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return Issued(builder.sign(by.key if by else key, SHA256()), key)


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def metacert(key: PublicKey, version: int = 2, *, name: str = "") -> x509.Certificate:
    """A relay's metacert."""
    now = datetime.now(UTC)
    throw_away = Ed25519PrivateKey.generate()
    subject = _name(name or key.to_text("derpkey"))
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(throw_away.public_key())
        .serial_number(version)
        .not_valid_before(now - 30 * DAY)
        .not_valid_after(now + 30 * DAY)
        .add_extension(x509.BasicConstraints(False, None), critical=True)
        .sign(throw_away, None)
    )
