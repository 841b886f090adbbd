# SPDX-License-Identifier: BSD-3-Clause
"""The metacert: found among others, versions that count, and certificates that are none."""

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from tests.unit.derp.certificates import issue, metacert
from ts4nsnet.derp.metacert import server_key, without_metacerts
from ts4nsnet.keys import PublicKey

KEY = PublicKey(bytes(range(32)))
LEAF = issue("relay.example").der


def der(version: int = 2, name: str = "") -> bytes:
    return metacert(KEY, version, name=name).public_bytes(Encoding.DER)


@pytest.mark.parametrize("chain", [[der()], [LEAF, der()], [LEAF, LEAF, der(255)], [b"garbage", b"", der(1)]])
def test_it_is_found_wherever_it_is(chain: list[bytes]) -> None:
    assert server_key(chain) == KEY


@pytest.mark.parametrize(
    "chain",
    [
        [],
        [LEAF],
        [der(256)],
        [der(name="derpkey" + 63 * "a")],
        [der(name="derpkey" + 64 * "g")],
        [der(name="nodekey:" + 64 * "a")],
        [der()[:-1]],
    ],
)
def test_others_are_none(chain: list[bytes]) -> None:
    assert server_key(chain) is None


def test_a_certificate_without_a_name_is_none() -> None:
    # an empty subject is legal where there are alternative names
    empty = bytes.fromhex("3000")
    name = issue("relay.example", subject="x").certificate.subject.public_bytes()
    broken = issue("relay.example", subject="x").der.replace(name, empty)
    assert server_key([broken]) is None


def test_the_rest_proves_who_the_relay_is() -> None:
    assert without_metacerts([LEAF, der(), der(999), b"garbage"]) == [LEAF, b"garbage"]
