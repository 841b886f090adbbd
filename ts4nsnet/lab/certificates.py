# SPDX-License-Identifier: BSD-3-Clause
"""The lab's own certificate authority, and the server's certificates.

    ca.pem        made at the first start, for ten years; clients are told to trust it (SSL_CERT_FILE)
    leaf          for the listen address, which is an IP literal; made anew when that changes or its end is near
    metacert      says which key the relay has: a client that finds it needs no HTTP answer (fast start)

The server presents leaf and metacert, and not the authority: a relay that is pinned by the leaf's SHA-256 may show one
certificate only, metacerts apart. The metacert's name is longer than X.509 allows; its readers do not mind.

Source: derp.md 1.3, 1.5; RFC 5280.
"""

import hashlib
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ts4nsnet.keys import PublicKey
from ts4nsnet.lab.errors import StateError
from ts4nsnet.lab.store import Store

CA_FILE = "ca.pem"
CA_KEY_FILE = "ca-key.pem"
LEAF_FILE = "leaf.pem"  # key and certificate
CHAIN_FILE = "server.pem"  # key, leaf, metacert

CA_DAYS = 3650
LEAF_DAYS = 825  # what Apple's systems take at most of a private authority
RENEW_DAYS = 90  # a leaf that ends sooner is made anew at a start
CLOCK_DAYS = 1  # clients' clocks may be behind

METACERT_PREFIX = "derpkey"
METACERT_DAYS = 30
DERP_VERSION = 2  # the metacert's serial number

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a server needs.

    Args:
        ca: file of the authority's certificate.
        chain: file for `ssl.SSLContext.load_cert_chain`; secret.
        leaf_sha256: of the leaf's DER, lower-case hexadecimal: what a relay is pinned by.
    """

    ca: Path
    chain: Path
    leaf_sha256: str


def prepare(store: Store, address: Address, relay: PublicKey, wall: float) -> Certificates:
    """Make what is missing in the state directory; raises `StateError` for files that are not ours.

    Args:
        store: the directory.
        address: what clients connect to.
        relay: the relay's key.
        wall: Unix seconds.
    """
    now = datetime.fromtimestamp(wall, UTC)
    try:
        ca, ca_key = _authority(store, now)
        leaf, leaf_key = _leaf(store, address, ca, ca_key, now)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise StateError(
            f"{store.directory}: certificates that are not ours ({type(error).__name__}); move them away"
        ) from None
    metacert = make_metacert(relay, now)
    store.write(CHAIN_FILE, _key_pem(leaf_key) + _pem(leaf) + _pem(metacert))
    digest = hashlib.sha256(leaf.public_bytes(serialization.Encoding.DER)).hexdigest()
    return Certificates(store.directory / CA_FILE, store.directory / CHAIN_FILE, digest)


def make_metacert(relay: PublicKey, now: datetime) -> x509.Certificate:
    """The certificate whose name is the relay's key."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 71 characters, where X.509 has 64 at most
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, METACERT_PREFIX + relay.raw.hex(), _validate=False)])
    key = ed25519.Ed25519PrivateKey.generate()
    days = timedelta(days=METACERT_DAYS)
    builder = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=DERP_VERSION,
        not_valid_before=now - days,
        not_valid_after=now + days,
    ).add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    return builder.sign(key, None)


def _authority(store: Store, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    pem, key_pem = store.read(CA_FILE), store.read(CA_KEY_FILE)
    if pem and key_pem:
        return x509.load_pem_x509_certificate(pem), _load_key(key_pem)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ts4nsnet lab")])
    usage = {"digital_signature": False, "content_commitment": False, "key_encipherment": False}
    usage |= {"data_encipherment": False, "key_agreement": False, "key_cert_sign": True, "crl_sign": True}
    usage |= {"encipher_only": False, "decipher_only": False}
    builder = _builder(name, name, key, now, CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    store.write(CA_KEY_FILE, _key_pem(key))
    store.write(CA_FILE, _pem(certificate))
    return certificate, key


def _leaf(
    store: Store, address: Address, ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey, now: datetime
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The leaf that is there, as long as it will do: clients that know it by its hash need not learn another one."""
    pem = store.read(LEAF_FILE)
    if pem:
        leaf = x509.load_pem_x509_certificate(pem)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        lasts = leaf.not_valid_after_utc - now > timedelta(days=RENEW_DAYS) and leaf.not_valid_before_utc < now
        if lasts and leaf.issuer == ca.subject and address in names.get_values_for_type(x509.IPAddress):
            leaf.verify_directly_issued_by(ca)
            return leaf, _load_key(pem)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ts4nsnet lab server")])
    builder = _builder(name, ca.subject, key, now, LEAF_DAYS)
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    for extension, critical in (
        (x509.SubjectAlternativeName([x509.IPAddress(address)]), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False),
    ):
        builder = builder.add_extension(extension, critical)
    leaf = builder.sign(ca_key, hashes.SHA256())
    store.write(LEAF_FILE, _key_pem(key) + _pem(leaf))
    return leaf, key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(days=CLOCK_DAYS),
        not_valid_after=now + timedelta(days=days),
    )


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("not an elliptic curve key")
    return key


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
