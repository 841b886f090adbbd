# SPDX-License-Identifier: BSD-3-Clause
"""The lab's authority, leaf and metacert."""

import hashlib
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from random import Random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.unit.lab.clients import new_key
from ts4nsnet.derp.metacert import server_key, without_metacerts
from ts4nsnet.lab.certificates import CA_FILE, LEAF_FILE, prepare
from ts4nsnet.lab.errors import StateError
from ts4nsnet.lab.store import Store

WALL = 1_800_000_000.0
DAY = 86400.0
ADDRESS = ip_address("192.0.2.1")
RELAY = new_key(Random(7)).public


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path)
    yield store
    store.close()


def chain(path: Path) -> list[bytes]:
    return [each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(path.read_bytes())]


def test_chain_is_leaf_and_metacert(store: Store) -> None:
    made = prepare(store, ADDRESS, RELAY, WALL)
    presented = chain(made.chain)
    assert server_key(presented) == RELAY
    [leaf] = without_metacerts(presented)
    assert hashlib.sha256(leaf).hexdigest() == made.leaf_sha256
    certificate = x509.load_der_x509_certificate(leaf)
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(made.ca.read_bytes()))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ADDRESS]
    assert made.chain.stat().st_mode & 0o777 == 0o600


def test_start_changes_nothing_that_clients_know(store: Store) -> None:
    first = prepare(store, ADDRESS, RELAY, WALL)
    authority = first.ca.read_bytes()
    assert prepare(store, ADDRESS, RELAY, WALL + DAY) == first
    assert first.ca.read_bytes() == authority


@pytest.mark.parametrize(("address", "later"), [("192.0.2.2", 0.0), ("192.0.2.1", 740 * DAY), ("192.0.2.1", -5 * DAY)])
def test_leaf_is_made_anew_when_it_must(store: Store, address: str, later: float) -> None:
    first = prepare(store, ADDRESS, RELAY, WALL)
    authority = first.ca.read_bytes()
    again = prepare(store, ip_address(address), RELAY, WALL + later)
    assert again.leaf_sha256 != first.leaf_sha256
    assert again.ca.read_bytes() == authority


@pytest.mark.parametrize("name", [CA_FILE, LEAF_FILE])
def test_file_that_is_no_certificate(store: Store, name: str) -> None:
    prepare(store, ADDRESS, RELAY, WALL)
    store.write(name, b"nonsense")
    with pytest.raises(StateError, match="move them away"):
        prepare(store, ADDRESS, RELAY, WALL)


def test_leaf_of_another_authority_is_refused(store: Store, tmp_path: Path) -> None:
    prepare(store, ADDRESS, RELAY, WALL)
    other = Store(tmp_path / "other")
    prepare(other, ADDRESS, RELAY, WALL)
    store.write(LEAF_FILE, other.read(LEAF_FILE) or b"")
    other.close()
    with pytest.raises(StateError, match="move them away"):
        prepare(store, ADDRESS, RELAY, WALL)
